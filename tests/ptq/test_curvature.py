"""What the methods that repair roundings take as a weight."""

from functools import partial

import numpy as np
import pytest

from refquant.calibration.minmax import absmax
from refquant.ptq.gptq import column_by_column, gptq
from refquant.ptq.obq import obq
from refquant.ptq.quip import fixed_range, quip
from refquant.quantizers.uniform import symmetric

W = np.random.default_rng(0).standard_normal((3, 4))
X = np.random.default_rng(1).standard_normal((9, 4))
H = X.T @ X / 9


@pytest.mark.parametrize("method", [gptq, column_by_column, obq])
def test_lists_are_weights_too(method):
    def fit(w):
        return symmetric(absmax(w, axis=1), bits=4)

    assert np.array_equal(method(W.tolist(), H.tolist(), fit).codes, method(W, H, fit).codes)


def test_lists_can_be_rotated_too():
    made = [quip(w, h, partial(fixed_range, bits=3), rng=np.random.default_rng(0), sweeps=2).weight
            for w, h in ((W, H), (W.tolist(), H.tolist()))]
    assert np.array_equal(*made)
