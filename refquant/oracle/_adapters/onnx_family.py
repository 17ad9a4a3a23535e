"""ONNX models of one node, run by onnxruntime and by the evaluator of the onnx package."""

import ctypes
from functools import lru_cache
from typing import Any

import numpy as np

from refquant._types import Array
from refquant.oracle._adapters._common import (
    library,
    parameters_as_bits,
    range_ends,
    scale_of,
    unsupported_affine,
    zero_of,
)
from refquant.oracle.adapters import Params, Reject, Types, codes_as_bits
from refquant.oracle.vectors import DTYPES, Named, bits, values

OPSET, IR = 25, 11                          # what onnxruntime 1.31 and 1.32 accept

TENSOR = {
    "float32": "FLOAT", "float16": "FLOAT16", "int8": "INT8", "uint8": "UINT8", "int16": "INT16",
    "uint16": "UINT16", "int32": "INT32", "int4": "INT4", "uint4": "UINT4", "int2": "INT2",
    "uint2": "UINT2", "float8_e4m3fn": "FLOAT8E4M3FN", "float8_e5m2": "FLOAT8E5M2",
    "float8_e4m3fnuz": "FLOAT8E4M3FNUZ", "float8_e5m2fnuz": "FLOAT8E5M2FNUZ",
    "float4_e2m1fn": "FLOAT4E2M1", "bfloat16": "BFLOAT16", "float8_e8m0fnu": "FLOAT8E8M0",
}  # fmt: skip
CODES = ("int8", "uint8", "int16", "uint16", "int4", "uint4", "int2", "uint2")
PER_BYTE = {"int4": 2, "uint4": 2, "int2": 4, "uint2": 4, "float4_e2m1fn": 2}
#: Rounding of a cast to a scale -> the attribute; its nearest takes ties up.
ROUND_MODE = {"up": "up", "half_up": "nearest"}
FLOATS = tuple(k for k in TENSOR if k.startswith(("float8", "float4")))


class _Onnx:
    """What both have in common."""

    name: str
    version: str
    _session: Any

    def supports(self, op: str, types: Types, params: Params) -> bool | str:
        if op in OPERATORS:
            return self._supports_operator(op, types, params)
        if op in ("pack", "unpack"):
            return "packing is that of the package onnx"
        if op == "cast":
            if types["x"] != "float32" or types["y"] not in FLOATS:
                return f"no Cast from {types['x']} to {types['y']} here"
            known = list(ROUND_MODE) if types["y"] == "float8_e8m0fnu" else ["even"]
            if params["rounding"] not in known:
                return f"Cast to {types['y']} rounds {' or '.join(known)}"
            return True
        wrong = unsupported_affine(op, types, params, codes=CODES, granularities=(
            "per_tensor", "per_axis", "per_block"))
        if wrong:
            return wrong
        if types["q"] in PER_BYTE and op == "dequantize_affine":
            return "inputs below 8 bits cannot be fed from Python"
        return True

    def _supports_operator(self, op: str, types: Types, params: Params) -> bool | str:
        if op == "quantization_parameters" and types["zero_point"] != "uint8":
            return "DynamicQuantizeLinear has codes of uint8 only"
        return True

    def run(self, op: str, types: Types, params: Params, inputs: Named) -> Named:
        if op in OPERATORS:
            return self._run_operator(op, types, params, inputs)
        (key, pattern), = inputs.items()
        out, = (k for k in types if k in ("x", "y", "q") and k != key)
        if op != "cast":
            low, high = params["qmin"], params["qmax"]
            zero, scale = zero_of(params), scale_of(params)
            if ((zero < low) | (zero > high)).any():
                raise Reject("the zero point does not fit its type")
            if not (np.isfinite(scale) & (scale > 0)).all():
                raise Reject("the text of the operator leaves such a scale open")
        x = np.array(values(np.asarray(pattern), types[key]), order="C")
        model = _model(op, types[key], types[out], x.ndim, *_frozen(params))
        return {out: self._session_run(model, x, types[out])}

    def _session_run(self, model: bytes, x: Array, out: str) -> Array:
        raise NotImplementedError

    def _run_operator(self, op: str, types: Types, params: Params, inputs: Named) -> Named:
        """Operators of several inputs, all of them data, none a constant that could be folded."""
        if op == "quantization_parameters":
            feed = {"x": range_ends(inputs)}
            _, scale, zero = self._outputs(_operator_model("dynamic_quantize", _X, (), ()), feed)
            return parameters_as_bits(scale, zero, types)
        feed = {key: np.array(values(np.asarray(pattern), types[key]), order="C")
                for key, pattern in inputs.items()}
        grid = _grid_of(op, types, params)
        feed.update((key, value) for key, (value, _) in grid.items())
        kinds = {**{k: types[k] for k in inputs}, **{k: kind for k, (_, kind) in grid.items()}}
        ends = tuple((k, kinds[k], feed[k].ndim) for k in feed)
        attributes = tuple((k, tuple(np.atleast_1d(params[k]).tolist())) for k in (
            "strides", "pads", "dilations", "group") if k in params)
        model = _operator_model(op, ends, attributes, (types.get("y", "int8"),))
        found = self._outputs(model, feed)
        if op == "dynamic_quantize":
            return {"y": codes_as_bits(found[0], "uint8"),
                    **parameters_as_bits(found[1], found[2], types)}
        name = "q" if op == "requantize_affine" else "y"
        return {name: codes_as_bits(found[0], types[name])}

    def _outputs(self, model: bytes, feed: dict[str, Array]) -> list[Array]:
        raise NotImplementedError


