"""``refquant concepts``: where each concept of the field lives, read from concepts.toml."""

import difflib
import re
import tomllib
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

__all__ = ["Concept", "UnknownTerm", "find", "load", "print_concepts"]

PACKAGE = Path(__file__).resolve().parent
MISSING = "does not exist yet"


class Concept(NamedTuple):
    """One row of the concept list."""

    id: str
    part: str
    text: str
    modules: tuple[str, ...]
    chapter: str
    benchmarks: tuple[str, ...]

    @property
    def existing(self) -> list[str]:
        """The modules that are really there."""
        return [name for name in self.modules if _module_exists(name)]


class UnknownTerm(LookupError):
    """No concept fits the term."""


def load() -> list[Concept]:
    """Every row: from textbook/ in a checkout, from inside the package in a wheel."""
    places = [PACKAGE.parent / "textbook" / "concepts.toml", PACKAGE / "concepts.toml"]
    place = next((place for place in places if place.is_file()), None)
    if place is None:
        raise FileNotFoundError(f"the concept list must be at {places[0]}; got no such file")
    rows = tomllib.loads(place.read_text(encoding="utf-8")).get("concept", [])
    return [
        Concept(
            row["id"],
            row["part"],
            row["text"],
            tuple(row.get("modules", ())),
            row.get("chapter", ""),
            tuple(row.get("benchmarks", ())),
        )
        for row in rows
    ]


def find(concepts: Sequence[Concept], term: str) -> list[Concept]:
    """Rows with `term` in the id, the text or a module; case, hyphens and "-wise" do not count."""
    wanted = _plain(term).removesuffix("wise") or _plain(term)
    found = [c for c in concepts if wanted in _plain(" ".join((c.id, c.text, *c.modules)))]
    if found:
        return found
    words = {word for c in concepts for word in (c.id, *re.findall(r"[\w.-]{4,}", c.text.lower()))}
    close = difflib.get_close_matches(term.lower(), sorted(words), n=3, cutoff=0.6)
    hint = f" (close: {', '.join(close)})" if close else ""
    raise UnknownTerm(f"`term` must occur in a concept; got {term}{hint}")


def print_concepts(concepts: Sequence[Concept], term: str = "") -> None:
    """The rows that fit, by part of the list; details where a term was asked for."""
    shown = find(concepts, term) if term else list(concepts)
    width = max(len(c.id) for c in shown) + 2
    for part, rows in groupby(shown, key=lambda c: c.part):
        print(part)
        for c in rows:
            modules = ", ".join(c.existing) or MISSING
            chapter = f"  chapter {c.chapter}" if c.chapter else ""
            print(f"  {c.id:{width}}{modules}{chapter}")
            if term:
                print(f"  {'':{width}}{c.text}")
                if c.benchmarks:
                    print(f"  {'':{width}}benchmarks {', '.join(c.benchmarks)}")
        print()
    there = sum(bool(c.existing) for c in shown)
    print(f"{len(shown)} concepts: {there} exist, {len(shown) - there} do not exist yet")


def _module_exists(name: str) -> bool:
    path = PACKAGE.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def _plain(text: str) -> str:
    return re.sub(r"[\s_-]+", "", text).casefold()
