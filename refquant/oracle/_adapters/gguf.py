"""Blocks of ggml by gguf-py, the Python twin of its C code."""

from importlib.metadata import version

import numpy as np

from refquant.oracle._adapters._common import library
from refquant.oracle.adapters import Params, Types
from refquant.oracle.vectors import Named, bits, values

LAYOUTS = ("Q4_0", "Q8_0", "TQ1_0", "TQ2_0")


class Gguf:
    """``gguf.quants.quantize`` and ``dequantize``."""

    name = "gguf"

    def __init__(self) -> None:
        self._quants, self._kinds = library("gguf.quants"), library("gguf").GGMLQuantizationType
        self.version = version("gguf")

    def supports(self, op: str, types: Types, params: Params) -> bool | str:
        """See `Adapter.supports`."""
        if op not in ("ggml_quantize", "ggml_dequantize"):
            return f"no {op}"
        return params["layout"] in LAYOUTS or f"no quantizer for {params['layout']}"

    def run(self, op: str, types: Types, params: Params, inputs: Named) -> Named:
        """See `Adapter.run`."""
        kind = self._kinds[params["layout"]]
        (key, pattern), = inputs.items()
        out, = (k for k in types if k not in (key, "layout"))
        with np.errstate(all="ignore"):
            if op == "ggml_quantize":
                x = np.array(values(np.asarray(pattern), "float32"), order="C")
                return {out: np.asarray(self._quants.quantize(x, kind))}
            found = self._quants.dequantize(np.array(pattern, order="C"), kind)
            return {out: bits(np.asarray(found, np.float32))}
