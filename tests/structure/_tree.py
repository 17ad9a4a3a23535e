"""The project as these tests see it: the path is the identity, there is no registry."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "refquant"
BENCHMARKS = ROOT / "asv_benchmarks" / "benchmarks"
CHAPTERS = ROOT / "textbook" / "chapters"

#: Public, yet no concept of its own: a test is enough.
TOOLS = {"cli", "explore", "tour", "__main__"}


def is_private(path: Path) -> bool:
    """A leading underscore, in any tree, means "not a concept"."""
    return any(part.startswith("_") for part in path.parts)


@cache
def modules() -> list[Path]:
    """Every public module as a path below the package, without suffix: ``ptq/gptq``."""
    found = (p.relative_to(PACKAGE).with_suffix("") for p in PACKAGE.rglob("*.py"))
    return sorted(p for p in found if not is_private(p))


@cache
def concepts() -> list[Path]:
    """The modules that need a benchmark and a chapter too."""
    return [p for p in modules() if p.parts[0] not in TOOLS]


def dotted(module: Path) -> str:
    return ".".join(module.parts)


def camel(name: str) -> str:
    """moving_average -> MovingAverage."""
    return "".join(part.capitalize() for part in name.split("_"))


@cache
def public_names(module: Path) -> list[str]:
    """``__all__``, read without importing."""
    for node in ast.parse((PACKAGE / module).with_suffix(".py").read_text("utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else (
            [node.target] if isinstance(node, ast.AnnAssign) else [])
        if any(isinstance(t, ast.Name) and t.id == "__all__" for t in targets):
            return list(ast.literal_eval(node.value))
    return []


@cache
def benchmark_classes() -> dict[str, Path]:
    """Dotted name of each benchmark class -> the module it measures."""
    found = {}
    for path in sorted(BENCHMARKS.rglob("*.py")):
        home = path.relative_to(BENCHMARKS).with_suffix("")
        if is_private(home) or home == Path("common"):
            continue
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[f"{dotted(home)}.{node.name}"] = home
    return found


@cache
def chapters() -> dict[str, str]:
    """Name of each chapter -> its text."""
    return {p.stem: p.read_text("utf-8") for p in sorted(CHAPTERS.glob("*.md"))}


def says(text: str, name: str) -> bool:
    """Whether `name` occurs as code: in backticks or in a cell."""
    return any(re.search(rf"(?<![\w]){re.escape(name)}(?!\w)", code) for code in _code(text))


@cache
def _code(text: str) -> list[str]:
    """Cells, fenced blocks and whatever stands in backticks."""
    fenced = re.compile(r"^(`{3,}|:{3,})[^\n]*\n(.*?)^\1[ \t]*$", re.M | re.S)
    blocks = [m[2] for m in fenced.finditer(text)]
    return blocks + re.findall(r"`([^`\n]+)`", fenced.sub("", text))
