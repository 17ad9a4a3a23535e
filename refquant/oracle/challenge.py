"""Challenge: fresh questions from a seed, and the pipe through which any program can answer.

A corpus that everyone knows can be learnt by heart. `challenge` asks new questions where
the dialects part, beside ties, for scales and zero points drawn from a seed; the answers are
derived twice, as those of the corpus are. The generator is SplitMix64 in whole numbers: the
same seed asks the same everywhere and for ever.

`prompts` writes the questions of a file without the answers, a line each, and `verified`
reads the answers back: ``refquant oracle gen OP | ./mine | refquant oracle verify``.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from refquant.oracle._affine import GRANULAR, RANGES, near_ties, quantize_derivations
from refquant.oracle._document import Draft, Drafts, Operation, document, sealed
from refquant.oracle._words import splitmix64
from refquant.oracle.vectors import Case, Named, VectorFile, from_document

__all__ = ["Line", "challenge", "prompts", "splitmix64", "verified"]

REJECTED, UNSUPPORTED = "!", "-"


class Line(NamedTuple):
    """One answer that came back through the pipe.

    Attributes
    ----------
    id : str
    right : bool or None
        None where the line says that the question is not supported.
    detail : str

    References
    ----------
    TestFloat, ``testfloat_ver``.

    Examples
    --------
    >>> Line("adfb2c2ad2", True, "").right
    True
    """

    id: str
    right: bool | None
    detail: str


def challenge(seed: int, *, groups: int = 8, each: int = 16, out: str = "int8") -> VectorFile:
    """Vector file of fresh questions, answered by every dialect.

    Parameters
    ----------
    seed : int
    groups : int
        Of scale and zero point.
    each : int
        Questions of a group, at most: where the dialects part first, then anywhere.
    out : str
        Type of the codes.

    Returns
    -------
    VectorFile

    Raises
    ------
    ValueError
        If a number is not positive, or the type has no code range.

    References
    ----------
    NIST ACVP: freshly drawn prompts.

    Examples
    --------
    >>> file = challenge(7, groups=2, each=4)
    >>> again = challenge(7, groups=2, each=4)
    >>> len(file), [case.id for case in file] == [case.id for case in again]
    (8, True)
    """
    if groups < 1 or each < 1:
        raise ValueError(f"`groups` and `each` must be positive; got {groups} and {each}")
    if out not in RANGES:
        raise ValueError(f"`out` must be one of {', '.join(RANGES)}; got {out!r}")
    words, (low, high) = splitmix64(seed), RANGES[out]
    drafts = []
    for _ in range(groups):
        # Any normal scale from 2**-20 to 2**20, any zero point; the sign of a zero is no matter.
        scale = (127 - 20 + next(words) % 40) << 23 | next(words) & 0x7FFFFF
        zero = low + next(words) % (high - low + 1)
        near = near_ties(scale, zero, max(low, -300), min(high, 300), each=each)
        part = [near[next(words) % len(near)] for _ in range(min(each // 2, len(near)))]
        anywhere = [next(words) & 0xFFFFFFFF for _ in range(4 * each)]
        plain = [u for u in anywhere if u & 0x7F800000 != 0x7F800000]
        chosen = list(dict.fromkeys([*part, *plain]))[:each]
        group = Drafts({"scale": np.array(scale, np.uint32), "zero_point": zero, "qmin": low,
                        "qmax": high, "granularity": "per_tensor"}, f"challenge {seed}")
        group.cases += [Draft({"x": np.array(u, np.uint32)},
                              ("NearTie",) if u in part else ("Basic",)) for u in chosen]
        drafts.append(group)
    operation = Operation("quantize_affine", {"x": "float32"}, GRANULAR, {"q": out})
    made = document(f"challenge.{seed}.{out}", operation, quantize_derivations(out), "onnx", drafts)
    return from_document(sealed(made, {}))


def prompts(file: VectorFile) -> Iterator[str]:
    r"""Questions of a file as lines, without the answers: tab-separated hexadecimal digits.

    The first line starts with a hash mark and names the columns. Arrays are written as their
    shape, a colon and the digits: ``2x3:...``.

    Parameters
    ----------
    file : VectorFile

    Yields
    ------
    str

    References
    ----------
    TestFloat, ``testfloat_gen``.

    Examples
    --------
    >>> from refquant.oracle.vectors import load
    >>> lines = prompts(load("quantize_affine.float32.int8"))
    >>> next(lines).split("\t")[:4], next(lines).split("\t")[1:4]
    (['#id', 'scale', 'zero_point', 'qmin'], ['3f800000', '0', '-128'])
    """
    yield "\t".join(["#id", *file.params, *file.inputs])
    for group in file.groups:
        shared = [_field(group.params.get(key, UNSUPPORTED)) for key in file.params]
        for case in group.cases:
            yield "\t".join([case.id, *shared, *(_field(case.inputs[key]) for key in file.inputs)])


def verified(lines: Iterable[str], file: VectorFile, dialect: str) -> Iterator[Line]:
    """Verdict on each line that answers a question of a file.

    A line is an id and, after tabs or spaces, the digits of each output; ``!`` says that the
    question was rejected and ``-`` that it is not supported. Lines that are empty or start
    with a hash mark are skipped; a line that makes no sense is a wrong answer, and so is a
    second one to the same question.

    Parameters
    ----------
    lines : iterable of str
    file : VectorFile
    dialect : str
        Whose answers are right.

    Returns
    -------
    iterator of Line

    Raises
    ------
    ValueError
        If the file does not cover the dialect.

    References
    ----------
    TestFloat, ``testfloat_ver``.

    Examples
    --------
    >>> from refquant.oracle.vectors import load
    >>> file = load("quantize_affine.float32.int8")
    >>> first = next(iter(file)).id
    >>> [line.right for line in verified([f"{first} 03", f"{first} 04", "x"], file, "onnx")]
    [True, False, False]
    """
    if dialect not in file.dialects:
        raise ValueError(f"`dialect` must be one of {', '.join(file.dialects)} in {file.name}; "
                         f"got {dialect!r}")
    return _verdicts(lines, file, dialect)


def _verdicts(lines: Iterable[str], file: VectorFile, dialect: str) -> Iterator[Line]:
    known, told = {case.id: case for case in file}, set()
    for line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        identity, *fields = line.split()
        case = known.get(identity)
        if case is None:
            yield Line(identity[:40], False, f"no such id in {file.name}")
        elif identity in told:
            yield Line(identity, False, "answered twice")
        else:
            told.add(identity)
            yield _verdict(case, [field.lower() for field in fields], file, dialect)


def _verdict(case: Case, fields: list[str], file: VectorFile, dialect: str) -> Line:
    if fields == [UNSUPPORTED]:
        return Line(case.id, None, "not supported")
    rejected = fields == [REJECTED]
    if case.status == "reject":
        return Line(case.id, rejected, "" if rejected else f"must be rejected: {case.reason}")
    expected = case.answer(dialect) if case.status == "defined" else None
    if expected is None:
        return Line(case.id, True, "any answer will do")
    wanted = _answer_fields(expected, file)
    if fields == wanted:
        return Line(case.id, True, "")
    return Line(case.id, False, f"expected {' '.join(wanted)}, got "
                                f"{' '.join(fields)[:200] or 'nothing'} ({', '.join(case.flags)})")


def _answer_fields(answer: Named, file: VectorFile) -> list[str]:
    return [_field(answer[key]) for key in file.outputs]


def _field(value: object) -> str:
    if not isinstance(value, np.ndarray):
        return str(value)
    if value.dtype == np.int64:                 # zero points: whole numbers
        return "x".join(map(str, value.shape)) + ":" + ",".join(map(str, value.ravel().tolist()))
    digits = value.astype(value.dtype.newbyteorder(">")).tobytes().hex()
    return digits if not value.ndim else "x".join(map(str, value.shape)) + ":" + digits
