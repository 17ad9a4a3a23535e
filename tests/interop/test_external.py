"""Weights beside an ONNX model: found in its folder, and nothing is read anywhere else."""

import os
import sys

import numpy as np
import pytest

from refquant.cli import run
from refquant.interop.onnx import fuse_qdq, read_onnx, run_onnx
from refquant.interop.onnx_export import export_onnx
from refquant.nn.data import digits
from refquant.nn.models import trained_digits_cnn
from refquant.workflow.tensors import tensors_of

onnx = pytest.importorskip("onnx")
from refquant.interop import _external  # noqa: E402
from refquant.interop.onnx_float import open_float, run_values  # noqa: E402

pytestmark = pytest.mark.peer
MODEL = trained_digits_cnn()
CONTENT = export_onnx(MODEL.nodes, MODEL.values, {"x": (np.float32, ("n", 8, 8, 1))}, ["logits"])
X = digits().x_test[:8]


def saved(path, content=CONTENT, *, one=True):
    """The model with all its numbers outside."""
    onnx.save(onnx.load_from_string(content), path, save_as_external_data=True,
              all_tensors_to_one_file=one, location="w.bin" if one else None, size_threshold=0)
    return path


@pytest.mark.parametrize("one", [True, False], ids=["one file", "a file each"])
def test_a_model_is_the_same_wherever_its_weights_lie(tmp_path, one):
    path = saved(tmp_path / "m.onnx", one=one)
    beside, inside = open_float(path), open_float(CONTENT)
    assert path.stat().st_size < len(CONTENT) / 5
    for mine, theirs in zip(beside.layers, inside.layers, strict=True):
        assert np.array_equal(mine.matrix, theirs.matrix)
    (tmp_path / "in.onnx").write_bytes(CONTENT)
    for mine, theirs in zip(tensors_of(path), tensors_of(tmp_path / "in.onnx"), strict=True):
        assert (mine.name, mine.shape) == (theirs.name, theirs.shape)
        assert np.array_equal(mine.read(), theirs.read())
    outputs = []
    for file in (path, tmp_path / "in.onnx"):
        outputs.append(tmp_path / f"out{len(outputs)}.onnx")
        assert run(["quantize", str(file), "-o", str(outputs[-1]), "--bits", "4"]) == 0
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


@pytest.mark.parametrize("evaluator", ["onnxruntime", "onnx"])
def test_both_runtimes_run_it(tmp_path, monkeypatch, evaluator):
    if evaluator == "onnx":
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
    else:
        pytest.importorskip("onnxruntime")
    path = saved(tmp_path / "m.onnx")
    mine, theirs = (next(run_values(open_float(file), [{"x": X}], ["logits"]))["logits"]
                    for file in (path, CONTENT))
    assert np.array_equal(mine, theirs)


def quantized():
    """A product on codes, as bytes."""
    make, rng = onnx.helper, np.random.default_rng(0)
    arrays = {"s": np.float32(0.1), "z": np.uint8(128), "w": rng.integers(
        -127, 127, (8, 4)).astype(np.int8), "ws": np.float32(0.01), "wz": np.int8(0)}
    nodes = [make.make_node(kind, inputs, [out]) for kind, inputs, out in (
        ("QuantizeLinear", ["x", "s", "z"], "q"), ("DequantizeLinear", ["q", "s", "z"], "d"),
        ("DequantizeLinear", ["w", "ws", "wz"], "wd"), ("MatMul", ["d", "wd"], "m"),
        ("QuantizeLinear", ["m", "s", "z"], "mq"), ("DequantizeLinear", ["mq", "s", "z"], "y"))]
    graph = make.make_graph(nodes, "g", [make.make_tensor_value_info("x", 1, [8, 8])],
                            [make.make_tensor_value_info("y", 1, [8, 4])],
                            [onnx.numpy_helper.from_array(np.asarray(v), n)
                             for n, v in arrays.items()])
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 21)], ir_version=10)
    return model.SerializeToString()


