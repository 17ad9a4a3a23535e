"""Rows on integers as they are computed: the kernels of runtimes, and our own fast twins."""

import time
from functools import partial

import numpy as np
from scipy.special import erf

from refquant._types import Array
from refquant.apply.agreement import agreement
from refquant.apply.calibrate import observe, plan
from refquant.apply.lower import as_deployed, execute, lower, stored_names
from refquant.apply.rewrite import fold_batch_norms
from refquant.apply.simulate import static, weight_names
from refquant.calibration.entropy import candidate_divergences
from refquant.calibration.minmax import Range, absmax
from refquant.calibration.statistics import Histogram
from refquant.granularity import all_but
from refquant.integer.dialects import (
    LITERT_OPTIMIZED,
    LITERT_REFERENCE,
    ONNX_REFERENCE,
    ONNXRUNTIME,
    TORCH_DECOMPOSED,
    TORCH_FAKE,
    TORCH_PER_CHANNEL,
    TORCH_QUANTIZE,
    XNNPACK,
    Dialect,
)
from refquant.integer.nonlinear import i_gelu
from refquant.integer.requantize import single_up
from refquant.integer.softmax import fixed_softmax
from refquant.kernels import elementwise
from refquant.kernels.histogram import ValueHistogram, kl_divergences, uniform_errors
from refquant.metrics import mse, sqnr
from refquant.nn.models import predict
from refquant.nn.network import run
from refquant.oracle.adapters import Refquant
from refquant.oracle.conformance import check, identify
from refquant.quantizer import fake_quantize
from refquant.quantizers.uniform import Uniform, asymmetric, symmetric
from refquant.tour.subject import Row, RowFunction, Subject
from refquant.tour.uniform import INTEGRAL, expected_sqnr

__all__ = ["ROWS"]

#: What lies exactly between two codes, with a zero point that is odd.
TIES = ((np.arange(-32, 32) + 0.5) / 16).astype(np.float32)
TIED = Uniform(np.array(1 / 16), np.array(3), -128, 127)


def dialect_row(subject: Subject, *, name: str, dialect: Dialect, differing: int) -> Row:
    """8 bits by one runtime's kernel: the same codes, except where it rounds differently."""
    scale = np.array(float(absmax(subject.gauss).item()) / 120, np.float32)
    quantizer = Uniform(scale, np.array(3), -128, 127)
    exact = Uniform(scale.astype(np.float64), np.array(3), -128, 127)
    start = time.perf_counter()
    codes = dialect.encode(subject.gauss, quantizer)
    x_hat = dialect.decode(codes, quantizer)
    seconds = time.perf_counter() - start
    by_definition = exact.encode(subject.gauss.astype(np.float64))
    apart = np.abs(codes - by_definition)
    ties = int((dialect.encode(TIES, TIED) != TIED.encode(TIES)).sum())
    row = Row(
        name,
        bits=8.0,
        mse=mse(subject.gauss, x_hat),
        sqnr=sqnr(subject.gauss, x_hat),
        expected=expected_sqnr(exact),
        source=f"{ties}/{TIES.size} ties apart",
        seconds=seconds,
    )
    row = row.claim(f"SQNR is within 0.1 of {row.expected:.2f} ({INTEGRAL})",
                    abs(row.sqnr - row.expected) <= 0.1)
    told = f"codes differ from the definition by at most 1, for {(apart > 0).sum()} of {apart.size}"
    rare = apart.max() <= 1 and (apart > 0).mean() < 1e-4
    return row.claim(told, rare).claim(
        f"{ties} of {TIES.size} ties are coded differently, {differing} expected",
        ties == differing,
    )


def tiles_row(subject: Subject) -> Row:
    """Fake quantization tile by tile, against step by step."""
    row = Row("fake quantize by tiles")
    for bits in (8, 4):
        quantizer = symmetric(absmax(subject.layer, axis=1), bits=bits)
        start = time.perf_counter()
        fast = elementwise.fake_quantize(subject.layer, quantizer)
        row = row._replace(seconds=time.perf_counter() - start)
        slow = fake_quantize(subject.layer, quantizer)
        row = row.claim(f"{bits} bits, per channel: the same, bit for bit", _same(fast, slow))
    codes = elementwise.encode(subject.layer, quantizer)
    return row.claim("the same codes", _same(codes, quantizer.encode(subject.layer)))


