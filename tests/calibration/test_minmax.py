"""Min-max: nothing clipped."""

import numpy as np
import pytest
from _oracles.samples import (
    POWERS,
    assert_leaves_argument_alone,
    assert_refuses_bad_data,
    matrices,
    vectors,
)
from hypothesis import given

from refquant.calibration.minmax import absmax, minmax
from refquant.quantizer import fake_quantize
from refquant.quantizers.uniform import asymmetric, symmetric


@given(matrices())
def test_ends_are_attained_and_bound_all(x):
    low, high = minmax(x, axis=1)
    assert low.shape == high.shape == (len(x), 1)
    assert ((low <= x) & (x <= high)).all()
    assert (low == x).any(axis=1).all()
    assert (high == x).any(axis=1).all()
    assert np.array_equal(absmax(x, axis=1), np.abs(x).max(axis=1, keepdims=True))


@given(vectors(), POWERS)
def test_range_scales_with_the_data(x, factor):
    factor = x.dtype.type(factor)
    for plain, scaled in zip(minmax(x), minmax(x * factor), strict=True):
        assert scaled.dtype == x.dtype
        assert np.array_equal(scaled, plain * factor)
    assert np.array_equal(absmax(x * factor), absmax(x) * factor)


@given(vectors())
def test_negation_swaps_the_ends(x):
    low, high = minmax(x)
    assert np.array_equal(minmax(-x).low, -high)
    assert np.array_equal(minmax(-x).high, -low)
    assert np.array_equal(absmax(-x), absmax(x))


@given(matrices())
def test_quantizers_of_the_range_err_by_half_a_step_at_most(x):
    for quantizer in (asymmetric(*minmax(x, axis=1), bits=8), symmetric(absmax(x), bits=8)):
        error = np.abs(fake_quantize(x, quantizer) - x)
        assert (error <= quantizer.scale * (0.5 + 1e-12)).all()


def test_all_but_one_axis_makes_one_range_a_channel():
    x = np.arange(24.0).reshape(2, 3, 4)
    assert minmax(x, axis=(0, 2)).low.shape == (1, 3, 1)
    assert minmax(x).high.shape == (1, 1, 1)


@pytest.mark.parametrize("calibrate", [minmax, absmax])
def test_bad_data_are_refused(calibrate):
    assert_refuses_bad_data(calibrate)
    assert_leaves_argument_alone(calibrate)


@pytest.mark.parametrize("axis", [33, 2.0, "4", (0, 0)])
def test_bad_axes_are_refused_in_our_own_words(axis):
    with pytest.raises((TypeError, ValueError), match=r"^`axis` must "):
        minmax(np.ones((2, 3)), axis=axis)