class OnnxRuntime(_Onnx):
    """onnxruntime, CPU."""

    name = "onnxruntime"

    def __init__(self) -> None:
        library("onnx")
        onnxruntime = library("onnxruntime")
        onnxruntime.set_default_logger_severity(4)
        self.version = onnxruntime.__version__
        self._session = lru_cache(maxsize=64)(self._made)

    def supports(self, op: str, types: Types, params: Params) -> bool | str:
        """See `Adapter.supports`."""
        if op == "cast" and types["y"] == "float4_e2m1fn":
            return "onnxruntime does not implement casts to FLOAT4E2M1"
        return super().supports(op, types, params)

    def _supports_operator(self, op: str, types: Types, params: Params) -> bool | str:
        if op == "conv_integer" and np.ndim(params["w_zero_point"]):
            return "its ConvInteger takes one zero point"
        return super()._supports_operator(op, types, params)

    def _outputs(self, model: bytes, feed: dict[str, Array]) -> list[Array]:
        return [np.asarray(v) for v in self._session(model).run(None, feed)]

    def _made(self, model: bytes) -> Any:
        onnxruntime = library("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        try:
            return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as err:
            raise Reject(_first_line(err)) from None

    def _session_run(self, model: bytes, x: Array, out: str) -> Array:
        feed = {"x": library("onnxruntime").OrtValue.ortvalue_from_numpy(x)}
        found = self._session(model).run_with_ort_values(["y"], feed)[0]
        shape = tuple(found.shape())
        count = int(np.prod(shape))
        per = PER_BYTE.get(out, 1)
        size = -(-count // per) * DTYPES[out]
        # Types below 8 bits and eight-bit floats have no NumPy view: read the memory.
        raw = ctypes.string_at(found.data_ptr(), size) if size else b""
        width = DTYPES[out]
        flat = np.frombuffer(raw, f"u{width}")
        if per > 1:
            bits_each = 8 // per
            shifted = flat[:, None] >> (np.arange(per) * bits_each).astype(np.uint8)
            flat = (shifted & (2**bits_each - 1)).astype(np.uint8).ravel()[:count]
            if out.startswith("int"):
                sign = 2 ** (bits_each - 1)
                flat = codes_as_bits((flat.astype(np.int64) ^ sign) - sign, out)
        return flat.reshape(shape)


class OnnxReference(_Onnx):
    """The ReferenceEvaluator of the onnx package."""

    name = "onnx.reference"

    def __init__(self) -> None:
        onnx, reference = library("onnx"), library("onnx.reference")
        self.version = onnx.__version__
        self._session = lru_cache(maxsize=64)(
            lambda model: reference.ReferenceEvaluator(onnx.load_from_string(model)))

    def supports(self, op: str, types: Types, params: Params) -> bool | str:
        """See `Adapter.supports`."""
        if op == "pack":
            if params["layout"] != "low_first" or params["bits"] not in (2, 4):
                return "its tensors hold codes of 2 and 4 bits, low first"
            return True if params["length"] else "no empty tensor"
        return super().supports(op, types, params)

    def run(self, op: str, types: Types, params: Params, inputs: Named) -> Named:
        """See `Adapter.run`."""
        if op != "pack":
            return super().run(op, types, params, inputs)
        kind = f"{'' if params['signed'] else 'U'}INT{params['bits']}"
        onnx = library("onnx")
        codes = values(np.asarray(inputs["codes"]), types["codes"])
        bits_, low = params["bits"], -(2 ** (params["bits"] - 1)) * params["signed"]
        if ((codes < low) | (codes >= low + 2**bits_)).any():
            raise Reject("a code does not fit")
        tensor = onnx.helper.make_tensor("t", getattr(onnx.TensorProto, kind), codes.shape,
                                         codes.tolist())
        words = np.array(tensor.int32_data, np.int64)
        return {"bytes": (words & 255).astype(np.uint8)}

    def _outputs(self, model: bytes, feed: dict[str, Array]) -> list[Array]:
        with np.errstate(all="ignore"):
            return [np.asarray(v) for v in self._session(model).run(None, feed)]

    def _session_run(self, model: bytes, x: Array, out: str) -> Array:
        with np.errstate(all="ignore"):
            found = np.asarray(self._session(model).run(None, {"x": x})[0])
        if out in CODES:
            return codes_as_bits(found.astype(np.int64), out)
        return bits(found)


class OnnxRuntimeTool:
    """The offline tool of onnxruntime: scale and zero point of a range."""

    name = "onnxruntime.tool"

    def __init__(self) -> None:
        self.version = library("onnxruntime").__version__
        self._tool = library("onnxruntime.quantization.quant_utils")

    def supports(self, op: str, types: Types, params: Params) -> bool | str:
        """See `Adapter.supports`."""
        return op == "quantization_parameters" or f"no {op}"

    def run(self, op: str, types: Types, params: Params, inputs: Named) -> Named:
        """See `Adapter.run`."""
        low, high = range_ends(inputs)
        try:
            with np.errstate(all="ignore"):
                zero, scale = self._tool.compute_scale_zp(
                    np.array(low), np.array(high), np.array(params["qmin"], types["zero_point"]),
                    np.array(params["qmax"], types["zero_point"]), symmetric=False)
        except (ValueError, AssertionError) as err:
            raise Reject(_first_line(err) if str(err) else "an assertion of its own") from None
        return parameters_as_bits(scale, zero, types)


#: Operation -> nodes: operator, names of its inputs and outputs.
OPERATORS: dict[str, tuple[tuple[str, list[str], list[str]], ...]] = {
    "matmul_integer": (("MatMulInteger", ["a", "b", "az", "bz"], ["y"]),),
    "conv_integer": (("ConvInteger", ["x", "w", "xz", "wz"], ["y"]),),
    "qlinear_matmul": (("QLinearMatMul", ["a", "as", "az", "b", "bs", "bz", "ys", "yz"], ["y"]),),
    "qlinear_conv": (("QLinearConv", ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz", "bias"],
                      ["y"]),),
    "dynamic_quantize": (("DynamicQuantizeLinear", ["x"], ["y", "s", "z"]),),
    "quantization_parameters": (),
    "requantize_affine": (("DequantizeLinear", ["x", "xs", "xz"], ["real"]),
                          ("QuantizeLinear", ["real", "ys", "yz"], ["y"])),
}  # fmt: skip
_X = (("x", "float32", 1),)


def _grid_of(op: str, types: Types, params: Params) -> dict[str, tuple[Array, str]]:
    """Scales and zero points of an operation by the names above, each with its type."""
    of = {"a": "a", "b": "b", "x": "x", "w": "w", "y": "y"}
    if op == "requantize_affine":
        names = {"xs": "input_scale", "xz": "input_zero_point", "ys": "scale", "yz": "zero_point"}
        kinds = {"x": types["x"], "y": types["q"]}
    else:
        names = {f"{k}{end}": f"{k}_{word}" for k in of for end, word in (
            ("s", "scale"), ("z", "zero_point"))}
        kinds = {k: types[k] for k in of if k in types}
    found = {}
    for name, parameter in names.items():
        if parameter not in params:
            continue
        if name[1] == "s":
            found[name] = np.array(values(params[parameter], "float32")), "float32"
        else:
            found[name] = np.array(params[parameter]).astype(kinds[name[0]]), kinds[name[0]]
    return found


@lru_cache(maxsize=256)
def _operator_model(
    op: str, ends: tuple[tuple[str, str, int], ...], attributes: tuple[tuple[str, Any], ...],
    outs: tuple[str, ...],
) -> bytes:
    onnx = library("onnx")
    helper = onnx.helper
    given = {key: value[0] if key == "group" else list(value) for key, value in attributes}
    nodes = [helper.make_node(kind, names, results, **given)
             for kind, names, results in OPERATORS[op]]
    tensors = [helper.make_tensor_value_info(
        name, getattr(onnx.TensorProto, TENSOR[kind]), [None] * rank) for name, kind, rank in ends]
    kinds = ["UINT8", "FLOAT", "UINT8"] if op == "dynamic_quantize" else [
        TENSOR["int32" if op.endswith("integer") else outs[0]]]
    results = [helper.make_tensor_value_info(name, getattr(onnx.TensorProto, kind), None)
               for name, kind in zip(nodes[-1].output, kinds, strict=True)]
    graph = helper.make_graph(nodes, "one", tensors, results)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    return bytes(model.SerializeToString())


def _frozen(params: Params) -> tuple[Any, ...]:
    """Parameters that can be a key of a cache."""
    if "scale" not in params:
        return (params.get("overflow", "saturate"), params.get("rounding", "even"))
    scale, zero = scale_of(params), zero_of(params)
    return (scale.tobytes(), scale.shape, zero.tobytes(), params.get("granularity", "per_tensor"),
            params.get("axis", 0), params.get("block_size", 0))


@lru_cache(maxsize=256)
def _model(op: str, source: str, target: str, rank: int, *key: Any) -> bytes:
    onnx = library("onnx")
    helper = onnx.helper

    def kind(name: str) -> int:
        return int(getattr(onnx.TensorProto, TENSOR[name]))

    attributes: dict[str, Any] = {}
    initializers, names = [], ["x"]
    if op == "cast":
        attributes = {"to": kind(target)}
        if target.startswith("float8"):
            attributes["saturate"] = int(key[0] == "saturate")
        if target == "float8_e8m0fnu":
            attributes["round_mode"] = ROUND_MODE[key[1]]
    else:
        scale_bytes, shape, zero_bytes, granularity, axis, block = key
        code = target if op == "quantize_affine" else source
        scale = np.frombuffer(scale_bytes, np.float32).reshape(shape)
        zero = np.broadcast_to(np.frombuffer(zero_bytes, np.int64).reshape(-1), scale.size)
        initializers = [
            helper.make_tensor("s", kind("float32"), shape, scale.ravel()),
            helper.make_tensor("z", kind(code), shape, zero.ravel().tolist()),
        ]
        names += ["s", "z"]
        if granularity != "per_tensor":
            attributes["axis"] = axis
        if granularity == "per_block":
            attributes["block_size"] = block
    kinds = {"cast": "Cast", "quantize_affine": "QuantizeLinear",
             "dequantize_affine": "DequantizeLinear"}
    node = helper.make_node(kinds[op], names, ["y"], **attributes)
    ends = [helper.make_tensor_value_info(n, kind(t), [None] * rank)
            for n, t in (("x", source), ("y", target))]
    graph = helper.make_graph([node], "one", ends[:1], ends[1:], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    return bytes(model.SerializeToString())


def _first_line(err: Exception) -> str:
    return str(err).strip().splitlines()[0][:200]
