"""Methods on whole networks: the character model and MiniLM, and what is left of them.

The settings of `spec` tables are those of the papers' comparisons: weights in rows or groups, min-max
with zero in the range; activations symmetric unless said otherwise.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
from scipy.stats import spearmanr

from refquant.apply.layerwise import parallel, sequential
from refquant.apply.simulate import weight_names
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
from refquant.ptq.quip import fixed_range, quip
from refquant.ptq.rotation import hadamard, kronecker, orthogonal, random_signs
from refquant.quantizers.uniform import asymmetric, symmetric


class Replaced(NamedTuple):
    """All that `layerwise` needs of a method's result."""

    weight: np.ndarray


class Inputs(NamedTuple):
    """Statistic of layer inputs: second moment, and total magnitude of each channel."""

    moment: SecondMoment
    magnitude: np.ndarray

    @classmethod
    def of(cls, x):
        return cls(SecondMoment.of(x), np.abs(x).sum(0, dtype=np.float64))

    def merge(self, other):
        return Inputs(self.moment.merge(other.moment), self.magnitude + other.magnitude)


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
    seen = {}

    def remember(w, inputs):
        return Remembered(w, inputs)

    model = minilm_model()
    made = parallel(model.nodes, model.values, [sentences().calibration], Inputs.of, remember,
                    names=minilm_names())
    return {name: r.inputs for name, r in made.results.items()} | seen


class Remembered(NamedTuple):
    weight: np.ndarray
    inputs: Inputs


@lru_cache(maxsize=64)
def minilm_weights(method: Callable, loop=sequential, **settings) -> Score:
    """Score after a method has replaced all 36 weights."""
    model, method = minilm_model(), partial(method, **settings)
    if loop is parallel:
        values = {name: method(model.values[name], inputs).weight
                  for name, inputs in float_inputs().items()}
        return score(embed({**model.values, **values}))
    made = loop(model.nodes, model.values, [sentences().calibration], Inputs.of, method,
                names=minilm_names())
    return score(embed(made.values))


def minilm_products(product: Callable) -> Score:
    """Score with every linear layer computed by ``product(x, w)``, x as (tokens, in)."""
    def op(x, w, b):
        return product(x.reshape(-1, x.shape[-1]), w).reshape(*x.shape[:-1], -1) + b, None

    nodes = [n._replace(op=op) if n.op is linear else n for n in minilm_model().nodes]
    return score(embed(nodes=nodes))


def quantized_product(x, w, *, weights, activations):
    return activations(x) @ weights(w).T


def rotated_product(x, w, *, weights, activations, rotation=signed_hadamard):
    q = _rotation(rotation, w.shape[1])
    return activations(x @ q) @ weights(w @ q).T


@lru_cache(maxsize=4)
def _rotation(rotation, n):
    return rotation(n, rng=np.random.default_rng(0)).astype(np.float32)


