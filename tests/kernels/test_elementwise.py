"""The fast twins equal their definitions bit for bit, whatever the tiles cut through."""

import math
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from quantizers.contract import LAWS, check

from refquant import quantizer
from refquant.granularity import group
from refquant.kernels import elementwise
from refquant.quantizers.uniform import Uniform, asymmetric, symmetric
from refquant.rounding import floor, half_away, half_up, stochastic_few_bits

DTYPES = [np.float32, np.float64]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(elementwise, "TILE", 64)            # 16 float32 or 8 float64


@st.composite
def quantizers_with_data(draw):
    """Any shape, dtypes, granularity, zero points and code width; data in and out of range."""
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=20))
    data_dtype, scale_dtype = draw(st.sampled_from(DTYPES)), draw(st.sampled_from(DTYPES))
    kept = [draw(st.booleans()) for _ in shape]
    parameters = tuple(n if keep else 1 for n, keep in zip(shape, kept, strict=True))
    if not any(kept) and draw(st.booleans()):
        parameters = ()
    bits = draw(st.sampled_from([1, 2, 4, 8, 16, 22, 23, 24, 31]))
    qmin = draw(st.sampled_from([0, -(2 ** (bits - 1)), 5]))
    qmax = min(qmin + 2**bits - 1, 2**31 - 1)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    scale = (2.0 ** rng.uniform(-3, 3, parameters)).astype(scale_dtype)
    zero_point = rng.integers(qmin, qmax, parameters, endpoint=True)
    if qmin <= 0 and draw(st.booleans()):
        zero_point = np.zeros(parameters, np.int64)
    q = Uniform(scale, zero_point, qmin, qmax)
    # Around the levels, on the ties between them, and far outside.
    steps = rng.integers(qmin - 3, qmax + 3, shape, endpoint=True) - zero_point
    x = (steps + rng.choice([0, 0.25, 0.5, -0.5], shape)) * scale
    x = np.where(rng.random(shape) < 0.1, rng.choice([0.0, -0.0, np.inf, -np.inf, -0.1], shape), x)
    return q, np.asarray(x, data_dtype)


def assert_same_bits(a, b):
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    assert np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()


@given(case=quantizers_with_data(), rounding=st.sampled_from([None, floor, half_away, half_up]))
def test_encode_is_the_definition_bit_for_bit(case, rounding):
    q, x = case
    how = {} if rounding is None else {"rounding": rounding}
    assert_same_bits(elementwise.encode(x, q, **how), q.encode(x, **how))


@given(case=quantizers_with_data())
def test_decode_is_the_definition_bit_for_bit(case):
    q, x = case
    codes = q.encode(x)
    assert_same_bits(elementwise.decode(codes, q), q.decode(codes))


@given(case=quantizers_with_data(), rounding=st.sampled_from([None, floor, half_away, half_up]))
def test_fake_quantize_is_the_definition_bit_for_bit(case, rounding):
    q, x = case
    how = {} if rounding is None else {"rounding": rounding}
    slow = q.decode(q.encode(x, **how)).astype(x.dtype)
    assert_same_bits(elementwise.fake_quantize(x, q, **how), slow)


