"""Where installed libraries part: each known disagreement by the ids of the cases that show it.

A row names cases of the corpus and the adapters to ask. ``python -m
refquant.oracle._disagreements`` asks those that are installed and writes what they answered,
with versions and CPU, to ``data/disagreements.json``; it is an observation, never normative. A
row without cases carries the reason why none can show it here.

An operation that treats each element alone is asked with each case nine times in one array, for
kernels of eight lanes answer otherwise in the ninth: ``00; last 01`` says so.
"""

import json
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from refquant.oracle import vectors
from refquant.oracle._observe import cpu
from refquant.oracle._worker import Broken, Crash, Timeout, Worker
from refquant.oracle.adapters import ADAPTERS, Missing, Reject
from refquant.oracle.run import ELEMENTWISE
from refquant.oracle.vectors import Case, VectorFile, encoded, load, names

PATH = vectors.DATA / "disagreements.json"
LANES = 8


@dataclass(frozen=True)
class Row:
    """One disagreement.

    `id` and `title` as in the book; `operation` of the corpus; `cases` by id; `impls` the
    adapters to ask. `note` says what is behind it, or why there are no cases.
    """

    id: str
    title: str
    operation: str
    cases: tuple[str, ...] = ()
    impls: tuple[str, ...] = ()
    note: str = ""


_AFFINE = ("onnxruntime", "onnx.reference", "torch.fbgemm", "torch.fake_quantize",
           "torch.decomposed", "torchao", "litert.reference", "litert.builtin", "litert.xnnpack",
           "brevitas", "aimet.torch", "aimet.onnx")
_RANGE = ("onnxruntime", "onnx.reference", "onnxruntime.tool", "torch.fbgemm", "torch.decomposed",
          "torchao.formats")
_CASTS = ("onnxruntime", "onnx.reference", "torch.cast", "ml_dtypes", "gfloat")
_MX = ("torchao.floor", "torchao.rceil", "torchao.ceil", "torchao.even", "gfloat.mx", "gguf")

_Q, _D, _C, _M = "quantize_affine", "quantization_parameters", "cast", "quantize_mx"

