"""The laws of every quantizer, and how another quantizer joins.

In its own test file, with instances that differ in what matters (per tensor,
per channel, per group; float32 and float64) and finite data of a shape that the
instance accepts::

    from quantizers.contract import LAWS, check

    @pytest.mark.parametrize("law", LAWS)
    @pytest.mark.parametrize(("quantizer", "x"), INSTANCES)
    def test_contract(law, quantizer, x):
        check(law, quantizer, x)

A law sees nothing but ``encode``, ``decode``, ``code_bits`` and
``parameter_bits``, and calls them on arrays of the shape of `x` only (and on an
empty one), so it fits codebooks, channels and blocks of a fixed shape. Which
codes exist is found by encoding many values; where a quantizer has ``qmin`` and
``qmax``, all codes between them count. ``check(..., codes=...)`` names them
instead: say which, for instance, if there are codes that `encode` never writes.

A quantizer that by definition departs from a law says so where it is tested::

    @pytest.mark.parametrize("law", [law for law in LAWS if law is not nearest])
"""

import dataclasses

import numpy as np
import pytest

__all__ = ["LAWS", "check", "nearest"]

MANY = 1024         # codes, beyond which a sample of them is tried


def check(law, quantizer, x, *, codes=None):
    """Assert one law of `LAWS` for a quantizer and data that it accepts."""
    x = np.asarray(x)
    assert x.size > 0, "the contract needs data"
    assert np.isfinite(x).all(), "the contract needs finite data"
    law(quantizer, x, _codes(quantizer, x) if codes is None else np.asarray(codes))


def shape_is_kept_and_codes_are_int32(quantizer, x, codes):
    for dtype in (np.float32, np.float64):
        encoded = quantizer.encode(x.astype(dtype))
        assert encoded.shape == x.shape
        assert encoded.dtype == np.int32
    decoded = quantizer.decode(encoded)
    assert decoded.shape == x.shape
    assert decoded.dtype in (np.float32, np.float64)


def code_bits_hold_every_code(quantizer, x, codes):
    assert len(codes) <= 2**quantizer.code_bits * (1 + 1e-12)
    for probe in _probes(x):
        assert np.isin(quantizer.encode(probe), codes).all()


def parameter_bits_count_whole_bits(quantizer, x, codes):
    short, long = (quantizer.parameter_bits(float_bits=bits) for bits in (16, 32))
    assert 0 <= short <= long <= 2 * short or short == long == 0
    assert quantizer.parameter_bits() == long
    assert int(long) == long


def encode_inverts_decode(quantizer, x, codes):
    # Codes as encode writes them: two codes of one level would have no inverse.
    for probe in _probes(x):
        encoded = quantizer.encode(probe)
        assert np.array_equal(quantizer.encode(quantizer.decode(encoded)), encoded)


def values_land_on_the_levels(quantizer, x, codes):
    levels = _levels(quantizer, x, codes)
    for probe in _probes(x):
        value = quantizer.decode(quantizer.encode(probe))
        assert (value == levels).any(axis=0).all()


def encode_is_monotone(quantizer, x, codes):
    # In terms of the values, since the codes of some formats are not ordered.
    probes = np.sort(np.stack(_probes(x)), axis=0)
    values = np.stack([quantizer.decode(quantizer.encode(probe)) for probe in probes])
    assert (values[:-1] <= values[1:]).all()


def nearest(quantizer, x, codes):
    """No level is nearer than the chosen one, up to the rounding of the arithmetic."""
    levels = _levels(quantizer, x, codes).astype(np.float64)
    precision = np.finfo(np.result_type(x, np.float32)).eps
    if quantizer.decode(quantizer.encode(x)).dtype == np.float32:
        precision = np.finfo(np.float32).eps
    for probe in _probes(x):
        error = np.abs(probe.astype(np.float64) - quantizer.decode(quantizer.encode(probe)))
        best = np.abs(probe - levels).min(axis=0)
        with np.errstate(over="ignore"):          # a probe beside the largest float
            assert (error - best <= 2 * precision * np.abs(probe)).all()


def arguments_are_unchanged(quantizer, x, codes):
    given, encoded = x.copy(), quantizer.encode(x)
    kept = encoded.copy()
    before = _parameters(quantizer)
    quantizer.encode(given)
    quantizer.decode(encoded)
    assert np.array_equal(given, x)
    assert np.array_equal(encoded, kept)
    for name, value in _parameters(quantizer).items():
        assert np.array_equal(value, before[name]), name


def record_is_frozen(quantizer, x, codes):
    name = dataclasses.fields(quantizer)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(quantizer, name, None)


