"""Every operation of the corpus and the dialects that answer it, one table."""

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from refquant.oracle import (
    _affine,
    _blocks,
    _casts,
    _codebooks,
    _ggml,
    _gradients,
    _half,
    _layers,
    _packing,
    _parameters,
    _products,
    _requantize,
    _rescale,
    _stochastic,
)
from refquant.oracle._document import Derivation

#: The groups of the corpus, each with its ``documents``.
GROUPS: tuple[ModuleType, ...] = (
    _casts, _affine, _parameters, _requantize, _packing, _blocks, _ggml, _codebooks, _stochastic,
    _gradients, _half, _products, _rescale, _layers,
)  # fmt: skip

_Found = dict[str, Derivation]

#: Operation -> dialects, given the types and parameters of a group.
OPERATIONS: Mapping[str, Callable[[Mapping[str, str], Mapping[str, Any]], _Found]] = {
    "cast": lambda types, params: _casts.derivations(types["x"], types["y"]),
    "quantize_affine": lambda types, params: _affine.quantize_derivations(types["q"]),
    "dequantize_affine": lambda types, params: _affine.dequantize_derivations(types["q"]),
    "quantization_parameters": lambda types, params: _parameters.derivations(types["zero_point"]),
    "requantize": lambda types, params: _requantize.derivations(),
    "requantize_16x8": lambda types, params: _requantize.wide_derivations(),
    "pack": lambda types, params: _packing.derivations("pack"),
    "unpack": lambda types, params: _packing.derivations("unpack"),
    "quantize_mx": lambda types, params: _blocks.quantize_derivations(types["codes"]),
    "dequantize_mx": lambda types, params: _blocks.dequantize_derivations(types["codes"]),
    "quantize_nvfp4": lambda types, params: _blocks.nvfp4_derivations(),
    "quantize_ggml": lambda types, params: _ggml.quantize_derivations(params["layout"]),
    "dequantize_ggml": lambda types, params: _ggml.dequantize_derivations(params["layout"]),
    "quantize_nf4": lambda types, params: _codebooks.quantize_derivations(),
    "dequantize_nf4": lambda types, params: _codebooks.dequantize_derivations(),
    "stochastic_bfloat16": lambda types, params: _stochastic.bfloat16_derivations(),
    "stochastic_integer": lambda types, params: _stochastic.integer_derivations(),
    "quantize_affine_float16": lambda types, params: _half.derivations(),
    **{op: lambda types, params, op=op: _products.derivations(op, types)    # type: ignore[misc]
       for op in ("qlinear_matmul", "matmul_integer", "qlinear_conv", "conv_integer")},
    "dynamic_quantize": lambda types, params: _products.dynamic_derivations(),
    "requantize_affine": lambda types, params: _rescale.derivations(),
    "fake_quantize": lambda types, params: _gradients.derivations(),
    **{op: lambda types, params, op=op: _layers.derivations(op)     # type: ignore[misc]
       for op in _layers.TYPES},
}


def derivations(op: str, types: Mapping[str, str], params: Mapping[str, Any]) -> _Found:
    """Dialects of an operation: `fast` answers in NumPy, `exact` in fractions."""
    try:
        return OPERATIONS[op](types, params)
    except KeyError as err:
        raise ValueError(f"`op` must be one of {', '.join(OPERATIONS)}; got {op!r}") from err