#: Sections 2.1 to 2.5 of the study, in its order.
ROWS: tuple[Row, ...] = (
    Row("Q1", "x = 0.5, s = 1, z = 0: a tie beside zero", _Q, ("494a0745af",), _AFFINE,
        "the LiteRT kernels take ties away from zero; the builtin one does so behind whole "
        "groups of eight only"),
    Row("Q2", "x = 2.5, s = 1, z = 0: a tie", _Q, ("4ea9f3b352",), _AFFINE, "as Q1"),
    Row("Q3", "x = 0.5, z = 1: a tie with an odd zero point", _Q, ("86f9f0c7b9",), _AFFINE,
        "who adds the zero point before rounding takes the tie to the other side"),
    Row("Q4", "x = 1.5, z = 1: a tie with an odd zero point", _Q, ("40e69a8410",), _AFFINE,
        "as Q3"),
    Row("Q5", "x = 3e9, z = 0: more than an int32", _Q, ("8c152a1629",), _AFFINE,
        "the ratio is converted to int32 before it is clipped, which on x86 gives -2**31"),
    Row("Q6", "x = +inf, z = 0", _Q, ("ec9458b79d",), _AFFINE, "as Q5"),
    Row("Q7", "x = -inf, z = -128", _Q, ("1186cc3f72",), _AFFINE,
        "as Q5, and adding the zero point wraps around"),
    Row("Q8", "four bits, x = +inf, the last of an odd number of elements", _Q,
        ("9ac378ec9e", "1e7da0c6a9"), ("onnxruntime", "onnx.reference", "torch.decomposed",
                                       "torchao"),
        "the evaluator of onnx wraps everywhere; onnxruntime 1.31.1 did so in the last, unpaired "
        "element (f8 and 00), and 1.32.0 does not"),
    Row("Q9", "NaN, int8, z = 0", _Q, ("1b4354846d",), _AFFINE,
        "no document gives NaN a code"),
    Row("Q10", "NaN, uint8, z = 255", _Q, ("af8e3b1f7e",), _AFFINE, "as Q9"),
    Row("Q11", "x = 0, s = 2**-149: the reciprocal is infinite", _Q, ("5191aa1410",), _AFFINE,
        "0 times infinity is NaN; XNNPACK ends the process"),
    Row("Q12", "x = 3 * 2**-149, s = 2**-149", _Q, ("389b486d81",), _AFFINE, "as Q11"),
    Row("Q13", "x = -48.6, s = 0.1 as float32: the reciprocal rounds to the other side", _Q,
        ("5aef5c5848",), _AFFINE, "the exact quotient lies next to a tie"),
    Row("Q14", "tf.quantization.fake_quant_with_min_max_args rounds ties up", _Q,
        note="TensorFlow is no peer here; the dialect is that of ties up, a mutant of "
             "quantize_affine"),
    Row("Q15", "tf.quantization.quantize rounds ties away unless told otherwise", _Q,
        note="TensorFlow is no peer here; documented by it, as the dialect tflite.reference"),
    Row("Q16", "how often the rules part: 3 % of float16-valued data, one in a million else", _Q,
        note="a frequency, not a case; the ties of Q3 are what makes it up"),
    Row("D1", "range [0, 0]: the scale of no range", _D, ("85830ae79d",), _RANGE,
        "the function body of DynamicQuantizeLinear gives 0, a sixth answer"),
    Row("D2", "range [2**-149, 2**-148]: the scale underflows", _D, ("8da05873cc",), _RANGE,
        "nothing defines it"),
    Row("D3", "range [-3e38, 3e38]: the width overflows float32", _D, ("95e2358023",), _RANGE,
        "who computes in float64 has a finite scale"),
    Row("D4", "range [1, NaN]", _D, ("1fceb2cca9",), _RANGE, "nothing defines it"),
    Row("D5", "range [-inf, inf]", _D, ("5801424954",), _RANGE, "nothing defines it"),
    Row("D6", "no data", _D,
        note="a range has two ends, so no case holds it; onnxruntime answers 1, the evaluator of "
             "onnx and torch raise"),
    Row("D7", "the scale divided in float64 and then cast", _D,
        ("3f150b3564", "748fc12e85"), _RANGE,
        "differs from float32 division for a quarter of random ranges"),
    Row("D8", "zero points halfway between two codes", _D,
        ("93578b2bc1", "514e4c6703", "55bd2b24a3"), _RANGE,
        "all that are installed round to even; the dialect tflite.reference rounds away"),
    Row("C1", "E4M3FN of 464.00003, just beyond the last midpoint", _C,
        ("9bf326af61", "2221719256"), _CASTS, "to saturate or not is a choice; torch saturates "
        "this format since 2.12"),
    Row("C2", "E4M3FN of 480 without saturation", _C, ("a0d2bf0100",), _CASTS,
        "onnxruntime keeps 480 to 496 at 448; ONNX says NaN"),
    Row("C3", "E4M3FN of +inf", _C, ("f47002e2d0", "c2fe0fe219"), _CASTS, "as C1"),
    Row("C4", "E5M2 of 61440 without saturation", _C, ("55232e11c1",), _CASTS,
        "onnxruntime answers a NaN for 61440 to 65536; ONNX says infinity"),
    Row("C5", "E5M2 of +inf", _C, ("9ada1b11c1", "a8dbff0bb9"), _CASTS,
        "torch saturates E4M3FN but not E5M2"),
    Row("C6", "E4M3FNUZ and E5M2FNUZ of +inf", _C, ("fa129a214a", "f874bd66a8", "b5e2ca89ab",
                                                    "272217a45a"), _CASTS,
        "the documents of ONNX contradict each other, see spec_conflicts.json"),
    Row("C7", "E5M2 of NaN", _C, ("4418e2b195", "c44b144420"), _CASTS,
        "which of the NaN codes is nowhere said"),
    Row("C8", "E4M3FN of NaN", _C, ("98b193493a", "0602c6ce6a"), _CASTS,
        "gfloat loses the sign"),
    Row("C9", "E2M1 of NaN, which it does not have", _C, ("f706862e73",), _CASTS,
        "the text of ONNX and its tests contradict each other, see spec_conflicts.json"),
    Row("C10", "E2M1 of 7, halfway beyond the largest", _C, ("412d707775",), _CASTS,
        "all that implement it saturate; onnxruntime does not implement it"),
    Row("C11", "E8M0 of 0", _C, ("499e99af7b", "606192d59d", "8665605863"), _CASTS,
        "no code stands for zero"),
    Row("C12", "E8M0 of -1", _C, ("52e67268a7", "de4f6925f5", "52bb8d0fba"), _CASTS,
        "no code has a sign; torch drops it"),
    Row("C13", "E8M0 of +inf, rounded up", _C, ("24b433034f",), _CASTS,
        "the evaluator of onnx answers NaN, the text says the largest"),
    Row("C14", "E8M0 of 0.75, a tie", _C, ("aaa062adc8", "600a3344ce"), _CASTS,
        "up by ONNX and ml_dtypes, to the even code by gfloat: see spec_conflicts.json"),
    Row("C15", "E8M0 of the number before 1.5 * 2**-127, to nearest", _C,
        ("3bfaccecc3", "9b82ce76bc"), _CASTS,
        "2,097,151 inputs above 2**-127 go to the farther neighbour"),
    Row("C16", "E8M0 of exactly 2**-127, rounded up", _C, ("206f495b87",), _CASTS,
        "the evaluator of onnx rounds an exact value up"),
    Row("C17", "E8M0 of 2**-149", _C, ("54d57edd9a", "3cb2a67029", "286122707a"), _CASTS,
        "below the least: the table of ONNX says the least, gfloat answers NaN"),
    Row("C18", "E4M3FN of the float64 2**-10 (1 + 2**-40), just above a tie", _C,
        ("3083657048", "6c94dcc73a"), ("ml_dtypes", "gfloat"),
        "through float32 it becomes the tie, and the other code"),
    Row("C19", "bfloat16 of the signalling NaN 7f800001", _C, ("5044f5182c",), _CASTS,
        "payload and sign of a NaN are nobody's rule"),
    Row("C20", "int4 of 100, -100 and inf", _C,
        note="a cast to integers is no operation of the corpus: ONNX leaves it open beyond the "
             "range, and ml_dtypes keeps the lowest bits"),
    Row("M1", "MXFP4, the largest of the block is 7", _M, ("5097d3089d",), _MX,
        "OCP asks for no one rule of the scale: both exponents conform"),
    Row("M2", "MXFP4, ties of the elements at scale 1", _M, ("92e17e93c1",), _MX,
        "to even by OCP; gguf goes to the smaller, see quantize_ggml"),
    Row("M3", "the largest of the block one unit below a power of two", _M,
        ("ea9e21f67c", "6e0bd38557", "194b2ad7f2", "fc7a6fd71e"), _MX,
        "the logarithm rounded to float32 is the next whole number"),
    Row("M4", "MXFP8 with the scale 2**-127", _M, ("c7698a14eb",), _MX,
        "torchao divides by 2**-126 instead; the value decodes to half, by RCEIL to 0"),
    Row("M5", "MXFP4, the largest of the block is 2**-126", _M, ("955d445d7d",), _MX,
        "gguf's scale byte wraps to 255, which OCP reads as NaN"),
    Row("M6", "NaN in a block", _M, ("3ac8ca13d7",), _MX, "nothing defines it"),
    Row("M7", "infinity in a block", _M, ("809e5c1732",), _MX, "nothing defines it"),
    Row("M8", "-0 in a block", _M, ("42dfc8bff3",), _MX, "microxcaling and gguf lose the sign"),
    Row("R1", "QLinearMatMul and QLinearConv, a tie with an odd zero point of y", "qlinear_matmul",
        ("0b4b57fd6c", "2221af546e", "1a747ecbe1", "ae768c0855"), ("onnxruntime", "onnx.reference"),
        "the text of ONNX rounds, then adds; its evaluator adds, then rounds"),
    Row("R2", "QLinearMatMul with random scales: 0 or 1 difference in 122,880", "qlinear_matmul",
        note="a frequency, not a case: why random tests cannot see R1"),
    Row("R3", "a sum beyond int32", "matmul_integer",
        note="needs 33,026 products, 66 kB a case; both runtimes wrap, refquant refuses: "
             "tests/integer/test_onnx_products"),
    Row("R4", "int8 codes of scale 0.3 to scale 0.7: three kernels of one wheel",
        "requantize_affine", ("398ed8805b", "a424d3ab1c"),
        ("litert.reference", "litert.builtin", "litert.xnnpack", "onnxruntime", "onnx.reference"),
        "fixed point of two roundings, twice up, or a multiplier of 8 bits; none of 256 codes is "
        "right everywhere"),
    Row("R5", "onnxruntime changes ties when it fuses QDQ nodes", "qlinear_matmul",
        note="microsoft/onnxruntime issue 32132: two models, not one operation"),
    Row("R6", "uint8 times int8 in pairs of 16 bits", "matmul_integer",
        ("011ecf83fe", "c3b015ade8", "65d2fbe132", "a3daa333f1"), ("onnxruntime", "onnx.reference"),
        "without VNNI instructions onnxruntime saturates two products in int16, as a mutant does "
        "here; with them it is exact, and so it is on the processor that was asked"),
    Row("G1", "Q8_0, ties: the reference and the vector kernel", "quantize_ggml",
        ("6608e05811", "d8c2efb4b7"), ("gguf",),
        "the AVX2 quantizer of activations rounds to even, gguf and the reference away; the C "
        "code is no peer, the dialect ggml.avx2 is its formula"),
    Row("G2", "ggml compiled with -ffast-math", "quantize_ggml",
        note="a way to compile C code, which is no peer here"),
    Row("N1", "the table of NF4", "dequantize_nf4",
        ("2fc482b694", "9249d04e5c", "da0297aba9", "dbb2f361e0"), ("torchao.formats",),
        "torchao's levels have four decimals: 13 of 16 differ from those of bitsandbytes"),
    Row("N2", "NF4 at the midpoints of its levels", "quantize_nf4",
        ("720b9a918b", "d3721f1d78", "6aa35b09e8", "dba01e1591"), ("torchao.formats",),
        "bitsandbytes compares with rounded midpoints, torchao has levels of its own"),
    Row("P1", "order of two nibbles in a byte", "pack", ("99c873e3c4", "e39b0b0976"),
        ("onnx.reference", "torchao.formats"),
        "low first in ONNX and torchao's MX; high first in bitsandbytes and torchao's NF4: the "
        "layout is a parameter"),
    Row("P2", "nibbles of a gguf block", "pack", ("a296667d1a", "99c873e3c4"), (),
        "element i lies in the lower half of byte i, element i + 16 in the upper"),
    Row("P3", "nibbles of AWQ", "pack", ("88606073fe", "99c873e3c4"), (),
        "in the order 0 2 4 6 1 3 5 7; no peer packs them on a CPU"),
    Row("P4", "GPTQ stores z - 1 or z", "pack",
        note="a convention of checkpoints, read in interop, not an order of bits"),
    Row("P5", "OpenVINO read [1, 2] back as [2, 1]", "pack",
        note="openvinotoolkit/openvino issue 32144, repaired; OpenVINO is no peer here"),
    Row("T1", "ternary codes -1, 0, 1: two bits each", "pack", ("0397efd435", "8d319a7f83"), (),
        "BitNet puts the first quarter in the high bits, TQ1_0 five codes in a byte"),
    Row("T2", "0.3 of the largest weight, ternary", "quantize_ggml", ("1c4f92f34a", "d463bc0caf"),
        ("gguf",), "TQ1_0 and TQ2_0 round it to 0; BitNet's i2_s keeps the sign of anything not "
        "zero, and is no operation of the corpus"),
    Row("S1", "bfloat16 by a random word, halfway", "stochastic_bfloat16",
        ("7ad11e04f4", "44f981b54d", "fdd9f00546", "50bdb4bfb1"), ("torchao.formats",),
        "up iff the word is below the fraction, or iff their sum carries: at one half they "
        "disagree on every word"),
    Row("S2", "few random bits", "stochastic_bfloat16",
        note="a distribution, not a case: rounding.stochastic_few_bits and its tests"),
    Row("S3", "whole numbers by a random word: three forms", "stochastic_integer",
        ("8578e9d319", "fd3d51b3fc", "ad4b641f03", "dfaf7c4d02"), (),
        "AIMET, microxcaling and Brevitas draw their words themselves, so only their formulas "
        "can be asked"),
)  # fmt: skip


