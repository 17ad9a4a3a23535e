"""The pages on the golden vectors, which the book makes from the files."""

import json
import re

import numpy as np
import pytest
from structure._tree import ROOT

from refquant.oracle.explain import find
from refquant.oracle.vectors import cases, load, names


@pytest.fixture(scope="module")
def pages():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "textbook" / "_ext")
        import oracle_pages

        yield oracle_pages.pages()


def test_every_flag_that_a_case_carries_has_a_page_that_the_list_links(pages):
    used = {flag for name in names() for flag in load(name).notes}
    titles = {re.search(r"^# (\w+)$", text, re.M)[1]: name
              for name, text in pages.items() if name.startswith("flag-")}
    assert set(titles) == used
    assert all(f"[{flag}]({page}): " in pages["flags.md"] for flag, page in titles.items())


def test_a_page_shows_cases_that_carry_its_flag_and_the_command_to_see_more(pages):
    every = {case.id: case for case in cases()}
    for name, text in pages.items():
        if name.startswith("flag-"):
            flag = re.search(r"^# (\w+)$", text, re.M)[1]
            ids = re.findall(r"^## `([0-9a-f]{10})`: ", text, re.M)
            assert 1 <= len(ids) <= 5
            assert all(flag in every[identity].flags for identity in ids)
            assert ids == re.findall(r"^\$ refquant oracle explain (\w+)$", text, re.M)


def test_answers_stand_there_in_bits_and_numbers_those_that_depart_in_bold(pages):
    text = pages["flag-tie-odd-zp.md"]
    case = find(re.search(r"^## `(\w+)`: quantize_affine$", text, re.M)[1])
    assert "brevitas" in case.differs
    assert "onnx" not in case.differs
    code = {name: int(np.int8(case.answer(name)["q"])) for name in ("onnx", "brevitas")}
    assert f"| onnx | q = {code['onnx'] & 255:02x} = {code['onnx']} | f32(x / s) = " in text
    assert f"| brevitas | **q = {code['brevitas'] & 255:02x} = {code['brevitas']}** | " in text


def test_the_mutation_gate_is_quoted(pages):
    row = next(line for line in pages["flag-tie-odd-zp.md"].splitlines()
               if line.startswith("| `quantize_affine` |"))
    assert "zero point first" in row
    assert "nothing but an error is right" in pages["flag-bad-scale.md"]


def test_every_dialect_of_every_file_is_described(pages):
    titles = set(re.findall(r"^## (\S+)$", pages["dialects.md"], re.M))
    assert titles == {dialect for name in names() for dialect in load(name).dialects}


def test_pages_that_did_not_change_are_not_written_again_and_old_ones_go(pages, tmp_path):
    import oracle_pages

    oracle_pages.write(tmp_path)
    (tmp_path / "flag-gone.md").write_text("old")
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.md")}
    oracle_pages.write(tmp_path)
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.md")}
    assert before.keys() - after.keys() == {"flag-gone.md"}
    assert all(before[name] == time for name, time in after.items())


def test_nothing_in_a_cell_is_taken_for_markdown(pages):
    for text in pages.values():
        for line in text.splitlines():
            if line.startswith("|"):
                cells = re.split(r"(?<!\\)\|", re.sub(r"`[^`]*`", "", line))
                assert len(cells) in (4, 5, 6)


def test_a_disagreement_groups_rules_and_libraries_by_their_answer(pages, tmp_path):
    from disagreement_page import page

    path = tmp_path / "disagreements.json"
    path.write_text(json.dumps({
        "observation": {"platform": "a system", "cpu": "a processor"},
        "rows": [
            {"id": "Q1", "title": "a tie", "note": "who rounds away",
             "cases": [{"id": "494a0745af", "file": "quantize_affine.float32.int8"}],
             "answers": [{"impl": "one", "version": "1", "answers": ["01"]},
                         {"impl": "two", "version": "2", "answers": ["00; last 01"]},
                         {"impl": "three", "version": "3", "answers": ["unsupported: no"]}]},
            {"id": "R2", "title": "rare", "note": "a frequency", "cases": [], "answers": []},
        ]}))
    text = page(path)
    assert "asked on a system, a processor" in text
    assert "### Q1: a tie\n\nWho rounds away.\n\n`refquant oracle explain 494a0745af`" in text
    assert "| 00 = 0 | onnx, torch.decomposed," in text
    assert "| 01 = 1 | tflite.reference, aimet | one 1 |" in text
    assert "| 00 = 0; last 01 = 1 |  | two 2 |" in text
    assert "three" not in text
    assert "## Sums back to codes" in text
    assert "*No case of the corpus shows it.*" in text
