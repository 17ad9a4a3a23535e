"""Codes in files of tensors: what is written is what is read, and layouts that lie are refused."""

import json
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refquant.cli import run
from refquant.interop import safetensors
from refquant.interop.qdq import CodedWeight
from refquant.interop.safetensors import Bits
from refquant.workflow import coded
from refquant.workflow._quantize_tensors import DATA_FREE
from refquant.workflow.coded import (
    CodedTensor,
    coded_bytes,
    dequantized,
    read_coded,
    write_coded,
)
from refquant.workflow.tensors import tensors_of

KINDS = [".safetensors", ".npz"]
RNG = np.random.default_rng(0)
ARRAYS = {"w": RNG.standard_normal((64, 96)).astype(np.float32),
          "half": RNG.standard_normal((5, 7)).astype(np.float16),
          "conv": RNG.standard_normal((8, 3, 3, 4)), "b": np.ones(64, np.float32),
          "i": np.arange(12).reshape(3, 4), "one": np.array(True), "nan": np.array([[np.nan, 1.0]])}


@st.composite
def coded_tensors(draw):
    """Records of all widths, orders and kinds of zero points."""
    shape = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    order = draw(st.permutations(range(len(shape))))
    out, n = shape[order[0]], int(np.prod([shape[a] for a in order[1:]]))
    groups = draw(st.sampled_from([g for g in range(1, n + 1) if n % g == 0]))
    bits, signed = draw(st.integers(2, 8)), draw(st.booleans())
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    low = -(2 ** (bits - 1)) if signed else 0
    zero = {"none": np.zeros((out, groups), np.int32),
            "whole": rng.integers(0, 256, (out, groups)).astype(np.int32),
            "real": rng.standard_normal((out, groups)).astype(np.float32)}
    return CodedTensor(
        CodedWeight(rng.integers(low, low + 2**bits, (out, n)).astype(np.int32),
                    rng.standard_normal((out, groups)).astype(np.float32),
                    zero[draw(st.sampled_from(sorted(zero)))], bits, signed),
        tuple(shape), tuple(order))


@given(tensor=coded_tensors(), kind=st.sampled_from(KINDS))
@settings(max_examples=60)
def test_what_is_written_is_read_and_stands_for_the_same_numbers(tmp_path_factory, tensor, kind):
    path = tmp_path_factory.mktemp("c") / f"a{kind}"
    write_coded(path, [("plain", np.arange(3)), ("w", tensor)], {"about": "a test"})
    found = dict(read_coded(path))
    assert set(found) == {"plain", "w"}
    weight, shape, order = found["w"]
    assert (shape, order, *weight[3:]) == (tensor.shape, tensor.order, *tensor.weight[3:])
    for mine, theirs in zip(weight[:3], tensor.weight[:3], strict=True):
        assert np.array_equal(mine, theirs)
    (_, decoded), (_, plain) = sorted(dequantized(path), key=lambda item: item[0] == "plain")
    assert decoded.tobytes() == tensor.decoded().tobytes()
    assert decoded.shape == tensor.shape
    assert plain.tolist() == [0, 1, 2]
    first = path.read_bytes()
    write_coded(path, [("plain", np.arange(3)), ("w", tensor)], {"about": "a test"})
    assert path.read_bytes() == first
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@given(tensor=coded_tensors())
@settings(max_examples=30)
def test_the_page_of_the_layout_is_enough_to_read_a_file(tmp_path_factory, tensor):
    """A reader of its own, in whole numbers, from the docstring alone."""
    path = tmp_path_factory.mktemp("c") / "a.npz"
    write_coded(path, [("w", tensor)])
    with np.load(path) as file:
        arrays = dict(file)
    row = json.loads(json.loads(bytes(arrays["__metadata__"]))["refquant"])["tensors"]["w"]
    assert coded_bytes(tensor) == sum(a.nbytes for n, a in arrays.items() if n != "__metadata__")
    bits, order = row["bits"], row["order"]
    sizes = [row["shape"][axis] for axis in order]
    values = np.empty(sizes, np.float32)
    for place in np.ndindex(*sizes):
        r, c = place[0], int(np.ravel_multi_index(place[1:], sizes[1:])) if place[1:] else 0
        code = int(arrays["w.codes"][r, c]) if bits > 4 else (
            int.from_bytes(arrays["w.codes"][r].tobytes(), "little") >> bits * c) % 2**bits
        if row["signed"] and bits <= 4 and code >= 2 ** (bits - 1):
            code -= 2**bits
        g = c // row["group"]
        zero = arrays["w.zero_point"][r, g] if "w.zero_point" in arrays else 0
        zero = float(zero) if isinstance(zero, np.floating) else int(zero)
        values[place] = np.float32(code - zero) * arrays["w.scale"][r, g]
    back = np.transpose(values, np.argsort(order))
    assert np.array_equal(back, tensor.decoded())


