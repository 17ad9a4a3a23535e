"""LiteRT's QUANTIZE and DEQUANTIZE by its three sets of kernels, in a model of one operation."""

from functools import lru_cache
from typing import Any

import numpy as np

from refquant.oracle._adapters._common import library, scale_of, unsupported_affine, zero_of
from refquant.oracle.adapters import Params, Reject, Types, codes_as_bits
from refquant.oracle.vectors import Named, bits, values

TYPES = {"float32": "FLOAT32", "int8": "INT8", "uint8": "UINT8", "int16": "INT16"}


class Reference:
    """The reference kernels: BUILTIN_REF."""

    name = "litert.reference"
    resolver = "BUILTIN_REF"

    def __init__(self) -> None:
        self._litert = library("ai_edge_litert.interpreter")
        library("flatbuffers")
        self.version = _version()
        self._session = lru_cache(maxsize=256)(self._made)

    def supports(self, op: str, types: Types, params: Params) -> bool | str:
        if op == "requantize_affine":
            return True
        wrong = unsupported_affine(op, types, params, codes=("int8", "uint8", "int16"))
        if wrong:
            return wrong
        if types["q"] == "int16" and params["zero_point"] != 0:
            return "int16 must have the zero point 0"
        return True

    def run(self, op: str, types: Types, params: Params, inputs: Named) -> Named:
        if op == "requantize_affine":
            return self._rescaled(params, inputs)
        (key, pattern), = inputs.items()
        out = "q" if key == "x" else "x"
        scale, zero = float(scale_of(params)), int(zero_of(params))
        if not params["qmin"] <= zero <= params["qmax"]:
            raise Reject("the zero point is no code")
        if not (np.isfinite(scale) and scale > 0):
            raise Reject("such a scale is not meant")
        given = np.array(values(np.asarray(pattern), types[key]))
        session = self._session(op, types[key], types[out], given.size, (scale, zero))
        if not given.size:
            return {out: np.zeros(given.shape, f"u{4 if out == 'x' else given.itemsize}")}
        session.set_tensor(session.get_input_details()[0]["index"], given.ravel())
        session.invoke()
        found = session.get_tensor(session.get_output_details()[0]["index"]).reshape(given.shape)
        return {out: bits(found) if out == "x" else codes_as_bits(found, types["q"])}

    def _rescaled(self, params: Params, inputs: Named) -> Named:
        grids = [(float(values(params[s], "float32")), int(params[z])) for s, z in (
            ("input_scale", "input_zero_point"), ("scale", "zero_point"))]
        given = np.array(values(np.asarray(inputs["x"]), "int8"))
        session = self._session("quantize", "int8", "int8", given.size, *grids)
        session.set_tensor(session.get_input_details()[0]["index"], given)
        session.invoke()
        return {"q": codes_as_bits(session.get_tensor(
            session.get_output_details()[0]["index"]), "int8")}

    def _made(self, op: str, source: str, target: str, n: int, *grids: tuple[float, int]) -> Any:
        resolvers = self._litert.OpResolverType
        session = self._litert.Interpreter(
            model_content=_model(op, source, target, n, grids),
            experimental_op_resolver_type=getattr(resolvers, self.resolver), num_threads=1)
        try:
            session.allocate_tensors()
        except RuntimeError as err:             # DEQUANTIZE refuses what crashes QUANTIZE
            raise Reject(str(err).splitlines()[0]) from None
        return session


class Builtin(Reference):
    """The optimized kernels, without a delegate."""

    name = "litert.builtin"
    resolver = "BUILTIN_WITHOUT_DEFAULT_DELEGATES"


class Xnnpack(Reference):
    """The default: XNNPACK takes what it can."""

    name = "litert.xnnpack"
    resolver = "AUTO"

    def supports(self, op: str, types: Types, params: Params) -> bool | str:
        """See `Adapter.supports`."""
        if types.get("q") == "int16":
            return "XNNPACK leaves int16 to the builtin kernels"
        return super().supports(op, types, params)


def _version() -> str:
    from importlib.metadata import version

    return version("ai-edge-litert")


def _model(
    op: str, source: str, target: str, n: int, grids: tuple[tuple[float, int], ...]
) -> bytes:
    """One node; a scale and zero point for each tensor of codes, in order."""
    flatbuffers, schema = library("flatbuffers"), library("ai_edge_litert.schema_py_generated")
    code = schema.OperatorCodeT()
    name = op.removesuffix("_affine").upper()
    code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
    code.version = 1 if source != "int16" and target != "int16" else 3
    tensors, left = [], list(grids)
    for kind in (source, target):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer = kind.encode(), [n], 0
        tensor.type = getattr(schema.TensorType, TYPES[kind])
        if kind != "float32":
            tensor.quantization = schema.QuantizationParametersT()
            scale, zero = left.pop(0)
            tensor.quantization.scale, tensor.quantization.zeroPoint = [scale], [zero]
        tensors.append(tensor)
    node = schema.OperatorT()
    node.opcodeIndex, node.inputs, node.outputs = 0, [0], [1]
    options = {"QUANTIZE": "QuantizeOptions", "DEQUANTIZE": "DequantizeOptions"}[name]
    node.builtinOptionsType = getattr(schema.BuiltinOptions, options)
    node.builtinOptions = getattr(schema, options + "T")()
    graph = schema.SubGraphT()
    graph.tensors, graph.operators, graph.inputs, graph.outputs = tensors, [node], [0], [1]
    model = schema.ModelT()
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    model.buffers = [schema.BufferT()]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
