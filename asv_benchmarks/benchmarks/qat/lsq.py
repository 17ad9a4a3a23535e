"""LSQ: forward and backward, beside the same formula in torch."""

from functools import partial

from benchmarks.common import Benchmark, share_of_time
from benchmarks.qat._peers import ours, straight, torchs
from refquant.qat.lsq import lsq, lsq_plus


def reference(x, scale, offset=0.0):
    v = ((x - offset) / scale).clamp(-4, 3)
    return scale * straight(v.round(), v) + offset


class Lsq(Benchmark):
    params = (["refquant"], ["step", "step and offset"])
    param_names = ("impl", "trained")

    def setup(self, impl, trained):
        parameters = (0.3,) if trained == "step" else (0.3, -0.4)
        f = lsq if trained == "step" else lsq_plus
        self.ours, self.parameters = ours(partial(f, qmin=-4, qmax=3), *parameters), parameters

    def time_forward_and_backward(self, impl, trained):
        self.ours()

    def peakmem_forward_and_backward(self, impl, trained):
        self.ours()

    def track_time_over_torch(self, impl, trained):
        return share_of_time(self.ours, torchs(reference, *self.parameters))

    track_time_over_torch.unit = "ratio"
