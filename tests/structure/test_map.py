"""Every module has its test, its benchmark class and its chapter; nothing there is left over.

A failure is an instruction.
"""

import importlib
import inspect
import re

import pytest
from structure._tree import (
    BENCHMARKS,
    PACKAGE,
    ROOT,
    TOOLS,
    benchmark_classes,
    camel,
    chapters,
    concepts,
    dotted,
    is_private,
    modules,
    public_names,
    says,
)

NAMES = [(module, name) for module in concepts() for name in public_names(module)]
NAME_IDS = [f"{dotted(module)}.{name}" for module, name in NAMES]


@pytest.mark.parametrize("module", modules(), ids=str)
def test_module_has_tests(module):
    home = ROOT / "tests" / module.parent / f"test_{module.name}.py"
    tool = module.parts[0] if module.parts[0] in TOOLS else "-"   # may be tested as a whole
    whole = [*ROOT.glob(f"tests/test_{tool}.py"), *ROOT.glob(f"tests/{tool}/test_*.py")]
    assert home.exists() or whole, f"{module} has no test: write {home.relative_to(ROOT)}"


@pytest.mark.parametrize("module", concepts(), ids=str)
def test_module_has_a_benchmark(module):
    name = camel(module.name)
    home = (BENCHMARKS / module).with_suffix(".py").relative_to(ROOT)
    assert f"{dotted(module)}.{name}" in benchmark_classes(), (
        f"{module} has no benchmark: write class {name} in {home}")


@pytest.mark.parametrize("module", concepts(), ids=str)
def test_module_lists_its_public_names(module):
    assert public_names(module), f"{module} has no __all__: list its public names"


@pytest.mark.parametrize("module", concepts(), ids=str)
def test_module_is_explained_in_one_chapter(module):
    """The chapter that imports the module also uses every public name of it."""
    full = re.escape(f"refquant.{dotted(module)}")
    path = f"refquant.{dotted(module)}".rpartition(".")
    package = rf"from {re.escape(path[0])} import [^\n]*\b{path[2]}\b"
    homes = {c: t for c, t in chapters().items()
             if re.search(rf"(import|from) {full}\b|{package}", t)}
    assert homes, f"{module} is in no chapter: import and explain it in one of textbook/chapters"
    missing = {c: [n for n in public_names(module) if not says(t, n)] for c, t in homes.items()}
    chapter, names = min(missing.items(), key=lambda item: len(item[1]))
    assert not names, f"chapter {chapter} does not use {names} of {module}: add them as code"


def test_no_orphan_benchmarks():
    homes = {p.with_suffix("") for p in (f.relative_to(BENCHMARKS) for f in
             BENCHMARKS.rglob("*.py")) if not is_private(p) and p.stem != "common"}
    orphans = sorted(map(str, homes - set(modules())))
    assert not orphans, f"no module refquant/<path>.py for these benchmarks: {orphans}"


def test_no_orphan_tests():
    """A test file outside the special folders mirrors a module, private or not, or a package."""
    special = {"structure", "_oracles", *TOOLS}
    orphans = []
    for path in (ROOT / "tests").rglob("test_*.py"):
        home = path.relative_to(ROOT / "tests")
        target = PACKAGE / home.parent / home.stem.removeprefix("test_")
        private = target.with_name(f"_{target.name}").with_suffix(".py")
        known = target.with_suffix(".py").exists() or target.is_dir() or private.exists()
        whole = home.stem in {
            "test_autograd", "test_bench_wrapper", "test_benchmarks", "test_check_offline",
            "test_contract", "test_hostile_files", "test_onnx_nodes", "test_readers"}
        if not (special & set(home.parts) or known or whole):
            orphans.append(str(home))
    assert not orphans, f"no module refquant/<path>.py for these tests: {sorted(orphans)}"


@pytest.mark.parametrize(("module", "name"), NAMES, ids=NAME_IDS)
def test_public_name_is_documented(module, name):
    """A docstring with a source; every parameter of a function in it."""
    thing = getattr(importlib.import_module(f"refquant.{dotted(module)}"), name)
    if not (inspect.isclass(thing) or inspect.isroutine(thing)):
        return                          # constants and aliases carry a #: comment
    doc = inspect.getdoc(thing) or ""
    where = f"{module}.{name}"
    assert re.search(r"^References\n-+\n\S", doc, re.M), (
        f"{where} has no source: add a References section (paper, arXiv id, equation)")
    wanted = inspect.signature(thing).parameters if inspect.isfunction(thing) else {}
    documented = set(re.findall(r"\w+", " ".join(re.findall(r"^([\w*, ]+) :", doc, re.M))))
    missing = [p for p in wanted if p not in documented and not p.startswith("_")]
    assert not missing, f"{where} does not document {missing}: add them under Parameters"
