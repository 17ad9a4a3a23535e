"""Every quantization node test of the installed onnx package, run by refquant alone."""

import warnings

import numpy as np
import pytest

from refquant.integer.dialects import ONNXRUNTIME, dynamic_quantize
from refquant.integer.onnx_operators import (
    INT2,
    INT4,
    INT8,
    INT16,
    UINT2,
    UINT4,
    UINT8,
    UINT16,
    IntegerFormat,
    cast_integers,
    cast_to_codes,
    cast_to_values,
    dequantize_linear,
    quantize_linear,
)
from refquant.integer.onnx_products import (
    ConvGeometry,
    conv_integer,
    matmul_integer,
    qlinear_conv,
    qlinear_matmul,
    same_lower,
    same_upper,
)
from refquant.quantizers.minifloat import (
    E2M1,
    E2M3,
    E3M2,
    E4M3FN,
    E4M3FNUZ,
    E5M2,
    E5M2FNUZ,
    E8M0,
)
from refquant.quantizers.uniform import Uniform
from refquant.rounding import ceil, floor, half_up

onnx = pytest.importorskip("onnx")
loader = pytest.importorskip("onnx.backend.test.loader")
pytestmark = pytest.mark.peer

#: ONNX's short types. FORMATS says which of its tests are about quantization.
FORMATS = {
    "FLOAT8E4M3FN": E4M3FN, "FLOAT8E4M3FNUZ": E4M3FNUZ, "FLOAT8E5M2": E5M2,
    "FLOAT8E5M2FNUZ": E5M2FNUZ, "FLOAT8E8M0": E8M0, "FLOAT6E2M3": E2M3, "FLOAT6E3M2": E3M2,
    "FLOAT4E2M1": E2M1, "INT4": INT4, "UINT4": UINT4, "INT2": INT2, "UINT2": UINT2,
}  # fmt: skip
INTEGERS = {"INT8": INT8, "UINT8": UINT8, "INT16": INT16, "UINT16": UINT16}
OPERATORS = {
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearMatMul",
    "QLinearConv", "MatMulInteger", "ConvInteger",
}  # fmt: skip

#: Tests by operator, in onnx 1.23. Fewer means that some are no longer collected.
AT_LEAST = {
    "QuantizeLinear": 13, "DequantizeLinear": 14, "DynamicQuantizeLinear": 3,
    "DynamicQuantizeLinear, expanded": 3, "QLinearMatMul": 8, "QLinearConv": 1,
    "MatMulInteger": 1, "ConvInteger": 2, "Cast": 100, "CastLike": 48,
}  # fmt: skip

#: The tests whose expected bits refquant does not return, and why: name -> reason.
UNSIGNED_NAN = (
    "the NaN of FNUZ formats has the code of -0; its sign bit is a marker, not a sign. "
    "ml_dtypes decodes it to a negative NaN, refquant to a positive one"
)
EXCEPTIONS = {
    f"test_{cast}_{source}_to_{to}{expanded}": UNSIGNED_NAN
    for source in ("FLOAT8E4M3FNUZ", "FLOAT8E5M2FNUZ")
    for to in ("FLOAT", "FLOAT16")
    for cast, expanded in (("cast", ""), ("castlike", ""), ("castlike", "_expanded"))
}


def name_of(type_number):
    return onnx.TensorProto.DataType.Name(type_number)


def is_about_quantization(case):
    nodes = {node.op_type for node in case.model.graph.node}
    ends = [*case.model.graph.input, *case.model.graph.output]
    types = {name_of(end.type.tensor_type.elem_type) for end in ends}
    return bool(nodes & OPERATORS) or ("Cast" in str(nodes) and bool(types & FORMATS.keys()))


def operator(case):
    nodes = [node.op_type for node in case.model.graph.node]
    return nodes[0] if len(nodes) == 1 else "DynamicQuantizeLinear, expanded"


