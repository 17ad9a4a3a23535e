"""The mutation gate: every slip is found out twice, every flag is worth its name."""

import numpy as np
import pytest

from refquant.oracle import _mutations, mutants
from refquant.oracle._derivations import derivations
from refquant.oracle._flags import FLAGS
from refquant.oracle.mutants import gate, kills, kills_by_flag, report
from refquant.oracle.vectors import load, names


@pytest.mark.parametrize("name", names())
def test_every_mutant_is_killed_twice_and_every_flag_kills(name):
    found = gate(load(name))
    assert len(found.kills) >= 4
    assert found.survivors == ()
    assert found.idle_flags == ()


@pytest.mark.parametrize("name", ["quantize_affine.float32.int8", "cast.float32.float8_e4m3fn",
                                  "quantize_nf4.float32"])
def test_the_minimal_set_kills_all_and_the_notes_say_what_each_flag_kills(name):
    file = load(name)
    found = gate(file)
    assert all(ids & set(found.minimal) for ids in found.kills.values())
    assert len(found.minimal) <= 8
    by_flag = kills_by_flag(file)
    assert {f: note["kills"] for f, note in file.notes.items()} == {
        f: by_flag.get(f, []) for f in file.notes}


def test_the_right_kernel_is_no_mutant(monkeypatch):
    file = load("quantize_affine.float32.int8")
    right = derivations(file.op, {**file.inputs, **file.outputs}, {})["onnx"].fast
    monkeypatch.setattr(mutants, "mutations", lambda file: {"right": right})
    monkeypatch.setattr(mutants, "refusals", lambda file: {})
    assert kills(file) == {"right": frozenset()}
    found = gate(file)
    assert found.survivors == ("right",)
    assert "Tie" in found.idle_flags
    assert found.minimal == ()


@pytest.mark.parametrize("name", names())
def test_who_checks_all_arguments_and_no_more_is_no_mutant(name, monkeypatch):
    file = load(name)
    right = _mutations._any(*_mutations.CHECKS.get(file.op, {}).values())
    monkeypatch.setattr(mutants, "mutations", lambda file: {})
    monkeypatch.setattr(mutants, "refusals", lambda file: {"right": right})
    assert kills(file) == {"right": frozenset()}


def test_every_flag_that_there_is_kills_something():
    files = [load(name) for name in names()]
    assert {flag for file in files for flag, note in file.notes.items() if note["kills"]} == {
        *FLAGS}


def test_what_must_be_rejected_finds_out_who_checks_too_little():
    by_flag = kills_by_flag(load("quantize_affine.float32.int8"))
    assert by_flag["BadZeroPoint"] == ["zero point not checked"]
    assert by_flag["BadScale"] == ["scale below 0 refused alone", "scale not checked",
                                   "scale up to 0 refused alone"]
    assert kills_by_flag(load("unpack.uint8"))["BadShape"] == ["number of bytes not checked"]
    assert "no elements are an error" in kills_by_flag(load("unpack.uint8"))["EmptyInput"]


def test_the_slips_of_the_disagreement_table_are_among_the_mutants():
    found = kills(load("quantize_affine.float32.int8"))
    assert {"ties away", "reciprocal", "zero point first", "float64 division",
            "int32 before the clip", "wraps", "narrow range", "subnormals are zero"} <= set(found)


@pytest.mark.slow
def test_the_report_has_a_line_for_each_file():
    assert len(report().splitlines()) == len(names()) + 1


@pytest.mark.parametrize("name", names())
def test_the_readable_library_gives_every_answer_again(name):
    """What was published is what the code of today computes, on every case it may ask."""
    file = load(name)
    types = {**file.inputs, **file.params, **file.outputs}
    for group in file.groups[:6]:
        found = derivations(file.op, types, group.params)
        assert set(found) == set(file.dialects)
        for case in group.cases[:8]:
            for dialect, derivation in found.items():
                answer = case.answer(dialect)
                if answer is not None:
                    given = derivation.fast(group.params, case.inputs)
                    assert all(np.array_equal(given[key], answer[key]) for key in answer)
