"""The command ``refquant workflow MODEL.onnx --data DATA.npz``: the ladder on your own model."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.markup import escape
from rich.progress import Progress

from refquant._types import Array
from refquant.interop._files import save_bytes
from refquant.interop.onnx_float import FloatOnnx, open_float, run_values
from refquant.metrics import sqnr
from refquant.quantizers.uniform import Uniform
from refquant.workflow._command import Settings, publish
from refquant.workflow._jobs import threads
from refquant.workflow._quantize import BATCH, batch_of, chosen_layers, read_inputs
from refquant.workflow._story import ACCURACY, ANSWERS, SAME, GroupRow, Moved, Story, rows_of
from refquant.workflow._terminal import console_of
from refquant.workflow.fairness import by_subgroup
from refquant.workflow.judging import cosine, explained, paired_drop, parts_of, right, same
from refquant.workflow.ladder import Step
from refquant.workflow.onnx_ladder import (
    File,
    FileClimb,
    FileRung,
    blame,
    climb_file,
    output_of,
    rungs_for_file,
    untrainable,
)
from refquant.workflow.quantize import activation_plan, batches_of, observe
from refquant.workflow.shift import Answers, fall, shifts
from refquant.workflow.tensors import npz_member, npz_names, open_npz

__all__ = ["JUDGES", "workflow_file"]

#: By the name on the command line.
JUDGES = ("labels", "same", "cosine", "explained")
#: Examples by which layers are blamed, and by which values are compared with other data.
MOST_BLAMING, MOST_COMPARED = 256, 64
#: Numbers of a value that are compared.
MOST_NUMBERS = 200_000
#: Examples in a batch whose moments are measured.
MOMENTS_BATCH = 256
#: Numbers that enter layers in such a batch.
MOST_AT_ONCE = 2**27


class _Examples(NamedTuple):
    """Inputs, and what is known of each example."""

    inputs: Mapping[str, Array]
    labels: Array | None
    groups: Array | None

    def number(self) -> int:
        """Examples."""
        return len(next(iter(self.inputs.values())))

    def rows(self, rows: slice | Array) -> "_Examples":
        """Some of them."""
        labels, groups = (None if a is None else a[rows] for a in (self.labels, self.groups))
        return _Examples({k: a[rows] for k, a in self.inputs.items()}, labels, groups)


class _Subject(NamedTuple):
    """A model, the output that is judged, and the batch that it takes if it takes no other."""

    model: FloatOnnx
    output: str
    unit: int | None

    def batches(self, examples: _Examples, most: int = BATCH) -> list[dict[str, Array]]:
        """Inputs, cut."""
        return batches_of(examples.inputs, self.unit or most)

    def whole(self, count: int) -> int:
        """As many, in whole batches, and at least one."""
        unit = self.unit or 1
        return max(count // unit, 1) * unit

    def run(self, examples: _Examples, file: File | None = None) -> Array:
        """The output of the float model or of a file made of it, a row for each example."""
        content = None if file is None else file.content
        return _rows(output_of(self.model, content, self.batches(examples), self.output))


class _Judge(NamedTuple):
    """What is measured and why; a score for each example: of output, labels, float output."""

    measure: str
    why: str
    scores: Callable[[Array, Array | None, Array], Array]


class _Judged(NamedTuple):
    """Examples with the outputs of both models."""

    examples: _Examples
    exact: Array
    got: Array

    def scores(self, by: _Judge) -> tuple[Array, Array]:
        """Of both."""
        before, after = (by.scores(v, self.examples.labels, self.exact)
                         for v in (self.exact, self.got))
        return before, after


def workflow_file(
    path: Path, data: Path, settings: Settings, output: Path | None = None,
    shifted: Path | None = None,
) -> int:
    """Climb, write the file, tell the story; exit status 1 if no rung is good enough.

    A third of the examples is fitted to, a third chooses, a third judges. The best file is
    written even if it is not good enough.
    """
    console = console_of(110, stderr=settings.as_json)
    rng = np.random.default_rng(settings.seed)
    model = open_float(path)
    chosen_layers(model, ())
    subject = _Subject(model, model.outputs[0], batch_of(model))
    examples = _read(data, model, settings, "--data")
    parts = parts_of(examples.number(), unit=subject.unit or 1, rng=rng)
    fit, choose, judge = (examples.rows(part) for part in parts)
    other = None if shifted is None else _read(shifted, model, settings, "--shifted", known=False)
    exact = subject.run(choose)
    by = _judge_of(subject.output, exact, examples.labels, settings.judge)
    baseline = float(by.scores(exact, choose.labels, exact).mean())
    few = choose.rows(slice(0, subject.whole(min(len(exact), MOST_BLAMING))))

    def score(got: Array, part: _Examples = choose) -> float:
        return float(by.scores(_rows(got), part.labels, exact[: len(got)]).mean())

    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("calibrating", total=None)

        def heard(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, description=escape(what[-40:]))

        seen = observe(model, subject.batches(fit), rng=rng)
        large = subject.batches(fit, _largest_batch(subject, fit))
        rungs = rungs_for_file(model, seen, large, rng=rng,
                               bits=settings.bits, group_size=settings.group, output=subject.output)
        blamed_by = partial(blame, model, batches=subject.batches(few), output=subject.output,
                            judge=lambda got: score(got, few), progress=heard)
        with threads(settings.jobs):
            found = climb_file(
                model, rungs, lambda file: score(subject.run(choose, file)), blamed_by,
                baseline=baseline, max_drop=settings.max_drop / 100, progress=heard)
        bar.update(task, description="judging", total=None)
        best = found.climb.candidate
        last = _Judged(judge, subject.run(judge), subject.run(judge, best))
        moved = None if other is None or shifted is None else _moved(
            shifted.name, subject, best, activation_plan(model, seen), by, last, other, rng)
    steps = found.climb.steps
    story = Story(
        path.name, by.measure, by.why,
        dict(zip(("to fit to", "to choose by", "to judge by"), map(len, parts), strict=True)),
        path.stat().st_size, settings.max_drop, baseline, steps, found.climb.reached,
        paired_drop(*last.scores(by), rng=rng), sqnr(last.exact, last.got), found.blamed,
        _groups(by, last, rng), moved, _notes(
            model, by, len(exact), settings, rungs, steps,
            "" if "trained" in rungs else untrainable(model, large[0], subject.output)),
        _advice(found, settings))
    if output is not None:
        save_bytes(output, best.content)
    publish(console, story, settings)
    if output is not None:
        console.print(f"{story.best.name}: {best.size / 1e6:.2f} MB written to {output}"
                      + ("" if story.reached else ", although it is not good enough"),
                      soft_wrap=True, markup=False, highlight=False)
    return 0 if story.reached else 1


def _rows(output: Array) -> Array:
    """Numbers become rows of one."""
    return output[:, None] if output.ndim == 1 else output


def _largest_batch(subject: _Subject, examples: _Examples) -> int:
    """Examples whose values, those that enter layers, fit into memory together."""
    one = examples.rows(slice(0, subject.whole(1)))
    names = list(dict.fromkeys(x.reads for x in subject.model.layers))
    values = next(run_values(subject.model, subject.batches(one), names))
    numbers = sum(v.size for v in values.values()) / one.number()
    return int(min(MOMENTS_BATCH, max(MOST_AT_ONCE // max(numbers, 1), 1)))


def _read(
    path: Path, model: FloatOnnx, settings: Settings, option: str, *, known: bool = True
) -> _Examples:
    """Inputs, labels and groups; a name that was asked for must be there, if `known`."""
    inputs = read_inputs(path, model, option)
    n = len(next(iter(inputs.values())))
    found: list[Array | None] = []
    with open_npz(path, option) as archive:
        names = npz_names(archive)
        for kind, asked, default in (("--labels", settings.labels, "labels"),
                                     ("--groups", settings.groups, None)):
            name = asked or default
            if name is None or name not in names:
                if asked is not None and known:
                    raise ValueError(f"`{kind}` must name an array of `{option}`; got {asked}")
                found.append(None)
                continue
            array = npz_member(archive, names[name])
            if array.dtype.kind not in "iub" or not array.ndim or len(array) != n or (
                    kind == "--groups" and array.ndim != 1):
                what = "whole numbers" if kind == "--labels" else "one whole number"
                raise ValueError(f"`{name}` must hold {what} for each of {n} examples; "
                                 f"got {array.dtype} of shape {array.shape}")
            found.append(array)
    return _Examples(inputs, *found)


def _judge_of(name: str, exact: Array, labels: Array | None, asked: str | None) -> _Judge:
    """By labels if there are any; without them, by agreement with the float model."""
    if exact.dtype.kind != "f" or not np.isfinite(exact).all():
        raise ValueError(f"`{name}` must hold finite floats on the data; got {exact.dtype}"
                         + (" with others" if exact.dtype.kind == "f" else ""))
    if asked == "labels" and labels is None:
        raise ValueError("`--judge labels` must have labels in `--data`; got none")
    if asked in ("labels", None) and labels is not None:
        if exact.shape[1:-1] != labels.shape[1:] or exact.shape[-1] < 2:
            raise ValueError(f"`{name}` must have a column for each class and a row for each of "
                             f"the labels of shape {labels.shape}; got {exact.shape[1:]} each")
        if labels.min() < 0 or labels.max() >= exact.shape[-1]:
            raise ValueError(f"labels must lie in [0, {exact.shape[-1]}), the columns of "
                             f"`{name}`; got {labels.min()} to {labels.max()}")
        return _Judge(ACCURACY, f"the largest of `{name}` against the labels",
                      lambda got, labels, exact: right(got, np.asarray(labels)))
    if asked == "explained" or (asked is None and exact[0].size == 1):
        return _Judge("variance explained", "as asked" if asked else
                      f"for there are no labels and `{name}` is one number",
                      lambda got, labels, exact: explained(got, exact))
    norms = np.linalg.norm(exact.reshape(len(exact), -1).astype(np.float64), axis=1)
    reasons = {f"`{name}` has {exact.ndim} axes": exact.ndim != 2,
               f"the rows of `{name}` have length 1": bool(np.allclose(norms, 1, atol=1e-3)),
               "its name says that it embeds": "embed" in name.lower()}
    reason = next((text for text, holds in reasons.items() if holds), None)
    if asked == "cosine" or (asked is None and reason is not None):
        return _Judge("cosine to float", "as asked" if asked else
                      f"for there are no labels and {reason}",
                      lambda got, labels, exact: cosine(got, exact))
    if exact.shape[-1] < 2:
        raise ValueError(f"`--judge same` must have an output with classes; got `{name}` with one")
    return _by_same("as asked" if asked else
                    f"for there are no labels and `{name}` looks like class scores")


def _by_same(why: str) -> _Judge:
    return _Judge(SAME, why, lambda got, labels, exact: same(got, exact))


def _answers(by: _Judge, seen: _Judged) -> Answers | None:
    """One answer an example, if that is what the judge looks at."""
    if seen.exact.ndim != 2 or by.measure not in ANSWERS:
        return None
    answers, labels = seen.exact.argmax(1), seen.examples.labels
    told = labels if by.measure == ACCURACY and labels is not None else answers
    return Answers(told, answers, seen.got.argmax(1))


def _groups(by: _Judge, seen: _Judged, rng: np.random.Generator) -> list[GroupRow]:
    """Who pays: by the groups that were given, else by label, else by the float model's answer."""
    told, groups = _answers(by, seen), seen.examples.groups
    if told is not None:
        made = by_subgroup(*told, told.labels if groups is None else groups, rng=rng)
        kind = "class" if by.measure == ACCURACY else "answer"
        return [row._replace(name=f"{kind if groups is None else 'group'} {row.name}")
                for row in rows_of(made)]
    if groups is None:
        return []
    before, after = seen.scores(by)
    rows = []
    for name in np.unique(groups):
        mine = groups == name
        d = paired_drop(before[mine], after[mine], rng=rng)
        rows.append(GroupRow(f"group {name}", int(mine.sum()), d.before, d.after, d.drop,
                             *d.interval))
    return sorted(rows, key=lambda row: -row.drop)


