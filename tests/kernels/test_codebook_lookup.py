"""Table encoders: the codes of the slow ones, also beside every threshold and for every pattern."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.kernels.codebook_lookup import (
    encode_lookup,
    encode_power_of_two,
    lookup_table,
)
from refquant.quantizers.codebook import Codebook, nearest
from refquant.quantizers.power_of_two import PowerOfTwo, apot

singles = st.floats(allow_nan=False, allow_infinity=False, width=32)


def hard_inputs(thresholds):
    """All patterns of the upper 16 bits with the least, the middle and the greatest rest,
    and the neighbours of the thresholds."""
    upper = np.arange(2**16, dtype=np.uint32) << 16
    patterns = np.concatenate([upper, upper | 0x8000, upper | 0xFFFF]).view(np.float32)
    with np.errstate(over="ignore", under="ignore"):
        near = thresholds.astype(np.float32)
        around = [near, np.nextafter(near, np.float32(np.inf)),
                  np.nextafter(near, np.float32(-np.inf))]
    x = np.concatenate([patterns, *around])
    return x[~np.isnan(x)]


@given(levels=st.lists(singles, min_size=1, max_size=256, unique=True).map(sorted))
def test_codes_equal_those_of_the_search_for_any_levels(levels):
    q = nearest(np.array(levels, np.float32))
    x = hard_inputs(q.thresholds)
    codes = encode_lookup(x, lookup_table(q))
    assert codes.dtype == np.uint8
    assert np.array_equal(codes, q.encode(x))


@pytest.mark.parametrize("quantizer", [
    nearest(np.linspace(-3, 3, 16)),
    nearest(np.linspace(1, 1.001, 256)),                            # all in one bucket
    nearest(np.array([0.0, 1e-45, 3e-45, 1e-40])),
    Codebook(np.array([0.0, 1.0, 2.0]), np.array([-1e300, 1e300])),
    apot(np.array(1.0), bits=5),
], ids=["linear", "crowded", "subnormal", "beyond float32", "apot"])
def test_codes_equal_those_of_the_search(quantizer):
    x = hard_inputs(quantizer.thresholds)
    assert np.array_equal(encode_lookup(x, lookup_table(quantizer)), quantizer.encode(x))


@pytest.mark.parametrize("logarithmic", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("largest", [2.0, 2.0**-40, 2.0**127])
def test_powers_of_two_by_integer_add_equal_those_by_frexp(bits, logarithmic, largest):
    if bits == 8 and largest == 2.0**-40:
        return                                                      # levels below float32
    q = PowerOfTwo(np.array(largest, np.float32), bits, logarithmic)
    powers = np.ldexp(np.float32(1), np.arange(-149, 128)).astype(np.float32)
    with np.errstate(over="ignore", under="ignore"):
        edges = np.concatenate([powers * np.float32(m) for m in (1, 1.5, 2**0.5, 0.5)])
    x = hard_inputs(np.concatenate([edges, -edges]))
    codes = encode_power_of_two(x, q)
    assert codes.dtype == np.int8
    assert np.array_equal(codes, q.encode(x))


def test_shapes_order_and_sizes_are_free():
    q = nearest(np.linspace(-3, 3, 16))
    table = lookup_table(q)
    p = PowerOfTwo(np.array(2.0), 4)
    x = np.random.default_rng(0).normal(size=(3, 2**15 + 5)).astype(np.float32)
    for data in (x, x.T, x[:, ::2], x[:0], x[0, 0]):
        assert np.array_equal(encode_lookup(data, table), q.encode(data))
        assert np.array_equal(encode_power_of_two(data, p), p.encode(data))


def test_bad_input_is_refused():
    table = lookup_table(nearest(np.array([0.0, 1.0])))
    q = PowerOfTwo(np.array(1.0), 4)
    for encode, by in ((encode_lookup, table), (encode_power_of_two, q)):
        with pytest.raises(TypeError, match="`x` must be float32; got float64"):
            encode(np.zeros(2), by)
        with pytest.raises(ValueError, match="NaN"):
            encode(np.array([np.nan], np.float32), by)
    for levels in (np.linspace(0, 1, 257), np.zeros((2, 3))):
        with pytest.raises(ValueError, match="one codebook of at most 256 levels"):
            lookup_table(nearest(levels))
    with pytest.raises(ValueError, match="one largest level"):
        encode_power_of_two(np.zeros((2, 2), np.float32), PowerOfTwo(np.ones((2, 1)), 4))


@pytest.mark.peer
def test_codes_equal_those_of_torch_bucketize():
    torch = pytest.importorskip("torch")
    q = nearest(np.linspace(-3, 3, 200).astype(np.float32))
    thresholds = q.thresholds.astype(np.float32)
    x = hard_inputs(thresholds)
    theirs = torch.bucketize(torch.from_numpy(x), torch.from_numpy(thresholds)).numpy()
    ours = encode_lookup(x, lookup_table(Codebook(q.levels, thresholds)))
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("exponent", [-900, -200, -140, -127, -126, 0, 126, 127, 128, 129, 500])
@pytest.mark.parametrize("bits", [2, 5, 8])
@pytest.mark.parametrize("logarithmic", [False, True])
def test_levels_outside_of_float32_have_the_codes_of_the_definition(exponent, bits, logarithmic):
    if exponent - 2 ** (bits - 1) < -1000:
        pytest.skip("the smallest level is not a normal number")
    q = PowerOfTwo(np.array(2.0**exponent), bits, logarithmic)
    powers = np.ldexp(np.float32(1), np.arange(-149, 128, dtype=np.int32))
    with np.errstate(over="ignore"):
        x = (powers[:, np.newaxis] * np.array([1, 1.25, 1.4142135, 1.4142137, 1.5, 1.75])).ravel()
    x = np.concatenate([x, [0, 3.4028235e38, np.inf]]).astype(np.float32)
    x = np.concatenate([x, -x])
    assert np.array_equal(encode_power_of_two(x, q), q.encode(x))