def test_a_quantized_model_runs_from_two_files_as_from_one(tmp_path):
    content, x = quantized(), X.reshape(8, -1)[:, :8].astype(np.float32)
    path = saved(tmp_path / "e.onnx", content)
    mine, theirs = (run_onnx(fuse_qdq(read_onnx(file)), {"x": x})["y"] for file in (path, content))
    assert np.array_equal(mine, theirs)
    assert theirs.any()
    np.save(tmp_path / "x.npy", x)
    assert run(["run", str(path), "--input", str(tmp_path / "x.npy"),
                "--output", str(tmp_path / "y.npy")]) == 0
    assert np.array_equal(np.load(tmp_path / "y.npy"), theirs)


def changed(folder, **entries):
    """A model of one matrix of 4 by 2 at 8 bytes of a file, some entries of it changed."""
    make = onnx.helper
    tensor = onnx.TensorProto(name="w", data_type=entries.pop("data_type", 1),
                              dims=entries.pop("dims", [4, 2]), data_location=1)
    for key, value in ({"location": "w.bin", "offset": "8", "length": "32"} | entries).items():
        if value is not None:
            tensor.external_data.add(key=key, value=value)
    graph = make.make_graph([make.make_node("MatMul", ["x", "w"], ["y"])], "g",
                            [make.make_tensor_value_info("x", 1, [1, 4])],
                            [make.make_tensor_value_info("y", 1, [1, 2])], [tensor])
    home = folder / "home"
    home.mkdir(exist_ok=True)
    (home / "w.bin").write_bytes(np.arange(10, dtype=np.float32).tobytes())
    (folder / "secret.bin").write_bytes(bytes(64))
    path = home / "m.onnx"
    path.write_bytes(make.make_model(graph).SerializeToString())
    return path


def readers(path):
    """What reads the constants of a model, each a function without arguments."""
    return [lambda: open_float(path), lambda: read_onnx(path),
            lambda: [t.read() for t in tensors_of(path)]]


def test_a_slice_is_read_where_it_lies(tmp_path):
    for entries in ({}, {"length": None}):
        path = changed(tmp_path, **entries)
        assert open_float(path).layers[0].matrix.T.tolist() == [[2, 3], [4, 5], [6, 7], [8, 9]]
        assert tensors_of(path)[0].read().tolist() == [[2, 3], [4, 5], [6, 7], [8, 9]]
    (changed(tmp_path).parent / "deep").mkdir()
    os.rename(path.parent / "w.bin", path.parent / "deep" / "w.bin")
    inside = changed(tmp_path, location="deep/w.bin")
    assert open_float(inside).layers[0].matrix.T[0].tolist() == [2, 3]


@pytest.mark.parametrize(("entries", "message"), [
    ({"location": "../secret.bin"}, "must lie in a file of the model's folder"),
    ({"location": "a/../../secret.bin"}, "must lie in a file of the model's folder"),
    ({"location": "/etc/passwd"}, "must lie in a file of the model's folder"),
    ({"location": "..\\secret.bin"}, "must lie in a file of the model's folder"),
    ({"location": ""}, "must lie in a file of the model's folder"),
    ({"location": None}, "must lie in a file of the model's folder"),
    ({"location": "w\0.bin"}, "must lie in a file of the model's folder"),
    ({"location": "x" * 5000}, "must lie in a file"),
    ({"location": "."}, "must lie in a file beside the model"),
    ({"location": "link.bin"}, "got a link out of it"),
    ({"location": "linked/secret.bin"}, "got a link out of it"),
    ({"location": "loop"}, "must lie in a file"),
    ({"location": "fifo"}, "must lie in a file beside the model"),
    ({"location": "nothing.bin"}, "got no file 'nothing.bin'"),
    ({"offset": "12"}, "must lie in w.bin, which has 40 bytes; got 12 to 44"),
    ({"offset": "-8"}, "must have a whole number as offset; got '-8'"),
    ({"offset": "8.0"}, "must have a whole number as offset"),
    ({"offset": "1_0"}, "must have a whole number as offset"),
    ({"offset": "٨"}, "must have a whole number as offset"),
    ({"offset": "9" * 19}, "must lie in w.bin"),
    ({"offset": "9" * 5000}, "must have a whole number as offset"),
    ({"length": "31"}, "must have the 32 bytes of its shape; got 31"),
    ({"length": "1000000000000"}, "must have the 32 bytes of its shape"),
    ({"dims": [2**40, 2**20], "length": None}, "must lie in w.bin"),
    ({"dims": [2**62, 2**62], "length": None}, "must lie in w.bin"),
    ({"dims": [-4, 2]}, "must have a shape"),
    ({"data_type": 99}, "must have an element type of ONNX"),
    ({"data_type": 8}, "must have an element type of ONNX"),
])
def test_what_lies_elsewhere_is_refused_in_one_line(tmp_path, entries, message):
    path = changed(tmp_path, **entries)
    (path.parent / "link.bin").symlink_to(tmp_path / "secret.bin")
    (path.parent / "linked").symlink_to(tmp_path)
    (path.parent / "loop").symlink_to(path.parent / "loop")
    os.mkfifo(path.parent / "fifo")
    for read in readers(path):
        with pytest.raises(ValueError, match=message) as caught:
            read()
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize(("kind", "count", "length"), [
    ("UINT4", 3, 2), ("INT4", 4, 2), ("INT8", 3, 3), ("FLOAT16", 3, 6), ("DOUBLE", 2, 16)])
