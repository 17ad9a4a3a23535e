"""Files of weights that ship with the package: read by name, checked by checksum."""

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np

from refquant._types import Array

__all__ = ["WEIGHTS", "load_arrays"]

WEIGHTS = Path(__file__).parent / "weights"


@lru_cache(maxsize=8)
def load_arrays(path: Path, *, script: str, sha256: str | None = None) -> Mapping[str, Array]:
    """Read-only arrays of a shipped file; its SHA-256 is given or in the ``.json`` beside it."""
    if not path.is_file():
        raise FileNotFoundError(
            f"the weights must be at {path}; write them with `python -m {script}`")
    if sha256 is None:
        sha256 = json.loads(path.with_suffix(".json").read_text("utf-8"))["sha256"]
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise ValueError(f"{path} must have the SHA-256 {sha256}; got {found}")
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    for array in arrays.values():
        array.flags.writeable = False
    return arrays
