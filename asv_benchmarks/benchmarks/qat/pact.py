"""PACT: forward and backward, beside the same formula in torch."""

from functools import partial

from benchmarks.common import Benchmark, Quality, share_of_time
from benchmarks.qat._peers import ours, straight, torchs
from refquant.qat.pact import pact


def reference(x, alpha):
    y = 0.5 * (x.abs() - (x - alpha).abs() + alpha)
    return straight((y * 7 / alpha).round() * alpha / 7, y)


class Pact(Benchmark):
    def setup(self):
        self.ours = ours(partial(pact, bits=3), 1.2)

    def time_forward_and_backward(self):
        self.ours()


class PactOverTorch(Quality):
    def setup(self):
        self.ours, self.theirs = ours(partial(pact, bits=3), 1.2), torchs(reference, 1.2)

    def track_time_over_torch(self):
        return share_of_time(self.ours, self.theirs)

    track_time_over_torch.unit = "ratio"
