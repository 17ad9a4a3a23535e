"""Rounding: exact against fractions, every probability counted out."""

import math
from fractions import Fraction

import numpy as np
import pytest
from _oracles import exact
from _oracles.memory import peak_over_arrays
from hypothesis import example, given
from hypothesis import strategies as st

from refquant import rounding
from refquant.rounding import (
    ceil,
    floor,
    half_away,
    half_even,
    half_up,
    stochastic,
    stochastic_few_bits,
    stochastic_sign,
    toward_zero,
)

DTYPES = [np.float32, np.float64]
EXACT = [
    (half_even, exact.half_even),
    (half_away, exact.half_away),
    (half_up, exact.half_up),
    (floor, math.floor),
    (ceil, math.ceil),
    (toward_zero, math.trunc),
]
NEAREST = [half_even, half_away, half_up]
DETERMINISTIC = [ours for ours, _ in EXACT]
reals = st.floats(-1e6, 1e6)
everything = st.floats(allow_nan=False, allow_infinity=False)


class Always:
    """A generator whose every draw is given."""

    def __init__(self, draw):
        self.draw = draw

    def random(self, size):
        return np.full(size, self.draw)

    def integers(self, low, high, *, size):
        assert low <= self.draw < high
        return np.full(size, self.draw)


def adversaries(dtype):
    """Neighbours of ties and whole numbers, where the spacing is 1, tiny and huge values."""
    whole = [0, 1, 2, 3, 2**22, 2**23 - 1, 2**23, 2**23 + 1, 2**24, 2**52 - 1, 2**52 + 1, 2**53]
    info = np.finfo(dtype)
    x = np.array([n + f for n in whole for f in (0, 0.25, 0.5, 0.75)], dtype)
    x = np.concatenate([x, [info.smallest_subnormal, info.tiny, info.eps, info.max]]).astype(dtype)
    with np.errstate(over="ignore"):
        x = np.concatenate([x, np.nextafter(x, dtype(np.inf)), np.nextafter(x, dtype(-np.inf))])
    x = x[np.isfinite(x)]
    return np.concatenate([x, -x])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("ours", "oracle"), EXACT)
def test_rounding_is_exact_where_it_is_hard(ours, oracle, dtype):
    x = adversaries(dtype)
    rounded = ours(x)
    assert rounded.dtype == dtype
    assert [int(r) for r in rounded] == [oracle(Fraction(float(v))) for v in x]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("ours", "oracle"), EXACT)
@given(x=everything)
@example(x=0.49999999999999994)
@example(x=-0.5000000000000001)
@example(x=-0.49999999999999994)
@example(x=8388609.0)
@example(x=-1e-30)
def test_rounding_is_exact_everywhere(ours, oracle, dtype, x):
    with np.errstate(over="ignore"):
        x = dtype(x)
    if np.isfinite(x):
        assert int(ours(x)) == oracle(Fraction(float(x)))


@pytest.mark.parametrize("ours", DETERMINISTIC)
@given(x=reals, y=reals)
def test_rounding_is_idempotent_and_monotone_between_floor_and_ceil(ours, x, y):
    x, y = min(x, y), max(x, y)
    pair = np.array([x, y])
    rounded = ours(pair)
    assert np.array_equal(ours(rounded), rounded)
    assert rounded[0] <= rounded[1]
    assert (np.floor(pair) <= rounded).all()
    assert (rounded <= np.ceil(pair)).all()
    assert (np.abs(rounded - pair) <= (0.5 if ours in NEAREST else 1)).all()


@pytest.mark.parametrize("ours", [half_even, half_away, toward_zero])
@given(x=everything)
def test_odd_roundings_commute_with_the_sign(ours, x):
    assert ours(np.array(-x)) == -ours(np.array(x))


@given(x=everything)
def test_floor_and_ceil_mirror_each_other(x):
    assert floor(np.array(-x)) == -ceil(np.array(x))


@pytest.mark.parametrize("ours", [half_up, floor, ceil])
@given(quarters=st.integers(-100, 100), shift=st.integers(-100, 100))
def test_one_sided_roundings_commute_with_any_whole_shift(ours, quarters, shift):
    x = np.array(quarters / 4)
    assert ours(x + shift) == ours(x) + shift


@given(quarters=st.integers(-100, 100), shift=st.integers(-50, 50))
def test_half_even_commutes_with_even_shifts_only(quarters, shift):
    x = np.array(quarters / 4)
    assert half_even(x + 2 * shift) == half_even(x) + 2 * shift
    assert half_even(np.array(0.5) + 1) != half_even(np.array(0.5)) + 1


