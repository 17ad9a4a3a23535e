"""What can be special about a case: the fixed vocabulary, and why each word is there."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

_ISSUES = "https://github.com/"

#: flag: (type of bug, description, links)
FLAGS: Mapping[str, tuple[str, str, tuple[str, ...]]] = MappingProxyType({
    "Basic": ("BASIC", "Nothing special: checks wiring, order of arguments and signs.", ()),
    "Tie": ("ROUNDING", "The exact ratio lies halfway between two codes.",
            ("sonos/tract/pull/2850", "tenstorrent/tt-metal/issues/56525",
             "ROCm/aiter/issues/3992")),
    "TieOddZp": ("ORDER_OF_OPERATIONS", "A tie with an odd zero point: rounding first and adding "
                 "first give different codes.", ("pytorch/pytorch/pull/37188",)),
    "NearTie": ("PRECISION", "One unit in the last place from a tie, or a point where division, "
                "a reciprocal and exact arithmetic round differently.",
                ("pytorch/ao/pull/229", "microsoft/onnxruntime/issues/18576")),
    "Boundary": ("PRECISION", "The first number that reaches a code and the last that does not: "
                 "all pairs of a setting decide all 2**32 inputs of a monotone function.", ()),
    "Saturate": ("SATURATION", "At the end of the code range or beyond it.",
                 ("microsoft/onnxruntime/issues/3442", "onnx/onnx/issues/7835")),
    "HugeInput": ("INT_CAST_OVERFLOW", "The ratio exceeds an int32: converting before clipping "
                  "wraps to the wrong end.", ()),
    "Infinite": ("INT_CAST_OVERFLOW", "An infinite input saturates towards its sign.", ()),
    "NaN": ("UNSPECIFIED", "Where no dialect gives NaN a code, any code will do.", ()),
    "NaNPayload": ("SPECIAL_VALUE", "A NaN with a sign or other payload bits.", ()),
    "NegZero": ("SIGN", "Minus zero: the zero point as an integer, -0 as a float that has one.",
                ()),
    "SubnormalInput": ("FLUSH_TO_ZERO", "A subnormal input must not be taken for zero.", ()),
    "SubnormalScale": ("PRECISION", "The scale is subnormal: its reciprocal may be infinite.",
                       ("pytorch/ao/issues/1104",)),
    "SubnormalOutput": ("FLUSH_TO_ZERO", "The result is subnormal and must not become zero.", ()),
    "ZpEnd": ("SATURATION", "The zero point is an end of the code range.", ()),
    "ZeroRange": ("SPECIAL_VALUE", "All data are zero: runtimes choose six different scales.",
                  ("onnx/onnx/issues/8437",)),
    "ScaleOverflow": ("PRECISION", "A scale or a product leaves the range of its type.", ()),
    "DoubleRounding": ("PRECISION", "Rounding to a type in between changes the result.",
                       ("jax-ml/ml_dtypes/pull/401",)),
    "ExponentBoundary": ("PRECISION", "Next to a power of two: a rounded logarithm finds the "
                         "wrong exponent.", ("higham/chop/pull/5",)),
    "BlockMaxSaturates": ("SATURATION", "The largest of a block exceeds what the scale can carry.",
                          ("microsoft/microxcaling/issues/4",)),
    "PadBits": ("LAYOUT", "Bits behind the last code are set and must not matter.", ()),
    "OddLength": ("LAYOUT", "The codes do not fill the last byte.", ()),
    "Layout": ("LAYOUT", "Each position holds another code: the order can be read off.",
               ("openvinotoolkit/openvino/issues/32144", "vllm-project/vllm/issues/38966")),
    "Placement": ("PLACEMENT", "Elements differ by position: broadcasting along the wrong axis, "
                  "or a tail unlike the body, shows.", ("microsoft/onnxruntime/pull/28606",)),
    "PairOverflow": ("INT_CAST_OVERFLOW", "Two products of codes together exceed an int16: kernels "
                     "for processors without VNNI add them in pairs, and saturate.",
                     ("microsoft/onnxruntime/issues/16105",)),
    "Padding": ("LAYOUT", "Windows reach beyond the data, where the zero point lies, not code 0.",
                ()),
    "EmptyInput": ("VALIDATION", "No elements: an empty answer, not an error.", ()),
    "BadShape": ("VALIDATION", "Shapes that do not fit: an error, not a number.", ()),
    "BadCode": ("VALIDATION", "A code that does not fit its bits.", ()),
    "BadRange": ("VALIDATION", "A range whose ends are swapped.", ()),
    "BadZeroPoint": ("VALIDATION", "A zero point outside the code range, or of a wrong type.", ()),
    "BadScale": ("VALIDATION", "A scale that is zero, negative, infinite or NaN.", ()),
    "RandomWord": ("ROUNDING", "A random word at the point where the decision turns.", ()),
})  # fmt: skip


def notes(used: Iterable[str], kills: Mapping[str, Iterable[str]]) -> dict[str, dict[str, Any]]:
    """The notes of a file: of the flags it uses, with what their cases find out."""
    return {
        flag: {
            "bugType": FLAGS[flag][0],
            "description": FLAGS[flag][1],
            "links": [_ISSUES + link for link in FLAGS[flag][2]],
            "kills": sorted(kills.get(flag, ())),
        }
        for flag in FLAGS if flag in set(used)
    }  # fmt: skip
