"""Fixed-point functions against Python integers, and against the real functions."""

import numpy as np
import pytest
from _oracles import gemmlowp
from hypothesis import example, given
from hypothesis import strategies as st

from refquant.integer.fixed_point import (
    exp_of_last_quarter,
    exp_of_negative,
    fixed_logistic,
    fixed_tanh,
    one_minus_over_one_plus,
    reciprocal_of_one_plus,
)

EVERY = {16: np.arange(-(2**15), 2**15)}
INTEGER_BITS = st.integers(0, 12)


def raw(bits: int, *, low: int | None = None, high: int | None = None) -> st.SearchStrategy[int]:
    """Words, and many of those around powers of two."""
    low = -(2 ** (bits - 1)) if low is None else low
    high = 2 ** (bits - 1) - 1 if high is None else high
    near = st.builds(
        lambda sign, power, off: sign * 2**power + off,
        st.sampled_from([-1, 1]), st.integers(0, bits - 1), st.integers(-2, 2),
    )  # fmt: skip
    return st.one_of(st.integers(low, high), near.filter(lambda x: low <= x <= high))


@given(raw(32, low=-(2**29), high=0))
def test_exp_of_the_last_quarter_is_the_formula_in_python_integers(a):
    assert int(exp_of_last_quarter(a)) == gemmlowp.exp_quarter(a, 32)


@given(raw(32, high=0), st.integers(0, 28))
@example(-(2**31), 5)
@example(-(2**26), 5)
def test_exp_of_negatives_is_the_formula_in_python_integers(a, integer_bits):
    got = int(exp_of_negative(a, integer_bits=integer_bits))
    assert got == gemmlowp.exp_negative(a, integer_bits, 32)


@pytest.mark.parametrize("integer_bits", [3, 4, 5, 6])
def test_exp_of_negatives_is_the_formula_with_every_factor(integer_bits):
    a = -np.arange(0, 2**31, 2**20 + 12345)             # every bit above a quarter, set and not
    expected = [gemmlowp.exp_negative(x, integer_bits, 32) for x in a.tolist()]
    assert exp_of_negative(a, integer_bits=integer_bits).tolist() == expected


@given(raw(32, low=0))
def test_reciprocals_are_the_formula_in_python_integers(a):
    assert int(reciprocal_of_one_plus(a)) == gemmlowp.reciprocal(a, 32)
    assert int(one_minus_over_one_plus(a)) == gemmlowp.ratio(a, 32)


@given(raw(32), st.integers(0, 27))
def test_logistic_and_tanh_are_the_formula_in_python_integers(a, integer_bits):
    assert int(fixed_logistic(a, integer_bits=integer_bits)) == gemmlowp.logistic(
        a, integer_bits, 32)
    assert int(fixed_tanh(a, integer_bits=integer_bits)) == gemmlowp.tanh(a, integer_bits, 32)


@pytest.mark.parametrize("function", ["logistic", "tanh"])
def test_16_bits_are_the_formula_on_every_word(function):
    ours = {"logistic": fixed_logistic, "tanh": fixed_tanh}[function]
    got = ours(EVERY[16], integer_bits=3, bits=16)
    expected = [getattr(gemmlowp, function)(a, 3, 16) for a in EVERY[16].tolist()]
    assert got.tolist() == expected


@given(raw(16), st.integers(0, 11))
def test_16_bits_with_any_number_of_integer_bits(a, integer_bits):
    got = int(fixed_logistic(a, integer_bits=integer_bits, bits=16))
    assert got == gemmlowp.logistic(a, integer_bits, 16)
    got = int(fixed_tanh(a, integer_bits=integer_bits, bits=16))
    assert got == gemmlowp.tanh(a, integer_bits, 16)


def test_known_values():
    assert exp_of_negative(-(2**26), integer_bits=5) == 790015308
    assert fixed_logistic(2**27, integer_bits=4) == 1569936226
    assert fixed_tanh(2**27, integer_bits=4) == 1635510876
    assert fixed_logistic(4096, integer_bits=3, bits=16) == 23952
    assert fixed_tanh(4096, integer_bits=3, bits=16) == 24964


