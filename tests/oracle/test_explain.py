"""Explain: the steps shown end at the answer of the file."""

import re

import numpy as np
import pytest

from refquant.oracle.explain import explain, find, steps
from refquant.oracle.vectors import cases, load, names, values

INT8 = "quantize_affine.float32.int8"


def test_the_example_of_an_odd_zero_point():
    case = cases(INT8, flag="TieOddZp")[0]
    text = explain(case)
    assert "exactly: x / s = 1/2 = 0.5" in text
    assert "between 0 and 1: a tie" in text
    assert "onnx: sat(rne(f32(x / s)) + z)" in text
    assert "separates" in text or "rounding first and adding first" in text


@pytest.mark.parametrize("dialect", load(INT8).dialects)
def test_the_steps_lead_to_the_answer_of_each_dialect(dialect):
    axes, told = load(INT8).dialects[dialect]["axes"], 0
    for case in cases(INT8, dialect=dialect, status="defined"):
        answer = case.answer(dialect)
        last = "\n".join(steps(case, axes))
        if answer is None:
            assert "nan" in last or "refused" in last
            continue
        if dialect == "exact":
            last = explain(case).split("\n\n")[0]
        end = re.search(r"(?:ties to \w+|rounded, plus the zero point): (\S+)"
                        r"(?:\nplus \D+ (-?\d+))?", last)
        if end is None:
            assert "there is no quotient" in last
            continue
        whole = float(end[1]) + int(end[2] or 0)
        clipped = np.clip(whole, case.params["qmin"], case.params["qmax"])
        assert clipped == int(values(answer["q"], "int8")), (case.id, last)
        told += 1
    assert told > 150


def test_every_kind_of_case_can_be_explained():
    for name in names():
        seen = set()
        for case in load(name):
            kind = (case.status, case.flags)
            if kind not in seen:
                seen.add(kind)
                text = explain(case)
                assert text.startswith(case.id)
                assert case.status == "defined" or case.status in text or "rejected" in text


def test_a_case_that_must_be_rejected_says_why():
    case = cases(INT8, status="reject")[0]
    assert "must be rejected: the scale must be positive" in explain(case)


def test_steps_are_of_single_numbers():
    case = cases("dequantize_affine.int8.float32")[0]
    with pytest.raises(ValueError, match="`case` must be a quantize_affine of one number"):
        steps(case, {})


@pytest.mark.parametrize(("identity", "message"), [
    ("0", "has fewer than four"), ("zzzzzzzzzz", "is that of no case"), ("", "has fewer than four"),
])
def test_an_id_that_is_none_is_one_line(identity, message):
    with pytest.raises(ValueError, match=f"`id` must be that of one case, .* {message}"):
        find(identity)


def test_an_id_in_capitals_or_cut_short_is_found():
    case = cases(INT8)[0]
    assert find(case.id.upper()).id == find(case.id[:9]).id == case.id
