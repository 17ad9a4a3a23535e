"""Simulators of quantization: Brevitas' integer quantizer and AIMET's two."""

import warnings
from importlib.metadata import version
from typing import Any

import numpy as np

from refquant._types import Array
from refquant.oracle._adapters._common import library, scale_of, unsupported_affine, zero_of
from refquant.oracle.adapters import Params, Reject, Types, codes_as_bits
from refquant.oracle.vectors import Named, values

CODES = ("int8", "uint8", "int4", "uint4")


class _Simulator:
    name: str
    version: str

    def supports(self, op: str, types: Types, params: Params) -> bool | str:
        """See `Adapter.supports`."""
        return unsupported_affine(op, types, params, codes=CODES, ops=("quantize_affine",)) or True

    def run(self, op: str, types: Types, params: Params, inputs: Named) -> Named:
        """See `Adapter.run`."""
        scale, zero = float(scale_of(params)), int(zero_of(params))
        if not params["qmin"] <= zero <= params["qmax"]:
            raise Reject("the zero point is no code")
        if not (np.isfinite(scale) and scale > 0):
            raise Reject("such a scale is not meant")
        x = np.array(values(np.asarray(inputs["x"]), "float32"), order="C")
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            codes = np.asarray(self._codes(x, scale, zero, params["qmin"], params["qmax"]))
            if np.isnan(codes).any():
                raise Reject("NaN stays NaN")
            return {"q": codes_as_bits(codes, types["q"])}

    def _codes(self, x: Array, scale: float, zero: int, low: int, high: int) -> Array:
        raise NotImplementedError


class Brevitas(_Simulator):
    """IntQuant of Brevitas, rounding to nearest."""

    name = "brevitas"

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._torch, self._quant = library("torch"), library("brevitas.core.quant.int_base")
            self._ste = library("brevitas.core.function_wrapper")
            self._delay = library("brevitas.core.quant.delay")
        self.version = version("brevitas")

    def _codes(self, x: Array, scale: float, zero: int, low: int, high: int) -> Array:
        torch = self._torch
        quantizer = self._quant.IntQuant(
            narrow_range=False, signed=low < 0, input_view_impl=torch.nn.Identity(),
            float_to_int_impl=self._ste.RoundSte(),
            tensor_clamp_impl=self._ste.TensorClamp())
        bits = torch.tensor(float((high - low).bit_length()))
        return np.asarray(quantizer.to_int(
            torch.tensor(scale, dtype=torch.float32), torch.tensor(float(zero)), bits,
            torch.from_numpy(x)).numpy())


class AimetTorch(_Simulator):
    """``aimet_torch.quantization.affine.quantize``."""

    name = "aimet.torch"

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._torch, self._affine = library("torch"), library("aimet_torch.quantization.affine")
        self.version = version("aimet-torch")

    def _codes(self, x: Array, scale: float, zero: int, low: int, high: int) -> Array:
        torch = self._torch
        found = self._affine.quantize(torch.from_numpy(x.ravel()), torch.tensor([scale]),
                                      torch.tensor([-float(zero)]), low, high)
        return np.asarray(found.as_subclass(torch.Tensor).numpy()).reshape(x.shape)


class AimetOnnx(_Simulator):
    """The compiled quantizer of aimet_onnx; the code is read off the value it stands for."""

    name = "aimet.onnx"

    def __init__(self) -> None:
        self._pymo: Any = library("aimet_onnx.common._libpymo")
        self.version = version("aimet-onnx")

    def supports(self, op: str, types: Types, params: Params) -> bool | str:
        """See `Adapter.supports`."""
        known = super().supports(op, types, params)
        if known is True and (
            (params["qmax"] - params["qmin"]) * float(scale_of(params))
            > float(np.finfo(np.float32).max)
        ):
            return "no code can be read off values that overflow"
        return known

    def _codes(self, x: Array, scale: float, zero: int, low: int, high: int) -> Array:
        quantizer = self._pymo.BlockTensorQuantizer(
            [], (high - low).bit_length(), self._pymo.QuantizationMode.QUANTIZATION_TF)
        encoding = self._pymo.TfEncoding()
        encoding.bw, encoding.delta, encoding.offset = (high - low).bit_length(), scale, low - zero
        encoding.min, encoding.max = scale * (low - zero), scale * (high - zero)
        quantizer.setEncodings([encoding])
        found = np.asarray(quantizer.quantizeDequantize(x), np.float64)
        return np.rint(found / scale) + zero
