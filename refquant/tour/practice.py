"""Rows on a practitioner's path: what the commands report, quantize and workflow are made of."""

from functools import partial

import numpy as np
from scipy.ndimage import rotate

from refquant._types import Array
from refquant.apply.calibrate import collect, plan
from refquant.apply.rewrite import fold_batch_norms
from refquant.apply.simulate import input_names, static, weight_names
from refquant.calibration.dynamic import per_tensor
from refquant.calibration.minmax import absmax
from refquant.calibration.second_moment import output_error
from refquant.granularity import all_but
from refquant.metrics import mse, sqnr
from refquant.nn.models import Model, accuracy, predict
from refquant.nn.network import run, untouched
from refquant.nn.text import bits_per_character, text_data, trained_text_model
from refquant.quantizers.uniform import Uniform, symmetric
from refquant.tour.subject import Row, RowFunction, Subject
from refquant.workflow.ladder import Candidate, climb, rungs_for
from refquant.workflow.report import examine, suggestion
from refquant.workflow.shift import Answers, fall, shifts
from refquant.workflow.tasks import degradation, kept
from refquant.workflow.weights import Seen, by_gptq, nearest

__all__ = ["ROWS"]


def report_row(subject: Subject) -> Row:
    """Of nine schemes the one of fewest bits that keeps 20 dB, for either layer."""
    found, hard = examine("gauss", subject.gauss), examine("outliers", subject.layer)
    name, other = suggestion(found), suggestion(hard)
    loss = found.losses[name or "int8 row"]
    row = Row("report, 20 dB asked", bits=loss.bits, mse=loss.mse, sqnr=loss.sqnr,
              source=f"({name})", outliers=hard.losses[name or "int8 row"].sqnr)
    least = min(a.bits for a in found.losses.values() if a.sqnr >= 20)
    return row.claim("no scheme of fewer bits keeps 20 dB", loss.bits == least).claim(
        f"with outliers {hard.losses[other or 'ternary'].bits:.2f} bits are suggested, no fewer "
        f"than the {loss.bits:.2f} without",
        hard.losses[other or "ternary"].bits >= loss.bits)


def quantize_row(subject: Subject) -> Row:
    """GPTQ in groups of 32, inputs that have much in common."""
    weight, rng = subject.gauss[:128, :128], np.random.default_rng(0)
    x = (rng.standard_normal((512, 32)) @ rng.standard_normal((32, 128))
         + 0.3 * rng.standard_normal((512, 128))).astype(np.float32)
    seen = Seen.of(x, x[:1])
    plain, made = nearest(weight, 3, 32), by_gptq(weight, 3, 32, seen)
    ratio = (output_error(weight - plain.decoded(), seen.moment.hessian)
             / output_error(weight - made.decoded(), seen.moment.hessian))
    row = Row("quantize, GPTQ, 3 bits", bits=3 + 35 / 32, mse=mse(weight, made.decoded()),
              sqnr=sqnr(weight, made.decoded()))
    return row.claim(
        f"farther from the weights than nearest ({sqnr(weight, plain.decoded()):.2f} dB), nearer "
        f"to the outputs: {ratio:.1f} times less error, at least 1.5",
        row.sqnr < sqnr(weight, plain.decoded()) and ratio >= 1.5)


def ladder_row(subject: Subject) -> Row:
    """The first three rungs with 3 bits a weight, to within two points."""
    nodes, values = fold_batch_norms(subject.model.nodes, subject.model.values)
    rungs = rungs_for(nodes, values, {"x": subject.data.x_train[:128]}, bits=3)
    x, labels = subject.data.x_test, subject.data.y_test

    def judge(made: Candidate) -> float:
        network = Model(list(made.nodes), made.values, {})
        return accuracy(network, x, labels, tap=static(made.plan))

    tried = {name: rungs[name] for name in ("nearest", "per channel", "repaired")}
    made = climb(tried, judge, baseline=subject.accuracy(), max_drop=0.02)
    last = made.steps[-1]
    row = Row("workflow, 3 bits", bits=last.bits, accuracy=last.score,
              source=f"({last.name})")
    return row.claim(
        f"{made.steps[0].name} loses {made.steps[0].drop:.1%}, {last.name} {last.drop:.1%}, and "
        "there it stops", made.reached and made.steps[0].drop > 0.02 >= last.drop)


