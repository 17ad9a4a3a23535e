"""ONNX models as networks: every value is the runtime's, and every gradient that of differences."""

import numpy as np
import pytest

from refquant.apply.rewrite import fold_batch_norms
from refquant.interop.onnx_export import export_onnx
from refquant.interop.onnx_import import Imported, import_onnx, shift_name
from refquant.nn.data import digits
from refquant.nn.models import trained_digits_cnn
from refquant.nn.network import backward, run

onnx = pytest.importorskip("onnx")
from refquant.interop.onnx_float import open_float, run_values  # noqa: E402

pytestmark = pytest.mark.peer
RNG = np.random.default_rng(5)
IMAGE, ROWS = ("n", 3, 6, 6), ("n", 8)
C = {name: RNG.standard_normal(shape).astype(np.float32) for name, shape in {
    "conv": (4, 3, 3, 3), "deep": (3, 1, 3, 3), "point": (5, 4, 1, 1), "cb": (4,), "w": (8, 5),
    "wt": (5, 8), "b": (5,), "row": (8,), "plane": (3, 1, 1), "gamma": (3,), "beta": (3,),
    "mean": (3,), "out": (5, 3), "one": (1,)}.items()}
C |= {"variance": np.abs(C["gamma"]) + 1, "low": np.float32(-0.5), "high": np.float32(0.5),
      "axes": np.array([2, 3]), "last": np.array([-1]), "shape": np.array([0, -1])}


def model_of(nodes, shape, outputs=("y",)):
    make = onnx.helper
    used = {n for _, inputs, _, _ in nodes for n in inputs}
    graph = make.make_graph(
        [make.make_node(kind, inputs, [out], **settings) for kind, inputs, out, settings in nodes],
        "g", [make.make_tensor_value_info("x", 1, shape)],
        [make.make_tensor_value_info(n, 1, None) for n in outputs],
        [onnx.numpy_helper.from_array(v, k) for k, v in C.items() if k in used])
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 21)])
    model.ir_version = 10
    return open_float(model.SerializeToString())


def one(kind, *inputs, shape=IMAGE, **settings):
    return pytest.param([(kind, ["x", *inputs], "y", settings)], shape, id=kind)


OPERATORS = [
    one("Conv", "conv", "cb", pads=[1] * 4, strides=[2, 2]), one("Conv", "conv"),
    one("Conv", "deep", group=3, pads=[1] * 4), one("Gemm", "w", "b", shape=ROWS, beta=0.5),
    one("Gemm", "wt", shape=ROWS, transB=1), one("Gemm", "w", "one", shape=ROWS),
    one("MatMul", "w", shape=ROWS), one("MatMul", "w", shape=("n", 3, 8)),
    one("Add", "plane"), one("Sub", "plane"), one("Mul", "row", shape=ROWS),
    one("Div", "row", shape=ROWS), one("Add", "x"), one("Mul", "x"),
    one("BatchNormalization", "gamma", "beta", "mean", "variance", epsilon=1e-3),
    one("Relu"), one("LeakyRelu", alpha=0.2), one("Sigmoid"), one("Tanh"), one("Identity"),
    one("Clip", "low", "high"), one("Clip", "low"), one("Dropout"),
    one("MaxPool", kernel_shape=[2, 2], strides=[2, 2]), one("MaxPool", kernel_shape=[3, 3]),
    one("AveragePool", kernel_shape=[2, 2], strides=[2, 2]), one("GlobalAveragePool"),
    one("ReduceMean", "axes", keepdims=0), one("ReduceMean", "axes"), one("Flatten"),
    one("Flatten", axis=2), one("Reshape", "shape"), one("Transpose", perm=[0, 2, 3, 1]),
    one("Transpose"),
    pytest.param([("Sub", ["row", "x"], "y", {})], ROWS, id="Sub from a constant"),
    pytest.param([("Mul", ["plane", "x"], "y", {})], IMAGE, id="Mul with a constant first"),
]


@pytest.mark.parametrize(("nodes", "shape"), OPERATORS)
def test_an_operator_computes_and_passes_back_what_it_should(nodes, shape):
    model = model_of(nodes, shape)
    x = RNG.standard_normal((2, *shape[1:])).astype(np.float32)
    made = import_onnx(model)
    assert isinstance(made, Imported)
    trace = run(made.nodes, {"x": x, **made.values})
    wanted = next(run_values(model, [{"x": x}], ["y"]))["y"]
    assert trace.values["y"].shape == wanted.shape
    assert trace.values["y"] == pytest.approx(wanted, rel=1e-4, abs=1e-5)
    # In float64, along one direction for each array: the difference quotient of a random sum.
    wide = {"x": x.astype(np.float64), **{n: v.astype(np.float64) for n, v in made.values.items()}}
    seed = RNG.standard_normal(wanted.shape)
    found = backward(run(made.nodes, wide), {"y": seed})
    for name, value in wide.items():
        along = RNG.standard_normal(value.shape)
        step = 1e-6
        ends = [float((seed * run(made.nodes, {**wide, name: value + s * along}).values["y"]).sum())
                for s in (step, -step)]
        slope = float((found[name] * along).sum())
        assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-3, abs=1e-4), name


