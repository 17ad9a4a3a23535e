"""What the book needs of Sphinx that no extension has.

* the role ``soft`` (the default one, so any `name` in a docstring): a link to the
  library page of the name if there is one, and plain code if not;
* the line ``<!-- concepts -->``, replaced by the tables of ``concepts.toml``;
* a line ``<!-- chapters 01,00,02-06: I. Foundations -->``, replaced by a table of contents of the
  chapters there are, in that order (a glob that matches nothing is a warning, and a part may
  still be empty);
* the pages on the golden vectors, which `oracle_pages` writes before Sphinx looks for pages;
* fields of a `NamedTuple` are left out: their docstrings say "Alias for field number 0".
"""

import re
import tomllib
from pathlib import Path
from typing import Any

import oracle_pages
from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.roles import XRefRole

MARK = "<!-- concepts -->"
PART = re.compile(r"<!-- chapters ([\d,-]+): (.*) -->")


class Soft(XRefRole):
    """A reference that may fail."""

    def process_link(
        self, env: BuildEnvironment, refnode: nodes.Element, has_explicit_title: bool,
        title: str, target: str,
    ) -> tuple[str, str]:
        refnode["soft"] = True
        refnode["refdomain"], refnode["reftype"] = "py", "obj"
        refnode["py:module"] = env.ref_context.get("py:module")
        refnode["py:class"] = env.ref_context.get("py:class")
        if not has_explicit_title and title.startswith("refquant."):
            title = title.removeprefix("refquant.")
        return title, target


def keep_text(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.TextElement
) -> nodes.TextElement | None:
    return text if node.get("soft") else None


def concept_tables(root: Path) -> str:
    """One Markdown table per part of the list; what does not exist is said to be missing."""
    concepts = tomllib.loads((root / "concepts.toml").read_text(encoding="utf-8"))["concept"]
    lines, part = [], None
    done = sum(bool(c["modules"]) for c in concepts)
    lines.append(f"{done} of {len(concepts)} concepts exist in the library.\n")
    for c in concepts:
        if c["part"] != part:
            part = c["part"]
            lines += [f"\n## {part}\n", "| concept | modules | chapter |", "|---|---|---|"]
        modules = ", ".join(f"{{py:mod}}`{m} <refquant.{m}>`" for m in c["modules"]) or "*not yet*"
        chapter = f"[](../chapters/{c['chapter']}.md)" if (
            root / "chapters" / f"{c['chapter']}.md").exists() else ""
        text = c["text"].replace("|", "\\|").replace("_", "\\_").replace("*", "\\*")
        lines.append(f"| `{c['id']}`: {text} | {modules} | {chapter} |")
    return "\n".join(lines)


def part_contents(root: Path, spans: str, title: str) -> str:
    """The table of contents of one part, or nothing."""
    found = sorted(p.stem for p in (root / "chapters").glob("[0-9][0-9]_*.md"))
    entries = []
    for span in spans.split(","):
        first, _, last = span.partition("-")
        entries += [f"chapters/{name}" for name in found if first <= name[:2] <= (last or first)]
    head = ["```{toctree}", f":caption: {title}", ":maxdepth: 1", ""]
    return "\n".join([*head, *entries, "```", ""]) if entries else ""


def fill_in(app: Sphinx, docname: str, source: list[str]) -> None:
    root = Path(app.srcdir)
    if MARK in source[0]:
        source[0] = source[0].replace(MARK, concept_tables(root))
    source[0] = PART.sub(lambda m: part_contents(root, *m.groups()), source[0])


def write_pages(app: Sphinx) -> None:
    oracle_pages.write(Path(app.srcdir) / "reference" / "vectors")


def reread(app: Sphinx, env: BuildEnvironment, *changes: set[str]) -> list[str]:
    """The map and the library pages depend on files that Sphinx does not watch."""
    return [d for d in env.found_docs if d == "index" or d.startswith("reference/")]


def skip_fields(
    app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any
) -> bool | None:
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_role("soft", Soft(innernodeclass=nodes.literal))
    app.connect("missing-reference", keep_text)
    app.connect("builder-inited", write_pages)
    app.connect("source-read", fill_in)
    app.connect("env-get-outdated", reread)
    app.connect("autodoc-skip-member", skip_fields)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
