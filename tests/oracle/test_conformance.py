"""Conformance: every classic mistake is named, with the flags that found it."""

import json
from html.parser import HTMLParser

import pytest
from _oracles.wrong_quantizers import (
    Float64Division,
    Int32BeforeClamp,
    Quantizer,
    Raises,
    Reciprocal,
    TailUnlikeBody,
    TiesAway,
    ZeroPointFirst,
)

from refquant.oracle.adapters import ADAPTERS
from refquant.oracle.conformance import (
    HOME_DIALECT,
    Report,
    as_html,
    as_json,
    as_markdown,
    check,
    identify,
    matrix,
    placements,
    read_baseline,
)
from refquant.oracle.run import Outcome
from refquant.oracle.vectors import load

INT8 = ["quantize_affine.float32.int8"]


@pytest.mark.parametrize(("wrong", "dialect", "by"), [
    (TiesAway, "tflite.reference", "Tie"),
    (Reciprocal, "torch.decomposed", "NearTie"),
    (ZeroPointFirst, "brevitas", "TieOddZp"),
    (Float64Division, "exact", "NearTie"),
    (Int32BeforeClamp, None, "HugeInput"),
    (TailUnlikeBody, None, "Tie"),
], ids=lambda p: getattr(p, "__name__", None))
def test_a_wrong_implementation_is_named_and_fails_with_the_flag_that_caught_it(wrong, dialect, by):
    verdicts = identify(wrong(), ops=INT8)
    best = verdicts[0]
    if dialect:
        assert (best.dialect, best.failed) == (dialect, 0)
        # XNNPACK is torch.decomposed, but for subnormal numbers, which it leaves open.
        assert verdicts[2 if wrong is Reciprocal else 1].failed > 0
    else:
        assert best.failed or placements(wrong(), ops=INT8)
    report = check(wrong(), "onnx", ops=INT8, sweep=wrong is TailUnlikeBody)
    assert report.failures()
    assert by in report.flags()
    assert by in next(v for v in verdicts if v.dialect == "onnx").flags or dialect is None


def test_a_right_implementation_is_named_too():
    best, second, *_ = identify(Quantizer(), ops=INT8)
    assert (best.dialect, best.failed) == ("onnx", 0)
    assert second.failed > 0
    assert placements(Quantizer(), ops=["quantize_affine.float32.int2"]) == []


def test_an_implementation_that_fails_everywhere_speaks_nothing():
    best = identify(Raises(), ops=INT8)[0]
    assert best.failed > 400


class TestBaseline:
    report = check(TiesAway(), "onnx", ops=INT8)
    known = tuple(r.case.id for r in report.failures())

    def test_what_is_known_is_not_new(self):
        assert self.report.new(self.known) == []
        assert [r.case.id for r in self.report.new(self.known[1:])] == [self.known[0]]

    def test_what_is_repaired_is_told_and_what_was_not_asked_is_not(self):
        right = check(Quantizer(), "onnx", ops=INT8)
        assert right.repaired([*self.known, "0000000000"]) == sorted(self.known)
        assert self.report.repaired(self.known) == []

    @pytest.mark.parametrize("content", ['["adfb2c2ad2"]', '{"adfb2c2ad2": "rounds away"}'])
    def test_a_file_is_a_list_or_reasons(self, content, tmp_path):
        path = tmp_path / "known.json"
        path.write_text(content)
        assert read_baseline(path) == {"adfb2c2ad2"}

    @pytest.mark.parametrize("content", ["[1]", '"adfb2c2ad2"', "[", None])
    def test_anything_else_is_one_line(self, content, tmp_path):
        path = tmp_path / "known.json"
        if content is not None:
            path.write_text(content)
        with pytest.raises(ValueError, match="`baseline` must be") as caught:
            read_baseline(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("ops", "dialect", "message"), [
    (["softmax"], "onnx", r"`ops` must be operations \(.*\) or files; got 'softmax'"),
    (INT8, "klingon", r"`dialect` must be one of aimet, .*; got 'klingon'"),
])
def test_bad_input_is_one_line(ops, dialect, message):
    with pytest.raises(ValueError, match=message):
        check(Quantizer(), dialect, ops=ops)


class TestMatrix:
    reports = (*matrix(["refquant.onnx"], ops=["quantize_affine.float32.int2"]),
               check(Raises(), "onnx", ops=INT8), "nobody: nobody is not <installed>")

    def test_markdown_has_a_row_for_each(self):
        rows = as_markdown(self.reports).splitlines()
        assert rows[2].startswith("| refquant.onnx ")
        asked = len(load("quantize_affine.float32.int2"))
        assert f"| onnx | {asked} | {asked} | 0 |" in rows[2]
        assert "error)" in rows[3]
        assert rows[4] == "| nobody | | | | | | nobody is not <installed> |"
        assert all(row.count("|") == 8 for row in rows[:5])
        assert "NumPy" in rows[-1]

    def test_html_is_well_formed_and_escaped(self):
        seen = []

        class Parser(HTMLParser):
            def handle_data(self, data):
                seen.append(data)

        text = as_html(self.reports)
        Parser().feed(text)
        assert "nobody is not <installed>" in seen
        assert "<installed>" not in text

    def test_json_lists_every_failure_by_its_id(self):
        found = json.loads(as_json(self.reports))
        assert [r.get("impl", "-") for r in found["reports"]] == ["refquant.onnx", "Raises", "-"]
        failures = found["reports"][1]["failures"]
        assert {f["outcome"] for f in failures} == {"error"}
        assert len({f["id"] for f in failures}) == len(failures)

    def test_wrong_answers_are_written_in_hexadecimal(self):
        found = json.loads(as_json([check(TiesAway(), "onnx", ops=INT8)]))
        answers = [f["answer"] for f in found["reports"][0]["failures"]]
        assert all(len(a["q"]) == 2 for a in answers)


def test_every_adapter_that_ships_has_a_dialect():
    assert set(HOME_DIALECT) == set(ADAPTERS)


def test_an_empty_report_has_nothing_to_say():
    report = Report("mine", "1", "onnx", ())
    assert not report.counts()
    assert report.counts()[Outcome.MATCH.value] == 0
