"""The second moment: a monoid, and the whole of a linear layer's squared error."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.calibration.second_moment import SecondMoment, output_error

SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS, st.integers(1, 6), st.integers(1, 6), st.integers(1, 5))
def test_merging_equals_having_seen_all_at_once(seed, n, m, width):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(-9, 9, (n, width)) / 2, rng.integers(-9, 9, (m, width)) / 2
    merged = SecondMoment.of(a).merge(SecondMoment.of(b))
    whole = SecondMoment.of(np.concatenate([a, b]))
    assert merged.size == whole.size == n + m
    assert np.array_equal(merged.total, whole.total)        # quarters: exact in float64
    assert np.array_equal(merged.hessian, merged.hessian.T)


@given(SEEDS, st.integers(1, 8), st.integers(1, 5), st.integers(1, 4))
def test_the_proxy_is_the_mean_squared_error_of_the_output(seed, n, width, out):
    rng = np.random.default_rng(seed)
    x, d = rng.standard_normal((n, width)), rng.standard_normal((out, width))
    measured = ((x @ d.T) ** 2).mean()
    assert np.isclose(output_error(d, SecondMoment.of(x).hessian), measured)


def test_tokens_and_pixels_are_rows():
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
    moment = SecondMoment.of(x)
    assert moment.size == 24
    assert moment.total.dtype == np.float64
    assert np.allclose(moment.total, x.reshape(24, 5).astype(np.float64).T @ x.reshape(24, 5))


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="`x` must not be empty"):
        SecondMoment.of(np.zeros((0, 3)))
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="`x` must be finite"):
            SecondMoment.of(np.array([[1.0, bad]]))
    with pytest.raises(TypeError, match="`x` must be float32 or float64"):
        SecondMoment.of(np.ones((2, 2), int))
    one, two = SecondMoment.of(np.ones((1, 2))), SecondMoment.of(np.ones((1, 3)))
    with pytest.raises(ValueError, match=r"`other` must have shape \(2, 2\)"):
        one.merge(two)
    with pytest.raises(ValueError, match=r"`hessian` must have shape \(3, 3\)"):
        output_error(np.ones((1, 3)), one.hessian)


def test_numbers_without_rows_are_refused():
    with pytest.raises(ValueError, match=r"^`x` must have rows"):
        SecondMoment.of(np.float64(1))
    for wrong in (np.float64(1), np.ones(3), np.ones((0, 3)), np.ones((1, 1, 3))):
        with pytest.raises(ValueError, match=r"^`difference` must have shape \(out, in\)"):
            output_error(wrong, np.eye(3))
    with pytest.raises(ValueError, match=r"^`x` must be finite; got inf"):       # and no warning
        SecondMoment.of(np.full((1, 2), 1e200))
