"""PyTorch's three ways to quantize, and torchao's."""

import warnings
from typing import Any

import numpy as np

from refquant._types import Array
from refquant.oracle._adapters._common import library, scale_of, unsupported_affine, zero_of
from refquant.oracle.adapters import Params, Reject, Types, codes_as_bits
from refquant.oracle.vectors import Named, bits, values

FLOAT8 = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")


class _Torch:
    name: str
    codes: tuple[str, ...] = ("int8", "uint8")
    ops: tuple[str, ...] = ("quantize_affine",)
    granularities: tuple[str, ...] = ("per_tensor",)
    whole_range = True

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")     # torch announces removals at import
            self._torch = library("torch")
            self._torch.set_num_threads(1)
            self._prepare()
        self.version = self._version()

    def _prepare(self) -> None:
        """Imports beyond torch."""

    def _version(self) -> str:
        return str(self._torch.__version__)

    def supports(self, op: str, types: Types, params: Params) -> bool | str:
        return unsupported_affine(
            op, types, params, codes=self.codes, ops=self.ops, granularities=self.granularities,
            whole_range=self.whole_range) or True

    def run(self, op: str, types: Types, params: Params, inputs: Named) -> Named:
        scale, zero = scale_of(params), zero_of(params)
        if ((zero < params["qmin"]) | (zero > params["qmax"])).any():
            raise Reject("the zero point is no code")
        if not (np.isfinite(scale) & (scale > 0)).all():
            raise Reject("such a scale is not meant")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if op == "dequantize_affine":
                q = values(np.asarray(inputs["q"]), types["q"])
                return {"x": bits(self._decode(q, types, params).astype(np.float32))}
            x = np.array(values(np.asarray(inputs["x"]), "float32"), order="C")
            return {"q": codes_as_bits(self._encode(x, types, params), types["q"])}

    def _encode(self, x: Array, types: Types, params: Params) -> Array:
        raise NotImplementedError

    def _decode(self, q: Array, types: Types, params: Params) -> Array:
        raise NotImplementedError

    def _cast_tensor(self, x: Array) -> Any:
        return self._torch.from_numpy(np.array(x))


class Fbgemm(_Torch):
    """torch.quantize_per_tensor; int8 and uint8."""

    name = "torch.fbgemm"
    ops = ("quantize_affine", "dequantize_affine")

    def _encode(self, x: Array, types: Types, params: Params) -> Array:
        torch = self._torch
        kind = torch.qint8 if types["q"] == "int8" else torch.quint8
        made = torch.quantize_per_tensor(
            self._cast_tensor(x), float(scale_of(params)), int(zero_of(params)), kind)
        return np.asarray(made.int_repr().numpy())

    def _decode(self, q: Array, types: Types, params: Params) -> Array:
        made = self._torch._make_per_tensor_quantized_tensor(
            self._cast_tensor(q), float(scale_of(params)), int(zero_of(params)))
        return np.asarray(made.dequantize().numpy())


class FakeQuantize(_Torch):
    """torch.fake_quantize_per_tensor_affine; the code is read off the value it stands for."""

    name = "torch.fake_quantize"
    codes = ("int8", "uint8", "int4", "uint4", "int2", "uint2", "int16", "uint16")
    whole_range = False

    def supports(self, op: str, types: Types, params: Params) -> bool | str:
        if op == "fake_quantize":
            return True
        known = super().supports(op, types, params)
        if known is True:
            farthest = max(params["qmax"] - params["zero_point"], 0) * float(scale_of(params))
            lowest = min(params["qmin"] - params["zero_point"], 0) * float(scale_of(params))
            if max(farthest, -lowest) > np.finfo(np.float32).max:
                return "no code can be read off values that overflow"
        return known

    def run(self, op: str, types: Types, params: Params, inputs: Named) -> Named:
        if op != "fake_quantize":
            return super().run(op, types, params, inputs)
        x = self._cast_tensor(values(np.asarray(inputs["x"]), "float32"))
        y, mask = self._torch.ops.aten.fake_quantize_per_tensor_affine_cachemask(
            x, float(scale_of(params)), int(zero_of(params)), params["qmin"], params["qmax"])
        return {"y": bits(y.numpy()), "mask": mask.numpy().astype(np.uint8)}

    def _encode(self, x: Array, types: Types, params: Params) -> Array:
        scale, zero = float(scale_of(params)), int(zero_of(params))
        found = self._torch.fake_quantize_per_tensor_affine(
            self._cast_tensor(x), scale, zero, params["qmin"], params["qmax"]).numpy()
        # The value is (q - z) * s rounded to float32: the code is its nearest multiple.
        return np.rint(found.astype(np.float64) / scale) + zero


