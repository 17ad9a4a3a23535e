"""The commands: exit status, one line for bad input, and pipes to programs of others."""

import io
import json
import re

import pytest

from refquant.cli import run
from refquant.oracle.vectors import cases, load

INT8 = "quantize_affine.float32.int8"
WRONG = "_oracles.wrong_quantizers"


def test_check_passes_for_refquant_and_counts(capsys):
    assert run(["oracle", "check", "--impl", "refquant", "--dialect", "exact",
                "--ops", "quantize_affine.float32.int2"]) == 0
    assert re.search(r"^refquant \S+ under exact: \d+ match$", capsys.readouterr().out, re.M)


def test_check_lists_differences_with_flags_and_fails(capsys):
    asked = ["oracle", "check", "--impl", f"{WRONG}:TiesAway", "--dialect", "onnx", "--ops", INT8,
             "--no-sweep"]
    assert run(asked) == 1
    out = capsys.readouterr().out
    assert re.search(r"^mismatch  [0-9a-f]{10} \S+ \[.*Tie.*\] expected q=00 got q=01$", out, re.M)
    assert "flags: " in out


def test_a_strict_baseline_hides_what_is_known_and_fails_for_what_is_repaired(capsys, tmp_path):
    known = tmp_path / "known.json"
    asked = ["oracle", "check", "--dialect", "onnx", "--ops", INT8, "--no-sweep",
             "--baseline", str(known)]
    known.write_text("[]")
    assert run([*asked, "--impl", f"{WRONG}:TiesAway"]) == 1
    ids = re.findall(r"^mismatch  (\w+)", capsys.readouterr().out, re.M)
    known.write_text(json.dumps(ids))
    assert run([*asked, "--impl", f"{WRONG}:TiesAway"]) == 0
    capsys.readouterr()
    assert run([*asked, "--impl", f"{WRONG}:Quantizer"]) == 1
    assert f"repaired  {sorted(ids)[0]}: remove it" in capsys.readouterr().out


@pytest.mark.parametrize(("impl", "status", "says"), [
    ("refquant.torch.fbgemm", 0, "speaks torch.fbgemm"),
    (f"{WRONG}:Int32BeforeClamp", 1, "no dialect fits; the nearest is onnx"),
    (f"{WRONG}:TailUnlikeBody", 1, "answers depend on the place"),
])
def test_identify_names_the_dialect_or_says_that_there_is_none(impl, status, says, capsys):
    small = "quantize_affine.float32.int2"
    assert run(["oracle", "identify", "--impl", impl, "--ops", small]) == status
    assert says in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize(("form", "start"), [("md", "| implementation"), ("json", "{"),
                                             ("html", "<!doctype html>")])
def test_matrix_writes_each_format(form, start, capsys):
    assert run(["oracle", "matrix", "--impl", "refquant.onnx", "--format", form,
                "--ops", "quantize_affine.float32.int2"]) == 0
    assert capsys.readouterr().out.startswith(start)


def test_explain_shows_the_fraction_and_every_dialect(capsys):
    case = cases(INT8, flag="TieOddZp")[0]
    assert run(["oracle", "explain", case.id]) == 0
    out = capsys.readouterr().out
    assert "exactly: x / s = 1/2" in out
    assert all(f"\n{dialect}: " in out for dialect in load(INT8).dialects)


def test_certify_a_range_is_no_certificate(capsys):
    assert run(["oracle", "certify", "float8_e4m3fn.saturate", "--impl", "refquant",
                "--first", "3f800000", "--last", "3f801000"]) == 0
    assert "0 of 4096 inputs differ, 0 NaN not asked; not all 2**32" in capsys.readouterr().out


def test_challenge_prints_questions_or_asks_an_implementation(capsys):
    assert run(["oracle", "challenge", "--seed", "3", "--groups", "1"]) == 0
    assert capsys.readouterr().out.startswith("#id\tscale\t")
    asked = ["oracle", "challenge", "--seed", "3", "--groups", "3", "--impl"]
    assert run([*asked, f"{WRONG}:Quantizer"]) == 0
    assert run([*asked, f"{WRONG}:TiesAway"]) == 1


def test_gen_and_verify_meet_through_a_pipe(capsys, monkeypatch):
    assert run(["oracle", "gen", INT8]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("#id")
    answers = {case.id: case.answer("onnx") for case in load(INT8) if case.status == "defined"}
    made = [f"{i} {int(answers[i]['q']):02x}" if i in answers else f"{i} !"
            for i in (line.split("\t")[0] for line in lines[1:])]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(made)))
    assert run(["oracle", "verify", INT8]) == 0
    assert f"0 wrong, 0 not supported, 0 of {len(lines) - 1} not answered" in (
        capsys.readouterr().out)
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(made)))
    assert run(["oracle", "verify", INT8, "--dialect", "aimet"]) == 1
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert run(["oracle", "verify"]) == 1       # silence is no success


def test_export_says_what_it_wrote(capsys, tmp_path):
    assert run(["oracle", "export", str(tmp_path / "vectors")]) == 0
    assert "files in" in capsys.readouterr().out
    assert (tmp_path / "vectors" / "MANIFEST.json").is_file()


@pytest.mark.parametrize(("arguments", "message"), [
    (["check", "--impl", "nobody", "--dialect", "onnx"], "`impl` must be module:adapter"),
    (["check", "--impl", "refquant", "--dialect", "klingon"], "`dialect` must be one of"),
    (["check", "--impl", "refquant", "--dialect", "onnx", "--ops", "softmax"], "`ops` must be"),
    (["check", "--impl", "refquant", "--dialect", "onnx", "--baseline", "none.json"],
     "`baseline` must be a JSON file"),
    (["check", "--impl", "refquant"], "Missing option '--dialect'"),
    (["identify", "--impl", "os:nothing"], "`impl` must exist"),
    (["matrix", "--format", "pdf"], "`--format` must be md, json or html; got pdf"),
    (["explain", "zz"], "`id` must be that of one case"),
    (["certify", "float8", "--impl", "refquant"], "`table` must be one of"),
    (["certify", "float8", "--impl", "refquant", "--first", "xyz"], "must be hexadecimal"),
    (["challenge", "--seed", "x"], "Invalid value for '--seed'"),
    (["gen", "softmax"], "`OP` must be a vector file or one of"),
    (["export", "/proc/none/vectors"], "files must be readable and writable"),
])
def test_bad_input_is_one_line_on_stderr_and_status_2(arguments, message, capsys):
    assert run(["oracle", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert message in err


def test_a_damaged_vector_file_is_one_line(capsys, monkeypatch, tmp_path):
    from refquant.oracle import vectors

    (tmp_path / "normative").mkdir()
    (tmp_path / "MANIFEST.json").write_text('{"files": {}}')
    (tmp_path / "normative" / "odd.json").write_text("{")
    monkeypatch.setattr(vectors, "DATA", tmp_path)
    vectors.manifest.cache_clear()
    vectors.load.cache_clear()
    try:
        assert run(["oracle", "gen", "odd"]) == 2
        assert capsys.readouterr().err == "refquant: odd.json is not in the manifest\n"
    finally:
        vectors.manifest.cache_clear()
        vectors.load.cache_clear()
