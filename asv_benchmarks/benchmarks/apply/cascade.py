"""Four bits where they are sure, eight elsewhere: bits that are read, and answers that differ."""

from functools import partial

import numpy as np

from benchmarks.common import QUICK, Benchmark, Quality
from refquant.apply.cascade import cascade, margin, threshold_for
from refquant.apply.rewrite import fold_batch_norms
from refquant.apply.simulate import weight_names
from refquant.calibration.mse import omse
from refquant.nn.network import run
from refquant.nn.small_models import PLAIN, split, trained
from refquant.quantizer import fake_quantize
from refquant.quantizers.uniform import symmetric

IMAGES = 20 if QUICK else 250


class _Pair:
    """One network in two widths, a threshold from one half, and images of the other."""

    def __init__(self, low):
        model = trained(PLAIN, seed=0)
        self.nodes, self.values = fold_batch_norms(model.nodes, model.values)
        self.low, self.high = self.rounded(low), self.rounded(8)
        chosen_on, self.x = np.split(split().x_test[: 2 * IMAGES], 2)
        first, second = self.low(chosen_on), self.high(chosen_on)
        self.threshold = threshold_for(margin(first), first.argmax(1) == second.argmax(1),
                                       at_most=0.01)

    def rounded(self, bits):
        fit = partial(symmetric, bits=bits, narrow=False)
        weights = {n: fake_quantize(self.values[n], omse(self.values[n], fit))
                   for n in weight_names(self.nodes)}
        return lambda x: run(self.nodes, {**self.values, **weights, "x": x}).values["logits"]

    def answers(self):
        return cascade(self.x, self.low, self.high, threshold=self.threshold)


class Cascade(Benchmark):
    params = (["8 bits alone", "4 bits, then 8"],)
    param_names = ("networks",)

    def setup(self, networks):
        self.at = _Pair(4)

    def time_read_digits(self, networks):
        self.at.high(self.at.x) if networks == "8 bits alone" else self.at.answers()


class CascadeBits(Quality):
    params = ([3, 4, 5],)
    param_names = ("bits of the first",)

    def track_mean_bits(self, low):
        return _Pair(low).answers().mean_bits(low, 8)

    def track_answers_that_differ(self, low):
        at = _Pair(low)
        differ = at.answers().logits.argmax(1) != at.high(at.x).argmax(1)
        return float(differ.mean())

    track_mean_bits.unit = "bits per weight"
    track_answers_that_differ.unit = "share"
