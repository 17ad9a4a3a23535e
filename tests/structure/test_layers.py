"""Who may import whom. A module reads only what stands below it."""

import ast
import sys
from pathlib import Path

import pytest
from structure._tree import PACKAGE

GROUND = {"rounding", "granularity", "metrics", "_npy", "_whole", "_validate", "_types"}
LEVELS = GROUND | {"quantizer", "quantizers"}
METHODS = LEVELS | {"kernels", "calibration"}
NETWORKS = {"nn", "_types", "_validate"}            # networks know nothing of quantization
APPLIED = METHODS | NETWORKS | {
    "ptq", "qat", "mixed_precision", "zero_shot", "compression", "integer"}
BELOW = {                                           # layer: the parts it may import
    **dict.fromkeys(GROUND, GROUND),
    "quantizer": GROUND,
    "quantizers": LEVELS,
    "kernels": LEVELS,
    "calibration": LEVELS | {"kernels"},
    **dict.fromkeys(["ptq", "qat", "mixed_precision", "zero_shot", "compression"], METHODS),
    "integer": LEVELS | {"kernels"},
    "nn": NETWORKS,
    "apply": APPLIED,
    "interop": APPLIED,
}
TOP = {"oracle", "testing", "workflow", "tour", "cli", "explore",   # import anything
       "__main__", "_bench", "_concepts"}
OUTSIDE = {                                         # layer: the libraries it may import
    **{layer: {"numpy", "scipy"} for layer in BELOW},
    "quantizers": {"numpy", "scipy", "sklearn"},    # k-means on sub-vectors
    "compression": {"numpy", "scipy", "sklearn"},
    "nn": {"numpy", "scipy", "sklearn"},
}
SOURCES = sorted(p for p in PACKAGE.rglob("*.py") if p.name != "__init__.py")


def layer_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path: Path):
    """Full names of the modules that a file imports, also inside its functions."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: write the full name instead of a relative import"
            if node.module == "refquant":
                yield from (f"refquant.{alias.name}" for alias in node.names)
            else:
                yield node.module


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    layer = layer_of(path)
    if layer in TOP:
        return
    assert layer in BELOW, (
        f"refquant/{layer} has no layer: add it to BELOW in tests/structure/test_layers.py")
    parts = {n.split(".")[1] for n in imported(path) if n.startswith("refquant.")}
    upward = sorted(parts - BELOW[layer] - {layer, "__version__"})
    assert not upward, f"{layer} may not import {upward}: move what is shared down a layer"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_the_top_imports_other_libraries(path):
    layer = layer_of(path)
    script = path.name.startswith("_")              # like the training of the shipped weights
    if layer in TOP or layer in ("apply", "interop") or script:
        return
    heads = {n.split(".")[0] for n in imported(path)} - {"refquant"} - sys.stdlib_module_names
    foreign = sorted(heads - OUTSIDE[layer])
    assert not foreign, f"{layer} may not import {foreign}"


def test_layers_have_no_cycle():
    """Each layer stands above all it may import, so the order below exists."""
    placed: set[str] = set(GROUND)
    rest = {k: v - {k} for k, v in BELOW.items() if k not in GROUND}
    while rest:
        ready = [k for k, v in rest.items() if v <= placed]
        assert ready, f"these layers import each other: {sorted(rest)}"
        placed |= set(ready)
        rest = {k: v for k, v in rest.items() if k not in placed}


def test_package_files_load_nothing():
    """`import refquant.a` must not pay for its neighbours."""
    for path in PACKAGE.rglob("__init__.py"):
        if layer_of(path) not in TOP:
            heavy = [n for n in imported(path) if n.split(".")[0] not in {"__future__"}]
            assert not heavy, f"{path.relative_to(PACKAGE)} imports {heavy}: leave it empty"