def test_fake_quantize_is_that_of_the_protocol_on_a_million_values():
    x = np.random.default_rng(0).normal(size=1_000_003).astype(np.float32)
    for q in (symmetric(np.float32(3), bits=8), asymmetric(x.min(), x.max(), bits=4)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(elementwise, "TILE", 2**19)
            assert_same_bits(elementwise.fake_quantize(x, q), quantizer.fake_quantize(x, q))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize("order", ["C", "F", "strided"])
def test_layout_of_the_data_does_not_matter(dtype, axis, order):
    x = np.random.default_rng(0).normal(size=(13, 37)).astype(dtype)
    low, high = x.min(axis, keepdims=True), x.max(axis, keepdims=True)
    q = asymmetric(low, high, bits=8)
    given = {"C": x, "F": np.asfortranarray(x), "strided": np.repeat(x, 2, 1)[:, ::2]}[order]
    assert_same_bits(elementwise.encode(given, q), q.encode(x))
    assert_same_bits(elementwise.fake_quantize(given, q), q.decode(q.encode(x)))
    codes = np.asfortranarray(q.encode(x)) if order == "F" else q.encode(x)
    assert_same_bits(elementwise.decode(codes, q), q.decode(codes))


@pytest.mark.parametrize("dtype", DTYPES)
def test_groups_are_one_more_axis(dtype):
    blocks = group(np.random.default_rng(0).normal(size=(5, 24)).astype(dtype), 8)
    q = symmetric(np.abs(blocks).max(-1, keepdims=True), bits=4)
    assert_same_bits(elementwise.fake_quantize(blocks, q), quantizer.fake_quantize(blocks, q))


@pytest.mark.parametrize("law", LAWS)
def test_contract(law):
    class Fast(Uniform):
        encode = lambda self, x: elementwise.encode(x, self)  # noqa: E731
        decode = lambda self, codes: elementwise.decode(codes, self)  # noqa: E731

    x = np.random.default_rng(0).normal(size=(7, 11)).astype(np.float32)
    slow = asymmetric(x.min(1, keepdims=True), x.max(1, keepdims=True), bits=4)
    check(law, Fast(slow.scale, slow.zero_point, slow.qmin, slow.qmax), x)


def test_result_can_go_to_memory_of_the_caller_and_to_the_data_itself():
    x = np.random.default_rng(0).normal(size=(9, 7)).astype(np.float32)
    q = symmetric(np.float32(1), bits=4)
    expected, other = quantizer.fake_quantize(x, q), np.empty((7, 9), np.float32).T
    assert elementwise.fake_quantize(x, q, out=other) is other
    assert_same_bits(other, expected)
    elementwise.fake_quantize(x, q, out=x)
    assert_same_bits(x, expected)
    with pytest.raises(ValueError, match="`out` must have shape"):
        elementwise.fake_quantize(x, q, out=np.empty(3, np.float32))
    with pytest.raises(ValueError, match="`out` must have shape"):
        elementwise.fake_quantize(x, q, out=np.empty((9, 7)))


@pytest.mark.parametrize("where", [0, 15, 16, 62])
@pytest.mark.parametrize("call", [elementwise.encode, elementwise.fake_quantize])
def test_nan_raises_in_whichever_tile_it_is(call, where):
    x = np.zeros(63, np.float32)
    x[where] = -np.float32(np.nan)
    x[30] = np.inf
    with pytest.raises(ValueError, match="`x` must not contain NaN: no code stands for it"):
        call(x, symmetric(np.float32(1), bits=8))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda q: elementwise.encode(np.arange(3), q), TypeError, "`x` must be float32 or"),
        (lambda q: elementwise.encode(np.ones((2, 2)), q), ValueError, "`scale` must broadcast"),
        (lambda q: elementwise.fake_quantize(np.ones(2), q), ValueError, "`scale` must broadcast"),
        (lambda q: elementwise.decode(np.ones(3), q), TypeError, "`codes` must be integers"),
        (lambda q: elementwise.decode(np.ones(4, int), q), ValueError, "`scale` must broadcast"),
        (lambda q: elementwise.decode(np.array([0, 9, 0]), q), ValueError, r"in \[-7, 7\]; got 9"),
        (
            lambda q: elementwise.stochastic_round(np.arange(3), rng=np.random.default_rng(0)),
            TypeError,
            "`x` must be float32 or float64; got int64",
        ),
    ],
)
def test_bad_input_is_named_as_by_the_definition(call, error, message):
    with pytest.raises(error, match=message):
        call(symmetric(np.ones(3), bits=4))


class Lanes:
    """A generator that has drawn the lanes of 16 bits already."""

    def __init__(self, lanes):
        self.lanes = lanes

    def integers(self, low, high, *, size):
        assert (low, high) == (0, 2**16)
        return self.lanes.reshape(size)


