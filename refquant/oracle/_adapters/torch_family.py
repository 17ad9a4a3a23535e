"""PyTorch's three ways to quantize, its casts, and torchao."""

import warnings
from typing import Any

import numpy as np

from refquant._types import Array
from refquant.oracle._adapters._common import (
    library,
    parameters_as_bits,
    range_ends,
    scale_of,
    unpacked_nibbles,
    unsupported_affine,
    zero_of,
)
from refquant.oracle.adapters import Params, Reject, Types, codes_as_bits
from refquant.oracle.vectors import Named, bits, values

FLOAT8 = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")


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

    def supports(self, op: str, types: Types, params: Params) -> bool | str:
        """See `Adapter.supports`."""
        return op == "quantization_parameters" or super().supports(op, types, params)

    def run(self, op: str, types: Types, params: Params, inputs: Named) -> Named:
        """See `Adapter.run`."""
        if op != "quantization_parameters":
            return super().run(op, types, params, inputs)
        # It knows one range, of unsigned codes: a signed one is that shifted by 128.
        try:
            scale, zero = self._torch._choose_qparams_per_tensor(
                self._cast_tensor(range_ends(inputs)), False)
        except RuntimeError as err:
            raise Reject(str(err).splitlines()[0]) from None
        return parameters_as_bits(scale, zero + params["qmin"], types)

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
            if max(farthest, -lowest) > float(np.finfo(np.float32).max):
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

    def supports(self, op: str, types: Types, params: Params) -> bool | str:
        """See `Adapter.supports`."""
        return op == "quantization_parameters" or super().supports(op, types, params)

    def run(self, op: str, types: Types, params: Params, inputs: Named) -> Named:
        """See `Adapter.run`."""
        if op != "quantization_parameters":
            return super().run(op, types, params, inputs)
        torch = self._torch
        scale, zero = torch.ops.quantized_decomposed.choose_qparams.tensor(
            self._cast_tensor(range_ends(inputs)), params["qmin"], params["qmax"],
            float(torch.finfo(torch.float32).eps), getattr(torch, types["zero_point"]))
        # It computes in float32 and returns the scale as float64.
        return parameters_as_bits(scale.to(torch.float32).numpy(), zero.numpy(), types)

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


