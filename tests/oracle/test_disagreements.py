"""The disagreements of the study: each is found by the ids of its cases, or says why not."""

import json

import numpy as np
import pytest

from refquant.oracle import _disagreements as table
from refquant.oracle._disagreements import ROWS, asked, by_id, dialects_at, observed, questions
from refquant.oracle.adapters import ADAPTERS, Missing, Refquant, Reject, load_adapter
from refquant.oracle.vectors import load, names

SHIPPED = {row["id"]: row for row in table.read()["rows"]}
WITH_CASES = [row for row in ROWS if row.cases]

#: Here our own dialects agree, or leave the answer open, and only libraries part.
LIBRARIES_ONLY = {
    "Q5", "Q6", "Q7", "Q8", "Q9", "Q10", "D2", "D3", "D4", "D5", "C1", "C2", "C3", "C4", "C5", "C6",
    "C9", "C11", "C12", "C13", "C14", "C15", "C16", "C17", "C18", "M4", "M5", "M6", "M7",
}  # fmt: skip
#: Here one question is asked under several layouts: each has one answer.
LAYOUTS = {"P1", "P2", "P3", "T1", "T2"}
#: Nobody installed parts: only a dialect, or an older version, or another processor.
DIALECTS_ONLY = {"D8", "C10", "R6", "S3", "P2", "P3", "T1"}


def shown(row):
    """Answers of the libraries, of those that had one."""
    return [a["answers"] for a in SHIPPED[row.id]["answers"]
            if not all(x.startswith("unsupported") for x in a["answers"])]


def test_every_row_of_the_study_is_there():
    counted = {"Q": 16, "D": 8, "C": 20, "M": 8, "R": 6, "G": 2, "N": 2, "P": 5, "T": 2, "S": 3}
    assert [row.id for row in ROWS] == [
        f"{letter}{k}" for letter in "QDCMRGNPTS" for k in range(1, counted[letter] + 1)]


def test_every_row_names_cases_or_says_why_it_has_none():
    assert all(row.cases or row.note for row in ROWS)
    assert {row.id for row in ROWS if not row.cases} == {
        "Q14", "Q15", "Q16", "D6", "C20", "R2", "R3", "R5", "G2", "P4", "P5", "S2"}
    assert all(set(row.impls) <= set(ADAPTERS) for row in ROWS)


@pytest.mark.parametrize("row", WITH_CASES, ids=lambda row: row.id)
def test_the_cases_of_a_row_exist(row):
    known = questions()
    assert set(row.cases) <= set(known)
    assert row.operation in {known[c][0].op for c in row.cases}


@pytest.mark.parametrize("row", [r for r in WITH_CASES
                                 if r.id not in LIBRARIES_ONLY | LAYOUTS | {"C10", "R6"}],
                         ids=lambda row: row.id)
def test_our_own_dialects_part_there(row):
    said = dialects_at(row)
    assert any(len({answers[i] for answers in said.values()} - {"", "any"}) > 1
               or {"any"} < {answers[i] for answers in said.values()}
               for i in range(len(row.cases)))


@pytest.mark.parametrize("row", [r for r in WITH_CASES if r.id in LAYOUTS], ids=lambda row: row.id)
def test_the_layouts_of_a_row_give_other_bytes(row):
    assert len(set(dialects_at(row)["exact" if row.operation == "pack" else "ggml"])) > 1


@pytest.mark.parametrize("row", [r for r in WITH_CASES if r.id in LIBRARIES_ONLY],
                         ids=lambda row: row.id)
def test_libraries_part_where_our_dialects_do_not(row):
    base = list(dialects_at(row).values())
    found = shown(row)
    assert any(len({answers[i].split(";")[0] for answers in found + base}
                   - {"any", ""}) > 1 for i in range(len(row.cases)))


def test_the_table_that_ships_is_that_of_the_module():
    assert list(SHIPPED) == [row.id for row in ROWS]
    for row in ROWS:
        entry = SHIPPED[row.id]
        assert (entry["title"], entry["operation"], entry["note"]) == (
            row.title, row.operation, row.note)
        assert tuple(case["id"] for case in entry["cases"]) == row.cases
        assert [a["impl"] for a in entry["answers"]] == [
            name for name in ADAPTERS if name in {a["impl"] for a in entry["answers"]}]
    assert {a["impl"] for e in SHIPPED.values() for a in e["answers"]} == {
        impl for row in ROWS for impl in row.impls}