def memory_order_does_not_matter(quantizer, x, codes):
    encoded = quantizer.encode(x)
    strided = np.repeat(x[..., np.newaxis], 2, axis=-1)[..., 0]
    for other in (np.asfortranarray(x), strided):
        assert np.array_equal(quantizer.encode(other), encoded)
    value = quantizer.decode(encoded)
    assert np.array_equal(quantizer.decode(np.asfortranarray(encoded)), value)


def both_zeros_are_one_value(quantizer, x, codes):
    plus, minus = (quantizer.decode(quantizer.encode(np.full_like(x, z))) for z in (0.0, -0.0))
    assert np.array_equal(plus, minus)


def nan_raises(quantizer, x, codes):
    bad = x.copy()
    bad.flat[x.size // 2] = np.nan
    with pytest.raises(ValueError, match="must not contain NaN"):
        quantizer.encode(bad)
    bad.flat[-1] = -np.nan                      # whatever its sign, and beside infinity
    bad.flat[0] = np.inf if x.size > 1 else np.nan
    with pytest.raises(ValueError, match="must not contain NaN"):
        quantizer.encode(bad)


def infinities_saturate(quantizer, x, codes):
    largest = np.finfo(x.dtype).max
    for sign in (-1, 1):
        end = quantizer.encode(np.full_like(x, sign * largest))
        assert np.array_equal(quantizer.encode(np.full_like(x, sign * np.inf)), end)
    both = np.full_like(x, np.inf)
    both.flat[0] = -np.inf                      # their sum is NaN, they are not
    assert np.isfinite(quantizer.decode(quantizer.encode(both))).all()


def empty_stays_empty(quantizer, x, codes):
    if x.ndim == 0:
        return                                  # always holds one element
    accepted = 0
    for axis in range(x.ndim):
        empty = np.take(x, [], axis=axis)
        try:
            encoded = quantizer.encode(empty)
        except ValueError as error:             # an axis that holds one scale for each index
            assert "must" in str(error)         # noqa: PT017 - which axes these are is unknown
            continue
        accepted += 1
        assert encoded.shape == quantizer.decode(encoded).shape == empty.shape
        assert encoded.dtype == np.int32
    assert accepted


def other_kinds_of_data_raise(quantizer, x, codes):
    for dtype in (np.int32, np.int64, np.uint8, np.float16, np.bool_, np.complex128):
        with pytest.raises(TypeError, match="must be"):
            quantizer.encode(np.zeros(x.shape, dtype))
    for dtype in (np.float32, np.float64, np.bool_):
        with pytest.raises(TypeError, match="must be"):
            quantizer.decode(np.zeros(x.shape, dtype))


def unknown_codes_raise(quantizer, x, codes):
    if quantizer.code_bits > 30:
        return                                  # there may be none in int32
    for code in {-(2**31), 2**31 - 1} - set(codes.tolist()):
        with pytest.raises(ValueError, match="must"):
            quantizer.decode(np.full(x.shape, code, np.int32))


LAWS = [
    shape_is_kept_and_codes_are_int32,
    code_bits_hold_every_code,
    parameter_bits_count_whole_bits,
    encode_inverts_decode,
    values_land_on_the_levels,
    encode_is_monotone,
    nearest,
    arguments_are_unchanged,
    record_is_frozen,
    memory_order_does_not_matter,
    both_zeros_are_one_value,
    nan_raises,
    infinities_saturate,
    empty_stays_empty,
    other_kinds_of_data_raise,
    unknown_codes_raise,
]


def _probes(x):
    """Values from tiny to huge around the data, each an array of its shape and dtype."""
    spread = [x * np.asarray(f, x.dtype) for f in (1, -1, 0.01, 0.3, -0.6, 1.7, -30, 1e4)]
    largest = np.finfo(x.dtype).max
    ends = [np.full_like(x, end) for end in (0.0, largest, -largest)]
    shuffled = np.roll(x.reshape(-1), 1).reshape(x.shape)
    return [*spread, *ends, shuffled, (x + shuffled) / 2]


def _codes(quantizer, x):
    """All codes where they are known and few; else those that values reach."""
    low, high = (getattr(quantizer, name, None) for name in ("qmin", "qmax"))
    if low is not None and high is not None and high - low < MANY:
        return np.arange(low, high + 1)
    return np.unique([quantizer.encode(probe) for probe in _probes(x)])


def _levels(quantizer, x, codes):
    """The value of each code at each element, codes along the first axis."""
    return np.stack([quantizer.decode(np.full(x.shape, code, np.int32)) for code in codes])


def _parameters(quantizer):
    return {field.name: np.copy(getattr(quantizer, field.name))
            for field in dataclasses.fields(quantizer)}
