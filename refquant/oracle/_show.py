"""How bits are shown to people: digits, and the number they stand for."""

from functools import cache
from typing import Any

import numpy as np

from refquant._types import Array
from refquant.oracle._casts import FORMATS
from refquant.oracle.vectors import Case, VectorFile, load, names, values

#: Elements of an array that are shown.
FEW = 6


def digits(pattern: Array) -> str:
    """Hexadecimal digits as in the files, most significant first."""
    pattern = np.asarray(pattern)
    return pattern.astype(pattern.dtype.newbyteorder(">")).tobytes().hex()


def number(pattern: Array, dtype: str) -> str:
    """The number that one pattern stands for, in as few digits as tell it from its neighbours."""
    if dtype in FORMATS and dtype not in ("float16", "bfloat16"):
        decoded = float(FORMATS[dtype].decode(np.asarray(pattern, np.int32)))
        return f"{decoded:g}" if abs(decoded) < 1e15 else str(decoded)
    return str(values(pattern, dtype)[()])


def shown(value: Any, dtype: str, *, at: Array | None = None) -> str:
    """A value of a file: ``3f000000 = 0.5``; of an array its shape and some elements, in order."""
    if not isinstance(value, np.ndarray) or dtype in ("int", "text"):
        flat = np.ravel(value).tolist() if isinstance(value, np.ndarray) else [value]
        return ", ".join(map(str, flat))
    if not value.ndim:
        return f"{digits(value)} = {number(value, dtype)}"
    elements = value.ravel()
    at = np.arange(min(elements.size, FEW)) if at is None else at
    # Gaps between the chosen elements, and what follows the last, are dots.
    parts, last = [], -1
    for i in at:
        parts += ["..."] if i != last + 1 else []
        parts.append(f"{digits(elements[i])} = {number(elements[i], dtype)}")
        last = int(i)
    parts += ["..."] if last + 1 < elements.size else []
    shape = "x".join(map(str, value.shape))
    return f"{dtype}[{shape}]" + (f": {', '.join(parts)}" if parts else "")


def apart(case: Case, output: str) -> Array | None:
    """Elements, at most `FEW`, on which dialects differ; None if they do not, or not in place."""
    patterns = [answer[output] for answer in (case.base, *case.differs.values()) if answer]
    if not patterns or not patterns[0].ndim or len({p.shape for p in patterns}) > 1:
        return None
    differ = np.zeros(patterns[0].size, bool)
    for pattern in patterns[1:]:
        differ |= pattern.ravel() != patterns[0].ravel()
    return np.flatnonzero(differ)[:FEW] if differ.any() else None


def inputs_of(case: Case, file: VectorFile) -> dict[str, str]:
    """Each input; of arrays the elements whose answers differ, where there are any."""
    answer = case.base or {}
    places = {answer[key].shape: at for key in answer if (at := apart(case, key)) is not None}
    return {name: shown(pattern, file.inputs[name], at=places.get(np.shape(pattern)))
            for name, pattern in case.inputs.items()}


def answer_of(case: Case, file: VectorFile, dialect: str) -> str:
    """What a dialect answers, all outputs in one line."""
    if case.status == "reject":
        return f"an error: {case.reason}"
    answer = case.answer(dialect) if case.status == "defined" else None
    if answer is None:
        return "any"
    return ", ".join(f"{key} = {shown(pattern, file.outputs[key], at=apart(case, key))}"
                     for key, pattern in answer.items())


@cache
def observed() -> dict[str, list[tuple[VectorFile, str]]]:
    """For each id, the files of observed answers that hold it, and who answered."""
    found: dict[str, list[tuple[VectorFile, str]]] = {}
    for name in names(observed=True):
        file = load(name)
        who = str(file.dialects[file.base_dialect]["followedBy"])
        for case in file:
            found.setdefault(case.id, []).append((file, who))
    return found
