"""QDQ models: what a runtime computes from them is what the codes say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refquant.interop.onnx_float import open_float, run_values
from refquant.interop.qdq import CodedWeight, weight_bytes, with_codes
from refquant.quantizers.uniform import Uniform

onnx = pytest.importorskip("onnx")
pytestmark = pytest.mark.peer


def product(kind, w, shape, **attributes):
    make = onnx.helper
    graph = make.make_graph(
        [make.make_node(kind, ["x", "w"], ["y"], **attributes)], "g",
        [make.make_tensor_value_info("x", 1, shape)], [make.make_tensor_value_info("y", 1, None)],
        [onnx.numpy_helper.from_array(np.ascontiguousarray(w), "w")])
    return open_float(make.make_model(
        graph, opset_imports=[make.make_opsetid("", 21)], ir_version=10).SerializeToString())


def coded(rng, out, n, groups, bits, signed, zeros):
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    zero = rng.integers(low, high + 1, (out, groups)) if zeros else np.zeros((out, groups), int)
    return CodedWeight(rng.integers(low, high + 1, (out, n)).astype(np.int32),
                       rng.uniform(0.1, 1, (out, groups)).astype(np.float32),
                       zero.astype(np.int32), bits, signed)


@settings(max_examples=40)
@given(st.integers(2, 8), st.booleans(), st.booleans(), st.sampled_from([1, 2, 4]),
       st.sampled_from(["MatMul", "Gemm", "GemmT"]), st.integers(0, 99))
def test_a_runtime_decodes_what_the_record_says(bits, signed, zeros, groups, kind, seed):
    rng = np.random.default_rng(seed)
    out, n = int(rng.integers(1, 5)), 8
    w = np.zeros((out, n) if kind == "GemmT" else (n, out), np.float32)
    settings_ = {"transB": 1} if kind == "GemmT" else {}
    model = product(kind.removesuffix("T"), w, (3, n), **settings_)
    c = coded(rng, out, n, groups, bits, signed, zeros)
    content = with_codes(model, {"w": c})
    x = rng.standard_normal((3, n)).astype(np.float32)
    got = next(run_values(open_float(content), [{"x": x}], ["w.dequantized", "y"]))
    stored = got["w.dequantized"] if kind == "GemmT" else got["w.dequantized"].T
    assert np.array_equal(stored, c.decoded())
    assert np.allclose(got["y"], x @ c.decoded().T, rtol=1e-5, atol=1e-5)


def test_a_weight_that_is_an_output_itself_stays_one():
    make, w = onnx.helper, np.random.default_rng(0).standard_normal((4, 2)).astype(np.float32)
    graph = make.make_graph(
        [make.make_node("MatMul", ["x", "w"], ["y"])], "g",
        [make.make_tensor_value_info("x", 1, (3, 4))],
        [make.make_tensor_value_info("y", 1, (3, 2)), make.make_tensor_value_info("w", 1, (4, 2))],
        [onnx.numpy_helper.from_array(w, "w")])
    model = open_float(make.make_model(
        graph, opset_imports=[make.make_opsetid("", 21)], ir_version=10).SerializeToString())
    c = coded(np.random.default_rng(1), 2, 4, 1, 4, False, True)
    got = next(run_values(open_float(with_codes(model, {"w": c})),
                          [{"x": np.eye(3, 4, dtype=np.float32)}], ["y", "w"]))
    assert np.array_equal(got["w"], w)
    assert np.allclose(got["y"], c.decoded().T[:3])


def test_filters_of_a_convolution_have_a_scale_each():
    rng = np.random.default_rng(0)
    model = product("Conv", np.zeros((3, 2, 3, 3), np.float32), (1, 2, 5, 5))
    c = coded(rng, 3, 18, 1, 4, False, True)
    got = next(run_values(open_float(with_codes(model, {"w": c})),
                          [{"x": np.ones((1, 2, 5, 5), np.float32)}], ["w.dequantized"]))
    assert np.array_equal(got["w.dequantized"].transpose(0, 2, 3, 1).reshape(3, 18), c.decoded())
    with pytest.raises(ValueError, match="must have one scale per filter of a convolution"):
        with_codes(model, {"w": coded(rng, 3, 18, 2, 4, False, True)})


@pytest.mark.parametrize("signed", [True, False])
def test_activations_pass_their_grid_after_the_factor(signed):
    rng = np.random.default_rng(0)
    w = rng.standard_normal((4, 2)).astype(np.float32)
    model = product("MatMul", w, (3, 4))
    ends = (-128, 127) if signed else (0, 255)
    q = Uniform(np.array(0.05, np.float32), np.array(ends[0] + 100), *ends)
    factor = np.array([1, 2, 0.5, 4], np.float32)
    content = with_codes(model, {}, {"x": q}, {"x": factor})
    x = rng.standard_normal((3, 4)).astype(np.float32)
    got = next(run_values(open_float(content), [{"x": x}], ["x.quantized", "y"]))
    assert np.allclose(got["x.quantized"], q.decode(q.encode(x * factor)), atol=1e-6)
    assert np.allclose(got["y"], got["x.quantized"] @ w, atol=1e-5)


def test_the_model_is_not_changed_and_the_file_is_a_function_of_the_codes():
    model = product("MatMul", np.ones((8, 2), np.float32), (3, 8))
    before = model.proto.SerializeToString()
    c = coded(np.random.default_rng(0), 2, 8, 2, 4, True, False)
    assert with_codes(model, {"w": c}) == with_codes(model, {"w": c})
    assert model.proto.SerializeToString() == before


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_the_bytes_counted_are_those_of_the_file(bits):
    model = product("MatMul", np.ones((64, 32), np.float32), (3, 64))
    c = coded(np.random.default_rng(0), 32, 64, 4, bits, True, True)
    proto = onnx.load_from_string(with_codes(model, {"w": c}))
    assert sum(len(t.raw_data) for t in proto.graph.initializer) == weight_bytes(c)


@pytest.mark.parametrize(("change", "message"), [
    ({"codes": np.zeros((2, 7), np.int32)}, r"must have codes of shape \(2, 8\)"),
    ({"scale": np.ones(2, np.float32)}, "must have codes of shape"),
    ({"codes": np.full((2, 8), 9, np.int32)}, "must hold codes from -8 to 7; got 9 to 9"),
    ({"bits": 9}, "`bits` must be at most 8; got 9"),
])
def test_records_that_do_not_fit_are_refused(change, message):
    model = product("MatMul", np.ones((8, 2), np.float32), (3, 8))
    c = coded(np.random.default_rng(0), 2, 8, 1, 4, True, False)._replace(**change)
    with pytest.raises(ValueError, match=message):
        with_codes(model, {"w": c})


def test_unknown_names_are_refused():
    model = product("MatMul", np.ones((8, 2), np.float32), (3, 8))
    c = coded(np.random.default_rng(0), 2, 8, 1, 4, True, False)
    with pytest.raises(ValueError, match="`v` must be the weight of a layer"):
        with_codes(model, {"v": c})
    with pytest.raises(ValueError, match="`z` must be read by a layer"):
        with_codes(model, {}, multiplied={"z": np.ones(8)})
    per_channel = Uniform(np.ones(8), np.zeros(8, int), -128, 127)
    with pytest.raises(ValueError, match="`x` must have one scale and the codes of int8 or uint8"):
        with_codes(model, {}, {"x": per_channel})
