"""The reader against files written from scratch, and what it says of damaged ones."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from _oracles.tflite_builder import Operator, Tensor, constant, flatbuffer, model
from hypothesis import given, settings
from hypothesis import strategies as st

from refquant.interop import tflite
from refquant.interop.tflite import read_tflite

DATA = Path(os.environ.get("REFQUANT_DATA", Path(__file__).parents[2].parent / "shared" / "data"))


def small() -> bytes:
    """Two operators, a bias with an axis that it does not have, an input left out."""
    tensors = [
        Tensor((1, 4), "int8", 0.5, -1, name="x"),
        constant(np.arange(8, dtype=np.int8).reshape(2, 4), "int8", [0.1, 0.2], 0, 0),
        Tensor((1, 2), "int8", 0.25, 3),
        constant(np.int32([7, 8]), "int32", [0.05, 0.1], 0, 3),
        Tensor((2,), "int8", 0.25, 3),
        constant(np.int32([2]), "int32"),
    ]
    steps = [Operator("FULLY_CONNECTED", [0, 1, 3], [2], {"fused": 1}),
             Operator("RESHAPE", [2, 5], [4], {"new_shape": np.array([2], "<i4")})]
    return model(tensors, steps, [0], [4])


def complaint(content: bytes) -> str:
    """What the reader says; where a change does no harm it must say nothing."""
    try:
        read_tflite(content)
    except ValueError as err:
        return str(err)
    return "nothing it must say"


def test_everything_of_a_file_is_read():
    got = read_tflite(small())
    assert (got.inputs, got.outputs) == ((0,), (4,))
    assert [t.shape for t in got.tensors[:3]] == [(1, 4), (2, 4), (1, 2)]
    assert got.tensors[0].name == "x"
    assert got.tensors[1].data.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert got.tensors[1].scale.tolist() == np.float32([0.1, 0.2]).tolist()
    assert got.tensors[0].zero_point.tolist() == [-1]
    assert got.tensors[3].axis == 3
    assert got.tensors[0].data is None
    assert [o.name for o in got.operators] == ["FULLY_CONNECTED", "RESHAPE"]
    assert got.operators[0].options["activation"] == 1
    assert got.operators[1].options["new_shape"] == (2,)


@given(st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_packed_weights_come_out_low_nibble_first(count, seed):
    codes = np.random.default_rng(seed).integers(-8, 8, count)
    nibbles = np.append(codes & 15, 0)[: (count + 1) // 2 * 2].astype(np.uint8)
    packed = nibbles[::2] | nibbles[1::2] << 4
    assert tflite._values("w", packed, 17, (count,)).tolist() == codes.tolist()
    pairs = np.append(codes & 3, np.zeros(3, int))[: (count + 3) // 4 * 4].astype(np.uint8)
    packed = pairs[::4] | pairs[1::4] << 2 | pairs[2::4] << 4 | pairs[3::4] << 6
    signed = [(c & 3) - 4 * ((c & 3) > 1) for c in codes.tolist()]
    assert tflite._values("w", packed, 19, (count,)).tolist() == signed


def test_a_file_cut_off_anywhere_gives_one_clear_error():
    whole = small()
    for end in range(len(whole)):
        assert "must" in complaint(whole[:end])


@settings(max_examples=400)
@given(st.data())
def test_a_damaged_file_is_read_or_refused(data):
    damaged = bytearray(small())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(8, len(damaged) - 4))
        word = data.draw(st.sampled_from([0, 1, 4, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 3 * 2**30]))
        struct.pack_into("<I", damaged, at, word)
    assert "must" in complaint(bytes(damaged))


@pytest.mark.parametrize(("tensors", "steps", "message"), [
    ([Tensor((2**20, 2**20), "int8")], [], "tensor 0 must have a shape"),
    ([Tensor((1,))], [Operator("RELU", [0], [7])],
     r"outputs of operator 0 \(RELU\) must be tensors"),
    ([Tensor((1,))], [Operator("RELU", [-2], [0])], "inputs of operator 0"),
    ([Tensor((1,)), Tensor((1,)), Tensor((1,))],
     [Operator("ADD", [0, 2], [1]), Operator("RELU", [1], [2])],
     "must read what was written before"),
    ([Tensor((1,)), Tensor((1,))], [Operator("RELU", [0], [1])] * 2, "no value yet"),
    ([Tensor((1,), "int8", [0.1, 0.2], [0, 0]), Tensor((1,))], [],
     "output tensor 1 must be written"),
    ([Tensor((1,), "int8", [np.nan])], [], "scales that are finite"),
    ([constant(np.zeros(3, np.int8), "int8")._replace(shape=(4,))], [], "must store 4 numbers"),
])
def test_contradictions_are_named(tensors, steps, message):
    outputs = [len(tensors) - 1] if len(tensors) == 2 and not steps else []
    with pytest.raises(ValueError, match=message):
        read_tflite(model(tensors, steps, [0], outputs))


def test_tables_used_over_and_over_are_refused_soon():
    """Ten thousand operators that are one table with a long vector: the square of the file."""
    pair = [Tensor((1,), "int8", 0.1)] * 2
    whole = bytearray(model(pair, [Operator("RELU", [0], [1])], [0], [1]))
    whole += bytes(-len(whole) % 4)
    graph = tflite.FlatBuffer(bytes(whole)).root().tables(2)[0]
    many, start = 10_000, len(whole)
    vtable = start + 4 + 4 * many
    table, numbers = vtable + 8, vtable + 16
    struct.pack_into("<I", whole, graph.where(3), start - graph.where(3))
    whole += struct.pack("<I", many)
    whole += b"".join(struct.pack("<I", table - (start + 4 + 4 * k)) for k in range(many))
    whole += struct.pack("<HHHH", 8, 8, 0, 4)                   # slot 1, the inputs, at 4
    whole += struct.pack("<iI", table - vtable, numbers - (table + 4))
    whole += struct.pack("<I", many) + struct.pack("<i", -1) * many
    with pytest.raises(ValueError, match="must not be used over and over"):
        read_tflite(bytes(whole))


def test_codes_beyond_127_stand_in_a_field_of_their_own():
    graph = {0: [], 1: np.array([], "<i4"), 2: np.array([], "<i4"), 3: [{0: ("I", 0)}]}
    codes = [{0: ("b", 127), 3: ("i", 144), 2: ("i", 3)}]
    content = flatbuffer({0: ("I", 3), 1: codes, 2: [graph], 4: [{}]}, b"TFL3")
    (operator,) = read_tflite(content).operators
    assert (operator.name, operator.version) == ("ASSIGN_VARIABLE", 3)


def bare(tensor: dict, buffers: list) -> bytes:
    """A file with one tensor, which is its input and output, and no operator."""
    graph = {0: [tensor], 1: np.array([0], "<i4"), 2: np.array([0], "<i4"), 3: []}
    return flatbuffer({0: ("I", 3), 1: [], 2: [graph], 4: buffers}, b"TFL3")


def test_a_buffer_behind_the_tables_is_found_through_its_offset():
    place = 0x1122334455667788
    content = bytearray(bare({0: np.array([5], "<i4"), 1: ("b", 9), 2: ("I", 1)},
                             [{}, {1: ("Q", place), 2: ("Q", 5)}]))
    struct.pack_into("<Q", content, content.index(struct.pack("<Q", place)), len(content))
    content += np.arange(-2, 3, dtype=np.int8).tobytes()
    (tensor,) = read_tflite(bytes(content)).tensors
    assert tensor.data.tolist() == [-2, -1, 0, 1, 2]
    with pytest.raises(ValueError, match="the file must hold 5 bytes at offset"):
        read_tflite(bytes(content[:-1]))


def test_defects_of_real_files_are_tolerated():
    """No name, no zero points, an axis beyond the rank, a batch of any size."""
    quantized = {2: np.array([0.5, 0.25], "<f4"), 3: np.zeros(0, "<i8"), 6: ("i", 3)}
    shape = np.array([-1, 2], "<i4")
    (tensor,) = read_tflite(bare({0: shape, 1: ("b", 2), 4: quantized}, [{}])).tensors
    assert (tensor.name, tensor.shape, tensor.axis) == ("", (1, 2), 3)
    assert tensor.zero_point.tolist() == [0, 0]


@pytest.mark.parametrize("data", [b"", b"TFL3", b"\x00" * 64, b"PK\x03\x04xxxx"])
def test_other_files_are_refused(data):
    with pytest.raises(ValueError, match="the file must have TFL3 at offset 4"):
        read_tflite(data)


@pytest.mark.skipif(not DATA.exists(), reason="no models: set REFQUANT_DATA")
def test_real_files_are_read():
    files = sorted(DATA.rglob("*.tflite"))
    assert files
    for file in files:
        got = read_tflite(file.read_bytes())
        assert got.operators
        assert got.inputs


@pytest.mark.peer
@pytest.mark.skipif(not DATA.exists(), reason="no models: set REFQUANT_DATA")
def test_litert_sees_the_same_tensors():
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    for file in sorted(DATA.rglob("*.tflite")):
        theirs = interpreter.Interpreter(model_content=file.read_bytes())
        ours = read_tflite(file.read_bytes())
        for detail in theirs.get_tensor_details():
            if detail["index"] >= len(ours.tensors):
                continue                # LiteRT adds scratch tensors of its own
            tensor = ours.tensors[detail["index"]]
            assert detail["shape"].tolist() == list(tensor.shape)
            assert np.dtype(detail["dtype"]) == tensor.dtype
            assert detail["quantization_parameters"]["scales"].tolist() == tensor.scale.tolist()