def test_numbers_take_the_bytes_of_their_type_two_of_four_bits_in_one(
        tmp_path, kind, count, length):
    tensor = onnx.TensorProto(name="w", data_type=getattr(onnx.TensorProto, kind), dims=[count],
                              data_location=1)
    tensor.external_data.add(key="location", value="w.bin")
    (tmp_path / "w.bin").write_bytes(bytes(20))
    assert _external.slice_of(tensor, tmp_path).length == length


def test_a_model_that_is_only_bytes_has_no_folder(tmp_path):
    content = changed(tmp_path).read_bytes()
    for read in (open_float, read_onnx):
        with pytest.raises(ValueError, match="must hold its weights itself; got w outside"):
            read(content)


def test_one_run_of_bytes_is_not_many_weights(tmp_path):
    proto = onnx.load_model_from_string(changed(tmp_path).read_bytes())
    for k in range(3):
        proto.graph.initializer.add().CopyFrom(proto.graph.initializer[0])
        proto.graph.initializer[-1].name = f"w{k}"
    path = tmp_path / "home" / "many.onnx"
    path.write_bytes(proto.SerializeToString())
    for read in readers(path):
        with pytest.raises(ValueError, match="must hold the weights that lie in it, 128 bytes"):
            read()


def test_constants_of_branches_are_followed_no_further(tmp_path):
    """A runtime that gets a model as bytes would look for them in the working directory."""
    path = changed(tmp_path, location="../secret.bin")
    proto = onnx.load_model_from_string(path.read_bytes())
    make, value = onnx.helper, onnx.helper.make_tensor_value_info("t", 1, None)
    weight = proto.graph.initializer.pop()
    branch = make.make_graph([make.make_node("MatMul", ["x", "w"], ["t"])], "b", [], [value],
                             [weight])
    del proto.graph.node[:]
    proto.graph.node.append(make.make_node("If", ["c"], ["y"], then_branch=branch,
                                           else_branch=branch))
    path.write_bytes(proto.SerializeToString())
    for read in readers(path)[:2]:
        with pytest.raises(ValueError, match="must lie in a file of the model's folder"):
            read()


def test_a_model_of_more_than_two_gigabytes_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = changed(tmp_path)
    monkeypatch.setattr(_external, "MOST", 100)
    with pytest.raises(ValueError, match=r"must have at most 2 GB with its weights"):
        open_float(path)
    monkeypatch.setattr(_external, "MOST", 2**31 - 1)
    opened = open_float(path)
    monkeypatch.setattr(_external, "MOST", 100)
    with pytest.raises(ValueError, match=r"the model must have at most 2 GB with its weights"):
        next(run_values(opened, [{"x": np.zeros((1, 4), np.float32)}], ["y"]))


def test_a_side_file_that_shrinks_is_noticed(tmp_path):
    path = changed(tmp_path)
    (tensor,) = tensors_of(path)
    (path.parent / "w.bin").write_bytes(bytes(20))
    with pytest.raises(ValueError, match="must hold 32 bytes at 8; got 12"):
        tensor.read()
