"""Signs and one scale: judged by the optimality condition and the golden vector."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from quantizers.contract import LAWS, check

from refquant.quantizers.binary import Binary, sign, xnor
from refquant.rounding import stochastic_sign

W8 = np.array([0.9, -0.2, 0.05, -0.7, 0.4, 0.0, 0.1, -0.35])
reals = st.floats(-1e3, 1e3, width=32)
shapes = hnp.array_shapes(min_dims=2, max_dims=2, max_side=6)
matrices = hnp.arrays(np.float64, shapes, elements=reals)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(
    "quantizer",
    [
        Binary(np.array([[0.5]], np.float32)),
        xnor(np.random.default_rng(0).normal(size=(3, 5)), axis=1),
    ],
    ids=["per tensor", "per channel"],
)
def test_contract(law, quantizer):
    x = np.random.default_rng(1).normal(size=(3, 5)).astype(quantizer.scale.dtype)
    check(law, quantizer, x)


def test_golden_B1_xnor_scale_and_error():
    q = xnor(W8)
    assert q.scale == pytest.approx(0.3375, abs=1e-12)
    error = np.sum((W8 - q.decode(q.encode(W8))) ** 2)
    assert error == pytest.approx(0.72375, abs=1e-12)


@given(x=matrices)
def test_error_is_the_norm_less_what_the_scale_explains(x):
    q = xnor(x, axis=1)
    error = np.sum((x - q.decode(q.encode(x))) ** 2, axis=1)
    explained = x.shape[1] * q.scale[:, 0] ** 2
    assert np.allclose(error, np.sum(x**2, axis=1) - explained, rtol=1e-9, atol=1e-6)


@given(x=matrices, factor=st.floats(0.5, 2))
def test_no_other_scale_fits_better(x, factor):
    q = xnor(x)
    other = Binary(q.scale * factor)
    codes = q.encode(x)
    best = np.sum((x - q.decode(codes)) ** 2)
    assert best <= np.sum((x - other.decode(codes)) ** 2) * (1 + 1e-12) + 1e-12


@given(x=matrices, power=st.integers(-20, 20))
def test_scaling_by_a_power_of_two_scales_exactly(x, power):
    assert np.array_equal(xnor(x * 2.0**power).scale, xnor(x).scale * 2.0**power)


def test_both_zeros_count_as_plus():
    assert np.array_equal(sign(np.array([0.0, -0.0])), [1, 1])
    assert np.array_equal(Binary(np.array(1.0)).encode(np.array([0.0, -0.0])), [1, 1])


def test_all_zero_weights_get_scale_zero_and_stay_zero():
    q = xnor(np.zeros(3))
    assert np.array_equal(q.scale, [0])
    assert np.array_equal(q.decode(q.encode(np.zeros(3))), np.zeros(3))


def test_binary_connect_draws_an_unbiased_sign():
    # 1e5 draws at 0.3: standard deviation of the mean 0.003, so 5 sigma is 0.015.
    x = np.full(100_000, 0.3)
    draw = partial(stochastic_sign, rng=np.random.default_rng(0), hard=True)
    q = Binary(np.array([1.0]))
    assert abs(q.decode(q.encode(x, sign=draw)).mean() - 0.3) < 0.015


def test_bits_count_the_scale():
    q = xnor(np.ones((4, 8)), axis=1)
    assert (q.code_bits, q.parameter_bits(float_bits=16)) == (1, 64)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: xnor(np.array([])), "`x` must not be empty"),
        (lambda: xnor(np.array([1.0, np.nan])), "`x` must be finite; got nan"),
        (lambda: Binary(np.array(-1.0)), "`scale` must not be negative; got -1.0"),
        (lambda: Binary(np.array(1.0)).decode(np.array([2])), r"`codes` must lie in \[0, 1\]"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_sign_of_nan_is_minus_as_its_docstring_says():
    assert sign(np.array([np.nan, 1.0])).tolist() == [-1, 1]


def test_the_mean_of_the_largest_floats_is_no_sum_that_overflows():
    x = np.ldexp(np.array([1.5, -1.75]), 1023)
    assert xnor(x).scale.item() == np.ldexp(1.625, 1023)
