"""Safetensors: what is written is read, and nothing a file declares is believed unchecked."""

import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refquant.interop.safetensors import Tensor, read, read_header, read_tensor, write

DTYPES = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"]
ARRAYS = st.sampled_from(DTYPES).flatmap(
    lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)))


def file_of(tmp_path, header, data=b"", *, length=None):
    path = tmp_path / "x.safetensors"
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


@given(st.dictionaries(st.text(min_size=1, max_size=8).filter(lambda n: n != "__metadata__"),
                       ARRAYS, max_size=4))
@settings(max_examples=60)
def test_what_is_written_is_read_to_the_bit(tmp_path_factory, arrays):
    path = tmp_path_factory.mktemp("s") / "a.safetensors"
    write(path, arrays)
    again = read(path)
    assert set(again) == set(arrays)
    for name, array in arrays.items():
        assert again[name].dtype == array.dtype
        assert again[name].shape == array.shape
        assert again[name].tobytes() == array.tobytes()
    first = path.read_bytes()
    write(path, dict(reversed(arrays.items())))
    assert path.read_bytes() == first
    assert [p.name for p in path.parent.iterdir()] == ["a.safetensors"]


def test_the_library_that_defines_the_format_reads_and_writes_the_same(tmp_path):
    theirs = pytest.importorskip("safetensors.numpy")
    rng = np.random.default_rng(0)
    arrays = {"a": rng.standard_normal((3, 4)).astype(np.float32), "b": np.arange(5)}
    write(tmp_path / "ours", arrays)
    theirs.save_file(arrays, tmp_path / "theirs")
    for got in (theirs.load_file(tmp_path / "ours"), read(tmp_path / "theirs")):
        assert all(np.array_equal(got[k], v) and got[k].dtype == v.dtype
                   for k, v in arrays.items())


def test_bfloat16_becomes_the_float32_it_is(tmp_path):
    x = np.array([1.5, -2.0, 3.140625], np.float32)
    data = (x.view(np.uint32) >> 16).astype("<u2").tobytes()
    path = file_of(tmp_path, {"w": {"dtype": "BF16", "shape": [3], "data_offsets": [0, 6]}}, data)
    assert np.array_equal(read(path)["w"], x)


def test_metadata_is_no_tensor_and_one_tensor_is_read_alone(tmp_path):
    header = {"__metadata__": {"format": "pt"},
              "a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]},
              "b": {"dtype": "U8", "shape": [1], "data_offsets": [2, 3]}}
    path = file_of(tmp_path, header, b"\x01\x02\x03")
    table = read_header(path)
    assert list(table) == ["a", "b"]
    assert isinstance(table["b"], Tensor)
    assert read_tensor(path, table["b"]).tolist() == [3]


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
HOSTILE = {
    "offsets past the end": {"w": ENTRY | {"data_offsets": [0, 2**60], "shape": [2**58]}},
    "bytes do not fit the shape": {"w": ENTRY | {"shape": [3]}},
    "a shape whose product wraps": {"w": ENTRY | {"shape": [2**32, 2**32]}},
    "offsets in the wrong order": {"w": ENTRY | {"data_offsets": [8, 0]}},
    "a negative size": {"w": ENTRY | {"shape": [-2]}},
    "a size that is no integer": {"w": ENTRY | {"shape": [2.0]}},
    "a size that is a boolean": {"w": ENTRY | {"shape": [True]}},
    "three offsets": {"w": ENTRY | {"data_offsets": [0, 4, 8]}},
    "an unknown dtype": {"w": ENTRY | {"dtype": "F33"}},
    "a dtype that is a list": {"w": ENTRY | {"dtype": ["F32"]}},
    "an entry that is a number": {"w": 3},
    "an entry without a shape": {"w": {"dtype": "F32", "data_offsets": [0, 8]}},
    "a header that is a list": [1],
    "no JSON": b"{",
    "no text": b"\xff\xfe",
    "a name twice": b'{"w": %s, "w": %s}' % ((json.dumps(ENTRY).encode(),) * 2),
    "too deep": b"[" * 100_000,
}


@pytest.mark.parametrize("header", list(HOSTILE.values()), ids=list(HOSTILE))
def test_hostile_headers_are_refused_in_one_line(tmp_path, header):
    with pytest.raises(ValueError, match="must") as caught:
        read(file_of(tmp_path, header, b"\0" * 8))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("places", "message"), [
    (([0, 8], [0, 8]), "must begin where the one before ends, at 8; got 0"),
    (([0, 8], [4, 12]), "must begin where the one before ends, at 8; got 4"),
    (([0, 8], [12, 20]), "must begin where the one before ends, at 8; got 12"),
    (([4, 12], [12, 20]), "must begin where the one before ends, at 0; got 4"),
    (([0, 8], [8, 16]), "must end with its last tensor; got 8 bytes more"),
])
def test_tensors_neither_overlap_nor_leave_room(tmp_path, places, message):
    """A small file would otherwise hold many large tensors, or something else beside them."""
    header = {f"w{k}": ENTRY | {"data_offsets": place} for k, place in enumerate(places)}
    with pytest.raises(ValueError, match=message):
        read_header(file_of(tmp_path, header, b"\0" * 24))


def test_every_tensor_lies_at_a_multiple_of_the_size_of_its_numbers(tmp_path):
    write(tmp_path / "a", {"a": np.ones(3, np.int8), "b": np.ones(1, np.float64),
                           "c": np.ones(1, np.int16), "d": np.ones(2, np.float32)})
    for name, tensor in read_header(tmp_path / "a").items():
        assert tensor.begin % read(tmp_path / "a")[name].itemsize == 0


def test_a_name_that_comes_again_is_refused_and_leaves_no_file(tmp_path):
    for names in (["w", "w"], ["__metadata__"]):
        with pytest.raises(ValueError, match="names of their own"):
            write(tmp_path / "a", ((name, np.ones(1)) for name in names))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("length", [2**63, 2**40, 200_000_000, 9])
def test_a_header_longer_than_the_file_is_refused_before_it_is_read(tmp_path, length):
    with pytest.raises(ValueError, match="must hold the header it declares"):
        read_header(file_of(tmp_path, b"{}", length=length))


@given(st.binary(max_size=40), st.integers(0, 300), st.integers(0, 255))
@settings(max_examples=200)
def test_damage_is_refused_or_read_and_never_anything_else(tmp_path_factory, tail, at, value):
    folder = tmp_path_factory.mktemp("fuzz")
    write(folder / "a", {"w": np.arange(6.0).reshape(2, 3), "v": np.ones(3, np.int8)})
    raw = bytearray((folder / "a").read_bytes())
    raw[at % len(raw)] = value
    (folder / "a").write_bytes(bytes(raw[: len(raw) - len(tail)]))
    said = ""
    try:
        arrays = read(folder / "a")
    except ValueError as err:
        arrays, said = {}, str(err)
    assert "must" in said or not said
    assert sum(a.nbytes for a in arrays.values()) <= len(raw)


def test_a_dtype_without_a_name_is_refused_and_leaves_no_file(tmp_path):
    with pytest.raises(TypeError, match="`tensors` must be numbers or booleans; got complex128"):
        write(tmp_path / "a", {"w": np.ones(2, complex)})
    assert not list(tmp_path.iterdir())


def test_a_file_that_shrank_is_noticed(tmp_path):
    write(tmp_path / "a", {"w": np.arange(100.0)})
    tensor = read_header(tmp_path / "a")["w"]
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:-8])
    with pytest.raises(ValueError, match="must hold 100 numbers"):
        read_tensor(tmp_path / "a", tensor)
