"""Blocks of ggml by gguf-py, the Python twin of its C code."""

from importlib.metadata import version

import numpy as np

from refquant.oracle._adapters._common import library
from refquant.oracle.adapters import Params, Types
from refquant.oracle.vectors import Named, bits, values


class Gguf:
    """``gguf.quants.quantize`` and ``dequantize``."""

    name = "gguf"

    def __init__(self) -> None:
        self._quants, self._kinds = library("gguf.quants"), library("gguf").GGMLQuantizationType
        self.version = version("gguf")

    def supports(self, op: str, types: Types, params: Params) -> bool | str:
        """See `Adapter.supports`."""
        if op == "quantize_mx":
            return types["codes"] == "float4_e2m1fn" or f"no blocks of {types['codes']}"
        if op not in ("quantize_ggml", "dequantize_ggml"):
            return f"no {op}"
        return hasattr(self._kinds, params["layout"].upper()) or f"no layout {params['layout']}"

    def run(self, op: str, types: Types, params: Params, inputs: Named) -> Named:
        """See `Adapter.run`."""
        if op == "quantize_mx":
            return self._mxfp4(inputs)
        kind = self._kinds[params["layout"].upper()]
        with np.errstate(all="ignore"):
            if op == "quantize_ggml":
                x = np.array(values(inputs["x"], "float32"), order="C")
                return {"bytes": np.asarray(self._quants.quantize(x, kind))}
            found = self._quants.dequantize(np.array(inputs["bytes"], order="C"), kind)
            return {"x": bits(np.asarray(found, np.float32))}

    def _mxfp4(self, inputs: Named) -> Named:
        """A byte of the scale, then 16 bytes: element i in the lower half, i + 16 in the upper."""
        x = np.array(values(inputs["x"], "float32"), order="C")
        with np.errstate(all="ignore"):
            raw = np.asarray(self._quants.quantize(x, self._kinds.MXFP4)).ravel()
        return {"scale": raw[0], "codes": np.concatenate([raw[1:] & 15, raw[1:] >> 4])}