@pytest.fixture(scope="module")
def cases():
    """All of them, by name; building the 1,900 node tests of the package takes seconds."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        every = loader.load_model_tests(kind="node")
    return {case.name: case for case in every if case.model and is_about_quantization(case)}


class Tensor:
    """What a node reads and writes: plain arrays, short types as codes, the type by name."""

    def __init__(self, array, kind):
        self.array, self.kind = np.asarray(array), kind

    @classmethod
    def of_onnx(cls, array, kind):
        """From the arrays of the onnx package: ml_dtypes are read as bytes, not calculated with."""
        if isinstance(array, onnx.TensorProto):
            array = onnx.numpy_helper.to_array(array)
        array = np.asarray(array)
        if kind in FORMATS and not isinstance(FORMATS[kind], IntegerFormat):
            array = array.view(np.uint8).astype(np.int32)
        elif kind in FORMATS or kind in INTEGERS:
            array = array.astype(np.int32)
        return cls(array, kind)

    @property
    def format(self):
        return FORMATS.get(self.kind) or INTEGERS[self.kind]

    def bits(self):
        """What is compared: the bytes of floats, the codes of all else."""
        if self.array.dtype.kind == "f":
            return self.array.view(f"u{self.array.itemsize}").tolist()
        return self.array.tolist()


DTYPES = {"FLOAT": np.float32, "FLOAT16": np.float16, "DOUBLE": np.float64}
ROUND_MODES = {"up": ceil, "down": floor, "nearest": half_up}
AUTO_PAD = {"SAME_UPPER": same_upper, "SAME_LOWER": same_lower}


def attributes_of(node):
    values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return {k: v.decode() if isinstance(v, bytes) else v for k, v in values.items()}


def kind_of(output_type, otherwise):
    return name_of(output_type) if output_type else otherwise


def run_cast(x, to, *, saturate=1, round_mode="up"):
    kind = name_of(to)
    if kind in DTYPES:
        return Tensor(cast_to_values(x.array, x.format, DTYPES[kind]), kind)
    target = FORMATS.get(kind) or INTEGERS[kind]
    if x.kind not in DTYPES:
        return Tensor(cast_integers(x.array, target), kind)
    rounding = ROUND_MODES[round_mode]
    return Tensor(cast_to_codes(x.array, target, saturate=bool(saturate), rounding=rounding), kind)


def run_castlike(x, like, **attributes):
    return run_cast(x, onnx.TensorProto.DataType.Value(like.kind), **attributes)


def run_quantize(x, scale, zero=None, *, output_dtype=0, saturate=1, **attributes):
    kind = zero.kind if zero else kind_of(output_dtype, "UINT8")
    target = FORMATS.get(kind) or INTEGERS[kind]
    z = zero.array if zero else 0
    return Tensor(quantize_linear(x.array, scale.array, z, output=target,
                                  saturate=bool(saturate), **attributes), kind)  # fmt: skip


def run_dequantize(x, scale, zero=None, *, output_dtype=0, **attributes):
    kind = kind_of(output_dtype, scale.kind)
    z = zero.array if zero else 0
    y = dequantize_linear(x.array, scale.array, z, source=x.format, output_dtype=DTYPES[kind],
                          **attributes)  # fmt: skip
    return Tensor(y, kind)


def run_dynamic(x):
    codes, q = dynamic_quantize(x.array, ONNXRUNTIME)
    return Tensor(codes, "UINT8"), Tensor(q.scale, "FLOAT"), Tensor(q.zero_point, "UINT8")


def zero_point(tensor, along):
    """A vector of ONNX in the rank of the data: along its rows, columns or channels."""
    if tensor is None:
        return np.array(0)
    return tensor.array.reshape(()) if tensor.array.size == 1 else tensor.array.reshape(along)


def uniform(scale, zero, along=()):
    s = zero_point(scale, along).astype(np.float32)
    return Uniform(s, zero_point(zero, along), zero.format.qmin, zero.format.qmax)


ROWS, COLUMNS, CHANNELS = (-1, 1), (1, -1), (-1, 1, 1, 1)


def run_matmul_integer(a, b, a_zero=None, b_zero=None):
    zeros = zero_point(a_zero, ROWS), zero_point(b_zero, COLUMNS)
    return Tensor(matmul_integer(a.array, b.array, *zeros), "INT32")


def run_qlinear_matmul(a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero):
    y = qlinear_matmul(a.array, uniform(a_scale, a_zero, ROWS), b.array,
                       uniform(b_scale, b_zero, COLUMNS), uniform(y_scale, y_zero))  # fmt: skip
    return Tensor(y, y_zero.kind)


def geometry(kernel_shape=(), auto_pad="NOTSET", group=1, **per_axis):
    tuples = {k: tuple(v) for k, v in per_axis.items()}
    return ConvGeometry(group=group, auto_pad=AUTO_PAD.get(auto_pad), **tuples)


def run_conv_integer(x, w, x_zero=None, w_zero=None, **attributes):
    zeros = zero_point(x_zero, ()), zero_point(w_zero, CHANNELS)
    y = conv_integer(x.array, w.array, *zeros, geometry=geometry(**attributes))
    return Tensor(y, "INT32")


def run_qlinear_conv(x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias=None,
                     **attributes):  # fmt: skip
    y = qlinear_conv(x.array, uniform(x_scale, x_zero), w.array, uniform(w_scale, w_zero, CHANNELS),
                     uniform(y_scale, y_zero), bias.array if bias else 0,
                     geometry=geometry(**attributes))  # fmt: skip
    return Tensor(y, y_zero.kind)


def of_numpy(function):
    """An operator of the expanded DynamicQuantizeLinear that has nothing to do with codes."""
    return lambda *tensors: Tensor(function(*(t.array for t in tensors)), tensors[0].kind)


def run_constant(*, value):
    return Tensor(onnx.numpy_helper.to_array(value), name_of(value.data_type))


RUN = {
    "Cast": run_cast, "CastLike": run_castlike, "QuantizeLinear": run_quantize,
    "DequantizeLinear": run_dequantize, "DynamicQuantizeLinear": run_dynamic,
    "MatMulInteger": run_matmul_integer, "QLinearMatMul": run_qlinear_matmul,
    "ConvInteger": run_conv_integer, "QLinearConv": run_qlinear_conv,
    "Constant": run_constant, "Min": of_numpy(np.minimum), "Max": of_numpy(np.maximum),
    "Sub": of_numpy(np.subtract), "Div": of_numpy(np.divide), "Round": of_numpy(np.rint),
    "Clip": of_numpy(np.clip), "Identity": of_numpy(np.array),
    "ReduceMin": lambda x, keepdims: Tensor(x.array.min(keepdims=bool(keepdims)), x.kind),
    "ReduceMax": lambda x, keepdims: Tensor(x.array.max(keepdims=bool(keepdims)), x.kind),
}  # fmt: skip


def outputs_of(model, inputs):
    """The graph, node by node; a missing optional input is None."""
    known = {"": None}
    for end, array in zip(model.graph.input, inputs, strict=True):
        known[end.name] = Tensor.of_onnx(array, name_of(end.type.tensor_type.elem_type))
    for node in model.graph.node:
        results = RUN[node.op_type](*(known[n] for n in node.input), **attributes_of(node))
        results = results if isinstance(results, tuple) else (results,)
        known.update(zip(node.output, results, strict=True))
    return [known[end.name] for end in model.graph.output]


def answers(case):
    """Pairs of what came out and what the standard expects, for every output."""
    assert case.data_sets
    for inputs, expected in case.data_sets:
        kinds = [name_of(end.type.tensor_type.elem_type) for end in case.model.graph.output]
        wanted = [Tensor.of_onnx(y, kind) for y, kind in zip(expected, kinds, strict=True)]
        yield from zip(outputs_of(case.model, inputs), wanted, strict=True)


def complaint(case):
    """What is wrong with the answers to one test; nothing: an empty string."""
    for found, wanted in answers(case):
        if found.kind != wanted.kind or found.array.shape != wanted.array.shape:
            return f"{found.kind} {found.array.shape} for {wanted.kind} {wanted.array.shape}"
        if found.bits() != wanted.bits():
            return f"{found.array.tolist()} for {wanted.array.tolist()}"
    return ""


@pytest.mark.parametrize("name", list(AT_LEAST))
def test_node_tests_of_the_standard_pass_bit_for_bit(cases, name):
    chosen = [case for case in cases.values() if operator(case) == name]
    assert len(chosen) >= AT_LEAST[name]
    complaints = {case.name: complaint(case) for case in chosen if case.name not in EXCEPTIONS}
    assert not {name: what for name, what in complaints.items() if what}


@pytest.mark.parametrize("name", list(EXCEPTIONS))
def test_exceptions_differ_in_the_sign_of_nan_alone(cases, name):
    for found, wanted in answers(cases[name]):
        assert found.bits() != wanted.bits()
        is_nan = np.isnan(wanted.array)
        assert np.array_equal(np.isnan(found.array), is_nan)
        number = Tensor(found.array[~is_nan], found.kind)
        assert number.bits() == Tensor(wanted.array[~is_nan], wanted.kind).bits()
        assert np.signbit(wanted.array[is_nan]).all()
        assert not np.signbit(found.array[is_nan]).any()


def test_no_node_test_is_left_out(cases):
    assert {operator(case) for case in cases.values()} == set(AT_LEAST)
    assert len(cases) >= sum(AT_LEAST.values()) == 193
    assert set(EXCEPTIONS) <= set(cases)
    assert len(EXCEPTIONS) == 12
