"""Tensors of files: the same from every format, one at a time, and files that lie."""

import io
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.interop import safetensors
from refquant.workflow.tensors import _dequantized, npz_member, npz_names, tensors_of

ARRAYS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float64),
          "c": np.arange(5)}


def written(folder, kind):
    path = folder / f"x{kind}"
    if kind == ".npz":
        np.savez(path, **ARRAYS)
    elif kind == ".safetensors":
        safetensors.write(path, ARRAYS)
    else:
        onnx = pytest.importorskip("onnx")
        make = onnx.helper
        graph = make.make_graph(
            [make.make_node("Identity", ["a"], ["y"])], "g", [],
            [make.make_tensor_value_info("y", 1, (2, 3))],
            [onnx.numpy_helper.from_array(v, n) for n, v in ARRAYS.items()])
        path.write_bytes(make.make_model(graph).SerializeToString())
    return path


@pytest.mark.parametrize("kind", [".npz", ".safetensors",
                                  pytest.param(".onnx", marks=pytest.mark.peer)])
def test_every_format_gives_the_same_tensors(tmp_path, kind):
    stored = {t.name: t for t in tensors_of(written(tmp_path, kind))}
    assert set(stored) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert stored[name].shape == array.shape
        assert np.array_equal(stored[name].read(), array)


def test_weights_of_a_tflite_model_are_dequantized():
    import os
    from pathlib import Path

    folder = Path(os.environ.get("REFQUANT_DATA", "../shared/data"))
    files = [f for f in sorted(folder.rglob("*.tflite")) if f.stat().st_size > 50_000]
    if not files:
        pytest.skip("no models: set REFQUANT_DATA")
    tensors = tensors_of(files[0])
    floats = [t for t in tensors if t.read().dtype == np.float32 and len(t.shape) > 1]
    assert floats
    assert all(np.isfinite(t.read()).all() for t in floats)


def test_the_end_of_the_name_decides(tmp_path):
    with pytest.raises(ValueError, match=r"`FILE` must end in \.onnx, \.tflite, .*; got x\.bin"):
        tensors_of(tmp_path / "x.bin")


def archive(path, members, compress=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compress) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def header(shape, descr="'<f4'"):
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    text += " " * (-(len(text) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


@pytest.mark.parametrize(("content", "message"), [
    (b"", "must be a .npy array"),
    (b"\x93NUMPY\x09\x00", "must be a .npy array"),
    (header("(10**18,)"), "must be a .npy array"),
    (header((10**18,)), "that it declares"),
    (header((-1, 4)), "must have a shape"),
    (header((2,), "'|O'"), "got Python objects"),
    (header((2,), "__import__('os').getcwd()"), "must be a .npy array"),
    (header((3,)) + bytes(8), "that it declares"),
])
def test_arrays_that_lie_are_refused_before_they_are_allocated(tmp_path, content, message):
    path = archive(tmp_path / "x.npz", {"w.npy": content})
    with pytest.raises(ValueError, match=message.replace(".", r"\.")) as caught:
        [t.read() for t in tensors_of(path)]
    assert "\n" not in str(caught.value)


def test_a_lying_header_is_refused_when_the_file_is_listed(tmp_path):
    path = archive(tmp_path / "x.npz", {"w.npy": header((10**18,)) + bytes(64)})
    with pytest.raises(ValueError, match=r"`w\.npy` must hold the 1000000000000000000 numbers"):
        tensors_of(path)


@pytest.mark.parametrize("descr", ["'<U4'", "'|S4'", "'|V4'", "'<M8[s]'", "[('a', '<f4')]"])
def test_what_is_no_number_is_refused(tmp_path, descr):
    path = archive(tmp_path / "x.npz", {"w.npy": header((2,), descr) + bytes(64)})
    with pytest.raises(ValueError, match=r"`w\.npy` must hold numbers; got"):
        tensors_of(path)


def test_arrays_of_another_byte_order_and_of_columns_come_as_they_are_meant(tmp_path):
    wanted = np.arange(6.0).reshape(2, 3)
    np.savez(tmp_path / "x.npz", w=np.asfortranarray(wanted.astype(">f8")))
    (tensor,) = tensors_of(tmp_path / "x.npz")
    assert np.array_equal(tensor.read(), wanted)
    assert tensor.read().dtype == np.dtype("=f8")


def test_a_bomb_is_not_unpacked(tmp_path):
    zeros = io.BytesIO()
    np.save(zeros, np.zeros(2**23, np.float32))
    path = archive(tmp_path / "x.npz", {"w.npy": zeros.getvalue()})
    assert path.stat().st_size < 50_000
    with pytest.raises(ValueError, match="times as large unpacked"):
        tensors_of(path)[0].read()
    honest = archive(tmp_path / "y.npz", {"w.npy": zeros.getvalue()}, zipfile.ZIP_STORED)
    assert not tensors_of(honest)[0].read().any()


def test_a_name_that_stands_twice_is_refused(tmp_path):
    content = io.BytesIO()
    np.save(content, np.ones(2))
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("w.npy", content.getvalue())
        with pytest.warns(UserWarning, match="Duplicate name"):
            file.writestr("w.npy", content.getvalue())
    with pytest.raises(ValueError, match="got a name that stands twice"):
        tensors_of(path)


def test_constants_in_codes_are_what_they_stand_for():
    """A scale and a zero point of all, or one of each channel of an axis."""
    codes = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    one = _dequantized(codes, np.array([0.5]), np.array([2]), 0)
    assert one.tolist() == [[-0.5, 0, 0.5], [1, 1.5, 2]]
    each = _dequantized(codes, np.array([1.0, 10.0, 100.0]), np.array([1, 2, 3]), 1)
    assert each.tolist() == [[0, 0, 0], [3, 30, 300]]
    assert _dequantized(codes, np.empty(0), np.empty(0), 0) is codes


def test_other_members_are_passed_over(tmp_path):
    content = io.BytesIO()
    np.save(content, np.ones(2))
    path = archive(tmp_path / "x.npz", {"w.npy": content.getvalue(), "readme.txt": b"hello"})
    with zipfile.ZipFile(path) as file:
        assert npz_names(file) == {"w": "w.npy"}
        assert npz_member(file, "w.npy").tolist() == [1, 1]


GOOD = {}


@pytest.fixture(scope="module", params=[".npz", ".safetensors"])
def good(request, tmp_path_factory):
    path = written(tmp_path_factory.mktemp("good"), request.param)
    return request.param, path.read_bytes(), path.parent


@given(data=st.data())
def test_damaged_files_raise_one_line_or_give_arrays(good, data):
    """Bytes changed and files cut: an answer or one line, never anything else."""
    kind, content, folder = good
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.integers(0, len(damaged)))] if data.draw(
        st.booleans()) else damaged
    path = folder / f"damaged{kind}"
    path.write_bytes(bytes(damaged))
    message = ""
    try:
        for tensor in tensors_of(path):
            tensor.read()
    except ValueError as err:
        message = str(err)
    assert "\n" not in message