DATA, NET = digits(), trained_digits_cnn()


@pytest.mark.parametrize("folded", [True, False])
def test_every_value_of_the_digits_network_is_that_of_the_runtime(folded):
    network = fold_batch_norms(NET.nodes, NET.values) if folded else (NET.nodes, NET.values)
    model = open_float(export_onnx(*network, {"x": (np.float32, ("n", 8, 8, 1))}, ["logits"]))
    made, x = import_onnx(model), {"x": DATA.x_test[:32]}
    names = [node.name for node in made.nodes]
    got = run(made.nodes, {**x, **made.values}).values
    wanted = next(run_values(model, [x], names))
    for name in names:
        assert got[name].dtype == np.float32
        assert np.abs(got[name] - wanted[name]).max() <= 2e-6 * np.abs(wanted[name]).max()
    assert {n for n in made.values if not n.endswith(".shift")} == set(model.by_weight)
    for name, layer in model.by_weight.items():
        assert np.array_equal(made.values[name].reshape(layer.matrix.shape), layer.matrix)
        assert not made.values[shift_name(name)].any()


def test_a_chain_as_other_tools_write_it_is_read_whole():
    model = model_of([
        ("Conv", ["x", "conv", "cb"], "a", {"pads": [1] * 4}), ("Relu", ["a"], "r", {}),
        ("Conv", ["r", "point"], "p", {}), ("MaxPool", ["p"], "m", {"kernel_shape": [2, 2]}),
        ("GlobalAveragePool", ["m"], "g", {}), ("Flatten", ["g"], "f", {}),
        ("Gemm", ["f", "out"], "y", {})], IMAGE)
    x = {"x": RNG.standard_normal((4, 3, 6, 6)).astype(np.float32)}
    made = import_onnx(model)
    got = run(made.nodes, {**x, **made.values}).values["y"]
    assert got == pytest.approx(next(run_values(model, [x], ["y"]))["y"], rel=1e-4, abs=1e-5)
    moved = {**made.values, shift_name("out"): np.float32([1, 2, 3])}
    assert run(made.nodes, {**x, **moved}).values["y"] == pytest.approx(
        got + np.float32([1, 2, 3]), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(("nodes", "shape", "message"), [
    ([("Erf", ["x"], "y", {})], ROWS, "got y: Erf has no way back here"),
    ([("Conv", ["x", "conv"], "y", {"pads": [0, 0, 1, 1]})], IMAGE, "Conv is neither plain"),
    ([("Conv", ["x", "conv"], "y", {"dilations": [2, 2]})], IMAGE, "Conv is neither plain"),
    ([("MaxPool", ["x"], "y", {"kernel_shape": [2, 2], "pads": [1] * 4})], IMAGE, "or padding"),
    ([("MaxPool", ["x"], "y", {"kernel_shape": [2, 3]})], IMAGE, "sides that differ"),
    ([("AveragePool", ["x"], "y", {"kernel_shape": [2, 2], "ceil_mode": 1})], IMAGE, "padding"),
    ([("Sub", ["x", "x"], "y", {})], ROWS, "Sub of two values"),
    ([("Div", ["row", "x"], "y", {})], ROWS, "Div divides a constant"),
    ([("ReduceMean", ["x"], "y", {})], ROWS, "ReduceMean is over all axes"),
    ([("Relu", ["x"], "r", {}), ("Clip", ["x", "s"], "y", {}), ("ReduceMax", ["r"], "s", {})][::-1],
     ROWS, "no way back"),
    ([("MatMul", ["x", "w"], "y", {}), ("MatMul", ["x", "w"], "z", {})], ROWS,
     "must read each weight once; got w twice"),
    ([("MatMul", ["x", "x"], "y", {})], ("n", 8), "MatMul has no way back here"),
])
def test_what_cannot_go_back_is_named(nodes, shape, message):
    try:
        model = model_of(nodes, shape)
    except ValueError:
        pytest.skip("onnx refuses it")
    with pytest.raises(ValueError, match=message):
        import_onnx(model)