@pytest.mark.parametrize(("bits", "units"), [(32, 560), (16, 2)])
def test_exp_is_near_the_real_function(bits, units):
    # The first term left out of the series: 2**31 * (1/8)**5 / 5! is 546.
    a = -np.arange(2**12) * 2 ** (bits - 13) - np.arange(2**12) % 3
    for k in (0, 3, 5):
        real = np.exp(a * 2.0 ** (k + 1 - bits))
        off = exp_of_negative(a, integer_bits=k, bits=bits) - real * 2.0 ** (bits - 1)
        assert np.abs(off).max() <= units


@pytest.mark.parametrize(("bits", "units"), [(32, 300), (16, 12)])
def test_logistic_and_tanh_are_near_the_real_functions(bits, units):
    a = np.arange(-(2**11), 2**11) * 2 ** (bits - 12)
    x = a * 2.0 ** (5 - bits)
    one = 2.0 ** (bits - 1)
    logistic = fixed_logistic(a, integer_bits=4, bits=bits)
    assert np.abs(logistic - one / (1 + np.exp(-x))).max() <= units
    assert np.abs(fixed_tanh(a, integer_bits=4, bits=bits) - one * np.tanh(x)).max() <= units


def test_reciprocals_are_near_the_real_ones():
    a = np.arange(0, 2**31, 2**19)
    x = a / 2**31
    assert np.abs(reciprocal_of_one_plus(a) - 2**31 / (1 + x)).max() <= 8
    assert np.abs(one_minus_over_one_plus(a) - 2**31 * (1 - x) / (1 + x)).max() <= 16


@given(raw(32), st.integers(0, 27), st.sampled_from([16, 32]))
def test_tanh_is_odd_and_logistics_of_opposites_sum_to_one(a, integer_bits, bits):
    if bits == 16:
        a, integer_bits = a >> 16, integer_bits % 12
    if a == -(2 ** (bits - 1)) or a == 0:
        return
    tanh = [int(fixed_tanh(x, integer_bits=integer_bits, bits=bits)) for x in (a, -a)]
    assert tanh[0] == -tanh[1]
    logistic = [int(fixed_logistic(x, integer_bits=integer_bits, bits=bits)) for x in (a, -a)]
    assert sum(logistic) == 2 ** (bits - 1) - 1


def test_arguments_stay_and_shapes_are_kept():
    a = np.array([[-5, 0], [7, 2**20]])
    assert fixed_tanh(a, integer_bits=4).shape == (2, 2)
    assert a.tolist() == [[-5, 0], [7, 2**20]]
    assert exp_of_negative(np.zeros((0, 3), int), integer_bits=5).shape == (0, 3)


class TestErrors:
    @pytest.mark.parametrize("function", [fixed_logistic, fixed_tanh])
    def test_words_that_are_none(self, function):
        with pytest.raises(ValueError, match=r"`a` must lie in \[-32768, 32767\]; got 32768"):
            function(2**15, integer_bits=3, bits=16)
        with pytest.raises(TypeError, match="`a` must be integers"):
            function(0.5, integer_bits=3)

    def test_exp_of_a_positive_number(self):
        with pytest.raises(ValueError, match=r"`a` must lie in \[-2147483648, 0\]; got 1"):
            exp_of_negative(1, integer_bits=5)
        with pytest.raises(ValueError, match=r"`a` must lie in \[-536870912, 0\]"):
            exp_of_last_quarter(-(2**29) - 1)

    def test_reciprocal_of_one_plus_a_negative_number(self):
        for function in (reciprocal_of_one_plus, one_minus_over_one_plus):
            with pytest.raises(ValueError, match=r"`a` must lie in \[0, 2147483647\]; got -1"):
                function(-1)

    def test_word_lengths_and_integer_bits(self):
        with pytest.raises(ValueError, match="`bits` must be 16 or 32; got 8"):
            fixed_tanh(0, integer_bits=3, bits=8)
        with pytest.raises(ValueError, match="`integer_bits` must be at most 28; got 29"):
            exp_of_negative(0, integer_bits=29)
        with pytest.raises(ValueError, match="`integer_bits` must be at least 0; got -1"):
            exp_of_negative(0, integer_bits=-1)
