"""Cases: the golden vectors as pytest parameters, one id per case, numbers in place of bits.

::

    import refquant.testing as rqt

    @rqt.vectors("quantize_affine.float32.int8", dialect="onnx")
    def test_quantize(case):
        rqt.assert_bits(case, quantize(case.x, case.scale, case.zero_point), dialect="onnx")
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from refquant._types import Array
from refquant.oracle.vectors import DTYPES, Case, VectorFile, load, names, values

__all__ = ["Question", "assert_bits", "vectors"]


@dataclass(frozen=True, eq=False)
class Question:
    """A case with its numbers as attributes: ``case.x``, ``case.scale``, ``case.zero_point``.

    Inputs and parameters are numbers in a type of NumPy where it has one, else codes.

    Attributes
    ----------
    case : Case
        As it stands in the vector file, in bits.
    file : VectorFile

    References
    ----------
    C2SP Wycheproof, test vectors.

    Examples
    --------
    >>> file = load("quantize_affine.float32.int8")
    >>> question = Question(next(iter(file)), file)
    >>> question.x, question.scale, question.zero_point
    (array(3., dtype=float32), array(1., dtype=float32), 0)
    """

    case: Case
    file: VectorFile

    def __getattr__(self, name: str) -> Any:
        """An input or parameter by its name."""
        if name in self.case.inputs:
            return values(self.case.inputs[name], self.file.inputs[name])
        if name in self.case.params:
            value = self.case.params[name]
            kind = self.file.params.get(name, "text")
            is_bits = isinstance(value, np.ndarray) and kind in DTYPES
            return values(value, kind) if is_bits else value
        raise AttributeError(f"{self.case.op} has no {name!r}")

    def __repr__(self) -> str:
        return f"<{self.case.id} {self.case.op} {', '.join(self.case.flags)}>"


def vectors(
    op: str, *, dialect: str | None = None, flags: Sequence[str] = (), skip: Sequence[str] = (),
    baseline: Mapping[str, str] | Sequence[str] = (), name: str = "case",
) -> Callable[[Any], Any]:
    """Decorator that runs a test once for each case, under an id of case and flags.

    Parameters
    ----------
    op : str
        Operation or file, see `refquant.oracle.vectors.names`.
    dialect : str, optional
        Only files that cover it; cases that it leaves unspecified are left out.
    flags : sequence of str
        Only cases with one of these.
    skip : sequence of str
        No cases with one of these.
    baseline : mapping or sequence of str
        Ids of known differences, marked as strict expected failures; with reasons, if a mapping.
    name : str
        Argument of the test.

    Returns
    -------
    callable
        ``pytest.mark.parametrize`` over `Question`.

    Raises
    ------
    ValueError
        If no case is left: a test that tests nothing.

    References
    ----------
    pytest, "How to parametrize fixtures and test functions".

    Examples
    --------
    >>> mark = vectors("quantize_affine.float32.int8", dialect="onnx", flags=["TieOddZp"])
    >>> mark.args[1][0].id.partition("-")[2]
    'Tie-TieOddZp'
    """
    import pytest

    files = [load(n) for n in names() if op in (n, load(n).op)]
    chosen = [
        Question(case, file)
        for file in files if dialect is None or dialect in file.dialects
        for case in file if _wanted(case, dialect, flags, skip)
    ]
    if not chosen:
        raise ValueError(f"`op` must leave cases to test; got {op!r}, dialect {dialect!r}")
    reasons = baseline if isinstance(baseline, Mapping) else dict.fromkeys(baseline, "known")
    parameters = [
        pytest.param(
            q, id="-".join([q.case.id, *q.case.flags]),
            marks=[pytest.mark.xfail(reason=reasons[q.case.id], strict=True)]
            if q.case.id in reasons else [])
        for q in chosen
    ]
    return pytest.mark.parametrize(name, parameters)


def assert_bits(question: Question, answer: Any, *, dialect: str) -> None:
    """Nothing, or an AssertionError that shows bits expected and found.

    Parameters
    ----------
    question : Question
    answer : ndarray, or mapping of str to ndarray
        Of one output, the array itself. Numbers or bits: what is signed or a float is taken
        for numbers. Whole numbers may be of a wider type, if they fit.
    dialect : str
        Whose answer is right; where it is unspecified, any answer will do.

    Raises
    ------
    AssertionError
        If the answer has other bits, or another shape.

    References
    ----------
    C2SP Wycheproof.

    Examples
    --------
    >>> file = load("quantize_affine.float32.int8")
    >>> assert_bits(Question(next(iter(file)), file), np.int8(3), dialect="onnx")
    """
    case = question.case
    if case.status == "reject":
        raise AssertionError(f"{question!r} must be rejected: {case.reason}; got {answer!r}")
    expected = case.answer(dialect) if case.status == "defined" else None
    if expected is None:
        return
    found = answer if isinstance(answer, Mapping) else {next(iter(expected)): answer}
    for key, wanted in expected.items():
        got = _as_bits(found[key], question.file.outputs[key])
        if got.shape != wanted.shape or not np.array_equal(got, wanted):
            raise AssertionError(
                f"{question!r} under {dialect}: `{key}` must be {_hex(wanted)}, got {_hex(got)}; "
                f"see: refquant oracle explain {case.id}")


def _wanted(case: Case, dialect: str | None, flags: Sequence[str], skip: Sequence[str]) -> bool:
    if case.status != "defined" or (dialect and case.answer(dialect) is None):
        return False
    mine = set(case.flags)
    return not mine & set(skip) and (not flags or bool(mine & set(flags)))


def _as_bits(answer: Any, dtype: str) -> Array:
    """Bits of numbers in the type of an output."""
    found, width = np.asarray(answer), DTYPES[dtype]
    if found.dtype.kind == "f" or found.dtype == np.dtype(f"u{width}"):
        return found.view(f"u{found.dtype.itemsize}")
    if found.dtype.kind not in "iu":
        return found.view(f"u{found.dtype.itemsize}")       # a type of ml_dtypes
    signed = found.dtype.kind == "i" and dtype[0] == "i"
    low, high = (-(256**width) // 2, 256**width // 2 - 1) if signed else (0, 256**width - 1)
    if found.size and not low <= int(found.min()) <= int(found.max()) <= high:
        raise AssertionError(f"the answer must fit {dtype}; got {found.min()} to {found.max()}")
    return (found.astype(np.int64) & (256**width - 1)).astype(f"u{width}")


def _hex(pattern: Array) -> str:
    digits = pattern.astype(pattern.dtype.newbyteorder(">")).tobytes().hex()
    return f"{digits or 'nothing'} of shape {pattern.shape}" if pattern.ndim else digits
