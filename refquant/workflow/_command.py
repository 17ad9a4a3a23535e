"""The command ``refquant workflow``: climb the ladder on the shipped network, tell the story."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import Progress

from refquant._types import Array
from refquant.apply.rewrite import fold_batch_norms
from refquant.apply.simulate import static, weight_names
from refquant.interop._files import save_text
from refquant.metrics import sqnr
from refquant.nn.data import digits
from refquant.nn.models import trained_digits_cnn
from refquant.nn.network import run, untouched
from refquant.workflow._story import ACCURACY, Story, data_of, page_of, rows_of, tell
from refquant.workflow._terminal import console_of
from refquant.workflow.fairness import by_subgroup
from refquant.workflow.judging import paired_drop
from refquant.workflow.ladder import Candidate, climb, rungs_for
from refquant.workflow.onnx_ladder import Blame

__all__ = ["Settings", "publish", "workflow"]


class Settings(NamedTuple):
    """What the command was asked for."""

    bits: int = 4
    max_drop: float = 1.0
    report: Path | None = None
    as_json: bool = False
    seed: int = 0
    group: int | None = None
    labels: str | None = None
    groups: str | None = None
    judge: str | None = None
    jobs: int = 1


def workflow(settings: Settings) -> int:
    """Climb, print what was tried, who is to blame and who pays; exit status 1 if it ends too low.

    Half of the held-out digits choose the rung, the other half judge it.
    """
    model, data = trained_digits_cnn(), digits()
    console = console_of(110, stderr=settings.as_json)
    nodes, values = fold_batch_norms(model.nodes, model.values)
    half = len(data.x_test) // 2
    chosen, kept, whole = slice(0, half), slice(half, None), slice(None)

    def logits(candidate: Candidate | None, part: slice) -> Array:
        net, weights, tap = (nodes, values, untouched) if candidate is None else (
            candidate.nodes, candidate.values, static(candidate.plan))
        return run(net, {"x": data.x_test[part], **weights}, tap=tap).values["logits"]

    def right(candidate: Candidate | None, part: slice) -> Array:
        return 1.0 * np.asarray(logits(candidate, part).argmax(1) == data.y_test[part])

    rungs = rungs_for(nodes, values, {"x": data.x_train}, bits=settings.bits, labels=data.y_train,
                      rng=np.random.default_rng(settings.seed))
    baseline = float(right(None, chosen).mean())
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=len(rungs))
        made = climb(rungs, lambda c: float(right(c, chosen).mean()), baseline=baseline,
                     max_drop=settings.max_drop / 100,
                     progress=lambda done, total, name: bar.update(
                         task, completed=done, total=total, description=name))
    best, rng = made.candidate, np.random.default_rng(settings.seed)
    exact = logits(None, kept)
    as_is = sqnr(exact, logits(best, kept))
    blamed = []
    for name in weight_names(nodes):
        layer = name.removesuffix(".weight")
        own = {n: values[n] for n in (name, f"{layer}.bias")}
        spared = best._replace(values={**best.values, **own})
        blamed.append(Blame(name, round(best.bits), round(values[name].size * best.bits / 8),
                            sqnr(exact, logits(spared, kept)) - as_is,
                            float(right(spared, kept).mean())))
    who = by_subgroup(data.y_test, logits(None, whole).argmax(1), logits(best, whole).argmax(1),
                      data.y_test, rng=rng)
    groups = [row._replace(name=f"digit {row.name}") for row in rows_of(who)]
    story = Story(
        "digits CNN", ACCURACY, "by the labels",
        {"to fit to": len(data.x_train), "to choose by": half,
         "to judge by": len(data.x_test) - half},
        4 * sum(values[n].size for n in weight_names(nodes)), settings.max_drop, baseline,
        made.steps, made.reached, paired_drop(right(None, kept), right(best, kept), rng=rng),
        as_is, sorted(blamed, key=lambda b: -b.gain), groups, None,
        [f"Gap between digits: {who.gap_before:.1%} to {who.gap_after:.1%} (all held-out digits)."],
        [] if made.reached else ["Next: more bits, or longer training."])
    publish(console, story, settings)
    return 0 if made.reached else 1


def publish(console: Console, story: Story, settings: Settings) -> None:
    """Print the story or its data, and write the page."""
    if settings.report is not None:
        save_text(settings.report, page_of(story))
    if settings.as_json:
        print(json.dumps(data_of(story), indent=1))
    else:
        tell(console, story)
    if settings.report is not None:
        console.print(f"report written to {settings.report}", soft_wrap=True, markup=False)
