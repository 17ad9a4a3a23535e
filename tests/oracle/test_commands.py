"""The commands: exit status, one line for bad input, and pipes to programs of others."""

import io
import json
import re

import pytest

from refquant.cli import run
from refquant.oracle._show import digits
from refquant.oracle.vectors import cases, load

INT8 = "quantize_affine.float32.int8"
COUNT = len(load(INT8))
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
    (f"{WRONG}:TiesAway", 0, "speaks tflite.reference"),
    (f"{WRONG}:Reciprocal", 0, "speaks torch.decomposed"),
    (f"{WRONG}:ZeroPointFirst", 0, "speaks brevitas"),
    (f"{WRONG}:Float64Division", 0, "speaks exact"),
    (f"{WRONG}:Int32BeforeClamp", 1, "no dialect fits; the nearest is onnx"),
    (f"{WRONG}:TailUnlikeBody", 1, "answers depend on the place"),
])
def test_identify_names_the_dialect_or_says_that_there_is_none(impl, status, says, capsys):
    # Few cases where that is enough: each is asked at every place.
    ops = INT8 if "Float64" in impl else "quantize_affine.float32.int4"
    assert run(["oracle", "identify", "--impl", impl, "--ops", ops]) == status
    assert says in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize(("wrong", "flag"), [
    ("TiesAway", "Tie"), ("Reciprocal", "NearTie"), ("ZeroPointFirst", "TieOddZp"),
    ("Float64Division", "NearTie"), ("Int32BeforeClamp", "HugeInput"), ("TailUnlikeBody", "Tie"),
])
def test_check_fails_every_classic_mistake_and_prints_the_flag_that_caught_it(wrong, flag, capsys):
    assert run(["oracle", "check", "--impl", f"{WRONG}:{wrong}", "--dialect", "onnx", "--ops",
                "quantize_affine.float32.int4"]) == 1
    told = capsys.readouterr().out.splitlines()[-1]
    assert told.startswith("flags: ")
    assert f"{flag} " in told


@pytest.mark.parametrize(("form", "start"), [("md", "| implementation"), ("json", "{"),
                                             ("html", "<!doctype html>")])
def test_matrix_writes_each_format(form, start, capsys):
    assert run(["oracle", "matrix", "--impl", "refquant.onnx", "--format", form,
                "--ops", "quantize_affine.float32.int2"]) == 0
    assert capsys.readouterr().out.startswith(start)


