"""Float ONNX models: layers found in every form, what is left, and hostile files."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.interop.onnx_export import export_onnx
from refquant.interop.onnx_float import input_rows, open_float, run_values
from refquant.nn.data import digits
from refquant.nn.models import trained_digits_cnn

onnx = pytest.importorskip("onnx")
pytestmark = pytest.mark.peer
MODEL = trained_digits_cnn()
CONTENT = export_onnx(MODEL.nodes, MODEL.values, {"x": (np.float32, ("batch", 8, 8, 1))},
                      ["logits"])
X = digits().x_test[:5]
W = np.arange(12, dtype=np.float32).reshape(3, 4)


def made(nodes, constants, inputs=("x",), shape=(2, 3), opset=21, outputs=("y",)):
    make = onnx.helper
    graph = make.make_graph(
        nodes, "g", [make.make_tensor_value_info(n, 1, shape) for n in inputs],
        [make.make_tensor_value_info(n, 1, None) for n in outputs],
        [onnx.numpy_helper.from_array(v, k) for k, v in constants.items()])
    return make.make_model(graph, opset_imports=[make.make_opsetid("", opset)]).SerializeToString()


def node(kind, inputs, output="y", **attributes):
    return onnx.helper.make_node(kind, inputs, [output], name=f"the {kind}", **attributes)


def test_the_rows_and_the_matrix_of_every_layer_make_its_product():
    model = open_float(CONTENT)
    assert [x.weight for x in model.layers] == [
        n.inputs[1] for n in MODEL.nodes if len(n.inputs) > 1 and n.inputs[1].endswith("weight")]
    produced = {n.name or n.output[0]: n.output[0] for n in model.proto.graph.node}
    wanted = [produced[x.node] for x in model.layers]
    values = next(run_values(model, [{"x": X}], [x.reads for x in model.layers] + wanted))
    checked = 0
    for layer, output in zip(model.layers, wanted, strict=True):
        if layer.op == "Conv" and layer.window is None:
            assert layer.weight in ("dw1.weight", "dw2.weight")     # one group per channel
            continue
        y = values[output]
        y = y.transpose(0, 2, 3, 1) if layer.op == "Conv" else y
        product = input_rows(layer, values[layer.reads]) @ layer.matrix.T
        assert np.allclose(product, y.reshape(-1, y.shape[-1]), rtol=1e-4, atol=1e-4)
        checked += 1
    assert checked == 8


@pytest.mark.parametrize(("nodes", "matrix", "transposed"), [
    ([("MatMul", ["x", "w"], {})], W.T, True),
    ([("Gemm", ["x", "w"], {})], W.T, True),
    ([("Gemm", ["x", "v"], {"transB": 1})], W.T, False),
])
def test_each_way_to_write_a_product(nodes, matrix, transposed):
    model = open_float(made([node(k, i, **a) for k, i, a in nodes],
                            {"w": W, "v": np.ascontiguousarray(W.T)}))
    (layer,) = model.layers
    assert np.array_equal(layer.matrix, matrix)
    assert layer.transposed == transposed
    x = np.ones((2, 3), np.float32)
    value = next(run_values(model, [{"x": x}], ["x", "y"]))
    assert np.allclose(input_rows(layer, value["x"]) @ layer.matrix.T, value["y"])


def test_constants_as_nodes_and_old_opsets_are_lifted():
    constant = onnx.helper.make_node(
        "Constant", [], ["w"], value=onnx.numpy_helper.from_array(W))
    model = open_float(made([constant, node("MatMul", ["x", "w"])], {}, opset=13))
    assert [x.weight for x in model.layers] == ["w"]
    assert model.proto.opset_import[0].version == 21


@pytest.mark.parametrize(("nodes", "constants", "reason"), [
    ([("Gemm", ["x", "w"], {"alpha": 2.0})], {"w": W}, "transposed or scaled"),
    ([("MatMul", ["w", "x"], {})], {"w": W.T}, "left factor"),
    ([("MatMul", ["x", "w"], {})], {"w": W.astype(np.float64)}, "not float32"),
    ([("MatMul", ["x", "w"], {})], {"w": W[None]}, "has 3 axes"),
    ([("MatMul", ["x", "w"], {})], {"w": W * np.nan}, "not finite"),
    ([("Einsum", ["x", "w"], {"equation": "ij,jk->ik"})], {"w": W}, "no quantized form"),
])
def test_what_is_left_in_float_is_named_with_the_reason(nodes, constants, reason):
    model = open_float(made([node(k, i, **a) for k, i, a in nodes], constants))
    assert not model.layers
    ((name, why),) = model.left.items()
    assert name == f"the {nodes[0][0]}"
    assert reason in why


def test_two_products_of_activations_have_no_weight():
    model = open_float(made([node("MatMul", ["x", "x"])], {}, shape=(3, 3)))
    assert not model.layers
    assert not model.left


def hostile(change):
    proto = onnx.load_from_string(made([node("MatMul", ["x", "w"])], {"w": W}))
    change(proto)
    return proto.SerializeToString()


def huge(proto):
    del proto.graph.initializer[0].dims[:]
    proto.graph.initializer[0].dims.extend([2**40, 2**20])


def outside(proto):
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../../../etc/passwd"


@pytest.mark.parametrize(("content", "message"), [
    (b"", "must be an ONNX model"),
    (b"not a model at all", "must be an ONNX model"),
    (CONTENT[: len(CONTENT) // 2], "must be an ONNX model"),
    (hostile(huge), r"`w` must hold the \d+ numbers of its shape"),
    (hostile(outside), "must hold its weights itself; got w outside"),
    (hostile(lambda p: p.graph.initializer[0].dims.__setitem__(0, -3)), "`w` must have a shape"),
    (hostile(lambda p: setattr(p.graph.initializer[0], "data_type", 99)), "an element type"),
    (hostile(lambda p: p.opset_import.pop()), "must import an opset"),
])
def test_files_that_lie_are_refused_in_one_line(content, message):
    with pytest.raises(ValueError, match=message) as caught:
        open_float(content)
    assert "\n" not in str(caught.value)


SMALL = made([node("Gemm", ["x", "w", "b"])], {"w": W, "b": np.ones(4, np.float32)})


@given(st.data())
def test_damaged_files_raise_one_line_or_open(data):
    """Bytes changed, cut and doubled: an answer or a ValueError, never anything else."""
    content = bytearray(SMALL)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    message = ""
    try:
        open_float(bytes(content[:cut] if data.draw(st.booleans()) else content))
    except ValueError as err:
        message = str(err)
    assert "\n" not in message


def test_inputs_that_do_not_fit_are_refused_in_one_line():
    model = open_float(CONTENT)
    with pytest.raises(ValueError, match="`inputs` must be what the model takes") as caught:
        next(run_values(model, [{"x": X[:, :3]}], ["logits"]))
    assert "\n" not in str(caught.value)


def test_constants_that_are_inputs_as_well_are_constants():
    """As files before IR version 4 have them, and many exporters still write."""
    proto = onnx.ModelProto.FromString(CONTENT)
    before = [i.name for i in proto.graph.input]
    for tensor in proto.graph.initializer:
        proto.graph.input.append(onnx.helper.make_tensor_value_info(
            tensor.name, tensor.data_type, list(tensor.dims)))
    model = open_float(proto.SerializeToString())
    assert [i.name for i in model.proto.graph.input] == before == list(model.inputs)
