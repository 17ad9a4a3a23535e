"""Files that training leaves: weights, checkpoints, tables; the same bytes for the same content."""

import csv
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from refquant._types import Array

__all__ = ["arithmetic", "npz_bytes", "ship", "table_bytes", "write_whole"]


def npz_bytes(arrays: Mapping[str, Array]) -> bytes:
    """A ``.npz`` that depends on the arrays alone: `numpy.savez` writes the time into it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(arrays):
            member = io.BytesIO()
            np.lib.format.write_array(member, np.asarray(arrays[name]), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system = 3              # the default differs on Windows
            archive.writestr(info, member.getvalue())
    return buffer.getvalue()


def table_bytes(fields: Iterable[str], rows: Iterable[Iterable[Any]]) -> bytes:
    """A ``.csv`` with one kind of line end on every system."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(fields)
    writer.writerows(rows)
    return text.getvalue().encode()


def write_whole(path: Path, content: bytes) -> None:
    """`content` in `path`, all of it or nothing: what was there stays until the new is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())             # else a power cut could keep the name without the bytes
    part.replace(path)


def ship(path: Path, arrays: Mapping[str, Array], manifest: Mapping[str, Any]) -> None:
    """Weights in a file, and beside it a manifest that also names their SHA-256; printed too."""
    content = npz_bytes(arrays)
    whole = {**manifest, "numpy": np.__version__, "sha256": hashlib.sha256(content).hexdigest()}
    text = json.dumps(whole, indent=2, sort_keys=True) + "\n"
    write_whole(path, content)
    write_whole(path.with_suffix(".json"), text.encode())
    print(text, end="")


def arithmetic() -> str:
    """A fingerprint of this machine's float32 products and exponentials.

    Two machines with the same one should train the same bytes; with different ones
    they need not, since BLAS sums in an order that depends on the processor.
    """
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 256, 144)).astype(np.float32)
    results = (a @ b.T, np.ones(256, np.float32) @ a, np.exp(a), np.sqrt(np.abs(a)))
    return hashlib.sha256(b"".join(r.tobytes() for r in results)).hexdigest()[:16]
