"""What training writes depends on the arrays alone, and is there whole or not at all."""

import csv
from pathlib import Path

import numpy as np
import pytest

import refquant
from refquant.nn._artifacts import arithmetic, npz_bytes, table_bytes, write_whole


def test_the_archive_depends_on_the_arrays_alone_and_loads_without_pickle(tmp_path):
    arrays = {"b": np.arange(3.0), "a": np.ones((2, 2), np.float32)}
    content = npz_bytes(arrays)
    assert content == npz_bytes(dict(reversed(arrays.items())))
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    with np.load(path, allow_pickle=False) as file:
        assert all(np.array_equal(file[k], v) for k, v in arrays.items())


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "x.npz"
    write_whole(path, b"first")
    monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        write_whole(path, b"second")
    assert path.read_bytes() == b"first"
    monkeypatch.undo()
    write_whole(path, b"third")
    assert path.read_bytes() == b"third"
    assert [p.name for p in path.parent.iterdir()] == ["x.npz"]


def test_the_fingerprint_of_arithmetic_is_stable():
    assert arithmetic() == arithmetic()


def test_shipped_tables_are_written_again_to_the_byte():
    package = Path(refquant.__file__).parent
    tables = sorted((*package.glob("apply/*.csv"), *package.glob("workflow/*.csv")))
    assert len(tables) >= 10
    for path in tables:
        fields, *rows = csv.reader(path.read_text("utf-8").splitlines())
        assert table_bytes(fields, rows) == path.read_bytes()