class Decomposed(_Torch):
    """The operators of torch.export: torch.ops.quantized_decomposed."""

    name = "torch.decomposed"
    codes = ("int8", "uint8", "int16", "int4", "uint4", "int2", "uint2")
    ops = ("quantize_affine", "dequantize_affine")
    whole_range = False

    def _prepare(self) -> None:
        library("torch.ao.quantization.fx._decomposed")

    def _settings(self, types: Types, params: Params) -> tuple[Any, ...]:
        torch = self._torch
        kind = {"int16": torch.int16}.get(
            types["q"], torch.int8 if types["q"].startswith("int") else torch.uint8)
        return (float(scale_of(params)), int(zero_of(params)), params["qmin"], params["qmax"], kind)

    def _encode(self, x: Array, types: Types, params: Params) -> Array:
        quantize = self._torch.ops.quantized_decomposed.quantize_per_tensor
        return np.asarray(quantize(self._cast_tensor(x), *self._settings(types, params)).numpy())

    def _decode(self, q: Array, types: Types, params: Params) -> Array:
        dequantize = self._torch.ops.quantized_decomposed.dequantize_per_tensor
        return np.asarray(dequantize(self._cast_tensor(q), *self._settings(types, params)).numpy())


class TorchAo(_Torch):
    """torchao's quantize_affine and dequantize_affine, one block over the tensor."""

    name = "torchao"
    codes = ("int8", "uint8", "int4", "uint4", "int2", "uint2")
    ops = ("quantize_affine", "dequantize_affine")
    whole_range = False

    def _prepare(self) -> None:
        self._ao = library("torchao")
        self._primitives = library("torchao.quantization.quant_primitives")

    def _version(self) -> str:
        return str(self._ao.__version__)

    def _grid(self, types: Types, params: Params) -> tuple[Any, ...]:
        torch = self._torch
        kind = torch.int8 if types["q"].startswith("int") else torch.uint8
        scale = torch.tensor(np.array(scale_of(params)))
        return scale, torch.tensor(int(zero_of(params))), kind, params["qmin"], params["qmax"]

    def _encode(self, x: Array, types: Types, params: Params) -> Array:
        if x.ndim == 0:
            return self._encode(x[None], types, params)[0]
        return np.asarray(self._primitives.quantize_affine(
            self._cast_tensor(x), x.shape, *self._grid(types, params)).numpy())

    def _decode(self, q: Array, types: Types, params: Params) -> Array:
        if q.ndim == 0:
            return self._decode(q[None], types, params)[0]
        return np.asarray(self._primitives.dequantize_affine(
            self._cast_tensor(q), q.shape, *self._grid(types, params)).numpy())


class TorchCast(_Torch):
    """Tensor.to of the four eight-bit floats."""

    name = "torch.cast"

    def supports(self, op: str, types: Types, params: Params) -> bool | str:
        if op != "cast":
            return f"no adapter for {op}"
        if types["x"] != "float32" or types["y"] not in FLOAT8:
            return "from float32 to an eight-bit float only"
        # Since 2.12 a cast to E4M3FN saturates; the others keep to IEEE.
        policy = "saturate" if types["y"] == "float8_e4m3fn" else "ieee"
        if (params["overflow"], params["rounding"]) != (policy, "even"):
            return f"its only policy beyond the largest is {policy}, its rounding even"
        return True

    def run(self, op: str, types: Types, params: Params, inputs: Named) -> Named:
        x = self._cast_tensor(values(np.asarray(inputs["x"]), "float32"))
        codes = x.to(getattr(self._torch, types["y"])).view(self._torch.uint8)
        return {"y": np.asarray(codes.numpy())}