def lanes_of(n, dtype, rng):
    """The first n lanes of 16 bits, tile by tile, as `stochastic_round` documents them."""
    most = 32 // np.dtype(dtype).itemsize
    run = -(-n // max(-(-n // most), 1))
    tiles = [min(run, n - start) for start in range(0, n, max(run, 1))]
    draws = [rng.integers(0, 2**64, size=-(-m // 4), dtype=np.uint64).view(np.uint16)[:m]
             for m in tiles]
    return np.concatenate([*draws, np.empty(0, np.uint16)])


@given(
    n=st.integers(0, 100),
    dtype=st.sampled_from(DTYPES),
    exponent=st.integers(-20, 24),
    seed=st.integers(0, 99),
)
@example(n=100, dtype=np.float32, exponent=-1, seed=0)
def test_stochastic_round_is_rounding_with_sixteen_bits(n, dtype, exponent, seed):
    x = (np.random.default_rng(seed).normal(size=n) * 2.0**exponent).astype(dtype)
    x[::7] = np.round(x[::7])
    rounded = elementwise.stochastic_round(x, rng=np.random.Generator(np.random.SFC64(seed)))
    lanes = Lanes(lanes_of(n, dtype, np.random.Generator(np.random.SFC64(seed))))
    assert_same_bits(rounded, stochastic_few_bits(x, random_bits=16, rng=lanes))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [0.0, -3.0, np.inf, -np.inf, np.nan])
def test_stochastic_round_leaves_whole_numbers_and_what_is_no_number(dtype, value):
    x = np.full((3, 9), value, dtype)
    rounded = elementwise.stochastic_round(x, rng=np.random.default_rng(0))
    assert np.array_equal(rounded, x, equal_nan=True)


class Always:
    """A generator whose lanes of 16 bits are all the same."""

    def __init__(self, lane):
        self.draw = lane * 0x0001_0001_0001_0001

    def integers(self, low, high, *, endpoint, size, dtype):
        assert (low, high, endpoint) == (0, 2**64 - 1, True)
        return np.full(size, self.draw, dtype)


@given(lane=st.integers(0, 2**16 - 1), quarters=st.integers(-6, 6), whole=st.integers(-3, 3))
@example(lane=2, quarters=2, whole=0)
@example(lane=3, quarters=2, whole=0)
def test_stochastic_round_goes_up_exactly_if_the_lane_is_below_the_rounded_fraction(
    lane, quarters, whole
):
    # So the probability is the rounded fraction over 2**16; quarters of a lane show its ties.
    fraction = (Fraction(lane) + Fraction(quarters, 4)) / 2**16
    x = np.array([float(whole + fraction)])
    share = fraction - math.floor(fraction)
    expected = math.floor(x[0]) + (lane < round(share * 2**16))
    assert elementwise.stochastic_round(x, rng=Always(lane)) == expected


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1.0, 2.0**13, 2.0**15, 2.0**30])
def test_stochastic_round_writes_where_it_is_told(dtype, scale):
    x = (np.random.default_rng(0).normal(size=1001) * scale).astype(dtype)
    expected = elementwise.stochastic_round(x, rng=np.random.default_rng(1))
    out = np.empty_like(x)
    assert elementwise.stochastic_round(x, rng=np.random.default_rng(1), out=out) is out
    assert_same_bits(out, expected)
    elementwise.stochastic_round(x, rng=np.random.default_rng(1), out=x)
    assert_same_bits(x, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("whole", [0, 62, 63, 64, 65, -63, -64, -65, -66, 2**20 + 1])
@pytest.mark.parametrize("lane", [0, 2**15 - 1, 2**15, 2**16 - 1])
def test_stochastic_round_is_the_same_on_both_sides_of_its_limit(whole, lane, dtype):
    x = np.array([whole + 0.5], dtype)
    assert elementwise.stochastic_round(x, rng=Always(lane)) == whole + (lane < 2**15)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("lane", [0, 2**16 - 2, 2**16 - 1])
def test_a_value_beside_a_tie_of_the_grid_is_no_tie(dtype, sign, lane):
    # x + 1 would be one: the fraction of a small negative number does not fit its dtype.
    tie = sign * 2.0**-17
    beyond, before = np.nextafter(dtype(tie), dtype(2 * tie)), np.nextafter(dtype(tie), dtype(0))
    x = np.array([beyond, tie, before], dtype)
    shares = [round(Fraction(float(v)) * 2**16) % 2**16 or (2**16 if v < 0 else 0) for v in x]
    expected = np.floor(x) + [lane < share for share in shares]
    assert np.array_equal(elementwise.stochastic_round(x, rng=Always(lane)), expected)
    drawn = Lanes(np.full(3, lane, np.uint16))
    assert np.array_equal(stochastic_few_bits(x, random_bits=16, rng=drawn), expected)
    far = np.append(x, dtype(2.0**40))                   # the way for values of any size
    assert np.array_equal(elementwise.stochastic_round(far, rng=Always(lane))[:3], expected)


def test_encode_can_round_stochastically():
    x = np.full(100_000, 0.3, np.float32)
    rounding = partial(elementwise.stochastic_round, rng=np.random.default_rng(0))
    codes = elementwise.encode(x, symmetric(np.float32(7), bits=4), rounding=rounding)
    # Standard deviation of the mean sqrt(0.3 * 0.7 / 1e5) = 0.00145; five of them.
    assert abs(codes.mean() - 0.3) < 0.0073


def test_tiles_cut_every_array_once():
    for shape in [(), (0,), (1,), (16,), (17,), (3, 5), (4, 16), (2, 3, 40), (5, 0, 2), (33, 1, 1)]:
        count = np.zeros(shape, int)
        for tile in elementwise._tiles(shape, np.float32):
            assert count[tile].size <= 16
            assert count[tile].flags["C_CONTIGUOUS"]
            count[tile] += 1
        assert (count == 1).all()