class TorchAoFormats(TorchAo):
    """The rest of torchao: ranges, NF4, NVFP4, packing of nibbles, stochastic bfloat16."""

    name = "torchao.formats"

    def supports(self, op: str, types: Types, params: Params) -> bool | str:
        """See `Adapter.supports`."""
        if op in ("pack", "unpack"):
            known = (params["layout"], params["bits"], params["signed"]) == ("low_first", 4, 0)
            if known and params["length"] and params["length"] % 2 == 0:
                return True
            return "its pack_uint4 takes an even number of nibbles, low first"
        return op in self._others() or f"no adapter for {op}"

    def run(self, op: str, types: Types, params: Params, inputs: Named) -> Named:
        """See `Adapter.run`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return dict(self._others()[op](types, params, inputs))

    def _others(self) -> dict[str, Any]:
        return {"quantization_parameters": self._parameters, "quantize_nf4": self._to_nf4,
                "dequantize_nf4": self._from_nf4, "quantize_nvfp4": self._to_nvfp4,
                "stochastic_bfloat16": self._stochastic, "pack": self._pack,
                "unpack": self._unpack}

    def _parameters(self, types: Types, params: Params, inputs: Named) -> Named:
        torch, ends = self._torch, range_ends(inputs)
        scale, zero = self._primitives.choose_qparams_affine(
            self._cast_tensor(ends), self._primitives.MappingType.ASYMMETRIC, (2,),
            torch.int8 if types["zero_point"] == "int8" else torch.uint8,
            params["qmin"], params["qmax"])
        return parameters_as_bits(scale.numpy(), zero.numpy(), types)

    def _nf4(self) -> Any:
        return library("torchao.quantization.quantize_.workflows.nf4.nf4_tensor").NF4Tensor

    def _nf4_table(self) -> Any:
        ramp = self._torch.linspace(-1, 1, 256 * 64).reshape(256, 64)
        return self._nf4().from_tensor(ramp, 64, 256).nf4

    def _to_nf4(self, types: Types, params: Params, inputs: Named) -> Named:
        x = self._cast_tensor(np.atleast_1d(values(np.asarray(inputs["x"]), "float32")))
        codes = self._nf4().quantize_tensor_nearest(x, self._nf4_table()).numpy()
        return {"q": codes.astype(np.uint8).reshape(np.shape(inputs["x"]))}

    def _from_nf4(self, types: Types, params: Params, inputs: Named) -> Named:
        scale = self._cast_tensor(np.array(values(np.asarray(params["scale"]), "float32")))
        codes = self._cast_tensor(np.asarray(inputs["q"]).astype(np.int64))
        return {"x": bits((self._nf4_table()[codes] * scale).numpy())}

    def _to_nvfp4(self, types: Types, params: Params, inputs: Named) -> Named:
        module = library("torchao.prototype.mx_formats.nvfp4_tensor")
        x = self._cast_tensor(np.array(values(inputs["x"], "float32"), order="C"))
        tensor = module.per_tensor_amax_to_scale(x.abs().max())
        scale, packed = module.nvfp4_quantize(x, 16, tensor)
        return {"tensor_scale": bits(tensor.numpy()),
                "scale": scale.view(self._torch.uint8).numpy().reshape(-1),
                "codes": unpacked_nibbles(packed.numpy()).reshape(x.shape)}

    def _stochastic(self, types: Types, params: Params, inputs: Named) -> Named:
        torch = self._torch
        module = library("torchao.optim.quant_utils")
        x = self._cast_tensor(np.array(values(inputs["x"], "float32"), order="C"))
        word = self._cast_tensor(np.asarray(inputs["word"]).astype(np.int32))
        drawn, torch.randint = torch.randint, lambda *_, **__: word     # the word is the question
        try:
            found = module._fp32_to_bf16_sr(x)
        finally:
            torch.randint = drawn
        return {"y": found.view(torch.int16).numpy().view(np.uint16)}

    def _pack(self, types: Types, params: Params, inputs: Named) -> Named:
        module = library("torchao.prototype.mx_formats.mx_tensor")
        return {"bytes": module.pack_uint4(self._cast_tensor(inputs["codes"])).numpy()}

    def _unpack(self, types: Types, params: Params, inputs: Named) -> Named:
        module = library("torchao.prototype.mx_formats.mx_tensor")
        return {"codes": module.unpack_uint4(self._cast_tensor(inputs["bytes"])).numpy()}


class TorchAoFloor(_Torch):
    """torchao's blocks of MX, the scale by FLOOR."""

    name = "torchao.floor"
    mode = "FLOOR"

    def _prepare(self) -> None:
        self._ao = library("torchao")
        self._mx = library("torchao.prototype.mx_formats.mx_tensor")

    def _version(self) -> str:
        return str(self._ao.__version__)

    def _element(self, name: str) -> Any:
        return {"float8_e4m3fn": self._torch.float8_e4m3fn, "float8_e5m2": self._torch.float8_e5m2,
                "float6_e2m3fn": self._mx.DTYPE_FP6_E2M3, "float6_e3m2fn": self._mx.DTYPE_FP6_E3M2,
                "float4_e2m1fn": self._torch.float4_e2m1fn_x2}.get(name)

    def supports(self, op: str, types: Types, params: Params) -> bool | str:
        """See `Adapter.supports`."""
        if op not in ("quantize_mx", "dequantize_mx"):
            return f"no {op} by the rule {self.mode}"
        return self._element(types["codes"]) is not None or f"no elements {types['codes']}"

    def run(self, op: str, types: Types, params: Params, inputs: Named) -> Named:
        """See `Adapter.run`."""
        torch, element = self._torch, self._element(types["codes"])
        is_nibbles = types["codes"] == "float4_e2m1fn"
        if op == "quantize_mx":
            x = self._cast_tensor(np.array(values(inputs["x"], "float32"), order="C"))
            mode = getattr(self._mx.ScaleCalculationMode, self.mode)
            scale, codes = self._mx.to_mx(x, element, params["block_size"], mode)
            codes = codes.view(torch.uint8).numpy()
            return {"scale": scale.view(torch.uint8).numpy().reshape(()),
                    "codes": unpacked_nibbles(codes) if is_nibbles else codes}
        codes = self._cast_tensor(np.asarray(inputs["codes"]))
        if is_nibbles:
            codes = self._mx.pack_uint4(codes)
        elif types["codes"].startswith("float8"):
            codes = codes.view(element)
        scale = self._cast_tensor(np.atleast_1d(inputs["scale"])).view(torch.float8_e8m0fnu)
        found = self._mx.to_dtype(codes, scale, element, params["block_size"], torch.float32)
        return {"x": bits(found.numpy())}


class TorchAoRceil(TorchAoFloor):
    """torchao's blocks of MX, the scale by RCEIL."""

    name = "torchao.rceil"
    mode = "RCEIL"


class TorchAoCeil(TorchAoFloor):
    """torchao's blocks of MX, the scale by CEIL."""

    name = "torchao.ceil"
    mode = "CEIL"


class TorchAoEven(TorchAoFloor):
    """torchao's blocks of MX, the scale by EVEN."""

    name = "torchao.even"
    mode = "EVEN"


class TorchCast(_Torch):
    """Tensor.to of the short floats."""

    name = "torch.cast"

    def supports(self, op: str, types: Types, params: Params) -> bool | str:
        if op != "cast":
            return f"no adapter for {op}"
        if types["x"] != "float32" or types["y"] not in (*FLOAT8, "float16", "bfloat16"):
            return "from float32 to a float of 8 or 16 bits only"
        # Since 2.12 a cast to E4M3FN saturates; the others keep to IEEE.
        policy = "saturate" if types["y"] == "float8_e4m3fn" else "ieee"
        if (params["overflow"], params["rounding"]) != (policy, "even"):
            return f"its only policy beyond the largest is {policy}, its rounding even"
        return True

    def run(self, op: str, types: Types, params: Params, inputs: Named) -> Named:
        x = self._cast_tensor(values(np.asarray(inputs["x"]), "float32"))
        short = x.to(getattr(self._torch, types["y"]))
        if types["y"] in FLOAT8:
            return {"y": np.asarray(short.view(self._torch.uint8).numpy())}
        return {"y": np.asarray(short.view(self._torch.int16).numpy()).view(np.uint16)}
