"""Known differences of installed libraries, each by the id of its case and with its reason.

``python -m refquant.oracle._baselines`` checks the adapters below under their own dialect and
writes ``data/baselines/<adapter>.<dialect>.json``: what ``refquant oracle check --baseline
known`` reads. A difference for which no reason is known here is not written, so that it fails.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from refquant.oracle import vectors
from refquant.oracle.adapters import Missing
from refquant.oracle.conformance import HOME_DIALECT, Report, check
from refquant.oracle.run import Outcome, Result

FOLDER = vectors.DATA / "baselines"
#: Adapters of which a baseline ships.
IMPLS = ("onnx.reference", "onnxruntime", "torch.fbgemm", "torch.fake_quantize",
         "torch.decomposed", "torch.cast", "torchao", "torchao.formats", "torchao.floor",
         "torchao.rceil", "torchao.ceil", "torchao.even", "litert.reference", "litert.xnnpack",
         "ml_dtypes", "gfloat.mx", "gguf", "onnxruntime.tool")  # fmt: skip


def _flagged(*flags: str) -> Callable[[Result], bool]:
    return lambda result: bool(set(flags) & set(result.case.flags))


def _of(op: str, *flags: str) -> Callable[[Result], bool]:
    return lambda result: result.case.op == op and (not flags or _flagged(*flags)(result))


def _in(file: str, *flags: str) -> Callable[[Result], bool]:
    return lambda result: result.case.file == file and (not flags or _flagged(*flags)(result))


_INT32 = "the ratio is converted to int32 before it is clipped (rows Q5 to Q7)"
_SUBNORMAL = "divides by 2**-126 where the scale is 2**-127 (row M4)"
_DIALECT = "the dialect onnx.reference: what it does instead of the text of ONNX (rows R1, D1)"

#: Adapter -> what explains a difference, and in which row of the disagreements; the first fits.
REASONS: dict[str, tuple[tuple[Callable[[Result], bool], str], ...]] = {
    "onnxruntime": (
        (_in("cast.float32.float8_e4m3fn", "Saturate"),
         "480 to 496 saturate although saturation is off (row C2)"),
        (_in("cast.float32.float8_e5m2", "Saturate"),
         "61440 to 65536 become NaN although saturation is off (row C4)"),
        (_in("cast.float32.float8_e5m2", "NaN"), "another code of NaN (row C7)"),
    ),
    "onnx.reference": (
        (_of("quantize_affine", "HugeInput", "Infinite"), _INT32),
        (_of("qlinear_matmul"), _DIALECT), (_of("qlinear_conv"), _DIALECT),
        (_of("dynamic_quantize", "ZeroRange"), _DIALECT),
        (_of("quantization_parameters", "ZeroRange"), _DIALECT),
        (_in("cast.float32.float8_e8m0fnu"), "its casts to E8M0 (rows C11 to C17)"),
        (_of("quantize_affine", "SubnormalScale"), _INT32),
    ),
    "litert.reference": (
        (_of("quantize_affine", "HugeInput", "Infinite", "SubnormalScale"), _INT32),),
    "litert.xnnpack": (
        (lambda result: result.outcome is Outcome.CRASH, "a subnormal scale ends the process "
         "(row Q11)"),),
    "torchao.formats": (
        (_of("quantize_nf4", "HugeInput", "Infinite"),
         "the differences from all levels round to one number: the first level wins"),),
    "ml_dtypes": (
        (_in("cast.float64.float4_e2m1fn", "DoubleRounding"),
         "through float32, and so to a tie (row C18)"),),
    "gfloat.mx": (
        (_of("quantize_mx", "ExponentBoundary", "HugeInput"),
         "the logarithm, in float32, rounds to the next whole number (row M3)"),),
    **{f"torchao.{mode}": ((_of("quantize_mx", "SubnormalScale"), _SUBNORMAL),
                           (_of("dequantize_mx", "SubnormalScale"), _SUBNORMAL))
       for mode in ("floor", "rceil", "ceil", "even")},
}  # fmt: skip


def shipped(impl: str, dialect: str) -> Path:
    """Baseline of an adapter under a dialect; ValueError if none ships."""
    path = FOLDER / f"{impl}.{dialect}.json"
    if not path.is_file():
        known = sorted(p.name.removesuffix(".json") for p in FOLDER.glob("*.json"))
        raise ValueError(f"`baseline` must be a file where none ships for {impl} under {dialect}; "
                         f"there are {', '.join(known)}")
    vectors.require_listed(path)
    return path


def explained(report: Report, impl: str) -> tuple[dict[str, str], list[Result]]:
    """Reason of each failure by id, and the failures that have none."""
    known: dict[str, str] = {}
    unknown = []
    for result in report.failures():
        reason = next((text for fits, text in REASONS.get(impl, ()) if fits(result)), None)
        if reason is None:
            unknown.append(result)
        else:
            known[result.case.id] = f"{report.impl} {report.version}: {reason}"
    return known, unknown


def main(impls: Sequence[str] = IMPLS, folder: Path = FOLDER) -> None:
    """Check, and write what is explained."""
    folder.mkdir(exist_ok=True)
    for impl in impls:
        dialect = HOME_DIALECT[impl]
        try:
            report = check(impl, dialect, sweep=True)
        except Missing as err:
            print(err, file=sys.stderr)
            continue
        known, unknown = explained(report, impl)
        (folder / f"{impl}.{dialect}.json").write_text(json.dumps(known, indent=1) + "\n", "ascii")
        print(f"{impl} under {dialect}: {len(known)} explained, {len(unknown)} not")
        for result in unknown:
            print(f"  {result.case.id} {result.case.file} {','.join(result.case.flags)} "
                  f"{result.outcome.value} {result.detail}")


if __name__ == "__main__":
    main(sys.argv[1:] or IMPLS)
