"""Generate: make the corpus anew, compare it with what ships, and export it.

Every answer is derived twice, by exact fractions and by the library's own NumPy
arithmetic in the types of the kernels; where the two differ in one bit, nothing is
written. Nothing is drawn at random and nothing depends on the machine, so the same
version always gives the same bytes.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from refquant.oracle import _casts, vectors
from refquant.oracle._derivations import GROUPS
from refquant.oracle._document import CORPUS_VERSION, SCHEMA_VERSION, as_json, as_tsv, sealed
from refquant.oracle.mutants import kills_by_flag

__all__ = ["build", "corpus", "export"]

def documents() -> Iterator[dict[str, Any]]:
    """Vector files with what their flags find out, and their checksums."""
    for group in GROUPS:
        for draft in group.documents():
            file = vectors.from_document({**draft, "sha256": ""})
            yield sealed(draft, kills_by_flag(file))


def corpus() -> dict[str, bytes]:
    """The normative files, made from the definitions.

    Returns
    -------
    dict of str to bytes
        Path below the data folder to content: JSON, its TSV twin, and tables.

    Raises
    ------
    Exception
        If the two derivations of an answer differ.

    References
    ----------
    IEEE 754-2019, section 4; C2SP Wycheproof.
    """
    files = {}
    for done in documents():
        path = f"normative/{done['file']}"
        files[path] = as_json(done)
        files[path.removesuffix("json") + "tsv"] = as_tsv(done)
    files.update({f"normative/{name}.tab.z": content for name, content in _casts.tables()})
    return files


def build(directory: Path = vectors.DATA, *, check: bool = False) -> list[str]:
    """Paths of the files that had to change so that a folder holds the corpus.

    Parameters
    ----------
    directory : pathlib.Path
        The data folder of the package, or another one. Observed files and baselines in it stay.
    check : bool
        Change nothing: only say what would change.

    Returns
    -------
    list of str
        Sorted; empty if the folder is up to date.

    References
    ----------
    C2SP Wycheproof, ``vectorgen``.
    """
    made = corpus()
    kept = sorted(p for kind in ("observed", "baselines") for p in directory.glob(f"{kind}/*")
                  if p.is_file())
    made.update({p.relative_to(directory).as_posix(): p.read_bytes() for p in kept})
    for name in ("schema.json", "spec_conflicts.json", "disagreements.json", "README.md"):
        made[name] = (vectors.DATA / name).read_bytes()
    made["MANIFEST.json"] = manifest_of(made)
    found = {p.relative_to(directory).as_posix(): p for p in directory.rglob("*") if p.is_file()}
    stale = [path for path, content in made.items()
             if path not in found or found[path].read_bytes() != content]
    stale += [path for path in found if path not in made]
    if not check:
        for path in stale:
            if path in made:
                (directory / path).parent.mkdir(parents=True, exist_ok=True)
                (directory / path).write_bytes(made[path])
            else:
                (directory / path).unlink()
        vectors.manifest.cache_clear()
        vectors.load.cache_clear()
    return sorted(stale)


def export(directory: Path) -> list[str]:
    """Paths of the files of the corpus, copied to a folder of your own.

    All or nothing: the files are checked and copied beside it, then take its place.

    Parameters
    ----------
    directory : pathlib.Path
        New, empty, or an earlier export, which is replaced.

    Returns
    -------
    list of str
        Sorted, relative to `directory`.

    Raises
    ------
    ValueError
        If `directory` holds something else, or a file of the package is damaged.

    References
    ----------
    POSIX ``rename``: a directory appears whole or not at all.

    Examples
    --------
    >>> folder = Path(tempfile.mkdtemp()) / "vectors"
    >>> "MANIFEST.json" in export(folder), export(folder) == export(folder)
    (True, True)
    """
    target = Path(directory).absolute()
    if target in (Path.cwd(), *Path.cwd().parents):         # it would be replaced under our feet
        raise ValueError(f"`directory` must not hold the working directory; got {directory}")
    if target.exists() and not _replaceable(target):
        raise ValueError(f"`directory` must be new, empty or an earlier export; got {directory}")
    listed = sorted(vectors.manifest()["files"])
    for path in listed:
        vectors.require_listed(vectors.DATA / path)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        new, old = beside / "new", beside / "old"
        for path in [*listed, "MANIFEST.json"]:
            (new / path).parent.mkdir(parents=True, exist_ok=True)
            (new / path).write_bytes((vectors.DATA / path).read_bytes())
        if target.exists():
            os.replace(target, old)
        os.replace(new, target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return sorted([*listed, "MANIFEST.json"])


def manifest_of(files: Mapping[str, bytes]) -> bytes:
    """Sizes and checksums, in the order of the paths."""
    listed = {
        path: {"bytes": len(files[path]), "sha256": hashlib.sha256(files[path]).hexdigest()}
        for path in sorted(files) if path != "MANIFEST.json"
    }
    whole = {"format": "refquant-vectors-manifest", "schemaVersion": SCHEMA_VERSION,
             "corpusVersion": CORPUS_VERSION, "files": listed}  # fmt: skip
    return (json.dumps(whole, indent=1) + "\n").encode("ascii")


def _replaceable(target: Path) -> bool:
    if not target.is_dir():
        return False
    listing = target / "MANIFEST.json"
    return not any(target.iterdir()) or (
        listing.is_file() and "refquant-vectors-manifest" in listing.read_text("utf-8"))
