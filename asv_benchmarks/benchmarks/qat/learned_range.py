"""Learned ranges: forward and backward, beside the same formula in torch."""

from functools import partial

from benchmarks.common import Benchmark, Quality, share_of_time
from benchmarks.qat._peers import ours, straight, torchs
from refquant.qat.learned_range import min_max, tqt


def full_chain(x, low, high):
    s = (high - low) / 7
    z = straight((-low / s).round(), -low / s)
    return s * ((straight((x / s).round(), x / s) + z).clamp(0, 7) - z)


def power_of_two(x, log2_threshold):
    s = 2.0 ** (straight(log2_threshold.ceil(), log2_threshold) - 2)
    v = x / s
    return s * straight(v.round(), v).clamp(-4, 3)


OF = {
    "min max": (partial(min_max, bits=3), full_chain, (-0.9, 1.4)),
    "tqt": (partial(tqt, bits=3), power_of_two, (0.3,)),
}


class LearnedRange(Benchmark):
    params = (["refquant"], list(OF))
    param_names = ("impl", "of")

    def setup(self, impl, of):
        f, _, parameters = OF[of]
        self.ours = ours(f, *parameters)

    def time_forward_and_backward(self, impl, of):
        self.ours()


class LearnedRangeOverTorch(Quality):
    params = (["refquant"], list(OF))
    param_names = ("impl", "of")

    def setup(self, impl, of):
        f, reference, parameters = OF[of]
        self.ours, self.theirs = ours(f, *parameters), torchs(reference, *parameters)

    def track_time_over_torch(self, impl, of):
        return share_of_time(self.ours, self.theirs)

    track_time_over_torch.unit = "ratio"
