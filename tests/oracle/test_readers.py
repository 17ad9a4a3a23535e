"""Readers in C and JavaScript, short enough to copy, find every answer of a file right."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from refquant.oracle.vectors import DATA, load

HERE = Path(__file__).parent / "readers"
INT8 = "quantize_affine.float32.int8"
ANSWERED = sum(case.status == "defined" for case in load(INT8))


def need(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed")
    return path


def built(tmp_path: Path, name: str, *options: str) -> Path:
    binary = tmp_path / name
    subprocess.run([need("gcc"), "-O2", "-Wall", "-Werror", *options, str(HERE / f"{name}.c"),
                    "-o", str(binary), "-lm"], check=True, capture_output=True)
    return binary


def compiled(tmp_path: Path, *options: str) -> str:
    """The C reader, the file in its standard input."""
    binary = built(tmp_path, "verify", *options)
    with (DATA / "normative" / f"{INT8}.tsv").open() as file:
        return subprocess.run([binary], stdin=file, capture_output=True, text=True).stdout


def test_c_reads_the_tsv_and_agrees(tmp_path):
    assert compiled(tmp_path) == f"{ANSWERED} right, 0 wrong\n"


def test_fast_math_is_caught(tmp_path):
    """What -ffast-math changes here: a reciprocal, and subnormal numbers become zero."""
    last = compiled(tmp_path, "-ffast-math").splitlines()[-1]
    assert not last.endswith(" 0 wrong")


def test_javascript_reads_the_json_and_agrees():
    run = subprocess.run([need("node"), HERE / "verify.js", DATA / "normative" / f"{INT8}.json"],
                         capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == f"{ANSWERED} right, 0 wrong\n"


@pytest.mark.parametrize(("answer", "status"), [("03", 0), ("04", 1), (None, 1)])
def test_the_status_of_a_reader_tells_right_from_wrong_and_from_nothing(answer, status, tmp_path):
    binary = built(tmp_path, "verify")
    line = f"50218ca423\t3f800000\t0\t-128\t127\tper_tensor\t-\t-\t40400000\t{answer}\n"
    told = subprocess.run([binary], input=line if answer else "", text=True, capture_output=True)
    assert told.returncode == status

    params = {"scale": "3f800000", "zero_point": 0, "qmin": -128, "qmax": 127}
    case = {"id": "50218ca423", "in": {"x": "40400000"}, "out": {"q": answer}}
    path = tmp_path / "few.json"
    path.write_text(json.dumps({"groups": [{"params": params, "cases": [case] if answer else []}]}))
    told = subprocess.run([need("node"), HERE / "verify.js", path], capture_output=True, text=True)
    assert (told.returncode, told.stderr) == (status, "")


def piped(binary: Path, op: str, *verify: str) -> subprocess.CompletedProcess[str]:
    """``refquant oracle gen OP | binary | refquant oracle verify``, through pipes of the system."""
    oracle = [sys.executable, "-m", "refquant", "oracle"]
    with subprocess.Popen([*oracle, "gen", op], stdout=subprocess.PIPE) as questions, \
            subprocess.Popen([binary], stdin=questions.stdout, stdout=subprocess.PIPE) as answers:
        return subprocess.run([*oracle, "verify", *verify], stdin=answers.stdout,
                              capture_output=True, text=True)


@pytest.mark.parametrize("op", ["quantize_affine", "quantize_affine.float32.int4"])
def test_a_c_program_in_the_pipe_is_right_and_the_file_is_found_by_its_ids(tmp_path, op):
    done = piped(built(tmp_path, "answer"), op)
    file = load(INT8 if op == "quantize_affine" else op)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (f"{file.name} under onnx: {len(file)} right, 0 wrong, 0 not supported, "
                           f"0 of {len(file)} not answered\n")


def test_another_dialect_finds_the_c_program_wrong_by_id(tmp_path):
    done = piped(built(tmp_path, "answer"), INT8, INT8, "--dialect", "torch.fbgemm")
    assert done.returncode == 1
    wrong = done.stdout.splitlines()[:-1]
    assert all(": expected " in line for line in wrong)
    assert f"{len(wrong)} wrong" in done.stdout


@pytest.mark.parametrize("name", ["verify.c", "verify.js", "answer.c"])
def test_a_reader_has_fewer_than_15_lines(name):
    lines = [line for line in (HERE / name).read_text().splitlines() if line.strip()]
    assert len(lines) < 15