def clip_search_row(subject: Subject) -> Row:
    """256 clipping ranges from one histogram, against one by one."""
    x = subject.gauss[:128]
    bounds = float(absmax(x).item()) * np.arange(1, 257) / 256
    start = time.perf_counter()
    fast = uniform_errors(ValueHistogram.of(x), symmetric(bounds, bits=4))
    seconds = time.perf_counter() - start
    some = np.arange(31, 256, 32)
    slow = [x.size * mse(x, fake_quantize(x, symmetric(bounds[i], bits=4))) for i in some]
    off = float(np.abs(fast[some] / slow - 1).max())
    row = Row("clip search by histogram", seconds=seconds)
    return row.claim(f"errors are within {off:.0e} of the slow ones, at most 1e-6", off <= 1e-6)


def kl_row(subject: Subject) -> Row:
    """All cuts of a histogram at once, against one by one."""
    counts = Histogram.of(np.abs(subject.gauss), bins=512).counts
    start = time.perf_counter()
    fast = kl_divergences(counts)
    seconds = time.perf_counter() - start
    slow = candidate_divergences(counts)
    finite = np.isfinite(slow)                  # infinite where a cut loses what it must keep
    off = float(np.abs(fast[finite] - slow[finite]).max(initial=0))
    row = Row("KL, all cuts at once", seconds=seconds).claim(
        "the same cuts are impossible", np.array_equal(np.isfinite(fast), finite)
    )
    return row.claim(f"divergences are within {off:.0e} of the slow, at most 1e-9", off <= 1e-9)


def gelu_row(subject: Subject) -> Row:
    """I-BERT's GELU of 8-bit codes, by one parabola and integers alone."""
    quantizer = symmetric(absmax(subject.gauss), bits=8)
    codes, scale = quantizer.encode(subject.gauss), float(quantizer.scale.item())
    start = time.perf_counter()
    result = i_gelu(codes, scale)
    seconds = time.perf_counter() - start
    x = codes * scale
    exact = x * (1 + erf(x / np.sqrt(2))) / 2
    off = float(np.abs(result.q * result.scale - exact).max())
    row = Row("integer GELU", bits=8.0, mse=mse(exact, result.q * result.scale),
              sqnr=sqnr(exact, result.q * result.scale), seconds=seconds)
    bound = 0.0182 + scale
    told = f"off by at most {off:.4f}; the parabola's 0.0182 and a step allow {bound:.4f}"
    return row.claim(told, off <= bound)


def integer_softmax_row(subject: Subject) -> Row:
    """Softmax of 8-bit codes by 32-bit fixed point, as a microcontroller computes it."""
    quantizer = symmetric(absmax(subject.gauss), bits=8, narrow=False)
    result = Uniform(np.array(1 / 256, np.float32), np.array(-128), -128, 127)
    codes = quantizer.encode(subject.gauss)
    start = time.perf_counter()
    shares = fixed_softmax(codes, quantizer, result, beta=4.0)
    seconds = time.perf_counter() - start
    x = 4 * float(quantizer.scale.item()) * (codes - codes.max(axis=-1, keepdims=True))
    exact = np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)
    row = Row("integer softmax", bits=8.0, mse=mse(exact, result.decode(shares)), seconds=seconds)
    nearest = result.encode(exact)
    apart = np.abs(shares - nearest)
    told = f"{(apart > 0).sum()} of {apart.size} codes are not the nearest, by at most 1"
    return row.claim(told, apart.max() <= 1 and (apart > 0).mean() < 1e-3)