def by_id(identity: str) -> Row:
    """Row of an id."""
    return next(row for row in ROWS if row.id == identity)


@cache
def questions() -> dict[str, tuple[VectorFile, Any, Case]]:
    """File, group and case of each id that a row names."""
    wanted = {identity for row in ROWS for identity in row.cases}
    return {case.id: (file, group, case)
            for file in map(load, names()) for group in file.groups for case in group.cases
            if case.id in wanted}


def dialects_at(row: Row) -> dict[str, list[str]]:
    """What each dialect says at the cases of a row; ``any`` where it leaves them open.

    Empty text where the file of a case does not cover the dialect.
    """
    known = [questions()[identity] for identity in row.cases]
    every = {dialect for file, *_ in known for dialect in file.dialects}
    return {dialect: [_said(file, case, dialect) for file, _, case in known]
            for dialect in sorted(every)}


def _said(file: VectorFile, case: Case, dialect: str) -> str:
    if dialect not in file.dialects:
        return ""
    answer = case.answer(dialect) if case.status == "defined" else None
    return "any" if answer is None else _shown(file, answer)


def asked(worker: Any, file: VectorFile, group: Any, case: Case) -> str:
    """What an adapter answers to one case, as digits, or what came instead, in a word."""
    types = {**file.inputs, **file.params, **file.outputs}
    many = file.op in ELEMENTWISE and not any(np.ndim(v) for v in case.inputs.values())
    given = {k: np.repeat(v, LANES + 1) if many else v for k, v in case.inputs.items()}
    reason: Any = True
    try:
        reason = worker.supports(file.op, types, group.params)
        # Whatever policy it declares: where it has but one, that is the disagreement.
        if reason is not True and file.op != "cast":
            return f"unsupported: {reason}"
        answer = {k: np.asarray(v) for k, v in
                  worker.run(file.op, types, group.params, given).items()}
    except Reject as err:
        return f"rejected: {err}"
    except Broken as err:
        return f"error: {err}" if reason is True else f"unsupported: {reason}"
    except (Crash, Timeout) as err:
        return f"{type(err).__name__.lower()}: {err}"
    if not many:
        return _shown(file, answer)
    first, last = ({k: v.ravel()[i] for k, v in answer.items()} for i in (0, -1))
    one, other = _shown(file, first), _shown(file, last)
    return one if one == other else f"{one}; last {other}"