#: What makes a row worth a page: who says what.
PINNED = {
    "Q1": {"litert.reference": ["01"], "litert.builtin": ["00; last 01"], "onnxruntime": ["00"]},
    "Q3": {"torch.fbgemm": ["02"], "torch.decomposed": ["01"], "brevitas": ["02"]},
    "Q5": {"onnx.reference": ["80"], "litert.reference": ["80"], "onnxruntime": ["7f"]},
    "Q13": {"onnxruntime": ["87"], "torch.fbgemm": ["86"], "litert.xnnpack": ["86"]},
    "C1": {"ml_dtypes": ["7f", "7f"], "torch.cast": ["7e", "7e"]},
    "C2": {"onnxruntime": ["7e"], "onnx.reference": ["7f"]},
    "C4": {"onnxruntime": ["7f"], "onnx.reference": ["7c"]},
    "C13": {"onnx.reference": ["ff"], "onnxruntime": ["fe"]},
    "C16": {"onnx.reference": ["01"], "onnxruntime": ["00"]},
    "C18": {"ml_dtypes": ["00", "00"], "gfloat": ["01", "01"]},
    "N1": {"torchao.formats": ["bf323a2a", "bf066cf4", "beca3055", "3f391687"]},
    "S1": {"torchao.formats": ["3f81", "3f81", "3f80", "3f80"]},
}


@pytest.mark.parametrize("identity", PINNED)
def test_what_is_on_record(identity):
    answers = {a["impl"]: a["answers"] for a in SHIPPED[identity]["answers"]}
    assert {impl: answers[impl] for impl in PINNED[identity]} == PINNED[identity]


def test_an_adapter_of_ours_is_asked_as_the_others():
    row = by_id("Q3")
    for dialect, answer in (("onnx", "01"), ("torch.fbgemm", "02")):
        assert asked(Refquant(dialect), *questions()[row.cases[0]]) == answer
    assert asked(Refquant("ggml"), *questions()[row.cases[0]]).startswith("unsupported: ggml says")


class Tail(Refquant):
    """Wrong in the last place; refuses NaN; raises for infinities."""

    def run(self, op, types, params, inputs):
        from refquant.oracle._worker import Broken

        u = inputs["x"] & 0x7FFFFFFF
        if (u > 0x7F800000).any():
            raise Reject("no NaN")
        if (u == 0x7F800000).any():
            raise Broken("no infinities")
        found = super().run(op, types, params, inputs)["q"].copy()
        found[-1] ^= 1
        return {"q": found}


@pytest.mark.parametrize(("identity", "word"), [
    ("Q1", "00; last 01"), ("Q9", "rejected: no NaN"), ("Q6", "error: no infinities")])
def test_what_is_no_plain_answer_is_said(identity, word):
    case = questions()[by_id(identity).cases[0]]
    assert asked(Tail("onnx"), *case) == word


def test_what_others_answered_stays_when_one_is_asked_again(tmp_path, monkeypatch):
    path = tmp_path / "table.json"
    path.write_text(json.dumps({"rows": [{"id": "Q1", "answers": [
        {"impl": "gguf", "version": "1", "answers": ["00"]},
        {"impl": "onnxruntime", "version": "1", "answers": ["7f"]}]}]}))
    new = {"impl": "onnxruntime", "version": "2", "answers": ["00"]}
    monkeypatch.setattr(table, "document", lambda impls: {
        "rows": [{"id": "Q1", "answers": [new]}]})
    table.main(["onnxruntime"], path)
    [row] = table.read(path)["rows"]
    assert [(a["impl"], a["version"]) for a in row["answers"]] == [
        ("onnxruntime", "2"), ("gguf", "1")]


def asked_again():
    for impl in ADAPTERS:
        rows = [row for row in WITH_CASES if impl in row.impls]
        if rows:
            yield pytest.param(impl, rows, id=impl)


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("impl", "rows"), list(asked_again()))
def test_installed_libraries_answer_as_on_record(impl, rows):
    """Of the same version; another one must still be asked without an error of ours."""
    try:
        version = load_adapter(impl).version
    except Missing as err:
        pytest.skip(str(err))
    found = observed(rows, [impl])
    for row in rows:
        [now] = found[row.id]
        then = next(a for a in SHIPPED[row.id]["answers"] if a["impl"] == impl)
        assert len(now["answers"]) == len(row.cases)
        # Products in pairs depend on the processor, see R6.
        if row.id != "R6" and version == then["version"]:
            assert now["answers"] == then["answers"], row.id


def test_no_case_is_named_that_the_corpus_has_withdrawn():
    live = {case.id for name in names() for case in load(name) if case.status != "withdrawn"}
    assert {c for row in ROWS for c in row.cases} <= live
    assert np.unique([row.id for row in ROWS]).size == len(ROWS)