def oracle_row(subject: Subject) -> Row:
    """The golden vectors: every dialect by its own name, and who rounds ties away."""
    files = ["quantize_affine.float32.int8"]
    start = time.perf_counter()
    report = check(Refquant("onnx"), "onnx", ops=files)
    seconds = time.perf_counter() - start
    row = Row("golden vectors", source=f"{len(report.results)} cases", seconds=seconds)
    row = row.claim("our ONNX dialect has no difference", not report.failures())
    away = identify(Refquant("tflite.reference"), ops=files)[0]
    named = (away.dialect, away.failed) == ("tflite.reference", 0)
    row = row.claim("who rounds ties away is named", named)
    caught = "Tie" in check(Refquant("tflite.reference"), "onnx", ops=files).flags()
    return row.claim("and caught under ONNX by the flag Tie", caught)


def lowered_row(subject: Subject) -> Row:
    """The network in integers alone, against its simulation: W8A8, double rounding."""
    model, data = subject.model, subject.data
    net = fold_batch_norms(model.nodes, model.values)
    batches = [{"x": data.x_train[:256]}]
    seen = observe(net.nodes, net.values, batches, Range.of, names=stored_names(net.nodes))
    made = as_deployed(
        plan(seen, _int8) | plan(net.values, _per_channel, names=weight_names(net.nodes))
    )
    images = {"x": data.x_test.astype(np.float64)}
    program = lower(net.nodes, net.values, made, images)
    start = time.perf_counter()
    codes = execute(program, {"x": made["x"].encode(images["x"])})["logits"]
    seconds = time.perf_counter() - start
    simulated = run(net.nodes, {**images, **program.values}, tap=static(made)).values["logits"]
    logits = made["logits"].decode(codes)
    read = [float((out.argmax(1) == data.y_test).mean()) for out in (simulated, logits)]
    rows = agreement(program, net.nodes, images)
    elements, apart = (sum(column) for column in zip(*(r[1:3] for r in rows), strict=True))
    row = Row(
        "digits CNN in integers",
        sqnr=sqnr(predict(model, data.x_test), logits),
        source="(of the logits)",
        accuracy=read[1],
        seconds=seconds,
    )
    row = row.claim(f"accuracy {read[1]:.2%} is that of the simulation", read[0] == read[1])
    told = f"on the same inputs {apart:,} of {elements:,} codes differ, by 1"
    row = row.claim(told, apart > 0 and max(r.largest for r in rows) == 1)
    law = sum(r.predicted for r in rows)
    row = row.claim(f"the law of two roundings says {law:,.0f}, within 10 %",
                    abs(apart / law - 1) < 0.1)
    unexplained = sum(r.unexplained for r in rows)
    row = row.claim(f"{unexplained} of them are far from a tie", unexplained == 0)
    once = lower(net.nodes, net.values, made, images, rule=single_up)
    exact = sum(r.differing for r in agreement(once, net.nodes, images))
    return row.claim(f"rounded once, {exact} differ", exact == 0)


def _int8(seen: Range) -> Uniform:
    q = asymmetric(seen.low, seen.high, bits=8)
    return Uniform(q.scale, q.zero_point - 128, -128, 127)


def _per_channel(weight: Array) -> Uniform:
    return symmetric(absmax(weight, axis=all_but(0, weight.ndim)), bits=8)


def _same(a: Array, b: Array) -> bool:
    return a.dtype == b.dtype and a.tobytes() == b.tobytes()


#: Of 64 ties, how many get another code than by definition: half to even, zero point after.
DIALECTS = [
    ("onnxruntime", ONNXRUNTIME, 0),
    ("onnx reference", ONNX_REFERENCE, 0),
    ("torch quantize", TORCH_QUANTIZE, 64),
    ("torch per channel", TORCH_PER_CHANNEL, 64),
    ("torch fake quantize", TORCH_FAKE, 0),
    ("torch decomposed", TORCH_DECOMPOSED, 0),
    ("LiteRT reference", LITERT_REFERENCE, 32),
    ("LiteRT optimized", LITERT_OPTIMIZED, 0),
    ("XNNPACK", XNNPACK, 0),
]

ROWS: list[RowFunction] = [
    *(
        partial(dialect_row, name=name, dialect=dialect, differing=differing)
        for name, dialect, differing in DIALECTS
    ),
    tiles_row,
    clip_search_row,
    kl_row,
    gelu_row,
    integer_softmax_row,
    oracle_row,
    lowered_row,
]