def moved_row(subject: Subject) -> Row:
    """Weights of 4 bits, inputs of 8 on static ranges; digits turned by 20 degrees."""
    nodes, values = fold_batch_norms(subject.model.nodes, subject.model.values)
    names = input_names(nodes)
    reference = collect(nodes, values, [{"x": subject.data.x_train[:128]}], names=names)
    ranges: dict[str, Uniform] = {n: per_tensor(v, bits=8) for n, v in reference.items()}
    grids = plan(values, partial(_per_channel, bits=4), names=weight_names(nodes)) | ranges

    def answers(x: Array) -> Answers:
        exact, coarse = (predict(Model(nodes, values, {}), x, tap=tap).argmax(1)
                         for tap in (untouched, static(grids)))
        return Answers(subject.data.y_test, exact, coarse)

    still = subject.data.x_test
    turned = rotate(still, 20, axes=(1, 2), order=1, reshape=False)
    now = run(nodes, {"x": turned, **values}).values
    worst = max(shifts(reference, now, ranges).values(), key=lambda s: s.distance)
    paid = fall(answers(still), answers(turned), rng=np.random.default_rng(0), draws=500)
    row = Row("W4A8, turned by 20°", bits=4.0,
              accuracy=float((answers(turned).coarse == subject.data.y_test).mean()),
              source=f"moved by {worst.distance:.2f}")
    return row.claim(
        f"float loses {paid.exact:.1%}, W4A8 {paid.coarse:.1%}: ranges are not to blame",
        paid.exact > 0.05 and abs(paid.excess) <= 0.05)


def tasks_row(subject: Subject) -> Row:
    """What 4 and 2 bits leave of two networks: which digit, and which letter comes next."""
    fits = {bits: partial(_per_channel, bits=bits) for bits in (4, 2)}
    nodes, values = fold_batch_norms(subject.model.nodes, subject.model.values)
    x, labels = subject.data.x_test, subject.data.y_test

    def read(changed: dict[str, Array]) -> float:
        return accuracy(Model(nodes, changed, {}), x, labels)

    letters, text = trained_text_model(), text_data()
    some, follow = text.x_test[:1000], text.y_test[:1000]

    def guessed(changed: dict[str, Array]) -> float:
        return bits_per_character(Model(letters.nodes, changed, {}), some, follow)

    often = np.bincount(text.y_train, minlength=int(text.y_test.max()) + 1) + 1
    blind = float(-np.log2(often / often.sum())[follow].mean())
    left = {}
    for task, net, score, chance in (("digits", (nodes, values), read, 0.1),
                                     ("letters", letters[:2], guessed, blind)):
        made = degradation(net[1], weight_names(net[0]), fits, score)
        left[task] = {b: kept(s, score(net[1]), chance) for b, s in made.items()}
    row = Row("tasks, 4 bits", bits=4.0, accuracy=read(
        {n: static({n: fits[4](v)})(n, v) if n in weight_names(nodes) else v
         for n, v in values.items()}))
    told = {t: {b: f"{k:.0%}" for b, k in by.items()} for t, by in left.items()}
    return row.claim(
        f"of digits 4 and 2 bits keep {told['digits'][4]} and {told['digits'][2]}, of letters "
        f"{told['letters'][4]} and {told['letters'][2]}",
        all(by[4] > 0.8 > by[2] for by in left.values()))


def _per_channel(weight: Array, *, bits: int) -> Uniform:
    return symmetric(absmax(weight, axis=all_but(0, weight.ndim)), bits=bits)


ROWS: list[RowFunction] = [report_row, quantize_row, ladder_row, moved_row, tasks_row]
