"""A file appears when it is whole: errors, signals and kills leave what was there."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from refquant._whole import whole

PROGRAM = Path(__file__).parent / "_oracles" / "kills.py"


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_file_is_renamed_at_the_end_and_has_the_rights_of_a_new_file(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    (tmp_path / "plain").touch()
    (tmp_path / "link").hardlink_to(path)
    with whole(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
        assert Path(file.name).name.startswith(".a.bin.")
        assert file.name.endswith(".part")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "link").read_bytes() == b"old"       # renamed over, not written into
    assert names(tmp_path) == ["a.bin", "link", "plain"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, MemoryError])
def test_an_error_leaves_what_was_there_and_nothing_else(tmp_path, error):
    path = tmp_path / ("n" * 200)
    path.write_bytes(b"old")

    def fail():
        with whole(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == [path.name]


@pytest.mark.parametrize(("number", "status"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_command_that_is_asked_to_end_removes_what_is_not_whole(tmp_path, number, status):
    program = f"""
import os, signal, time
from pathlib import Path
from refquant import cli
from refquant._whole import whole

def run(arguments):
    with whole(Path("a.bin")) as file:
        file.write(b"half")
        os.kill(os.getpid(), signal.{number})
        time.sleep(60)

cli.run = run
cli.main()
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[1])})
    assert done.returncode == status
    assert names(tmp_path) == []


def test_a_disk_without_room_is_told_by_the_file_that_found_none(tmp_path):
    path = tmp_path / "a.bin"
    with pytest.raises(OSError, match="No space left") as caught, whole(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(path)
    with pytest.raises(FileNotFoundError) as caught, whole(path):
        (tmp_path / "missing").read_bytes()
    assert caught.value.filename == str(tmp_path / "missing")       # a read names its own
    assert names(tmp_path) == []


def killed(count, seed, *commands):
    return subprocess.run([sys.executable, str(PROGRAM), str(count), str(seed), *commands],
                          capture_output=True, text=True)


def test_commands_that_are_killed_leave_the_old_file_or_the_new_one():
    done = killed(8, 0, "npz", "report")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.peer
def test_hundreds_of_kills_leave_the_old_file_or_the_new_one():
    done = killed(200, 1)
    assert done.returncode == 0, done.stdout + done.stderr
