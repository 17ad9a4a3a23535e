"""Readers in C and JavaScript, short enough to copy, find every answer of a file right."""

import shutil
import subprocess
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


def compiled(tmp_path: Path, *options: str) -> str:
    """The C reader, the file in its standard input."""
    binary = tmp_path / "verify"
    subprocess.run([need("gcc"), "-O2", *options, str(HERE / "verify.c"), "-o", str(binary), "-lm"],
                   check=True, capture_output=True)
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
    assert run.stdout == f"{ANSWERED} right, 0 wrong\n"


@pytest.mark.parametrize("name", ["verify.c", "verify.js"])
def test_a_reader_has_fewer_than_15_lines(name):
    lines = [line for line in (HERE / name).read_text().splitlines() if line.strip()]
    assert len(lines) < 15
