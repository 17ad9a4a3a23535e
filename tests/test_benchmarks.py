"""Every benchmark runs once, in this process, at its first and last parameters: none can rot."""

import importlib
import inspect
import itertools
import math
import os
import sys
from pathlib import Path

import pytest

SUITE = Path(__file__).resolve().parent.parent / "asv_benchmarks"
KINDS = ("time_", "timeraw_", "peakmem_", "mem_", "track_")
MOST = 60                       # combinations of one class: asv starts a process for each


def modules_of_the_suite():
    """Import everything below `benchmarks` as asv does, in quick mode; put back path and mode."""
    before = os.environ.get("REFQUANT_BENCH")
    os.environ["REFQUANT_BENCH"] = "quick"
    sys.path.insert(0, str(SUITE))
    try:
        names = [
            ".".join(file.relative_to(SUITE).with_suffix("").parts)
            for file in sorted((SUITE / "benchmarks").rglob("*.py"))
            if file.name not in ("__init__.py", "common.py")
        ]
        return [importlib.import_module(name) for name in names]
    finally:
        sys.path.remove(str(SUITE))
        if before is None:
            del os.environ["REFQUANT_BENCH"]
        else:
            os.environ["REFQUANT_BENCH"] = before


MODULES = modules_of_the_suite()
CLASSES = [
    cls
    for module in MODULES
    for name, cls in inspect.getmembers(module, inspect.isclass)
    if not name.startswith("_")         # asv passes those over: what classes have in common
    and cls.__module__ == module.__name__ and any(n.startswith(KINDS) for n in dir(cls))
]


def params_of(cls):
    """A list of lists, as asv understands it: one plain list is one parameter."""
    params = getattr(cls, "params", [])
    single = params and not isinstance(params[0], (list, tuple))
    return [list(params)] if single else [list(values) for values in params]


def path_of(cls):
    return f"{cls.__module__.removeprefix('benchmarks.')}.{cls.__name__}"


@pytest.fixture(scope="module")
def caches():
    return {}


@pytest.mark.parametrize("cls", [pytest.param(cls, id=path_of(cls)) for cls in CLASSES])
def test_every_parameter_has_a_name_and_combinations_are_few(cls):
    params = params_of(cls)
    names = getattr(cls, "param_names", [])
    assert len(names) == len(params), f"{path_of(cls)}: name every parameter in `param_names`"
    assert "impl" not in names[1:], f"{path_of(cls)}: `impl` must be the first parameter"
    assert math.prod(map(len, params)) <= MOST, f"{path_of(cls)}: more than {MOST} combinations"


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        pytest.param(cls, name, id=f"{path_of(cls)}.{name}")
        for cls in CLASSES
        for name in dir(cls)
        if name.startswith(KINDS)
    ],
)
def test_benchmark_runs_and_returns_a_number_asv_can_compare(cls, name, caches):
    combos = list(itertools.product(*params_of(cls)))
    for combo in dict.fromkeys([combos[0], combos[-1]]):
        bench = cls()
        args = combo
        if hasattr(bench, "setup_cache"):
            if cls not in caches:
                caches[cls] = bench.setup_cache()
            args = combo if caches[cls] is None else (caches[cls], *combo)
        try:
            getattr(bench, "setup", lambda *_: None)(*args)
        except NotImplementedError:         # a peer that is not installed
            continue
        value = getattr(bench, name)(*args)
        if name.startswith("track_"):
            assert getattr(getattr(cls, name), "unit", None), f"{name} needs a unit"
            assert isinstance(value, (int, float)), f"{name} returned {type(value)}"
            assert math.isfinite(value)
            assert value >= 0, f"{name} = {value}: asv compares by ratio, lower is better"
        getattr(bench, "teardown", lambda *_: None)(*args)


def test_the_suite_was_loaded_in_quick_mode():
    from benchmarks import common

    assert common.QUICK


def test_loading_the_suite_leaves_no_trace_in_the_path():
    assert str(SUITE) not in sys.path