@pytest.mark.parametrize(
    ("ours", "positive", "both"),
    [(half_even, 0, 0), (half_away, 1 / 8, 0), (half_up, 1 / 8, 1 / 8)],
)
def test_mean_bias_of_quarters_is_that_of_their_ties(ours, positive, both):
    up = np.arange(0, 8) / 4
    assert np.mean(ours(up) - up) == positive
    all_signs = np.arange(-8, 8) / 4
    assert np.mean(ours(all_signs) - all_signs) == both


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [n for n in rounding.__all__ if n != "stochastic_sign"])
def test_every_rounding_keeps_shape_dtype_and_what_is_no_number(name, dtype):
    function = getattr(rounding, name)
    keywords = {"rng": np.random.default_rng(0)} if name.startswith("stochastic") else {}
    if name == "stochastic_few_bits":
        keywords["random_bits"] = 3
    for shape in [(), (0,), (2, 0, 3), (2, 3)]:
        x = np.full(shape, 0.3, dtype)
        rounded = function(x, **keywords)
        assert rounded.dtype == dtype
        assert rounded.shape == shape
        assert np.array_equal(x, np.full(shape, 0.3, dtype))
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 7.0, -7.0, np.finfo(dtype).max], dtype)
    assert np.array_equal(function(special, **keywords), special, equal_nan=True)


HALVES = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])


@pytest.mark.parametrize(
    ("ours", "expected"),
    [
        pytest.param(half_even, [-2, -2, -0.0, 0, 2, 2], id="R1"),
        pytest.param(half_away, [-3, -2, -1, 1, 2, 3], id="R2"),
        pytest.param(half_up, [-2, -1, 0, 1, 2, 3], id="R3"),
    ],
)
def test_golden_ties(ours, expected):
    assert np.array_equal(ours(HALVES), expected)


def test_golden_R4_the_number_before_one_half():
    x = np.array(0.49999999999999994)
    assert [half_away(x), half_up(x), np.floor(x + 0.5)] == [0, 0, 1]


def test_golden_R5_stochastic_rounding_of_2_3():
    # The smallest draw that no longer rounds up is the fraction: its probability is P(3).
    x = np.array(2.3)
    up = float(x) - 2
    assert stochastic(x, rng=Always(np.nextafter(up, 0))) == 3
    assert stochastic(x, rng=Always(up)) == 2
    mean, variance = 2 + up, up * (1 - up)
    assert [mean, variance, up] == pytest.approx([2.3, 0.21, 0.3], abs=1e-12)


@pytest.mark.parametrize(
    ("pre_round", "expected"),
    [
        pytest.param(floor, 0.25, id="R6-truncating"),
        pytest.param(half_up, 0.375, id="R6-half-up"),
        pytest.param(half_even, 0.25, id="R6-half-even"),
    ],
)
def test_golden_few_bits(pre_round, expected):
    assert probability(0.3125, 3, pre_round) == expected


@pytest.mark.parametrize(
    ("hard", "x", "mean"),
    [
        pytest.param(True, [-2, -0.5, 0, 0.3, 1.5], [-1, -0.5, 0, 0.3, 1], id="R7"),
        pytest.param(False, [0.3, 1], [0.14888503362331795, 0.46211715726000974], id="R8"),
    ],
)
def test_golden_mean_of_the_stochastic_sign(hard, x, mean):
    # The mean is 2 P - 1, and P is where the draws stop giving +1: found by bisection.
    for value, expected in zip(x, mean, strict=True):
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            plus = stochastic_sign(np.array(float(value)), rng=Always(middle), hard=hard) == 1
            low, high = (middle, high) if plus else (low, middle)
        assert 2 * high - 1 == pytest.approx(expected, abs=1e-12)


def probability(x, random_bits, pre_round):
    """Share of all possible draws that round up."""
    ups = [
        stochastic_few_bits(
            np.array(x), random_bits=random_bits, rng=Always(draw), pre_round=pre_round
        )
        - np.floor(x)
        for draw in range(2**random_bits)
    ]
    return Fraction(int(sum(ups)), 2**random_bits)


@pytest.mark.parametrize("random_bits", [1, 2, 3, 5])
@pytest.mark.parametrize(
    ("pre_round", "oracle"),
    [(half_even, exact.half_even), (floor, math.floor), (half_up, exact.half_up)],
)
def test_few_bits_have_exactly_the_stated_probability(random_bits, pre_round, oracle):
    for x in (0.3, -0.3, 5.8125, 2.0, -7.5, 0.99, 2.0**-7, 3 / 64, 1 - 2**-6):
        fraction = Fraction(x) - math.floor(x)
        stated = Fraction(oracle(2**random_bits * fraction), 2**random_bits)
        assert probability(x, random_bits, pre_round) == stated


