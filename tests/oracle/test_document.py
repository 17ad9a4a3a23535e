"""Putting a file together: nothing is published that two derivations do not agree on."""

import json

import numpy as np
import pytest

from refquant.oracle import _affine, vectors
from refquant.oracle._document import (
    Derivation,
    Disagreement,
    Draft,
    Drafts,
    Operation,
    as_json,
    as_tsv,
    document,
    sealed,
)

DOUBLE = Operation("double", {"x": "int8"}, {"by": "int"}, {"y": "int16"})


def doubled(params, inputs):
    return {"y": np.array(int(inputs["x"]) * params["by"], "u2")}


def wrong(params, inputs):
    return {"y": np.array(int(inputs["x"]) * params["by"] + (int(inputs["x"]) == 3), "u2")}


def derived(exact=doubled, fast=doubled):
    return {"plain": Derivation("2 x", "everybody", {"tie": "none"}, exact, fast)}


def group(*numbers, flags=("Basic",), **more):
    cases = [Draft({"x": np.array(x, "u1")}, flags, **more) for x in numbers]
    return Drafts({"by": 2}, "twice", cases)


def test_one_wrong_bit_stops_the_file():
    assert document("double", DOUBLE, derived(), "plain", [group(1, 2, 3)])["numberOfCases"] == 3
    for both in (derived(exact=wrong), derived(fast=wrong)):
        assert document("double", DOUBLE, both, "plain", [group(1, 2)])["numberOfCases"] == 2
        with pytest.raises(Disagreement, match="double, plain: exact"):
            document("double", DOUBLE, both, "plain", [group(1, 2, 3)])


def test_a_wrong_kernel_of_the_library_is_found(monkeypatch):
    right = _affine._RULES["onnx"]
    other = _affine._RULES["tflite.reference"]
    monkeypatch.setitem(_affine._RULES, "onnx", (*right[:4], other[4]))
    _affine.quantize_derivations.cache_clear()
    try:
        with pytest.raises(Disagreement, match="quantize_affine"):
            _affine.quantize_document("int2")
    finally:
        _affine.quantize_derivations.cache_clear()


def test_an_answer_that_the_base_leaves_open_is_refused():
    left_open = derived(exact=lambda params, inputs: None)
    with pytest.raises(Disagreement, match="leaves"):
        document("double", DOUBLE, left_open, "plain", [group(1)])


def test_a_question_asked_twice_stands_once_and_empty_groups_go():
    made = document("double", DOUBLE, derived(), "plain", [group(1, 1, 2), group()])
    assert made["numberOfCases"] == 2
    assert len(made["groups"]) == 1


def test_both_twins_say_what_is_open_and_what_is_rejected():
    groups = [group(1), group(2, flags=("NaN",), status="unspecified"),
              group(4, flags=("BadShape",), status="reject", reason="no")]
    done = sealed(document("double", DOUBLE, derived(), "plain", groups), {"Basic": ["off"]})
    assert json.loads(as_json(done)) == done
    assert done["notes"]["Basic"]["kills"] == ["off"]
    file = vectors.from_document(done)
    assert [case.status for case in file] == ["defined", "unspecified", "reject"]
    assert [case.reason for case in file] == ["", "", "no"]
    rows = [r.split("\t") for r in as_tsv(done).decode().splitlines()]
    assert rows[3] == ["#id", "by", "x", "y", "flags"]
    assert [row[2:4] for row in rows[4:]] == [["01", "0002"], ["02", "?"], ["04", "!"]]


def test_arrays_keep_their_shape_in_the_tabs():
    done = vectors.load("quantize_affine.float32.int8.granular").document
    assert "\t4x3:" in as_tsv(done).decode()
