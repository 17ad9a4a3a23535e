"""ONNX models: fusing QDQ groups by exact laws, and onnxruntime's own quantized networks."""

import sys
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from refquant.interop.onnx import OnnxModel, OnnxNode, fuse_qdq, read_onnx, run_onnx

F32, U8 = np.dtype(np.float32), np.dtype(np.uint8)


def node(op, inputs, outputs, domain="", **attributes):
    return OnnxNode(op, domain, tuple(inputs.split()), tuple(outputs.split()), attributes)


def qdq(core, weight, bias, scales, zero, relu=False, **attributes):
    """Quantize, dequantize, one float operator on it, quantize: the QDQ form."""
    s_x, s_w, s_y = (np.array(s, np.float32) for s in scales)
    constants = {"sx": s_x, "zx": np.array(zero, np.uint8), "w": weight, "sw": s_w,
                 "zw": np.zeros(s_w.shape, np.int8), "b": bias, "sb": s_x * s_w,
                 "zb": np.zeros(s_w.shape, np.int32), "sy": s_y, "zy": np.array(0, np.uint8)}
    nodes = [node("QuantizeLinear", "x sx zx", "xq"), node("DequantizeLinear", "xq sx zx", "xd"),
             node("DequantizeLinear", "w sw zw", "wd"),
             node("DequantizeLinear", "b sb zb", "bd"),
             node(core, "xd wd bd" if core != "MatMul" else "xd wd", "f", **attributes),
             *([node("Relu", "f", "r")] if relu else []),
             node("QuantizeLinear", "r sy zy" if relu else "f sy zy", "y")]
    return OnnxModel(tuple(nodes), constants, {"x": (F32, ())}, ("y",))


powers = st.integers(-4, 2).map(lambda p: 2.0**p)


@given(st.tuples(powers, powers, powers), st.integers(0, 2**32 - 1), st.integers(0, 255),
       st.booleans(), st.sampled_from(["Conv", "Gemm", "MatMul"]))
def test_fused_groups_are_the_float_ones_where_floats_are_exact(scales, seed, zero, relu, core):
    """Powers of two make every float sum exact, so both readings of QDQ agree bit for bit."""
    rng = np.random.default_rng(seed)
    shapes = {"Conv": ((1, 2, 4, 4), (3, 2, 2, 2)), "Gemm": ((2, 5), (5, 3)),
              "MatMul": ((2, 5), (5, 3))}
    shape, kernel = shapes[core]
    model = qdq(core, rng.integers(-127, 128, kernel, np.int8),
                rng.integers(-500, 500, 3, np.int32), scales, zero, relu)
    x = rng.normal(0, 3, shape).astype(np.float32)
    fused = fuse_qdq(model)
    operator = {"Conv": "QLinearConv", "Gemm": "QGemm", "MatMul": "QLinearMatMul"}[core]
    assert [n.op for n in fused.nodes] == ["QuantizeLinear", operator]
    assert_array_equal(run_onnx(fused, {"x": x})["y"], run_onnx(model, {"x": x})["y"])


def test_a_relu_stays_where_zero_is_not_the_smallest_code():
    model = qdq("Gemm", np.ones((2, 2), np.int8), np.zeros(2, np.int32), (1, 1, 1), 0, relu=True)
    model = model._replace(constants={**model.constants, "zy": np.array(1, np.uint8)})
    assert "Relu" in [n.op for n in fuse_qdq(model).nodes]
    y = run_onnx(fuse_qdq(model), {"x": np.array([[-5, -5]], np.float32)})["y"]
    assert_array_equal(y, [[1, 1]])


def test_a_value_read_twice_or_shown_is_not_fused_away():
    model = qdq("Gemm", np.ones((2, 2), np.int8), np.zeros(2, np.int32), (1, 1, 1), 0)
    shown = model._replace(outputs=("y", "f"))
    assert "Gemm" in [n.op for n in fuse_qdq(shown).nodes]
    twice = model._replace(nodes=(*model.nodes, node("Relu", "f", "z")), outputs=("y", "z"))
    assert "Gemm" in [n.op for n in fuse_qdq(twice).nodes]


