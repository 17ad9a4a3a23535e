"""Casts to short floats by ml_dtypes and by gfloat, and gfloat's blocks."""

from importlib.metadata import version

import numpy as np

from refquant.oracle._adapters._common import library
from refquant.oracle.adapters import Params, Reject, Types
from refquant.oracle.vectors import DTYPES, Named, bits, values

SOURCES = ("float32", "float64", "float16")


class MlDtypes:
    """ml_dtypes: ``astype``, which never saturates where the format has an infinity or a NaN."""

    name = "ml_dtypes"

    def __init__(self) -> None:
        self._types = library("ml_dtypes")
        self.version = self._types.__version__

    def supports(self, op: str, types: Types, params: Params) -> bool | str:
        """See `Adapter.supports`."""
        if op != "cast":
            return f"no {op}"
        source, target = types["x"], types["y"]
        if source not in SOURCES or not (hasattr(self._types, target) or target == "float16"):
            return f"no cast from {source} to {target}"
        # Formats without infinity and NaN can do nothing but saturate.
        saturates = target.startswith(("float4", "float6"))
        if (params["overflow"] == "saturate") != saturates:
            return f"its only policy beyond the largest is {'saturate' if saturates else 'ieee'}"
        return params["rounding"] == "even" or "ties go to even"

    def run(self, op: str, types: Types, params: Params, inputs: Named) -> Named:
        """See `Adapter.run`."""
        target = np.float16 if types["y"] == "float16" else getattr(self._types, types["y"])
        with np.errstate(all="ignore"):
            made = values(np.asarray(inputs["x"]), types["x"]).astype(target)
        return {"y": bits(made)}


class Gfloat:
    """gfloat: ``round_ndarray`` and ``encode_ndarray``."""

    name = "gfloat"

    def __init__(self) -> None:
        self._gfloat, formats = library("gfloat"), library("gfloat.formats")
        self.version = version("gfloat")
        self._formats = {
            "float8_e4m3fn": formats.format_info_ocp_e4m3,
            "float8_e5m2": formats.format_info_ocp_e5m2,
            "float6_e3m2fn": formats.format_info_ocp_e3m2,
            "float6_e2m3fn": formats.format_info_ocp_e2m3,
            "float4_e2m1fn": formats.format_info_ocp_e2m1,
            "float8_e8m0fnu": formats.format_info_ocp_e8m0,
            "bfloat16": formats.format_info_bfloat16,
            "float16": formats.format_info_binary16,
        }

    def supports(self, op: str, types: Types, params: Params) -> bool | str:
        """See `Adapter.supports`."""
        if op != "cast":
            return f"no {op}"
        if types["x"] not in SOURCES or types["y"] not in self._formats:
            return f"no cast from {types['x']} to {types['y']}"
        return params["rounding"] == "even" or "its ties go to even here"

    def run(self, op: str, types: Types, params: Params, inputs: Named) -> Named:
        """See `Adapter.run`."""
        with np.errstate(invalid="ignore"):             # a signalling NaN
            x = values(np.asarray(inputs["x"]), types["x"]).astype(np.float64)
        known = self._formats[types["y"]]
        even = self._gfloat.RoundMode.TiesToEven
        try:
            with np.errstate(all="ignore"):
                rounded = self._gfloat.round_ndarray(
                    known, x, even, sat=params["overflow"] == "saturate")
                codes = self._gfloat.encode_ndarray(known, rounded)
        except ValueError as err:
            raise Reject(str(err)) from None
        return {"y": np.asarray(codes).astype(f"u{DTYPES[types['y']]}")}


class GfloatBlocks:
    """gfloat's blocks of MX: ``compute_scale_amax`` and ``encode_block``."""

    name = "gfloat.mx"

    def __init__(self) -> None:
        self._gfloat, self._block = library("gfloat"), library("gfloat.block")
        formats = library("gfloat.formats")
        self.version = version("gfloat")
        self._formats = {
            "float8_e4m3fn": formats.format_info_mxfp8_e4m3, "float8_e5m2":
            formats.format_info_mxfp8_e5m2, "float6_e2m3fn": formats.format_info_mxfp6_e2m3,
            "float6_e3m2fn": formats.format_info_mxfp6_e3m2, "float4_e2m1fn":
            formats.format_info_mxfp4_e2m1, "int8": formats.format_info_mxint8}

    def supports(self, op: str, types: Types, params: Params) -> bool | str:
        """See `Adapter.supports`."""
        return op == "quantize_mx" or f"no {op}"

    def run(self, op: str, types: Types, params: Params, inputs: Named) -> Named:
        """See `Adapter.run`."""
        x, known = values(inputs["x"], "float32"), self._formats[types["codes"]]
        try:
            with np.errstate(all="ignore"):
                scale = float(self._block.compute_scale_amax(known.etype.emax, x))
                codes = list(self._block.encode_block(
                    known, scale, x.astype(np.float64) / scale,
                    round=self._gfloat.RoundMode.TiesToEven))
        except (ValueError, OverflowError) as err:
            raise Reject(str(err)) from None
        return {"scale": np.array(codes[0], np.uint8), "codes": np.array(codes[1:], np.uint8)}
