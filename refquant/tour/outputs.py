"""Rows on rounding with a view to the output: a network of digits, and the character model."""

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple, cast

import numpy as np

from refquant._types import Array
from refquant.apply.layerwise import sequential
from refquant.apply.rewrite import fold_batch_norms
from refquant.calibration.mse import omse
from refquant.calibration.second_moment import SecondMoment
from refquant.calibration.statistics import Range
from refquant.granularity import group, ungroup
from refquant.metrics import sqnr
from refquant.nn.convolution import patches
from refquant.nn.models import Model
from refquant.nn.network import run
from refquant.nn.operations import relu
from refquant.nn.small_models import PLAIN, split, trained
from refquant.nn.text import bits_per_character, text_data, trained_text_model
from refquant.ptq.adaround import Activation, adaround, identity
from refquant.ptq.awq import clip_groups, search_scale
from refquant.ptq.gptq import by_curvature, gptq
from refquant.ptq.hqq import hqq
from refquant.ptq.quip import fixed_range, quip
from refquant.quantizer import bits_per_element, fake_quantize
from refquant.quantizers.uniform import Uniform, asymmetric, symmetric
from refquant.tour.subject import Row, RowFunction, Subject

__all__ = ["ROWS"]

BITS, GROUP = 3, 32
LAYERS = ("fc1.weight", "fc2.weight", "fc3.weight")


class Made(NamedTuple):
    """Weight of a layer after a method, and what a weight takes in memory."""

    weight: Array
    bits: float


#: Weight (out, in), the inputs' second moment and mean magnitude -> the layer after it.
Layer = Callable[[Array, "Inputs"], Made]


class Inputs(NamedTuple):
    """Of the inputs of a layer: second moment, and the sum of magnitudes of each channel."""

    moment: SecondMoment
    magnitude: Array

    @classmethod
    def of(cls, x: Array) -> "Inputs":
        """Statistic of a batch."""
        return cls(SecondMoment.of(x), np.abs(x).sum(0, dtype=np.float64))

    def merge(self, other: "Inputs") -> "Inputs":
        """Statistic of both."""
        return Inputs(self.moment.merge(other.moment), self.magnitude + other.magnitude)


def digits_row(subject: Subject, *, name: str, learned: bool, least: float) -> Row:
    """Three convolutions and a linear layer in 2 bits per channel, each behind the last."""
    model = trained(PLAIN, seed=0)
    images, steps = (64, 300) if subject.quick else (256, 1500)
    nodes, exact = fold_batch_norms(model.nodes, model.values)
    data, values = split(), dict(exact)
    shown = data.x_train[:images]
    clean = run(nodes, {"x": shown, **exact}).values
    bits = []
    for layer, source, stride in (("c1", "x", 1), ("c2", "c1", 2), ("c3", "c2", 1),
                                  ("fc", "pool", 0)):
        weight = values[f"{layer}.weight"]
        flat = weight.reshape(len(weight), -1)
        grid = omse(flat, partial(symmetric, bits=2), axis=1)
        new = fake_quantize(flat, grid)
        if learned:
            now = run(nodes, {"x": shown, **values}).values[source]
            rows = patches(now, (3, 3), padding=1, stride=stride) if stride else now
            target = clean[layer if stride else "logits"]
            new = adaround(
                flat, rows.reshape(images, -1, flat.shape[1]),
                target.reshape(images, -1, len(weight)), grid, rng=np.random.default_rng(1),
                bias=values[f"{layer}.bias"],
                activation=cast(Activation, relu) if stride else identity,
                steps=steps, rate=2e-2).weight
        values[f"{layer}.weight"] = new.reshape(weight.shape)
        bits += [bits_per_element(grid, flat.shape)] * flat.size
    before, after = (run(nodes, {"x": data.x_test, **v}).values["logits"]
                     for v in (exact, values))
    accuracy = float((after.argmax(1) == data.y_test).mean())
    read = float((before.argmax(1) == data.y_test).mean())
    row = Row(name, bits=float(np.mean(bits)), sqnr=sqnr(before, after),
              source=f"float {read:.1%}", accuracy=accuracy)
    if least:
        row = row.claim(f"reads {accuracy:.1%} of the digits, at least {least:.0%}",
                        accuracy >= least)
    return row


