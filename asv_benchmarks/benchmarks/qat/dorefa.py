"""DoReFa's weights: forward and backward, beside the same formula in torch."""

from functools import partial

from benchmarks.common import Benchmark, Quality, share_of_time
from benchmarks.qat._peers import ours, straight, torchs
from refquant.qat.dorefa import dorefa_weight


def reference(w):
    soft = w.tanh()
    r = soft / (2 * soft.abs().max().detach()) + 0.5
    return 2 * straight((r * 7).round() / 7, r) - 1


class Dorefa(Benchmark):
    def setup(self):
        self.ours = ours(partial(dorefa_weight, bits=3))

    def time_forward_and_backward(self):
        self.ours()


class DorefaOverTorch(Quality):
    def setup(self):
        self.ours, self.theirs = ours(partial(dorefa_weight, bits=3)), torchs(reference)

    def track_time_over_torch(self):
        return share_of_time(self.ours, self.theirs)

    track_time_over_torch.unit = "ratio"