def _moved(
    name: str, subject: _Subject, best: File, plan: Mapping[str, Uniform], by: _Judge,
    before: _Judged, other: _Examples, rng: np.random.Generator,
) -> Moved:
    """Both models on other data; by agreement if those have no labels."""
    if other.number() < (subject.unit or 1):
        raise ValueError(f"`--shifted` must hold a batch of {subject.unit} examples; "
                         f"got {other.number()}")
    other = other.rows(slice(0, subject.whole(other.number())))
    now = _Judged(other, subject.run(other), subject.run(other, best))
    if by.measure == ACCURACY:
        labels = other.labels
        if labels is None or labels.shape[1:] != now.exact.shape[1:-1]:
            by = _by_same("for there are no labels")
    told = _answers(by, before), _answers(by, now)
    first, second = told
    extra = None if first is None or second is None else fall(first, second, rng=rng)
    looks = []
    for examples in (before.examples, other):
        few = examples.rows(slice(0, subject.whole(min(examples.number(), MOST_COMPARED))))
        looks.append(_values(subject, few, list(plan), rng))
    return Moved(name, other.number(), by.measure, paired_drop(*now.scores(by), rng=rng), extra,
                 shifts(looks[0], looks[1], plan))


def _values(
    subject: _Subject, examples: _Examples, names: list[str], rng: np.random.Generator
) -> dict[str, Array]:
    """What the float model computes on the way: of each value, some numbers."""
    found: dict[str, list[Array]] = {n: [] for n in names}
    batches = subject.batches(examples)
    most = -(-MOST_NUMBERS // len(batches))
    for values in run_values(subject.model, batches, names):
        for n in names:
            flat = np.asarray(values[n]).ravel()
            found[n].append(flat if flat.size <= most else rng.choice(flat, most, replace=False))
    return {n: np.concatenate(v) for n, v in found.items()}


def _notes(
    model: FloatOnnx, by: _Judge, choosing: int, settings: Settings, rungs: Mapping[str, FileRung],
    steps: Sequence[Step], untrained: str,
) -> list[str]:
    """What a reader should know of how it was done."""
    notes = [f"left in float: {name}: {why}" for name, why in model.left.items()]
    if by.measure in ANSWERS and 100 / choosing > settings.max_drop > 0:
        notes.append(f"One of the {choosing} examples that choose is {100 / choosing:.1f} points: "
                     f"{settings.max_drop:g} cannot be told from none. More examples would help.")
    if any(step.name == "mixed" for step in steps):
        notes.append(f"mixed: each layer has {settings.bits} bits or more, or is in float; at most "
                     f"{settings.bits + 1} in the mean.")
    if settings.group is not None and any(x.op == "Conv" for x in model.layers):
        notes.append("Convolutions have one scale a filter: groups are for products.")
    if steps[-1].name == list(rungs)[-1] or steps[-1].name not in rungs:
        why = {"AdaRound": "too many weights to learn roundings for", "trained": untrained}
        notes += [f"Not tried: {n}: {why.get(n, 'most weights are not in products')}."
                  for n in ("SmoothQuant", "AWQ", "AdaRound", "trained") if n not in rungs]
    return notes


def _advice(found: FileClimb, settings: Settings) -> list[str]:
    """What to try next."""
    steps = found.climb.steps
    if found.climb.reached:
        if len(steps) == 1 and settings.bits > 2:
            return [f"Next: the first rung was enough; try --bits {settings.bits - 1}."]
        return []
    more = ["Next:"]
    if settings.bits < 8:
        more.append(f"more bits (--bits {min(settings.bits + 1, 8)});")
    if settings.group is None:
        more.append("scales for groups of inputs where there are products (--group 32);")
    worst = ", ".join(b.layer for b in found.blamed[:3] if b.gain > 0)
    if worst:
        more.append(f"a look at the layers that cost most ({worst});")
    return [" ".join([*more, "quantization-aware training where the model was made."])]