def text_row(subject: Subject, *, name: str, layer: Layer, gain: float) -> Row:
    """The three linear layers of the character model, each behind the last."""
    model, data = trained_text_model(), text_data()
    judged = 4000 if subject.quick else 20000
    shown = np.random.default_rng(0).choice(len(data.x_train), 4096, replace=False)
    made = sequential(model.nodes, model.values, [{"x": data.x_train[shown]}], Inputs.of, layer,
                      names=LAYERS)
    test = data.x_test[:judged], data.y_test[:judged]
    spent = bits_per_character(Model(model.nodes, made.values, {}), *test)
    before, after = (run(model.nodes, {"x": test[0][:2000], **v}).values["logits"]
                     for v in (model.values, made.values))
    sizes = [model.values[n].size for n in LAYERS]
    row = Row(name, bits=float(np.average([made.results[n].bits for n in LAYERS], weights=sizes)),
              sqnr=math.nan if np.array_equal(before, after) else sqnr(before, after),
              source=f"{spent:.3f} bits/char")
    if gain:
        less = _nearest_spent(subject) - spent
        row = row.claim(f"saves {less:.3f} bits per character, at least {gain:g}", less >= gain)
    return row


@lru_cache(maxsize=2)
def _nearest_spent(subject: Subject) -> float:
    """Bits per character with weights rounded to nearest, in groups."""
    row = text_row(subject, name="", layer=nearest, gain=0)
    return float(row.source.split()[0])


def fit(w: Array) -> Uniform:
    """3 bits, zero in the range, over the last axis."""
    low, high = Range.of(w, axis=-1)
    return asymmetric(np.minimum(low, 0), np.maximum(high, 0), bits=BITS)


def rounded(w: Array) -> Array:
    """To nearest, in groups."""
    blocks = group(w, GROUP)
    return ungroup(fake_quantize(blocks, fit(blocks)))


def _in_groups(w: Array, made: Array, extra: float = 0.0) -> Made:
    blocks = group(w, GROUP)
    return Made(made, bits_per_element(fit(blocks), blocks.shape) + extra)


def untouched(w: Array, seen: Inputs) -> Made:
    """The weight of 32 bits."""
    return Made(w, 32.0)


def nearest(w: Array, seen: Inputs) -> Made:
    """Round each weight to its nearest level."""
    return _in_groups(w, rounded(w))


def by_gptq(w: Array, seen: Inputs) -> Made:
    """Repair each error in the columns still to come."""
    return _in_groups(w, gptq(w, seen.moment.hessian, fit, group_size=GROUP, order=by_curvature,
                              static_groups=True).weight)


def by_awq(w: Array, seen: Inputs) -> Made:
    """Scale the columns that meet large inputs, then clip; 32 bits more for a column's scale."""
    hessian = seen.moment.hessian
    scale = search_scale([w], hessian, seen.magnitude / seen.moment.size, rounded).scale
    clipped = clip_groups(w * scale, hessian / np.outer(scale, scale),
                          lambda v: fake_quantize(v, fit(v)), group_size=GROUP)
    return _in_groups(w, (rounded(clipped) / scale).astype(w.dtype), 32 / len(w))


def by_hqq(w: Array, seen: Inputs) -> Made:
    """Move zero points, which become real numbers of 32 bits; no data."""
    made = _in_groups(w, ungroup(hqq(group(w, GROUP), bits=BITS).weight))
    return made._replace(bits=made.bits + (32 - BITS) / GROUP)


def by_quip(w: Array, seen: Inputs) -> Made:
    """Rotate both sides, one scale for all; the rotation is a seed, the columns' scale 32 bits."""
    made = quip(w, seen.moment.hessian, partial(fixed_range, bits=BITS),
                rng=np.random.default_rng(0))
    return Made(made.weight, BITS + 32 / len(w) + 32 / w.size)


ROWS: list[RowFunction] = [
    partial(digits_row, name="digits, 2 bits, nearest", learned=False, least=0),
    partial(digits_row, name="digits, 2 bits, AdaRound", learned=True, least=0.9),
    partial(text_row, name="text, float32", layer=untouched, gain=0),
    partial(text_row, name="text, 3 bits, nearest", layer=nearest, gain=0),
    partial(text_row, name="text, 3 bits, HQQ", layer=by_hqq, gain=0.02),
    partial(text_row, name="text, 3 bits, AWQ", layer=by_awq, gain=0.04),
    partial(text_row, name="text, 3 bits, GPTQ", layer=by_gptq, gain=0.03),
    partial(text_row, name="text, 3 bits, QuIP", layer=by_quip, gain=0),
]
