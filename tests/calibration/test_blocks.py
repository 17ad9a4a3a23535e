"""Sums of blocks are those of NumPy, in less memory."""

import numpy as np
import pytest
from _oracles.memory import peak_over_arrays
from _oracles.samples import matrices
from hypothesis import given
from hypothesis import strategies as st

from refquant.calibration import _blocks
from refquant.calibration._blocks import block_sums
from refquant.calibration.aciq import GAUSS, LAPLACE, aciq, aciq_relu
from refquant.calibration.statistics import Moments


@given(matrices(), st.sampled_from([None, 0, 1, -1, (0, 1), ()]))
def test_sums_are_those_of_numpy_about_any_origin(x, axis):
    origin = np.median(x, axis=axis, keepdims=True)
    expected = np.sum(np.abs(x - origin), axis=axis, keepdims=True)
    found = block_sums(x, np.abs, axis=axis, origin=origin)
    assert found.shape == expected.shape
    assert np.allclose(found, expected, rtol=1e-12)


def test_pieces_do_not_show(monkeypatch):
    x = np.random.default_rng(0).standard_normal((3, 500)).astype(np.float32)
    for piece in (1, 7, 2**16):
        monkeypatch.setattr(_blocks, "PIECE", piece)
        expected = np.sum(x.astype(np.float64) ** 2, axis=1, keepdims=True)
        assert np.allclose(block_sums(x, np.square, axis=1), expected, rtol=1e-13)


@pytest.mark.parametrize(
    "calibrate",
    [
        Moments.of,
        lambda x: aciq(x, bits=4, prior=LAPLACE),
        lambda x: aciq(x, bits=4, prior=GAUSS),
        lambda x: aciq_relu(x, bits=4, prior=GAUSS),
    ],
)
def test_memory_stays_below_twice_the_data(calibrate):
    x = np.random.default_rng(0).random((1000, 1000), np.float32)
    assert peak_over_arrays(calibrate, x) < 2