def test_a_tap_sees_and_replaces_every_value():
    model = OnnxModel((node("Relu", "x", "h"), node("Identity", "h", "y")), {},
                      {"x": (F32, (2,))}, ("y",))
    seen = []

    def tap(name, value):
        seen.append(name)
        return value + 1 if name == "h" else value

    values = run_onnx(model, {"x": np.array([-1, 2], np.float32)}, tap=tap)
    assert seen == ["x", "h", "y"]
    assert_array_equal(values["y"], [1, 3])


def test_zero_points_reach_the_padding():
    """A padded convolution of the zero point alone is the bias alone."""
    one = np.array(1, np.float32)
    constants = {"s": one, "z": np.array(7, np.uint8), "w": np.ones((1, 1, 3, 3), np.int8),
                 "zw": np.array(0, np.int8), "b": np.array([5], np.int32),
                 "zy": np.array(0, np.uint8)}
    model = OnnxModel((node("QLinearConv", "x s z w s zw s zy b", "y", pads=[1, 1, 1, 1]),),
                      constants, {"x": (U8, (1, 1, 3, 3))}, ("y",))
    y = run_onnx(model, {"x": np.full((1, 1, 3, 3), 7, np.uint8)})["y"]
    assert_array_equal(y, np.full((1, 1, 3, 3), 5))


PLAIN = OnnxModel((node("Relu", "x", "y"),), {}, {"x": (F32, (None, 2))}, ("y",))
WIDE = OnnxModel((node("MaxPool", "x", "y", kernel_shape=[1, 1], pads=[2**40] * 4),), {},
                 {"x": (F32, (1, 1, 2, 2))}, ("y",))


@pytest.mark.parametrize(("model", "inputs", "error", "message"), [
    (PLAIN, {}, ValueError, "`inputs` must hold 'x'; got []"),
    (PLAIN, {"x": np.zeros((1, 2), F32), "z": 0}, ValueError,
     "`inputs` must be among ['x']; got 'z'"),
    (PLAIN, {"x": np.zeros((1, 2))}, TypeError, "`inputs` must hold 'x' as float32; got float64"),
    (PLAIN, {"x": np.zeros((1, 3), F32)}, ValueError,
     "`inputs` must hold 'x' of shape (None, 2); got (1, 3)"),
    (WIDE, {"x": np.zeros((1, 1, 2, 2), F32)}, ValueError,
     "node MaxPool of 'y' cannot be computed: `x` must have at most 2**28 elements when padded"),
    (PLAIN._replace(nodes=(node("Relu", "q", "y"),)), {"x": np.zeros((1, 2), F32)}, ValueError,
     "node Relu of 'y' must read known names; got 'q'"),
    (PLAIN._replace(outputs=("z",)), {"x": np.zeros((1, 2), F32)}, ValueError,
     "`model` must compute its output 'z'"),
])  # fmt: skip
def test_bad_models_and_inputs_are_named(model, inputs, error, message):
    with pytest.raises(error) as raised:
        run_onnx(model, inputs)
    assert str(raised.value).startswith(message)


def test_without_onnx_the_reader_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModuleNotFoundError, match="pip install onnx"):
        read_onnx(b"")


# What onnxruntime's own tools make, against onnxruntime.


def network(onnx, rng) -> bytes:
    """Convolutions, depthwise and strided, a pool, a residual sum, a mean, two linear layers."""
    helper, weights = onnx.helper, []

    def w(name, *shape):
        data = rng.normal(0, 1, shape) / np.sqrt(np.prod(shape[1:]) or 1)
        weights.append(onnx.numpy_helper.from_array(data.astype(np.float32), name))
        return name

    def make(op, inputs, output, **attributes):
        return helper.make_node(op, inputs, [output], output, **attributes)

    nodes = [
        make("Conv", ["x", w("w1", 8, 3, 3, 3), w("b1", 8)], "c1", pads=[1] * 4),
        make("Relu", ["c1"], "r1"),
        make("MaxPool", ["r1"], "p1", kernel_shape=[2, 2], strides=[2, 2]),
        make("Conv", ["p1", w("w2", 8, 1, 3, 3), w("b2", 8)], "c2", pads=[1] * 4, group=8),
        make("Relu", ["c2"], "r2"),
        make("Conv", ["r2", w("w3", 8, 8, 1, 1), w("b3", 8)], "c3"),
        make("Add", ["c3", "p1"], "a1"), make("Relu", ["a1"], "r3"),
        make("Conv", ["r3", w("w4", 12, 8, 3, 3), w("b4", 12)], "c4", pads=[0, 0, 1, 1],
             strides=[2, 2]),
        make("GlobalAveragePool", ["c4"], "g"), make("Flatten", ["g"], "f"),
        make("MatMul", ["f", w("w5", 12, 16)], "m"),
        make("Gemm", ["m", w("w6", 10, 16), w("b6", 10)], "o", transB=1),
        make("Softmax", ["o"], "y")]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "network", [value("x", 1, ["n", 3, 12, 12])],
                              [value("y", 1, ["n", 10])], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def images(seed: int, count: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, (count, 3, 12, 12)).astype(np.float32)


