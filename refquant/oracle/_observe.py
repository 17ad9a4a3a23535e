"""What installed packages answer: recorded on one day and one machine, never normative.

Run ``python -m refquant.oracle._observe`` where the packages are installed; each file says
which version and which CPU. Listed are the cases that the package answers otherwise than the
dialect it is expected to speak (see `home`), and those that this dialect leaves open; all others
it answered as that dialect does, or refused.
"""

import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from refquant.oracle import vectors
from refquant.oracle._document import as_json, sealed
from refquant.oracle.adapters import Missing, load_adapter
from refquant.oracle.conformance import HOME_DIALECT
from refquant.oracle.vectors import Case, VectorFile, encoded, load, names

#: Operations asked; each adapter says what of it the package supports.
OPERATIONS = ("quantize_affine", "dequantize_affine", "cast", "quantize_ggml", "dequantize_ggml",
              "pack", "unpack", "fake_quantize", "quantization_parameters", "requantize_affine",
              "qlinear_matmul", "qlinear_conv", "matmul_integer", "conv_integer",
              "dynamic_quantize", "quantize_mx", "dequantize_mx", "quantize_nf4",
              "dequantize_nf4", "quantize_nvfp4", "stochastic_bfloat16")


def home(adapter: str, file: VectorFile) -> str:
    """The dialect that an adapter is expected to speak in a file; of strangers, its base."""
    expected = HOME_DIALECT.get(adapter, adapter.removeprefix("refquant."))
    return expected if expected in file.dialects else file.base_dialect


def observe(adapter: Any, file: VectorFile) -> dict[str, Any] | None:
    """Vector file of what an adapter answers otherwise; None if it answers nothing."""
    types = {**file.inputs, **file.params, **file.outputs}
    groups, count, asked, dialect = [], 0, 0, home(adapter.name, file)
    for group, raw in zip(file.groups, file.document["groups"], strict=True):
        if adapter.supports(file.op, types, group.params) is not True:
            continue
        found = []
        for case, question in zip(group.cases, raw["cases"], strict=True):
            answer = _answer(adapter, file, types, group.params, case)
            asked += answer is not None
            expected = case.answer(dialect) if case.status == "defined" else None
            if answer is None or (expected is not None and answer == _as_written(expected, file)):
                continue
            found.append({"id": case.id, "in": question["in"], "flags": list(case.flags),
                          "out": answer})
        if found:
            groups.append({"params": raw["params"], "comment": group.comment, "cases": found})
            count += len(found)
    if not asked:
        return None
    name = f"{file.name}.{adapter.name}".lower().replace(" ", "_")
    body = {
        **{k: v for k, v in file.document.items() if k not in ("sha256", "dialects", "notes")},
        "file": f"{name}.json", "kind": "observed", "baseDialect": adapter.name,
        "dialects": {adapter.name: {"formula": "not known: observed",
                                    "followedBy": f"{adapter.name} {adapter.version}",
                                    "axes": {"observed": "yes"}}},
        "notes": {flag: file.notes[flag] for flag in file.notes
                  if any(flag in c["flags"] for g in groups for c in g["cases"])},
        "numberOfCases": count,
        "derivation": {"method": f"answers of {adapter.name} to {file.name} that are not those of "
                                 f"{dialect}; {asked} cases were answered",
                       "crossCheck": "none: an observation"},
        "observation": {"package": adapter.name, "version": str(adapter.version), "cpu": cpu(),
                        "platform": f"{platform.system()} {platform.machine()}, Python "
                                    f"{platform.python_version()}, NumPy {np.__version__}"},
        "groups": groups,
    }  # fmt: skip
    return sealed(body, {})


def _answer(adapter: Any, file: VectorFile, types: Mapping[str, str], params: Mapping[str, Any],
            case: Case) -> dict[str, Any] | None:
    """Answer to one question, alone in an array; None if it is refused or is no answer."""
    alone = all(not np.ndim(v) for v in case.inputs.values())
    given = {k: np.atleast_1d(v) if alone else v for k, v in case.inputs.items()}
    try:
        answer = adapter.run(file.op, types, params, given)
        shaped = {k: np.asarray(answer[k]) for k in file.outputs}
    except Exception:           # whatever a package raises, it is no answer
        return None
    return _as_written({k: v.ravel()[0] if alone else v for k, v in shaped.items()}, file)


def _as_written(named: Mapping[str, Any], file: VectorFile) -> dict[str, Any]:
    return {key: encoded(named[key], file.outputs[key]) for key in file.outputs}


def cpu() -> str:
    """Model of the processor, as Linux has it, and the vector units that matter here."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    model = next((x.partition(": ")[2] for x in lines if x.startswith("model name")), "unknown")
    flags = next((x.split() for x in lines if x.startswith("flags")), [])
    units = [f for f in ("avx2", "fma", "avx512f", "avx512_vnni") if f in flags]
    return " ".join([model, *units])


def main(wanted: list[str], directory: Path = vectors.DATA / "observed") -> None:
    """Write the files of the adapters named, where their packages are installed."""
    for short in wanted:
        try:
            adapter = load_adapter(short)
        except Missing as err:
            print(err)
            continue
        for name in names():
            file = load(name)
            if file.op not in OPERATIONS or "boundaries" in name:
                continue
            document = observe(adapter, file)
            if document and document["groups"]:
                (directory / document["file"]).write_bytes(as_json(document))
                print(f"{document['file']}: {document['numberOfCases']} cases")


if __name__ == "__main__":
    main(sys.argv[1:])