@pytest.mark.parametrize("finer", [1, 2, 4])
@pytest.mark.parametrize("random_bits", [1, 3])
def test_bias_of_few_bits_on_finer_grids(random_bits, finer):
    grid = [Fraction(n, 2 ** (random_bits + finer)) for n in range(2 ** (random_bits + finer))]
    mean = lambda pre_round: sum(  # noqa: E731
        probability(float(f), random_bits, pre_round) - f for f in grid
    ) / len(grid)
    assert mean(half_even) == 0
    assert mean(half_up) == Fraction(1, 2 ** (random_bits + finer + 1))
    assert mean(floor) == -Fraction(1, 2 ** (random_bits + 1)) * (1 - Fraction(1, 2**finer))


@given(x=st.floats(-1e3, 1e3), draw=st.integers(0, 2**53 - 1))
def test_stochastic_rounds_up_exactly_when_the_draw_is_below_the_fraction(x, draw):
    u = draw / 2**53
    rounded = float(stochastic(np.array(x), rng=Always(u)))
    fraction = np.float64(x) - np.floor(x)          # rounded for -1/2 < x < 0 only
    assert rounded == math.floor(x) + (u < fraction)


def test_stochastic_is_unbiased_with_the_stated_variance():
    n, x = 200_000, 2.3
    rounded = stochastic(np.full(n, x), rng=np.random.default_rng(0))
    assert set(rounded) == {2, 3}
    sigma = math.sqrt(0.21 / n)                     # 0.00102
    assert abs(rounded.mean() - x) < 5 * sigma
    assert abs(rounded.var() - 0.21) < 5 * 0.4 * sigma      # |1 - 2 f| = 0.4 carries it over


def test_stochastic_costs_three_decibels_over_nearest():
    # Fractions spread evenly: mean squared error 1/6 against 1/12.
    x = (np.arange(100_000) + 0.5) / 100_000
    # Var of the squared error below 1/16, so the mean has sigma < 0.25 / sqrt(1e5) = 0.0008.
    noise = np.mean((stochastic(x, rng=np.random.default_rng(0)) - x) ** 2)
    assert abs(noise - 1 / 6) < 5 * 0.0008
    assert np.mean((half_even(x) - x) ** 2) == pytest.approx(1 / 12, rel=1e-9)


def test_one_draw_per_element_in_c_order():
    x = np.full((3, 4), 0.5)
    whole = stochastic(x, rng=np.random.default_rng(7))
    draws = np.random.default_rng(7).random(12)
    assert np.array_equal(whole.ravel(), draws < 0.5)
    few = stochastic_few_bits(x, random_bits=4, rng=np.random.default_rng(7))
    assert np.array_equal(few.ravel(), np.random.default_rng(7).integers(0, 16, 12) < 8)


def test_draws_are_the_same_however_many_there_are():
    x = np.full((3, 50_000), 0.5)
    whole = stochastic(x, rng=np.random.default_rng(7))
    assert np.array_equal(whole.ravel(), np.random.default_rng(7).random(150_000) < 0.5)
    few = stochastic_few_bits(x, random_bits=4, rng=np.random.default_rng(7))
    assert np.array_equal(few.ravel(), np.random.default_rng(7).integers(0, 16, 150_000) < 8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", rounding.__all__)
def test_every_rounding_stays_below_twice_its_arrays(name, dtype):
    keywords = {"rng": np.random.default_rng(0)} if name.startswith("stochastic") else {}
    if name == "stochastic_few_bits":
        keywords["random_bits"] = 3
    x = np.random.default_rng(0).normal(size=1_000_000).astype(dtype)
    assert peak_over_arrays(lambda x: getattr(rounding, name)(x, **keywords), x) < 2.02


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_stochastic_sign_saturates_without_overflow(hard, dtype):
    big = np.finfo(dtype).max
    x = np.array([-np.inf, -big, big, np.inf], dtype)
    for draw in (0.0, 1 - 2**-53):
        signs = stochastic_sign(x, rng=Always(draw), hard=hard)
        assert np.array_equal(signs, [-1, -1, 1, 1])
        assert signs.dtype == dtype


@pytest.mark.parametrize(("random_bits", "error"), [(0, ValueError), (25, ValueError),
                                                    (2.0, TypeError), (True, TypeError)])
def test_random_bits_out_of_range_are_named(random_bits, error):
    with pytest.raises(error, match="`random_bits` must be"):
        stochastic_few_bits(np.ones(2), random_bits=random_bits, rng=np.random.default_rng(0))


def test_nan_has_no_sign():
    with pytest.raises(ValueError, match="`x` must not contain NaN"):
        stochastic_sign(np.array([np.nan]), rng=np.random.default_rng(0))


@pytest.mark.peer
@pytest.mark.parametrize("dtype", DTYPES)
def test_half_even_is_what_torch_rounds_to(dtype):
    torch = pytest.importorskip("torch")
    x = adversaries(dtype)
    assert np.array_equal(half_even(x), torch.round(torch.from_numpy(x)).numpy())