@pytest.fixture(scope="module")
def quantized(tmp_path_factory) -> dict[str, bytes]:
    """Files of onnxruntime's quantization tools, by the settings they were made with."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnxruntime import quantization as tool

    folder = tmp_path_factory.mktemp("onnx")
    source, target = folder / "float.onnx", folder / "quantized.onnx"
    source.write_bytes(network(onnx, np.random.default_rng(0)))

    class Reader(tool.CalibrationDataReader):
        def __init__(self) -> None:
            self.batches: Iterator[dict] = iter([{"x": images(1)}])

        def get_next(self):
            return next(self.batches, None)

    made = {}
    for form in ("QOperator", "QDQ"):
        for per_channel, activation, weight in (
                (False, "QUInt8", "QInt8"), (False, "QUInt8", "QUInt8"),
                (False, "QInt8", "QInt8"), (True, "QUInt8", "QInt8"), (True, "QInt8", "QInt8")):
            # 7 bits of weights: onnxruntime without VNNI adds pairs of products in int16.
            tool.quantize_static(
                source, target, Reader(), quant_format=tool.QuantFormat[form],
                per_channel=per_channel, reduce_range=True, nodes_to_exclude=["y"],
                activation_type=tool.QuantType[activation], weight_type=tool.QuantType[weight])
            made[f"{form} {activation} {weight} {per_channel}"] = target.read_bytes()
    for weight in ("QInt8", "QUInt8"):
        tool.quantize_dynamic(source, target, weight_type=tool.QuantType[weight],
                              reduce_range=True)
        made[f"dynamic {weight}"] = target.read_bytes()
    return made


def onnxruntime_values(
    content: bytes, x: np.ndarray, *, fused: bool, show: str = ""
) -> dict[str, np.ndarray]:
    """All named values as they stand in the file, or the outputs of the optimized graph."""
    import onnx
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    model = onnx.load_model_from_string(content)
    shown = {o.name for o in model.graph.output}
    for name in (n for each in model.graph.node for n in each.output):
        if name not in shown and not fused:
            model.graph.output.append(onnx.ValueInfoProto(name=name))
        elif fused and name == show:
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, 1, None))
    options = onnxruntime.SessionOptions()
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if fused else level.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, {"x": x}), strict=True))


FORMS = [f"{form} {rest}" for form in ("QOperator", "QDQ") for rest in (
    "QUInt8 QInt8 False", "QUInt8 QUInt8 False", "QInt8 QInt8 False", "QUInt8 QInt8 True",
    "QInt8 QInt8 True")] + ["dynamic QInt8", "dynamic QUInt8"]


@pytest.mark.peer
@pytest.mark.parametrize("form", FORMS)
def test_every_node_computes_what_onnxruntime_does(quantized, form):
    """Codes are equal; so are floats, but for sums and exponentials, which have an order.

    Each node is fed with onnxruntime's values, so that a sum rounded elsewhere stays where it is.
    """
    x = images(2, 16)
    model, theirs = read_onnx(quantized[form]), onnxruntime_values(quantized[form], x, fused=False)
    sums, codes, ours = {"Conv", "MatMul", "Gemm", "GlobalAveragePool", "Softmax"}, 0, {}

    def tap(name, value):
        ours[name] = value
        return theirs.get(name, value)

    run_onnx(model, {"x": x}, tap=tap)
    for step in model.nodes:
        for name in step.outputs:
            assert ours[name].dtype == theirs[name].dtype
            if step.op in sums:
                np.testing.assert_allclose(ours[name], theirs[name], rtol=2e-5, atol=2e-6)
            else:
                assert_array_equal(ours[name], theirs[name], err_msg=f"{step.op} {name}")
                codes += ours[name].size if ours[name].dtype.kind in "iu" else 0
    assert codes > 30_000


@pytest.mark.peer
@pytest.mark.parametrize("form", [f for f in FORMS if f.startswith("QO")])
def test_operators_on_codes_stay_equal_from_end_to_end(quantized, form):
    x = images(4, 64)
    model, theirs = read_onnx(quantized[form]), onnxruntime_values(quantized[form], x, fused=False)
    ours = run_onnx(model, {"x": x})
    for name in (n for step in model.nodes if step.op != "Softmax" for n in step.outputs):
        assert_array_equal(ours[name], theirs[name])


@pytest.mark.peer
@pytest.mark.parametrize("form", [f for f in FORMS if f.startswith("QDQ")])
def test_fused_qdq_is_what_onnxruntime_executes(quantized, form):
    """The logits, which the last codes decide, with all of its optimizations on."""
    x = images(3, 64)
    model = fuse_qdq(read_onnx(quantized[form]))
    floats = {"Conv", "MatMul", "Gemm", "Add", "GlobalAveragePool"}
    assert not floats & {n.op for n in model.nodes}
    logits = model.nodes[-1].inputs[0]
    theirs = onnxruntime_values(quantized[form], x, fused=True, show=logits)
    assert_array_equal(run_onnx(model, {"x": x})[logits], theirs[logits])


CONTRIB = {"QLinearAdd", "QGemm", "QLinearGlobalAveragePool"}


@pytest.mark.peer
@pytest.mark.parametrize("operator", sorted(CONTRIB))
def test_own_operators_of_onnxruntime_are_exact_on_random_parameters(operator):
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    helper, rng = onnx.helper, np.random.default_rng(1)
    for trial in range(60):
        dtype = np.dtype([np.uint8, np.int8][trial % 2])
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max

        def random(*shape, dtype=dtype, low=low, high=high):
            return np.asarray(rng.integers(low, high + 1, shape), dtype)

        def scale(*shape):
            return np.asarray(2.0 ** rng.uniform(-8, -3, shape), np.float32)

        attributes = {}
        if operator == "QLinearAdd":
            n = int(rng.integers(1, 3000))
            arrays = [random(n), scale(), random(), random(n), scale(), random(), scale(),
                      random()]
        elif operator == "QGemm":
            m, k, n = map(int, rng.integers(1, 40, 3))
            count = (n,) if trial % 3 else ()
            arrays = [random(m, k), scale(), random(),
                      rng.integers(-63, 64, (k, n)).astype(np.int8), scale(*count),
                      np.zeros(count, np.int8), rng.integers(-999, 999, n).astype(np.int32),
                      scale(), random()]
            attributes = {"alpha": float(rng.choice([1.0, 0.7]))}
        else:
            arrays = [random(*rng.integers(1, 9, 4)), scale(), random(), scale(), random()]
            attributes = {"channels_last": int(trial % 4 == 3)}
        names = [f"i{k}" for k in range(len(arrays))]
        kind = helper.np_dtype_to_tensor_dtype
        graph = helper.make_graph(
            [helper.make_node(operator, names, ["y"], domain="com.microsoft", **attributes)],
            "one", [helper.make_tensor_value_info(n, kind(a.dtype), a.shape)
                    for n, a in zip(names, arrays, strict=True)],
            [helper.make_tensor_value_info("y", kind(dtype), None)])
        proto = helper.make_model(graph, ir_version=8, opset_imports=[
            helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)])
        content = proto.SerializeToString()
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        feed = dict(zip(names, arrays, strict=True))
        assert_array_equal(run_onnx(read_onnx(content), feed)["y"], session.run(None, feed)[0])


@pytest.mark.peer
def test_damaged_files_are_refused_in_one_line(quantized):
    """Truncated, or with a byte changed: ValueError or an answer, and nothing else."""
    content = quantized["QOperator QInt8 QInt8 False"]
    rng, x, refused = np.random.default_rng(0), images(0, 1), 0
    for trial in range(400):
        raw = bytearray(content)
        if trial % 4 == 0:
            raw = raw[: int(rng.integers(len(raw)))]
        else:
            for _ in range(int(rng.integers(1, 4))):
                raw[int(rng.integers(len(raw)))] = int(rng.integers(256))
        try:
            run_onnx(read_onnx(bytes(raw)), {"x": x})
        except (ValueError, TypeError):
            refused += 1
    assert refused > 150
