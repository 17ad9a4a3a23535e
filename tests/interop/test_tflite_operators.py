"""Each operator on random settings, against TFLite Micro and LiteRT's three configurations.

Files and inputs are drawn in `_oracles.tflite_cases`; every engine runs in a process of its
own, since some inputs make LiteRT crash. Equal means: every element, of every output.

What the engines answered once is kept in `_oracles/tflite_answers.json`, so that the choices of
every engine are judged where none is installed; run as a script, this file asks them again.
"""

import collections
import importlib.util
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from _oracles import tflite_engines as theirs
from _oracles.tflite_cases import OPERATORS, Case, cases

from refquant.integer.engines import ENGINES
from refquant.interop._tflite_operators import BUILDERS
from refquant.interop.tflite import read_tflite
from refquant.interop.tflite_program import prepare, run

KINDS = [(kind, dtype) for kind, (_, dtypes) in OPERATORS.items() for dtype in dtypes
         if kind in BUILDERS]
#: LiteRT takes a state of 8 bits for one of 16 and reads beyond it: any answer, or a crash.
UNDEFINED = {("SVDF", "int8")}
ANSWERS = Path(__file__).parents[1] / "_oracles" / "tflite_answers.json"
ASKED, ASKED_SEED = 30, 3
STATEFUL = {"SVDF", "UNIDIRECTIONAL_SEQUENCE_LSTM"}


def ours(case: Case, engine: str, kind: str) -> list[tuple[np.ndarray, ...]]:
    """Outputs of each run; the state goes on from run to run."""
    program, state, found = prepare(read_tflite(case.content), ENGINES[engine]), None, []
    for inputs in case.runs:
        result = run(program, inputs, state=state)
        state = result.state if kind in STATEFUL else None
        found.append(result.outputs)
    return found


def compared(engine: str, count: int, seed: int) -> dict[tuple[str, str], collections.Counter]:
    """Per operator: elements compared, elements that differ, files that the engine refused."""
    kinds = [key for key in KINDS if engine == "tflm" or key not in UNDEFINED]
    every = [(key, case) for key in kinds for case in cases(*key, count, seed)]
    answers = theirs.answers(engine, [(case.content, case.runs) for _, case in every])
    counts: dict[tuple[str, str], collections.Counter] = collections.defaultdict(
        collections.Counter)
    for (key, case), answer in zip(every, answers, strict=True):
        if isinstance(answer, str):
            counts[key]["refused"] += 1
            continue
        try:
            results = ours(case, engine, key[0])
        except ValueError as err:
            undefined = "the bias must have 64 bits" in str(err)
            counts[key]["undefined" if undefined else f"refused here: {err}"] += 1
            continue
        for mine, other in zip(results, answer, strict=True):
            for a, b in zip(mine, other, strict=True):
                assert (a.dtype, a.shape) == (b.dtype, b.shape), (key, engine)
                counts[key]["elements"] += a.size
                counts[key]["apart"] += int((a != b).sum())
    return counts


@pytest.fixture(scope="module", params=theirs.ENGINES)
def counts(request):
    if importlib.util.find_spec(theirs.MODULES[request.param]) is None:
        pytest.skip(f"{theirs.MODULES[request.param]} is not installed")
    return request.param, compared(request.param, 8, seed=0)


def require_equal(engine: str, key: tuple[str, str], count: collections.Counter) -> None:
    assert not any(k.startswith("refused here") for k in count), f"{engine} {key}: {count}"
    assert count["elements"] > 0, f"{engine} refused all files of {key}"
    assert count["apart"] == 0, f"{engine} {key}: {count}"


def digest(outputs: list) -> int:
    """One number for all elements of all runs."""
    return zlib.crc32(b"".join(np.ascontiguousarray(y).tobytes() for run in outputs for y in run))


def asked(engine: str, key: tuple[str, str]) -> list[int | None]:
    """What an engine answers to some files; None for those that it, or we, refuse."""
    every = cases(*key, ASKED, ASKED_SEED)
    found = theirs.answers(engine, [(c.content, c.runs) for c in every])
    return [None if isinstance(a, str) or undefined(c, engine) else digest(a)
            for c, a in zip(every, found, strict=True)]


def undefined(case: Case, engine: str) -> bool:
    """Whether the engine would read beyond a bias."""
    try:
        prepare(read_tflite(case.content), ENGINES[engine])
    except ValueError as err:
        return "the bias must have 64 bits" in str(err)
    return False


@pytest.mark.parametrize("engine", theirs.ENGINES)
def test_every_operator_answers_as_the_engines_once_did(engine):
    """tflite-micro of October 2026 and ai-edge-litert 2.3.0, x86 with AVX."""
    kept = json.loads(ANSWERS.read_text())[engine]
    assert len(kept) == len(KINDS) - (engine != "tflm") * len(UNDEFINED)
    for name, expected in kept.items():
        kind, dtype = name.split()
        files = cases(kind, dtype, ASKED, ASKED_SEED)
        assert sum(e is not None for e in expected) >= ASKED / 2
        for case, answer in zip(files, expected, strict=True):
            if answer is not None:
                assert digest(ours(case, engine, kind)) == answer, (
                    f"{engine} {name}: if its cases are others now, ask the engines again")


@pytest.mark.peer
@pytest.mark.parametrize("key", KINDS, ids=" ".join)
def test_every_element_is_that_of_the_engine(counts, key):
    engine, found = counts
    if engine != "tflm" and key in UNDEFINED:
        pytest.skip("LiteRT reads beyond an 8-bit state")
    require_equal(engine, key, found[key])


@pytest.mark.peer
@pytest.mark.slow
@pytest.mark.parametrize("engine", theirs.ENGINES)
def test_every_element_of_many_settings_is_that_of_the_engine(engine):
    pytest.importorskip(theirs.MODULES[engine])
    for key, count in compared(engine, 150, seed=1).items():
        print(f"{engine:11} {' '.join(key):36} {count['elements']:9} elements, "
              f"{count['apart']} apart, {count['refused']} files refused")
        if engine == "tflm" or key not in UNDEFINED:
            require_equal(engine, key, count)


if __name__ == "__main__":
    made = {e: {" ".join(k): asked(e, k) for k in KINDS if e == "tflm" or k not in UNDEFINED}
            for e in theirs.ENGINES}
    ANSWERS.write_text(json.dumps(made).replace("], ", "],\n") + "\n")
