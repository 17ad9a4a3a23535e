"""Testing: the golden vectors inside the test suite of another library.

Five lines hold an implementation against a dialect, one test per case::

    import refquant.testing as rqt

    @rqt.vectors("quantize_affine.float32.int8", dialect="onnx")
    def test_quantize(case):
        rqt.assert_bits(case, quantize(case.x, case.scale, case.zero_point), dialect="onnx")

`strategies` draws what such tests should be fed with, `assert_dialect` and the properties hold
for inputs without a recorded answer. There is no plug-in and there are no options: dialect,
flags and baseline are arguments of the decorator, where a reader of the suite sees them, and
since each test is named after its case and flags, ``pytest -k "Tie and not NaN"`` selects.
Needs pytest and hypothesis: ``refquant[test]``.
"""

from typing import Any

from refquant.testing.cases import Question, assert_bits, vectors
from refquant.testing.properties import (
    assert_dialect,
    idempotent,
    monotone,
    placement_invariant,
    saturates,
    sign_symmetric,
)

__all__ = [
    "Question",
    "assert_bits",
    "assert_dialect",
    "idempotent",
    "monotone",
    "placement_invariant",
    "saturates",
    "sign_symmetric",
    "strategies",
    "vectors",
]


def __getattr__(name: str) -> Any:
    """Strategies are loaded when asked for: they need hypothesis."""
    if name == "strategies":
        import importlib

        return importlib.import_module("refquant.testing.strategies")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
