"""What the methods that learn one layer take as its data."""

import numpy as np
import pytest

from refquant.calibration.minmax import absmax
from refquant.ptq.adaquant import adaquant
from refquant.ptq.adaround import adaround
from refquant.ptq.quip import fixed_range
from refquant.quantizers.uniform import Uniform, symmetric

W = np.random.default_rng(0).standard_normal((3, 4))
X = np.random.default_rng(1).standard_normal((9, 4))
GRID = symmetric(absmax(W, axis=1), bits=4)


@pytest.mark.parametrize("method", [adaround, adaquant])
def test_learned_rounding_takes_lists_and_refuses_a_number(method):
    def learn(w, x, target):
        return method(w, x, target, GRID, rng=np.random.default_rng(0), steps=3).codes

    assert np.array_equal(learn(W.tolist(), X.tolist(), (X @ W.T).tolist()), learn(W, X, X @ W.T))
    with pytest.raises(ValueError, match="`x` must have shape"):
        learn(W, np.float64(1), np.float64(1))


@pytest.mark.parametrize("method", [adaround, adaquant])
def test_a_grid_is_uniform_and_fits_the_weight(method):
    def learn(grid):
        return method(W, X, X @ W.T, grid, rng=np.random.default_rng(0), steps=3)

    for wrong in (None, lambda w: GRID, fixed_range(W, bits=3)):
        with pytest.raises(TypeError, match=r"^`quantizer` must be `Uniform`; got"):
            learn(wrong)
    for shape in ((2, 1), (1, 3, 1)):
        with pytest.raises(ValueError, match=r"^`quantizer` must broadcast to the data"):
            learn(Uniform(np.ones(shape), np.zeros(shape, np.int32), -7, 7))


def test_a_scale_that_adaquant_cannot_tell_the_axes_of_is_refused():
    """Of shape (in,) it broadcasts; but its gradient would be summed as that of one number."""
    columns = Uniform(np.ones(4), np.zeros(4, np.int32), -7, 7)
    with pytest.raises(ValueError, match=r"^`quantizer` must have a scale of the weight's rank"):
        adaquant(W, X, X @ W.T, columns, rng=np.random.default_rng(0), steps=3)


@pytest.mark.parametrize("method", [adaround, adaquant])
def test_a_batch_is_no_larger_than_the_data(method):
    def learn(batch):
        return method(W, X, X @ W.T, GRID, rng=np.random.default_rng(0), steps=5, batch=batch)

    assert np.array_equal(learn(50).losses, learn(len(X)).losses)
