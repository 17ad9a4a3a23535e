"""LSQ: forward and backward, beside the same formula in torch."""

from functools import partial

from benchmarks.common import Benchmark, Quality, share_of_time
from benchmarks.qat._peers import ours, straight, torchs
from refquant.qat.lsq import lsq, lsq_plus


def reference(x, scale, offset=0.0):
    v = ((x - offset) / scale).clamp(-4, 3)
    return scale * straight(v.round(), v) + offset


#: What is trained, by name: the estimator and its first parameters.
TRAINED = {"step": (lsq, (0.3,)), "step and offset": (lsq_plus, (0.3, -0.4))}


class Lsq(Benchmark):
    params = (["refquant"], list(TRAINED))
    param_names = ("impl", "trained")

    def setup(self, impl, trained):
        f, parameters = TRAINED[trained]
        self.ours = ours(partial(f, qmin=-4, qmax=3), *parameters)

    def time_forward_and_backward(self, impl, trained):
        self.ours()

    def peakmem_forward_and_backward(self, impl, trained):
        self.ours()


class LsqOverTorch(Quality):
    params = (["refquant"], list(TRAINED))
    param_names = ("impl", "trained")

    def setup(self, impl, trained):
        f, parameters = TRAINED[trained]
        self.ours = ours(partial(f, qmin=-4, qmax=3), *parameters)
        self.theirs = torchs(reference, *parameters)

    def track_time_over_torch(self, impl, trained):
        return share_of_time(self.ours, self.theirs)

    track_time_over_torch.unit = "ratio"
