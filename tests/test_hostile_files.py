"""Damaged files and files that mean harm: every reader reads them or says one line, at once.

Fifteen files a reader here; ``REFQUANT_FUZZ=5000 python -m pytest tests/test_hostile_files.py``
or ``python tests/_oracles/hostile.py all 20000`` tries more.
"""

import io
import os
import pickle
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from _oracles import damage
from _oracles.hostile import BYTES, NAMES, ONNX_NAMES, judged, readers
from hypothesis import given, settings
from hypothesis import strategies as st

from refquant.cli import run

MANY = int(os.environ.get("REFQUANT_FUZZ", "15"))
ALL = [*NAMES, *(pytest.param(name, marks=pytest.mark.peer) for name in ONNX_NAMES)]


def reader_of(name):
    if name in ONNX_NAMES:
        pytest.importorskip("onnx")
    return readers()[name]


@pytest.mark.parametrize("name", ALL)
def test_sound_files_are_read(name):
    reader = reader_of(name)
    for seed in reader.seeds if name not in ("npy", "onnx-integer") else ():
        assert judged(reader.read, seed) == "read"


@pytest.mark.parametrize("name", ALL)
@given(chance=st.randoms(use_true_random=False))
@settings(max_examples=MANY)
def test_damaged_files_are_read_or_refused_in_one_line(name, chance):
    reader = reader_of(name)
    content = reader.damage(chance, chance.choice(reader.seeds))
    judged(reader.read, content)            # what is loaded once, is
    tracemalloc.start()
    try:
        judged(reader.read, content)
        assert tracemalloc.get_traced_memory()[1] < BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.peer
@pytest.mark.parametrize("name", [*NAMES, *ONNX_NAMES])
def test_thousands_of_damaged_files_take_no_more_memory_than_a_process_is_given(name):
    reader_of(name)
    program = Path(__file__).parent / "_oracles" / "hostile.py"
    done = subprocess.run([sys.executable, str(program), name, "2000", "7"], capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def bomb(size=2**31, name="w.npy"):
    """An archive whose one array is a header and zeros without end."""
    file = io.BytesIO()
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": "<f4", "fortran_order": False, "shape": (size // 4,)})
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, archive.open(
            name, "w", force_zip64=True) as member:
        member.write(head.getvalue())
        for _ in range(size // 2**20):
            member.write(bytes(2**20))
    return file.getvalue()


def overlapping(count=1000):
    """An archive in which one member stands under many names."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        member = io.BytesIO()
        np.save(member, np.zeros(2**16, np.uint8))
        archive.writestr("w.npy", member.getvalue())
        for k in range(count):
            again = zipfile.ZipInfo(f"w{k}.npy")
            for field in ("header_offset", "CRC", "compress_size", "file_size"):
                setattr(again, field, getattr(archive.getinfo("w.npy"), field))
            archive.filelist.append(again)
    return file.getvalue()


LARGE = bomb(64 * 2**20)


@pytest.mark.parametrize(("content", "message"), [
    (lambda: LARGE, "times as large unpacked"),
    (overlapping, "members that overlap"),
    (lambda: bomb(2**20, "w.npy").replace(b"w.npy", b"\nw.np"), ""),
    (lambda: b"PK\x05\x06" + b"\xff" * 18, "must be a .npz file"),
])
@pytest.mark.parametrize("name", ["npz", "calibration", "coded-npz", "checkpoint"])
def test_bombs_are_not_unpacked(name, content, message):
    tracemalloc.start()
    try:
        said = judged(readers()[name].read, content())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < BYTES
    assert message in said or name in ("calibration", "checkpoint")
    assert said != "read" or not message


def test_pickles_are_never_opened(tmp_path):
    os.environ.pop("REFQUANT_TRAP", None)
    with pytest.raises(TypeError):          # the trap is one: exec returns nothing to fill
        np.asarray(pickle.loads(pickle.dumps(damage.Trap())) + 1)
    assert os.environ.pop("REFQUANT_TRAP") == "sprung"
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("w", "x", "m", "step", "__metadata__"):
            archive.writestr(f"{name}.npy", damage.PICKLED)
    for name, content in (("npy", damage.PICKLED), ("npz", file.getvalue()),
                          ("calibration", file.getvalue()), ("coded-npz", file.getvalue()),
                          ("checkpoint", file.getvalue())):
        assert judged(readers()[name].read, content) != "read"
    assert "REFQUANT_TRAP" not in os.environ


COMMANDS = {
    "npz": (["report"], ["quantize", "-o", "out.npz"], ["quantize", "-o", "out.safetensors"]),
    "safetensors": (["report", "-o", "out.html"], ["quantize", "-o", "out.safetensors"]),
    "tflite": (["report"], ["run", "--input", "x.npy", "--output", "out.npy"]),
    "onnx-float": (["report"], ["quantize", "-o", "out.onnx"], ["quantize", "-o", "out.npz"]),
    "onnx-integer": (["run", "--input", "x.npy", "--output", "out.npy"],),
}


@pytest.mark.parametrize("name", [n if n in NAMES else pytest.param(n, marks=pytest.mark.peer)
                                  for n in COMMANDS])
def test_commands_say_one_line_and_leave_nothing_behind(name, tmp_path, monkeypatch, capsys):
    """Damaged files by the command line: status 0 and its files, or 2, a line and no file."""
    reader, count = reader_of(name), max(MANY // 4, 1)
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.zeros((2, 8), np.float32))
    kind = name.partition("-")[0]
    for k in range(count):
        chance = damage.chance_of(k)
        model = Path(f"m.{kind}")
        model.write_bytes(reader.damage(chance, chance.choice(reader.seeds)))
        for command in COMMANDS[name]:
            status = run([command[0], str(model), *command[1:]])
            captured = capsys.readouterr()
            made = {p.name for p in tmp_path.iterdir()} - {model.name, "x.npy"}
            if status == 0:
                assert made == {word for word in command if word.startswith("out.")}
            else:
                assert (status, captured.err.count("\n"), made) == (2, 1, set()), captured.err
                assert captured.err.startswith("refquant: ")
            for left in made:
                Path(left).unlink()
