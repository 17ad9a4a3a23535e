"""`import refquant` costs nothing, and the ground floor loads no heavy library."""

import json
import subprocess
import sys

import pytest
from structure._tree import ROOT, concepts, dotted

HEAVY = {"sklearn", "matplotlib", "typer", "rich", "torch", "onnx", "onnxruntime", "pandas"}


def loaded_by(statement: str) -> set[str]:
    """Top-level modules after running `statement` in a new interpreter."""
    code = f"{statement}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in json.loads(run.stdout)}


def test_import_refquant_loads_nothing_else():
    extra = loaded_by("import refquant") & (HEAVY | {"numpy", "scipy"})
    assert not extra, f"`import refquant` loads {sorted(extra)}"


@pytest.mark.parametrize("module", ["rounding", "granularity", "metrics", "quantizer",
                                    "quantizers.uniform"])
def test_ground_floor_needs_numpy_alone(module):
    extra = loaded_by(f"import refquant.{module}") & (HEAVY | {"scipy"})
    assert not extra, f"`import refquant.{module}` loads {sorted(extra)}"


def test_no_module_loads_a_heavy_library_when_imported():
    """scikit-learn and the peers are imported inside the function that needs them."""
    names = [f"refquant.{dotted(m)}" for m in concepts()]
    extra = loaded_by("import " + ", ".join(names)) & HEAVY
    assert not extra, f"importing all of refquant loads {sorted(extra)}: import inside functions"
