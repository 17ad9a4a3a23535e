"""What the methods that learn one layer take as its data."""

import numpy as np
import pytest

from refquant.calibration.minmax import absmax
from refquant.ptq.adaquant import adaquant
from refquant.ptq.adaround import adaround
from refquant.quantizers.uniform import symmetric

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
