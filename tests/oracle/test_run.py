"""Run: whatever an adapter does is the result of a case, and the run goes on."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from _oracles.wrong_quantizers import (
    NoMapping,
    NoWorkingSupports,
    Quantizer,
    Raises,
    TailUnlikeBody,
    TiesAway,
    WrongName,
    WrongShape,
    WrongType,
)

from refquant.oracle import _worker
from refquant.oracle._worker import VIEWS, Worker
from refquant.oracle.adapters import Refquant, Reject
from refquant.oracle.run import FAILURES, WIDTH, Outcome, placed, run
from refquant.oracle.vectors import Case, Group, VectorFile, load

FILE = load("quantize_affine.float32.int8")
WRONG = "_oracles.wrong_quantizers"


def outcomes(adapter, **settings):
    return Counter(r.outcome for r in run(adapter, FILE, "onnx", **settings))


def test_a_right_quantizer_matches_in_this_process_and_in_another():
    here, there = outcomes(Quantizer()), outcomes(f"{WRONG}:Quantizer")
    assert set(here) == {Outcome.MATCH}
    assert here == there


@pytest.mark.parametrize(("wrong", "detail"), [
    (Raises, "RuntimeError: kaput and more"),
    (WrongType, "`q` must have the type uint8; got int32"),
    (WrongShape, "`q` must have the shape (); got (0,)"),
    (WrongName, "the answer must have q; got ['y']"),
    (NoMapping, "the answer must have q; got int"),
])
def test_nonsense_is_an_error_of_each_case_in_one_line(wrong, detail):
    results = [r for r in run(wrong(), FILE, "onnx") if r.case.status == "defined"]
    assert {r.outcome for r in results} == {Outcome.ERROR}
    assert {r.detail for r in results} == {detail}


@pytest.mark.parametrize("adapter", [NoWorkingSupports(), f"{WRONG}:NoWorkingSupports"])
def test_a_broken_supports_is_an_error_of_every_case(adapter):
    results = list(run(adapter, FILE, "onnx"))
    assert {r.outcome for r in results} == {Outcome.ERROR}
    assert results[0].detail.startswith("`supports` failed: ")
    assert "KeyError: 'oops'" in results[0].detail


def test_a_crash_is_the_result_of_its_case_and_the_rest_is_asked():
    tiny = next(g for g in FILE.groups if g.cases[0].flags[0] == "SubnormalScale")
    groups = (FILE.groups[0], Group(tiny.params, "", tiny.cases[:3]), FILE.groups[1])
    some = VectorFile(**{**vars(FILE), "groups": groups})
    results = list(run(f"{WRONG}:Crashes", some, "onnx"))
    crashed = [r for r in results if r.outcome is Outcome.CRASH]
    assert {r.detail for r in crashed} == {"the process died of SIGABRT"}
    assert all("SubnormalScale" in r.case.flags for r in crashed)
    assert len(crashed) == 3
    assert {r.outcome for r in results} == {Outcome.CRASH, Outcome.MATCH}


def test_a_hang_is_ended_and_the_rest_is_asked():
    small = VectorFile(**{**vars(FILE), "groups": FILE.groups[:1]})
    results = list(run(f"{WRONG}:Hangs", small, "onnx", timeout=0.5))
    slow = [r for r in results if r.outcome is Outcome.TIMEOUT]
    assert [(int(r.case.inputs["x"]), r.detail) for r in slow] == [
        (0x40400000, "no answer in 0.5 s")]
    assert sum(r.outcome is Outcome.MATCH for r in results) == len(results) - 1


def test_what_always_hangs_is_given_up_after_three_in_a_row():
    small = VectorFile(**{**vars(FILE), "groups": FILE.groups[:1]})
    results = list(run(f"{WRONG}:AlwaysHangs", small, "onnx", timeout=0.3))
    assert {r.outcome for r in results} == {Outcome.TIMEOUT}
    assert [r.detail for r in results[:4]] == [
        *["no answer in 0.3 s"] * 3, "not asked after 3 in a row: no answer in 0.3 s"]
    assert len(results) == len(FILE.groups[0].cases)


def test_a_library_that_never_answers_is_not_asked_for_ever(monkeypatch):
    """However many groups there are: the limit is that of the whole run."""
    monkeypatch.setattr(_worker, "PATIENCE", 2)
    worker = _worker.Worker(f"{WRONG}:AlwaysHangs", timeout=0.2)
    question = "quantize_affine", {}, {}, {}
    for _ in range(2):
        with pytest.raises(_worker.Timeout, match=r"^no answer in 0\.2 s$"):
            worker.run(*question)
    monkeypatch.setattr(worker, "_start", None)         # it does not start another process
    with pytest.raises(_worker.Timeout, match=r"^not asked after 2 in a row without answer; no a"):
        worker.run(*question)


@pytest.mark.parametrize(("wrong", "detail"), [
    ("Exits", "SystemExit: 3"),
    ("RaisesMute", "Mute"),
    ("RaisesEscapes", "RuntimeError: red ?[31m? letters"),
    ("AnswersBombs", "the answer must be arrays; LookupError: not in this process"),
    ("Floods", "the answer must be as large as the question asks; got 134217728 bytes"),
])
def test_a_library_that_exits_floods_or_mumbles_is_an_error_of_its_case(wrong, detail):
    small = VectorFile(**{**vars(FILE), "groups": FILE.groups[:1]})
    results = [r for r in run(f"{WRONG}:{wrong}", small, "onnx") if r.case.status == "defined"]
    assert {(r.outcome, r.detail) for r in results} == {(Outcome.ERROR, detail)}


def test_a_worker_ends_with_the_process_that_asked():
    """Killed in the middle of a question, the parent cannot tell it."""
    code = ("import os\nfrom refquant.oracle._worker import Worker\n"
            f"worker = Worker('{WRONG}:AlwaysHangs', timeout=60)\n"
            "print(worker._process.pid, flush=True)\n"
            "worker.run('quantize_affine', {}, {}, {})\n")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}) as parent:
        worker = int(parent.stdout.readline())
        parent.kill()
    for _ in range(100):
        if not is_alive(worker):
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    raise AssertionError("the worker stayed behind")


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:                                        # a zombie that nobody has waited for is dead
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return not sys.platform.startswith("linux")


def test_a_truth_of_numpy_is_as_good_as_one_of_python():
    assert set(outcomes(f"{WRONG}:NumpyTruth")) == {Outcome.MATCH}


def test_noise_on_stdout_does_not_disturb():
    assert set(outcomes(f"{WRONG}:Prints")) == {Outcome.MATCH}


def test_a_refusal_is_no_match_where_the_dialect_answers():
    class Refuses(Quantizer):
        def run(self, op, types, params, inputs):
            raise Reject("not today")

    by_status = {}
    for result in run(Refuses(), FILE, "onnx"):
        by_status.setdefault(result.case.status, set()).add(result.outcome)
    assert by_status == {"defined": {Outcome.REJECTED}, "unspecified": {Outcome.MATCH},
                         "reject": {Outcome.MATCH}}


def test_answering_what_must_be_rejected_is_a_mismatch():
    class Accepts(Quantizer):
        def run(self, op, types, params, inputs):
            return {"q": np.zeros(np.shape(inputs["x"]), np.uint8)}

    bad = [r for r in run(Accepts(), FILE, "onnx") if r.case.status == "reject"]
    assert {r.outcome for r in bad} == {Outcome.MISMATCH}
    assert bad[0].detail == "must be rejected: the scale must be positive and finite"


def test_withdrawn_cases_are_not_asked():
    case = FILE.groups[0].cases[0]
    gone = Case(**{**vars(case), "status": "withdrawn", "base": None})
    group = Group(FILE.groups[0].params, "", (gone, FILE.groups[0].cases[1]))
    small = VectorFile(**{**vars(FILE), "groups": (group,)})
    assert [r.case.id for r in run(Quantizer(), small, "onnx")] == [FILE.groups[0].cases[1].id]


def test_an_unknown_dialect_is_one_line():
    with pytest.raises(ValueError, match=r"`dialect` must be one of onnx, .*; got 'klingon'"):
        next(run(Quantizer(), FILE, "klingon"))


def is_tie(case):
    return float(case.inputs["x"].view(np.float32)) % 1 == 0.5      # the scale is 1


class TestPlacement:
    small = VectorFile(**{**vars(FILE), "groups": FILE.groups[:1]})

    def test_a_tail_that_rounds_otherwise_is_found_and_nothing_else(self):
        results = list(run(TailUnlikeBody(), self.small, "onnx", sweep=True))
        moved = [r for r in results if r.outcome is Outcome.PLACEMENT]
        assert moved
        assert all(is_tie(r.case) for r in moved)
        assert "another answer at index" in moved[0].detail
        assert {Outcome.PLACEMENT} < FAILURES

    def test_rounding_that_does_not_depend_on_the_place_is_none(self):
        assert list(placed(TiesAway(), self.small)) == []
        assert list(placed(Refquant("onnx"), self.small)) == []

    @pytest.mark.parametrize("index", [0, 7, WIDTH, 2 * WIDTH])
    def test_a_single_bad_index_of_the_longest_array_is_found(self, index):
        class Bad(Quantizer):
            def codes(self, x, s, z, low, high):
                found = super().codes(x, s, z, low, high)
                if x.size == 2 * WIDTH + 1:
                    found[index] = 99
                return found

        assert dict(placed(Bad(), self.small))

    def test_views_that_are_not_read_properly_are_found(self):
        class IgnoresStrides(Quantizer):
            def run(self, op, types, params, inputs):
                x = inputs["x"]
                flat = np.ndarray(x.shape, x.dtype, x.base) if x.strides[0] > 4 else x
                return super().run(op, types, params, {"x": flat})

        found = dict(placed(IgnoresStrides(), self.small))
        assert any("strided memory" in where for where in found.values())

    def test_the_views_are_what_they_say(self):
        x = np.arange(5, dtype=np.uint32)
        assert VIEWS["strided"](x).strides == (8,)
        assert not VIEWS["unaligned"](x).flags.aligned
        for view in VIEWS.values():
            assert np.array_equal(view(x), x)

    def test_it_works_across_the_pipe(self):
        found = dict(placed(f"{WRONG}:TailUnlikeBody", self.small))
        assert found
        assert all(is_tie(case) for case in found)


def test_a_worker_starts_again_after_it_was_closed():
    worker = Worker("refquant", timeout=30)
    try:
        worker.close()
        assert worker.supports("softmax", {}, {}) == "refquant has no softmax"
    finally:
        worker.close()
