"""The command ``refquant workflow``: climb the ladder on the shipped network, tell the story."""

import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from refquant._types import Array
from refquant.apply.rewrite import fold_batch_norms
from refquant.apply.simulate import static, weight_names
from refquant.metrics import sqnr
from refquant.nn.data import digits
from refquant.nn.models import trained_digits_cnn
from refquant.nn.network import run, untouched
from refquant.workflow.fairness import by_subgroup
from refquant.workflow.ladder import Candidate, climb, rungs_for

__all__ = ["workflow"]


def workflow(*, bits: int, max_drop: float) -> int:
    """Climb, print what was tried, who is to blame and who pays; exit status 1 if it ends too low.

    Half of the held-out digits choose the rung, the other half judge it.
    """
    model, data, console = trained_digits_cnn(), digits(), Console()
    nodes, values = fold_batch_norms(model.nodes, model.values)
    half = len(data.x_test) // 2
    chosen, kept = slice(0, half), slice(half, None)

    def answers(candidate: Candidate | None, part: slice) -> Array:
        net, weights, tap = (nodes, values, untouched) if candidate is None else (
            candidate.nodes, candidate.values, static(candidate.plan))
        logits = run(net, {"x": data.x_test[part], **weights}, tap=tap).values["logits"]
        return np.asarray(logits.argmax(1))

    def accuracy(candidate: Candidate | None, part: slice) -> float:
        return float((answers(candidate, part) == data.y_test[part]).mean())

    rungs = rungs_for(nodes, values, {"x": data.x_train}, bits=bits, labels=data.y_train)
    baseline = accuracy(None, chosen)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=len(rungs))
        made = climb(rungs, lambda c: accuracy(c, chosen), baseline=baseline,
                     max_drop=max_drop / 100, progress=lambda done, total, name: bar.update(
                         task, completed=done, description=name))
    table = Table(box=SIMPLE)
    for column in ("rung", "bits a weight", "accuracy", "drop", "seconds"):
        table.add_column(column, justify="left" if column == "rung" else "right")
    table.add_row("float", "32", f"{baseline:.1%}", "", "")
    for step in made.steps:
        table.add_row(step.name, f"{step.bits:.2f}", f"{step.score:.1%}",
                      f"{100 * step.drop:+.1f}", f"{step.seconds:.1f}")
    console.print(table)
    last, best = made.steps[-1].name, made.candidate
    console.print(f"Stopped at {last}: within {max_drop:g} points of float." if made.reached else
                  f"No rung is within {max_drop:g} points of float: more bits, or longer training.")
    console.print(f"Digits that chose nothing: float {accuracy(None, kept):.1%}, "
                  f"quantized {accuracy(best, kept):.1%}.")
    judge = {"x": data.x_test[kept]}
    exact = run(nodes, {**judge, **values}).values["logits"]

    def with_float(layer: str) -> float:
        own = {n: values[n] for n in (f"{layer}.weight", f"{layer}.bias")}
        return sqnr(exact, run(nodes, {**judge, **best.values, **own},
                               tap=static(best.plan)).values["logits"])

    gains = {n.removesuffix(".weight"): with_float(n.removesuffix(".weight"))
             for n in weight_names(nodes)}
    as_is = sqnr(exact, run(nodes, {**judge, **best.values},
                            tap=static(best.plan)).values["logits"])
    worst = sorted(gains, key=lambda layer: -gains[layer])[:3]
    console.print(f"Logits {as_is:.1f} dB; most would be gained by float weights in " + ", ".join(
        f"{layer} ({gains[layer] - as_is:+.1f})" for layer in worst))
    whole = slice(None)
    who = by_subgroup(data.y_test, answers(None, whole), answers(best, whole), data.y_test,
                      rng=np.random.default_rng(0))
    low, high = who.worst.drop_interval
    console.print(f"Most lost: digit {who.worst.name}, {who.worst.before:.1%} to "
                  f"{who.worst.after:.1%}, drop in [{low:.1%}, {high:.1%}]; "
                  f"gap between digits {who.gap_before:.1%} to {who.gap_after:.1%}")
    return 0 if made.reached else 1
