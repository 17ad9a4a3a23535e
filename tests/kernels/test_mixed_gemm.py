"""int4 weights in groups: the integer product bit for bit, the float one within its bound."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from refquant.kernels import mixed_gemm
from refquant.kernels.mixed_gemm import COLUMNS, Packed, dequantize, integer_product, pack, product

SIDES = st.sampled_from([0, 1, 2, 3, 9])
INNER = st.sampled_from([0, 1, 3, 7, 31, 32, 33, 127, 128, 129, 300])
SIZES = st.sampled_from([1, 2, 3, 4, 5, 31, 32, 64, 128, 130])


@st.composite
def weights(draw):
    """Codes (out, in), scales and zero points (out, groups), and the size of a group."""
    out, n, size = draw(SIDES), draw(INNER), draw(SIZES)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    fill = draw(st.sampled_from(["random", 0, 15]))
    codes = rng.integers(0, 16, (out, n)) if fill == "random" else np.full((out, n), fill)
    groups = -(-n // size)
    scale = (rng.normal(size=(out, groups)) * 10.0 ** rng.integers(-3, 4)).astype(np.float32)
    return codes, scale, rng.integers(0, 16, (out, groups)), size


def by_definition(x, codes, scale, zero_point, size):
    """Sums of groups in int64; scales and additions in float32, in the order of the groups."""
    y = np.zeros((len(x), len(codes)), np.float32)
    for g, start in enumerate(range(0, codes.shape[1], size)):
        group = codes[:, start : start + size].astype(np.int64) - zero_point[:, g : g + 1]
        sums = x[:, start : start + size].astype(np.int64) @ group.T
        y += sums.astype(np.float32) * scale[:, g]
    return y


def dirty(packed):
    """The same weight with all digits beyond the last input of each group set."""
    out, size = packed.shape[0], packed.group_size
    rows = -(-size // 4)
    words = packed.words.copy()
    for start in range(0, out, COLUMNS):
        few = min(COLUMNS, out - start)
        groups = len(packed.scale)
        tile = words[groups * rows * start : groups * rows * (start + few)]
        tile = tile.reshape(groups, rows, few)
        for k in range(size, 4 * rows):
            tile[:, k % rows] |= np.uint16(15 << 4 * (k // rows))
    return packed._replace(words=words)


@given(weight=weights(), rows=SIDES, seed=st.integers(0, 99), least=st.booleans())
@example(weight=(np.full((2, 300), 15), np.full((2, 3), 1, np.float32), np.zeros((2, 3), int), 128),
         rows=2, seed=0, least=True)
def test_integer_product_equals_its_definition_bit_for_bit(weight, rows, seed, least):
    codes, scale, zero_point, size = weight
    packed = dirty(pack(codes, scale, zero_point, group_size=size))
    x = np.random.default_rng(seed).integers(-128, 128, (rows, codes.shape[1]), dtype=np.int8)
    x = np.full_like(x, -128) if least else x
    before = packed.words.copy()
    y = integer_product(x, packed)
    assert y.dtype == np.float32
    assert np.array_equal(y, by_definition(x, codes, scale, zero_point, size))
    assert np.array_equal(packed.words, before)


@given(weight=weights(), rows=SIDES, seed=st.integers(0, 99))
def test_float_product_is_within_its_bound(weight, rows, seed):
    codes, scale, zero_point, size = weight
    packed = dirty(pack(codes, scale, zero_point, group_size=size))
    x = np.random.default_rng(seed).normal(size=(rows, codes.shape[1])).astype(np.float32)
    values = dequantize(packed)
    spread = zero_point.repeat(size, axis=1)[:, : codes.shape[1]]
    scales = scale.astype(np.float64).repeat(size, axis=1)[:, : codes.shape[1]]
    assert np.array_equal(values, (codes - spread) * scales)
    y = product(x, packed)
    terms = np.abs(x).astype(np.float64) @ (np.abs(scales) * (codes + spread)).T
    bound = (size + scale.shape[1] + 4) * 2.0**-24 * terms
    assert y.dtype == np.float32
    assert (np.abs(y - x.astype(np.float64) @ values.T) <= bound).all()


@pytest.mark.parametrize("size", [32, 128])
@pytest.mark.parametrize("rows", [1, 9, 300])
def test_tiles_and_blocks_of_rows_meet_without_a_seam(size, rows):
    rng = np.random.default_rng(0)
    out, n = COLUMNS + 5, 5 * 128 + 7
    codes = rng.integers(0, 16, (out, n))
    scale = np.exp2(rng.integers(-3, 4, (out, -(-n // size))))      # powers of two: all exact
    packed = pack(codes, scale, group_size=size)
    x = rng.integers(-8, 8, (rows, n), dtype=np.int8)
    expected = x @ dequantize(packed).T
    assert np.array_equal(integer_product(x, packed), expected)
    assert np.array_equal(product(x.astype(np.float32), packed), expected)
    assert np.array_equal(integer_product(x, packed, threads=2), expected)
    assert np.array_equal(product(x.astype(np.float32), packed, threads=3), expected)


def test_eight_is_the_zero_point_of_signed_codes():
    q = np.array([[-8, -1, 0, 7]])
    assert np.array_equal(dequantize(pack(q + 8, np.array(0.5), group_size=4)), q * 0.5)


def test_bits_of_a_weight():
    packed = pack(np.zeros((512, 1024), int), np.array(1.0))
    assert sum(part.nbytes for part in packed[:3]) * 8 / (512 * 1024) == 4 + (32 + 8) / 128


def test_scratch_is_bounded():
    packed = pack(np.zeros((4096, 2048), int), np.array(1.0))
    x = np.ones((64, 2048), np.float32)
    tracemalloc.start()
    product(x, packed)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 4096 * 4 + 3 * 64 * 2200 * 4 + 2e6


@pytest.mark.parametrize(("change", "error", "says"), [
    ({"codes": np.array([[16]])}, ValueError, r"`codes` must lie in \[0, 15\]; got 16"),
    ({"codes": np.array([[-1]])}, ValueError, r"`codes` must lie in \[0, 15\]; got -1"),
    ({"codes": np.array([[1.0]])}, TypeError, "`codes` must be integers"),
    ({"codes": np.array([1])}, ValueError, "`codes` must be a matrix"),
    ({"scale": np.array([[np.nan]])}, ValueError, "`scale` must be finite"),
    ({"scale": np.ones((1, 2))}, ValueError, r"`scale` must broadcast to .* = \(1, 1\)"),
    ({"zero_point": np.array([[16]])}, ValueError, r"`zero_point` must lie in \[0, 15\]"),
    ({"group_size": 0}, ValueError, "`group_size` must be at least 1"),
])
def test_bad_weights_are_refused(change, error, says):
    arguments = {"codes": np.array([[1]]), "scale": np.array([[1.0]]), "zero_point": 8, **change}
    with pytest.raises(error, match=says):
        pack(**arguments)


def test_bad_operands_are_refused_before_any_work(monkeypatch):
    packed = pack(np.array([[1, 2]]), np.array(1.0))
    wide = pack(np.zeros((1, 5000), int), np.array(1.0), group_size=5000)
    monkeypatch.setattr(mixed_gemm, "_by_digit", None)
    for call, x, weight, error, says in (
        (product, np.ones((1, 2)), packed, TypeError, "`x` must be float32"),
        (product, np.array([[1, np.inf]], np.float32), packed, ValueError, "`x` must be finite"),
        (product, np.ones((1, 3), np.float32), packed, ValueError, "must have rows of 2"),
        (integer_product, np.ones((1, 2)), packed, TypeError, "`x` must be integers"),
        (integer_product, np.array([[128, 0]]), packed, ValueError, r"must lie in \[-128, 127\]"),
        (integer_product, np.ones((1, 5000), int), wide, ValueError, "at most 4096"),
        (integer_product, np.ones((1, 2), int), packed._replace(words=packed.words[:0]),
         ValueError, "must have 1 words"),
    ):
        assert isinstance(weight, Packed)
        with pytest.raises(error, match=says):
            call(x, weight)


@pytest.mark.peer
def test_onnxruntime_is_as_near_to_the_exact_product():
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(0)
    codes, scale = rng.integers(0, 16, (16, 256)), rng.random((16, 2)).astype(np.float32)
    x = rng.normal(size=(4, 256)).astype(np.float32)
    pairs = codes.astype(np.uint8).reshape(16, 2, 64, 2)
    stored = {"w": pairs[..., 0] | pairs[..., 1] << 4, "s": scale}
    helper, real = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft",
                          K=256, N=16, bits=4, block_size=128)],
        "product", [helper.make_tensor_value_info("x", real, x.shape)],
        [helper.make_tensor_value_info("y", real, (4, 16))],
        [onnx.numpy_helper.from_array(array, name) for name, array in stored.items()])
    model = helper.make_model(graph, ir_version=10, opset_imports=[
        helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)])
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"])
    theirs = session.run(None, {"x": x})[0]
    packed = pack(codes, scale)
    terms = np.abs(x).astype(np.float64) @ np.abs(dequantize(packed)).T
    for y in (theirs, product(x, packed)):
        assert (np.abs(y - x.astype(np.float64) @ dequantize(packed).T) <= 1e-5 * terms).all()


@pytest.mark.parametrize(("scale", "error"), [
    ("a", TypeError), (None, TypeError), (1j, TypeError), (True, TypeError),
    (np.ma.masked_array([[1.0]], True), TypeError), (1e300, ValueError), (np.nan, ValueError),
])
def test_scales_that_float32_does_not_hold_are_refused(scale, error):
    with pytest.raises(error, match="`scale` must"):
        pack(np.array([[1]]), scale)


def test_parts_that_do_not_fit_are_refused_by_both():
    packed = pack(np.array([[1, 2]]), 1.0)
    for broken, error, says in (
        (packed._replace(words=packed.words.astype(np.int64)), ValueError, "words of uint16"),
        (packed._replace(zero_point=packed.zero_point[:0]), ValueError, "`packed.zero_point` must"),
        (packed._replace(group_size=0), ValueError, "`packed.group_size` must be at least 1"),
        (packed.words, TypeError, "`packed` must be `Packed`; got ndarray"),
    ):
        for call in (lambda p: product(np.ones((1, 2), np.float32), p), dequantize):
            with pytest.raises(error, match=says):
                call(broken)
    with pytest.raises(ValueError, match=r"`x` must have rows of 2 elements; got shape \(\)"):
        product(np.array(1, np.float32), packed)


def test_a_group_beyond_the_row_takes_no_room():
    packed = pack(np.array([[1, 2, 15]]), 0.5, group_size=10**12)
    assert packed.words.size == 1
    assert dequantize(packed).tolist() == [[-3.5, -3, 3.5]]