def _shown(file: VectorFile, answer: Mapping[str, Any]) -> str:
    """Digits of each output, by name if there are several."""
    found = []
    for key, dtype in file.outputs.items():
        value = encoded(answer[key], dtype)
        digits = value["hex"] if isinstance(value, dict) else value
        found.append(digits if len(file.outputs) == 1 else f"{key}={digits}")
    return " ".join(found)


def observed(rows: Sequence[Row], impls: Iterable[str] | None = None) -> dict[str, Any]:
    """Answers of the adapters that are installed, by id of the row."""
    known = questions()
    wanted = list(ADAPTERS) if impls is None else list(impls)
    answers: dict[str, list[dict[str, Any]]] = {row.id: [] for row in rows}
    for impl in wanted:
        mine = [row for row in rows if impl in row.impls and row.cases]
        if not mine:
            continue
        try:
            worker = Worker(impl, timeout=60.0)
        except Missing:
            continue
        try:
            for row in mine:
                answers[row.id].append({"impl": impl, "version": worker.version, "answers": [
                    asked(worker, *known[identity]) for identity in row.cases]})
        finally:
            worker.close()
    return answers


def document(impls: Iterable[str] | None = None) -> dict[str, Any]:
    """All rows with what was answered on this machine."""
    answers, known = observed(ROWS, impls), questions()
    rows = [{
        "id": row.id, "title": row.title, "operation": row.operation,
        "cases": [{"id": c, "file": known[c][0].name} for c in row.cases],
        "answers": answers[row.id], "note": row.note,
    } for row in ROWS]  # fmt: skip
    return {
        "format": "refquant-disagreements",
        "observation": {"cpu": cpu(), "platform": (
            f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, "
            f"NumPy {np.__version__}")},
        "rows": rows,
    }  # fmt: skip


def read(path: Path = PATH) -> dict[str, Any]:
    """The table that ships."""
    return dict(json.loads(path.read_text("ascii")))


def main(impls: Sequence[str] = (), path: Path = PATH) -> None:
    """Ask the adapters named, or all, and write the table; of others it keeps what it has."""
    made = document(impls or None)
    if impls and path.is_file():
        before = {row["id"]: row["answers"] for row in read(path)["rows"]}
        for row in made["rows"]:
            asked_now = {answer["impl"] for answer in row["answers"]}
            kept = [a for a in before.get(row["id"], []) if a["impl"] not in asked_now]
            row["answers"] = sorted(kept + row["answers"], key=_place)
    path.write_text(json.dumps(made, indent=1) + "\n", "ascii")
    print(f"{path}: {len(made['rows'])} rows", file=sys.stderr)


def _place(answer: Mapping[str, Any]) -> int:
    return list(ADAPTERS).index(answer["impl"])


if __name__ == "__main__":
    main(sys.argv[1:])