def quantized(source, output, *arguments):
    return run(["quantize", str(source), "-o", str(output), *arguments])


def source_of(folder, kind):
    path = folder / f"in{kind}"
    if kind == ".npz":
        np.savez(path, **ARRAYS)
    else:
        safetensors.write(path, ARRAYS, {"format": "pt"})
    return path


@pytest.mark.parametrize("bits", [3, 8])
@pytest.mark.parametrize("method", list(DATA_FREE))
@pytest.mark.parametrize("source", KINDS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_weights_becomes_one_of_codes(tmp_path, capsys, source, kind, method, bits):
    given_, out = source_of(tmp_path, source), tmp_path / f"out{kind}"
    arguments = ("--bits", str(bits), "--method", method, "--group", "32")
    assert quantized(given_, out, *arguments) == 0
    printed = capsys.readouterr().out
    assert "nan: it is not finite" in printed
    assert "one scale a row in 2 tensors: 32 does not divide them" in printed
    found = dict(dequantized(out))
    assert set(found) == set(ARRAYS)
    for name, array in ARRAYS.items():
        if name in ("w", "half", "conv"):
            rows = array.reshape(len(array), -1)
            rows = rows.astype(np.float32) if name == "half" else rows
            group = 32 if name == "w" else rows.shape[1]
            wanted = DATA_FREE[method](rows, bits, group, None).decoded().reshape(array.shape)
            assert found[name].tobytes() == wanted.tobytes()
        else:
            assert found[name].tobytes() == array.tobytes()
            assert found[name].dtype == array.dtype
    if kind == source == ".safetensors":
        assert safetensors.read_metadata(out)["format"] == "pt"
    again = tmp_path / f"again{kind}"
    quantized(given_, again, *arguments, "--jobs", "2")
    assert again.read_bytes() == out.read_bytes()


def test_types_that_numpy_lacks_stay_what_they_are(tmp_path, capsys):
    bits = np.array([0x3F80, 0xC000], np.uint16)
    source = tmp_path / "in.safetensors"
    safetensors.write(source, [("norm", Bits("BF16", bits)), ("w", ARRAYS["w"])])
    out = tmp_path / "out.safetensors"
    assert quantized(source, out) == 0
    assert safetensors.read_header(out)["norm"].dtype == "BF16"
    assert dict(dequantized(out))["norm"].tolist() == [1, -2]
    assert quantized(source, tmp_path / "out.npz") == 0
    assert dict(dequantized(tmp_path / "out.npz"))["norm"].tolist() == [1, -2]
    safetensors.write(source, [("f8", Bits("F8_E4M3", np.zeros(2, np.uint8))), ("w", ARRAYS["w"])])
    assert quantized(source, out) == 0
    capsys.readouterr()
    assert quantized(source, tmp_path / "no.npz") == 2
    assert "got F8_E4M3: a .safetensors file can hold it" in capsys.readouterr().err
    assert not (tmp_path / "no.npz").exists()


def test_a_brain_float_matrix_is_quantized(tmp_path):
    bits = (ARRAYS["w"].view(np.uint32) >> 16).astype(np.uint16)
    safetensors.write(tmp_path / "in.safetensors", [("w", Bits("BF16", bits))])
    assert quantized(tmp_path / "in.safetensors", tmp_path / "out.safetensors") == 0
    exact = (bits.astype(np.uint32) << 16).view(np.float32)
    wanted = DATA_FREE["nearest"](exact, 8, 96, None).decoded()
    assert np.array_equal(dict(dequantized(tmp_path / "out.safetensors"))["w"], wanted)


def test_numbers_at_the_ends_of_their_types_are_kept_or_coded(tmp_path, capsys):
    arrays = {"huge": np.array([[1e300, -1e300]]), "tiny": np.array([[1e-45, 0.0]], np.float32),
              "wide": np.array([[3.4e38, -3.4e38]], np.float32), "zero": np.zeros((2, 2)),
              "none": np.zeros((0, 4)), "thin": np.zeros((4, 0)), "column": np.ones((4, 1))}
    np.savez(tmp_path / "in.npz", **arrays)
    assert quantized(tmp_path / "in.npz", tmp_path / "out.npz", "--bits", "4") == 0
    printed = capsys.readouterr().out
    assert "huge: its range is too wide" in printed
    found = dict(dequantized(tmp_path / "out.npz"))
    for name, array in arrays.items():
        assert found[name].shape == array.shape
        assert np.isfinite(found[name]).all()
        assert np.allclose(found[name], array, atol=1e-44)


@pytest.mark.parametrize("kind", KINDS)
def test_memory_is_that_of_one_tensor_however_many_there_are(tmp_path, kind):
    peaks, largest = [], 256 * 512 * 4
    for count in (2, 2, 16):                # the first time, modules are loaded
        path = tmp_path / f"in{kind}"
        many = {f"w{i}": RNG.standard_normal((256, 512)).astype(np.float32) for i in range(count)}
        (safetensors.write(path, many) if kind == ".safetensors" else np.savez(path, **many))
        del many
        tracemalloc.start()
        try:
            assert quantized(path, tmp_path / f"out{kind}", "--bits", "8") == 0
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[2] < peaks[1] + largest


@pytest.mark.parametrize(("arguments", "message"), [
    (("--method", "gptq"), "`--method` must be one of nearest, clip, hqq for a file of tensors"),
    (("--method", "magic"), "`--method` must be one of"),
    (("--activations",), "`--activations` must have a model that runs"),
    (("--budget", "1"), "`--budget` must have a model that runs"),
    (("--keep", "x"), "`--keep` must name a tensor; got x"),
    (("--keep", "w", "--keep", "conv", "--keep", "half"), "`MODEL` must hold a matrix of floats; "
                                                          "got w: as asked"),
])
def test_what_has_no_sense_for_weights_alone_gets_one_line(tmp_path, capsys, arguments, message):
    source = source_of(tmp_path, ".npz")
    assert quantized(source, tmp_path / "out.npz", *arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.npz"]


def test_outputs_of_other_kinds_and_codes_again_are_refused(tmp_path, capsys):
    source = source_of(tmp_path, ".npz")
    assert quantized(source, tmp_path / "out.onnx") == 2
    assert "`--output` must end in .safetensors or .npz" in capsys.readouterr().err
    assert quantized(source, tmp_path / "out.npz") == 0
    assert quantized(tmp_path / "out.npz", tmp_path / "twice.npz") == 2
    assert "`MODEL` must hold floats; got the codes of out.npz" in capsys.readouterr().err
    with pytest.raises(ValueError, match="`path` must end in"):
        write_coded(tmp_path / "a.bin", [])


def test_a_name_that_would_stand_twice_is_refused(tmp_path, capsys):
    for kind in KINDS:
        path = tmp_path / f"in{kind}"
        arrays = {"w": ARRAYS["w"], "w.scale": np.ones(3)}
        (np.savez(path, **arrays) if kind == ".npz" else safetensors.write(path, arrays))
        assert quantized(path, tmp_path / f"out{kind}") == 2
        assert "names of their own; got 'w.scale' again" in capsys.readouterr().err
        assert not (tmp_path / f"out{kind}").exists()


def test_what_reads_back_otherwise_never_gets_its_name(tmp_path, capsys, monkeypatch):
    source = source_of(tmp_path, ".npz")
    right = coded.pack
    monkeypatch.setattr(coded, "pack", lambda codes, **settings: right(codes, **settings) ^ 1)
    assert quantized(source, tmp_path / "out.npz", "--bits", "4") == 2
    assert "must read back as it was written" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.npz"]


@pytest.mark.parametrize("other", [np.zeros((3, 2)), np.zeros((2, 3), np.int64), np.ones((2, 3))])
def test_shape_and_type_must_read_back_too(tmp_path, monkeypatch, other):
    monkeypatch.setattr(coded, "read_coded", lambda path, kind: iter([("a", other)]))
    with pytest.raises(ValueError, match="must read back as it was written"):
        write_coded(tmp_path / "a.npz", [("a", np.zeros((2, 3)))])
    assert not list(tmp_path.iterdir())


GOOD = {"bits": 4, "group": 2, "signed": False, "shape": [2, 4], "order": [0, 1]}
PARTS = {"w.codes": np.zeros((2, 2), np.uint8), "w.scale": np.ones((2, 2), np.float32)}


def laid(tmp_path, row=None, *, notes=None, **parts):
    """A file with a layout of one's own."""
    layout = {"version": 1, "tensors": {"w": GOOD | (row or {})}}
    text = json.dumps({"refquant": json.dumps(layout)} if notes is None else notes)
    arrays = {**PARTS, **parts}
    np.savez(tmp_path / "a.npz", __metadata__=np.frombuffer(text.encode(), np.uint8),
             **{k: v for k, v in arrays.items() if v is not None})
    return tmp_path / "a.npz"


def test_a_layout_made_by_hand_is_read(tmp_path):
    codes = np.array([[0x21, 0x43], [0, 0]], np.uint8)
    (name, array), = dequantized(laid(tmp_path, **{"w.codes": codes}))
    assert (name, array[0].tolist()) == ("w", [1, 2, 3, 4])


@pytest.mark.parametrize("row", [
    {"bits": 9}, {"bits": 1}, {"bits": True}, {"bits": 4.0}, {"bits": None}, {"bits": [4]},
    {"group": 0}, {"group": 3}, {"group": 10**30}, {"group": -2}, {"signed": 1},
    {"shape": [2, 4, 1]}, {"shape": [4, 2]}, {"shape": [2, 10**18]}, {"shape": [2**40, 2**40]},
    {"shape": []}, {"shape": "ab"}, {"shape": [2, 0]}, {"order": [0, 0]}, {"order": [1, 0]},
    {"order": [0, 1, 2]}, {"order": 3}, {"shape": [2] * 70, "order": list(range(70))},
    {"bits": 8}, {"bits": 2}])
def test_layouts_that_lie_are_refused_in_one_line(tmp_path, row):
    with pytest.raises(ValueError, match="must") as caught:
        list(dequantized(laid(tmp_path, row)))
    assert "\n" not in str(caught.value)


ZERO = "w.zero_point"


@pytest.mark.parametrize("parts", [
    {"w.codes": None}, {"w.scale": None}, {"w.codes": np.zeros((2, 2), np.int8)},
    {"w.codes": np.zeros((2, 3), np.uint8)}, {"w.scale": np.ones((2, 2))},
    {"w.scale": np.full((2, 2), np.inf, np.float32)}, {ZERO: np.zeros((2, 2), np.int64)},
    {ZERO: np.zeros((2, 1), np.uint8)}, {ZERO: np.full((2, 2), np.nan, np.float32)}])
def test_parts_that_do_not_fit_are_refused_in_one_line(tmp_path, parts):
    with pytest.raises(ValueError, match="must") as caught:
        list(dequantized(laid(tmp_path, **parts)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("notes", [
    [], {"refquant": 3}, {"refquant": "{"}, {"refquant": "[]"}, {"refquant": "[" * 10**5},
    {"refquant": '{"version": 2, "tensors": {}}'}, {"refquant": '{"version": 1, "tensors": 3}'},
    {"refquant": '{"version": 1, "tensors": {"w": 3}}'},
    {"refquant": '{"version": 1, "tensors": {"w": {}}}'}])
def test_what_is_no_layout_is_refused_in_one_line(tmp_path, notes):
    with pytest.raises(ValueError, match="must") as caught:
        list(dequantized(laid(tmp_path, notes=notes)))
    assert "\n" not in str(caught.value)


def test_groups_that_do_not_divide_a_row_are_refused_even_if_the_scales_fit(tmp_path):
    path = laid(tmp_path, {"group": 3}, **{"w.scale": np.ones((2, 1), np.float32)})
    with pytest.raises(ValueError, match="must have groups that divide its 4 columns; got 3"):
        list(dequantized(path))


def test_codes_beyond_their_bits_are_refused(tmp_path):
    path = laid(tmp_path, {"bits": 5}, **{"w.codes": np.full((2, 4), 32, np.uint8)})
    with pytest.raises(ValueError, match="must have codes from 0 to 31; got 32 to 32"):
        list(dequantized(path))


def test_the_archive_holds_no_time_and_numpy_reads_it(tmp_path):
    quantized(source_of(tmp_path, ".npz"), tmp_path / "out.npz", "--bits", "4")
    with zipfile.ZipFile(tmp_path / "out.npz") as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    with np.load(tmp_path / "out.npz", allow_pickle=False) as file:
        assert file["w.codes"].shape == (64, 48)
        assert [t.name for t in tensors_of(tmp_path / "out.npz")] == file.files


@pytest.mark.peer
@pytest.mark.parametrize(("kind", "method"), [(".npz", "nearest"), (".safetensors", "gptq")])
def test_weights_of_an_onnx_model_go_into_a_file_of_tensors(tmp_path, capsys, kind, method):
    pytest.importorskip("onnx")
    from refquant.interop.onnx_export import export_onnx
    from refquant.interop.onnx_float import open_float, run_values
    from refquant.nn.data import digits
    from refquant.nn.models import trained_digits_cnn

    model, x = trained_digits_cnn(), digits().x_train[:32]
    content = export_onnx(model.nodes, model.values, {"x": (np.float32, ("n", 8, 8, 1))},
                          ["logits"])
    (tmp_path / "m.onnx").write_bytes(content)
    np.savez(tmp_path / "x.npz", x=x)
    for out in ("out.onnx", f"out{kind}"):
        assert quantized(tmp_path / "m.onnx", tmp_path / out, "--bits", "4", "--method", method,
                         "--calibration", str(tmp_path / "x.npz")) == 0
    constants = {t.name for t in open_float(content).proto.graph.initializer}
    values = dict(dequantized(tmp_path / f"out{kind}"))
    assert set(values) == constants
    qdq = open_float(tmp_path / "out.onnx")
    decoders = [n.output[0] for n in qdq.proto.graph.node if n.op_type == "DequantizeLinear"]
    (found,) = run_values(qdq, [{"x": x}], decoders)
    assert len(decoders) > 5
    for name in decoders:                   # what the runtime makes of the other file's codes
        assert np.array_equal(found[name], values[name.removesuffix(".dequantized")])
    for arguments in (("--activations",), ("--method", "awq"), ("--method", "smoothquant")):
        capsys.readouterr()
        assert quantized(tmp_path / "m.onnx", tmp_path / f"no{kind}", *arguments, "--calibration",
                         str(tmp_path / "x.npz")) == 2
        assert "must have an .onnx file as output: it adds operators" in capsys.readouterr().err
    assert quantized(tmp_path / "m.onnx", tmp_path / "no.onnx", "--method", "hqq") == 2
    assert "must have a file of tensors" in capsys.readouterr().err
