"""What the adapters share: the grid of a group, and reasons not to support it."""

import importlib
from typing import Any

import numpy as np

from refquant._types import Array
from refquant.oracle._affine import RANGES
from refquant.oracle.adapters import Params, Reject, Types, codes_as_bits
from refquant.oracle.vectors import Named, bits, values


def library(name: str) -> Any:
    """A library, imported when it is needed; ImportError if it is not installed."""
    return importlib.import_module(name)


def scale_of(params: Params) -> Array:
    """Scale as float32."""
    return np.asarray(values(params["scale"], "float32"))


def zero_of(params: Params) -> Array:
    """Zero point as int64."""
    return np.asarray(params["zero_point"], np.int64)


def unsupported_affine(
    op: str, types: Types, params: Params, *, codes: tuple[str, ...],
    granularities: tuple[str, ...] = ("per_tensor",), ops: tuple[str, ...] = (
        "quantize_affine", "dequantize_affine"), whole_range: bool = True,
) -> str | None:
    """Why an affine question is out of reach, or None."""
    if op not in ops:
        return f"no adapter for {op}"
    if types["x"] != "float32" or types["q"] not in codes:
        return f"{types['x']} and {types['q']} do not occur together"
    granularity = params.get("granularity", "per_tensor")
    if granularity not in granularities:
        return f"{granularity} is not supported"
    if whole_range and (params["qmin"], params["qmax"]) != RANGES[types["q"]]:
        return "the code range is that of the type"
    return None


def range_ends(inputs: Named) -> Array:
    """Ends of a range as data of two numbers, for what takes data."""
    ends = np.array([values(np.asarray(inputs[key]), "float32")[()] for key in ("low", "high")])
    if ends[0] > ends[1]:
        raise Reject("data have no order: their ends cannot be swapped")
    return ends


def parameters_as_bits(scale: Any, zero_point: Any, types: Types) -> Named:
    """Scale and zero point, however a library returns them, as the corpus has them."""
    with np.errstate(all="ignore"):
        single = np.asarray(scale).astype(np.float32).reshape(())
    return {"scale": bits(single),
            "zero_point": codes_as_bits(np.asarray(zero_point).reshape(()), types["zero_point"])}


def unpacked_nibbles(packed: Array) -> Array:
    """Two codes from each byte, the lower half first."""
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)
