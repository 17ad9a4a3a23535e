"""Rows on what goes with quantization: fewer numbers, and who is to blame and who pays."""

from collections.abc import Callable

import numpy as np
from scipy.stats import norm

from refquant._types import Array
from refquant.apply.calibrate import observe, plan
from refquant.apply.debug import all_but_one, layers_of, local_errors
from refquant.apply.rewrite import fold_batch_norms
from refquant.apply.simulate import static, weight_names
from refquant.calibration.minmax import absmax
from refquant.calibration.statistics import Range
from refquant.compression.deep_compression import relative, share, size, write
from refquant.compression.low_rank import break_even, factorize
from refquant.compression.pruning import keep_largest, keep_n_of_m
from refquant.granularity import all_but
from refquant.metrics import mse, sqnr
from refquant.nn.models import predict
from refquant.nn.network import Tap, run, untouched
from refquant.quantizer import fake_quantize
from refquant.quantizers.uniform import asymmetric, symmetric
from refquant.tour.subject import Row, RowFunction, Subject
from refquant.workflow.fairness import by_subgroup

__all__ = ["ROWS"]


def half(w: Array) -> Array:
    """Half of the weights, the larger ones."""
    return w * keep_largest(np.abs(w), 0.5)


def two_of_four(w: Array) -> Array:
    """Two of every four neighbours; of a convolution, within each filter."""
    flat = w.reshape(len(w), -1)
    whole = flat.shape[1] - flat.shape[1] % 4
    mask = np.ones(flat.shape, bool)
    mask[:, :whole] = keep_n_of_m(np.abs(flat[:, :whole]), 2, 4)
    return (flat * mask).reshape(w.shape)


def thin_and_shared(w: Array) -> Array:
    """Half of the weights, in 15 values."""
    return share(half(w), 15).weight


def in_half_the_numbers(w: Array) -> Array:
    """The nearest product of two matrices with half as many numbers."""
    flat = w.reshape(len(w), -1)
    rank = max(break_even(flat.shape, flat.size // 2), 1)
    return factorize(flat, rank).weight.reshape(w.shape)


def _row(subject: Subject, name: str, change: Callable[[Array], Array], bits: float) -> Row:
    made = change(subject.gauss)
    return Row(name, bits=bits, mse=mse(subject.gauss, made), sqnr=sqnr(subject.gauss, made),
               outliers=sqnr(subject.layer, change(subject.layer)),
               accuracy=subject.accuracy_with(change))


def pruned_row(subject: Subject) -> Row:
    """Magnitude; what is lost of a Gauss layer is the middle half of its energy."""
    kept = keep_largest(np.abs(subject.gauss), 0.5)
    entries = relative(kept.astype(np.int32), 4).gaps.size
    at = norm.ppf(0.75)
    lost = 0.5 - 2 * at * norm.pdf(at)
    row = _row(subject, "half left out", half, 36 * entries / kept.size)
    return row.expect(float(-10 * np.log10(lost)), "normal's middle")


def pattern_row(subject: Subject) -> Row:
    """2:4: two bits for each value that is left."""
    row = _row(subject, "2 of every 4 left", two_of_four, 17.0)
    exact = (two_of_four(subject.gauss) != 0).mean() == 0.5
    return row.claim("exactly half of the weights are left", exact)


def rank_row(subject: Subject) -> Row:
    """Half the numbers, in two factors: of a Gauss layer no direction is better than another."""
    layer = subject.gauss[:256]
    made = in_half_the_numbers(layer)
    row = Row("low rank, half the numbers", bits=16.0, mse=mse(layer, made),
              sqnr=sqnr(layer, made), accuracy=subject.accuracy_with(in_half_the_numbers))
    worse = row.sqnr < sqnr(layer, half(layer))
    return row.claim("of noise, half the weights are worth more than half the numbers", worse)


def archive_row(subject: Subject) -> Row:
    """Deep Compression without training, to the byte."""
    arrays = {"w": share(half(subject.gauss[:256, :256]), 15)}
    data = write(arrays)
    row = _row(subject, "half left out, 15 values", thin_and_shared,
               8 * len(data) / arrays["w"].codes.size)
    return row.claim(f"the archive has the {size(arrays)} bytes of the formula",
                     len(data) == size(arrays))


def debugger_row(subject: Subject) -> Row:
    """A range calibrated on an outlier, in the middle of the network."""
    nodes, values = fold_batch_norms(subject.model.nodes, subject.model.values)
    x, planted = {"x": subject.data.x_test[:100]}, "pw1"
    names = [name.removesuffix(".weight") for name in weight_names(nodes)][:-1]
    seen = observe(nodes, values, [{"x": subject.data.x_train[:256]}], Range.of,
                   names=[*names, "logits"])
    made = plan(seen, lambda r: asymmetric(r.low, r.high, bits=8)) | {
        n: symmetric(absmax(values[n]), bits=8) for n in weight_names(nodes)}
    wide = Range(seen[planted].low, 100 * seen[planted].high)
    made |= {planted: asymmetric(wide.low, wide.high, bits=8)}
    exact = run(nodes, {**x, **values}).values["logits"]

    def judge(tap: Tap) -> float:
        return sqnr(exact, run(nodes, {**x, **values}, tap=tap).values["logits"])

    first = local_errors(nodes, values, x, made)[0].name
    best = next(iter(all_but_one(made, layers_of(nodes, made), judge)))
    row = Row("8 bits, a planted failure", bits=8.0, sqnr=judge(static(made)),
              source="(of the logits)")
    return row.claim(f"the debugger names {first} and proves {best}",
                     first == planted and best == f"{planted}.weight")


def fairness_row(subject: Subject) -> Row:
    """Classes before and after 3 bits."""
    def rounded(name: str, value: Array) -> Array:
        if not name.endswith(".weight"):
            return value
        return fake_quantize(value, symmetric(absmax(value, axis=all_but(0, value.ndim)), bits=3))

    x, labels = subject.data.x_test, subject.data.y_test
    before, after = (predict(subject.model, x, tap=tap).argmax(1) for tap in (untouched, rounded))
    made = by_subgroup(labels, before, after, labels, rng=np.random.default_rng(0), draws=500)
    low, high = made.worst.drop_interval
    row = Row("3 bits, by class", bits=3.0, accuracy=float((after == labels).mean()),
              source=f"worst: {made.worst.name}, {made.worst.drop:+.1%}")
    sure = sum(group.drop_interval.low > 0 for group in made.groups)
    return row.claim(f"of ten classes {sure} surely lose, the worst {low:.1%} to {high:.1%}",
                     len(made.groups) == 10 and sure <= 1)


ROWS: list[RowFunction] = [
    pruned_row, pattern_row, rank_row, archive_row, debugger_row, fairness_row]