def test_matrix_goes_on_after_one_that_does_not_start(capsys):
    assert run(["oracle", "matrix", "--impl", f"{WRONG}:DiesAtStart,refquant,{WRONG}:TwoLines",
                "--dialect", "onnx", "--ops", "quantize_affine.float32.int2"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[2].startswith(f"| {WRONG}:DiesAtStart | | | | | | `impl` must start; ")
    assert rows[3].startswith("| refquant ")
    assert rows[4].startswith("| two lines\\|<b> 1 | onnx | ")


def test_matrix_has_a_row_for_those_whose_dialect_says_nothing_of_the_operation(capsys):
    assert run(["oracle", "matrix", "--impl", "gguf,refquant", "--ops",
                "quantize_affine.float32.int2"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[2] == ("| gguf | | | | | | ggml says nothing of quantize_affine.float32.int2 |")
    every = len(load("quantize_affine.float32.int2"))
    assert f" | exact | {every} | {every} | 0 | | |" in rows[3]


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


def test_a_challenge_of_which_nothing_was_asked_is_no_success(capsys):
    assert run(["oracle", "challenge", "--seed", "3", "--groups", "1", "--dialect", "exact",
                "--impl", "refquant.ggml"]) == 1
    assert capsys.readouterr().out == (
        "refquant.ggml under exact: 0 of 0 fresh cases differ\n"
        "not asked: 16, ggml says nothing of quantize_affine\n")


def test_an_endless_time_limit_is_none(capsys):
    assert run(["oracle", "challenge", "--seed", "3", "--groups", "1", "--timeout", "inf",
                "--impl", f"{WRONG}:Quantizer"]) == 0


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


def test_gen_takes_every_operation_that_check_takes(capsys):
    assert run(["oracle", "gen", "quantize_affine_float16"]) == 0
    first = capsys.readouterr().out.splitlines()[1].split("\t")
    assert first[0] == next(iter(load("quantize_affine.float16.int8"))).id


def right_answers(file):
    found = []
    for case in file:
        answer = case.answer(file.base_dialect) if case.status == "defined" else None
        fields = [digits(answer[key]).upper() for key in file.outputs] if answer else ["!"]
        found.append(" ".join([case.id, *fields]))
    return found


@pytest.mark.parametrize("name", ["requantize.int32.int8", "quantization_parameters.float32.int8"])
def test_verify_finds_the_file_by_its_ids_and_takes_capitals(name, capsys, monkeypatch):
    file = load(name)
    lines = [line.lower() if i % 2 else line
             for i, line in enumerate(right_answers(file))]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    status = run(["oracle", "verify"])
    out = capsys.readouterr().out.splitlines()[-1]
    assert f"{name} under {file.base_dialect}: " in out
    assert (status, " 0 wrong" in out, f"0 of {len(file)} not answered" in out) == (0, True, True)


def test_verify_takes_the_mark_and_the_line_ends_of_other_systems(capsys, monkeypatch):
    lines = right_answers(load("quantize_affine.float32.int2"))
    monkeypatch.setattr("sys.stdin", io.StringIO("\ufeff" + "\r\n".join(lines), newline=""))
    assert run(["oracle", "verify"]) == 0
    said = f" 0 wrong, 0 not supported, 0 of {len(lines)} not answered"
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(("change", "says"), [
    (lambda lines: lines[:-1], f"1 of {COUNT} not answered"),
    (lambda lines: [*lines, lines[0]], ": answered twice"),
    (lambda lines: [*lines, "0000000000 00"], "0000000000: no such id in "),
    (lambda lines: [lines[0].split()[0], *lines[1:]], "got nothing"),
    (lambda lines: [f"{line.split()[0]} -" for line in lines], f"0 wrong, {COUNT} not supp"),
])
def test_verify_fails_for_what_is_missing_double_unknown_or_empty(change, says, capsys,
                                                                  monkeypatch):
    lines = change(right_answers(load(INT8)))
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    assert run(["oracle", "verify"]) == 1
    assert says in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "given", "message"), [
    ([], "", "standard input must hold answers; got none"),
    ([], "# nothing\n\n", "standard input must hold answers; got none"),
    ([], "x" * 2**20, "standard input must hold a line for each answer; got one of 1048576 char"),
    ([], "x" * 9000 + "\n", "`id` must be that of one case, ten hexadecimal digits; 'xxxxxxxxxx"),
    ([], "hello world\n", "`id` must be that of one case"),
    ([INT8, "--dialect", "klingon"], "x 00\n", "`dialect` must be one of onnx, "),
    ([INT8, "--seed", "3"], "x 00\n", "`OP` must be left out of a challenge"),
])
def test_bad_input_of_verify_is_one_line_and_status_2(arguments, given, message, capsys,
                                                      monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(given))
    assert run(["oracle", "verify", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert message in err
    assert len(err) < 400


def test_a_closed_standard_input_is_bad_input(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    assert run(["oracle", "verify"]) == 2
    assert capsys.readouterr().err == "refquant: standard input must hold answers; got none\n"


@pytest.mark.parametrize(("kind", "line"), [
    ("files", rf"^quantize_affine\.float32\.int8 +{COUNT} +onnx, "),
    ("dialects", r"^torch\.fbgemm +.*quantize_affine"),
    ("flags", r"^TieOddZp +\d+ +A tie with an odd zero point"),
    ("tables", r"^float8_e4m3fn\.saturate$"),
    ("adapters", r"^onnxruntime +onnx$"),
])
def test_list_names_what_the_other_commands_take(kind, line, capsys):
    assert run(["oracle", "list", kind]) == 0
    assert re.search(line, capsys.readouterr().out, re.M)


def test_nothing_asked_is_no_success(capsys):
    assert run(["oracle", "check", "--impl", f"{WRONG}:Quantizer", "--dialect", "exact", "--ops",
                "pack"]) == 1
    out = capsys.readouterr().out.splitlines()
    assert re.match(r"Quantizer 1 under exact: \d+ unsupported", out[0])
    assert re.match(r"not asked: \d+, no pack", out[1])
    assert out[2] == "nothing was asked"


def test_a_broken_supports_fails(capsys):
    assert run(["oracle", "check", "--impl", f"{WRONG}:NoWorkingSupports", "--dialect", "onnx",
                "--ops", "quantize_affine.float32.int2"]) == 1
    assert "`supports` failed: KeyError: 'oops'" in capsys.readouterr().out


def test_export_says_what_it_wrote(capsys, tmp_path):
    assert run(["oracle", "export", str(tmp_path / "vectors")]) == 0
    assert "files in" in capsys.readouterr().out
    assert (tmp_path / "vectors" / "MANIFEST.json").is_file()


@pytest.mark.parametrize(("arguments", "message"), [
    (["check", "--impl", "nobody", "--dialect", "onnx"], "`impl` must be module:adapter"),
    (["check", "--impl", "refquant", "--dialect", "klingon"], "`dialect` must be one of"),
    (["check", "--impl", "refquant", "--dialect", "onnx", "--ops", "softmax"], "`ops` must be"),
    (["check", "--impl", "refquant", "--dialect", "onnx", "--baseline", "known"],
     "`baseline` must be a file where none ships for refquant under onnx; there are "),
    (["check", "--impl", "refquant", "--dialect", "onnx", "--baseline", "none.json"],
     "`baseline` must be a JSON file"),
    (["check", "--impl", "refquant", "--dialect", "onnx", "--baseline", "/dev/zero"],
     "`baseline` must be a file; got /dev/zero"),
    (["check", "--impl", "refquant"], "Missing option '--dialect'"),
    (["identify", "--impl", "os:nothing"], "`impl` must exist"),
    (["check", "--impl", "refquant", "--dialect", "onnx", "--timeout", "0"],
     "`timeout` must be positive; got 0"),
    (["check", "--impl", "refquant", "--dialect", "onnx", "--timeout", "nan"],
     "`timeout` must be positive; got nan"),
    (["check", "--impl", f"{WRONG}:NoStart", "--dialect", "onnx"],
     f"`impl` must start; {WRONG}:NoStart: RuntimeError: no licence here"),
    (["check", "--impl", f"{WRONG}:DiesAtStart", "--dialect", "onnx"],
     f"`impl` must start; {WRONG}:DiesAtStart: the process died of SIGABRT"),
    (["matrix", "--impl", "nobody"], "`impl` must be module:adapter or one of"),
    (["matrix", "--impl", f"{WRONG}:Quantizer"], "`dialect` must be given: _oracles."),
    (["matrix", "--impl", " ,"], "`--impl` must name an adapter; got nothing"),
    (["explain", "494a"], "'494a' begins 2 ids, as "),
    (["export", ""], "`DIR` must be a folder; got nothing"),
    (["export", "."], "`directory` must not hold the working directory; got ."),
    (["list", "everything"], "`kind` must be one of files, dialects, flags, tables, adapters; got"),
    (["matrix", "--format", "pdf"], "`--format` must be md, json or html; got pdf"),
    (["explain", "zzzz"], "`id` must be that of one case, ten hexadecimal digits; 'zzzz' is that"),
    (["explain", "494"], "'494' has fewer than four"),
    (["certify", "float8", "--impl", "refquant"], "`table` must be one of"),
    (["certify", "float8", "--impl", "refquant", "--first", "xyz"], "must be hexadecimal"),
    (["check", "--impl", ":x", "--dialect", "onnx"], "`impl` must be module:adapter or one of"),
    (["check", "--impl", "..x:y", "--dialect", "onnx"], "`impl` must be module:adapter or one of"),
    (["challenge", "--seed", "3", "--dialect", "klingon"], "`dialect` must be one of onnx, "),
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


@pytest.mark.parametrize(("manifest", "says"), [
    ("{", "MANIFEST.json is damaged: Expecting property name"),
    ("[" * 100_000, "MANIFEST.json is damaged: "),
    ("[]", "MANIFEST.json is damaged: it lists no files"),
    ('{"files": {"normative/gone.json": {}}}', "normative/gone.json must be there; the manifest"),
])
def test_a_damaged_manifest_or_a_lost_file_is_one_line(manifest, says, capsys, monkeypatch,
                                                        tmp_path):
    from refquant.oracle import vectors

    (tmp_path / "normative").mkdir()
    (tmp_path / "MANIFEST.json").write_text(manifest)
    monkeypatch.setattr(vectors, "DATA", tmp_path)
    vectors.manifest.cache_clear()
    try:
        assert run(["oracle", "check", "--impl", "refquant", "--dialect", "exact"]) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"refquant: {says}")
        assert err.count("\n") == 1
    finally:
        vectors.manifest.cache_clear()


def test_brackets_without_end_are_no_vector_file_and_no_baseline(tmp_path):
    from refquant.oracle.conformance import read_baseline
    from refquant.oracle.vectors import read

    deep = tmp_path / "deep.json"
    deep.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="is no JSON"):
        read(deep)
    with pytest.raises(ValueError, match="`baseline` must be a JSON file"):
        read_baseline(deep)


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
