"""Two thin layers for one: time to factor, and the output error at a quarter of the numbers.

The peer is torch's randomized decomposition, which finds a small rank in less time and loses
more.
"""

import numpy as np

from benchmarks.common import QUICK, Quality, need
from benchmarks.ptq._problems import SIZE, layer
from refquant.calibration.second_moment import output_error
from refquant.compression import low_rank


class LowRank(Quality):
    params = (["weight", "inputs", "torch randomized"], [32] if QUICK else [256, 1024])
    param_names = ("impl", "width")

    def setup(self, impl, width):
        self.weight, _, self.hessian = layer(width)
        self.rank = low_rank.break_even(self.weight.shape, self.weight.size // 4)
        if impl == "torch randomized":
            torch = need("torch")
            torch.manual_seed(0)
            self.tensor, self.randomized = torch.from_numpy(self.weight.copy()), torch.svd_lowrank

    def product(self, impl):
        if impl == "torch randomized":
            left, sizes, right = self.randomized(self.tensor, q=self.rank)
            return np.asarray(left * sizes @ right.T)
        return self.factors(impl).weight

    def factors(self, impl):
        if impl == "weight":
            return low_rank.factorize(self.weight, self.rank)
        if impl == "inputs":
            return low_rank.factorize_for(self.weight, self.hessian, self.rank)
        return self.randomized(self.tensor, q=self.rank)

    def time_factors(self, impl, width):
        self.factors(impl)

    def track_error(self, impl, width):
        if width > SIZE:
            raise NotImplementedError("at the smaller width")
        lost = output_error(self.weight - self.product(impl), self.hessian)
        return float(lost / output_error(self.weight, self.hessian))

    track_error.unit = "of the output's energy lost at a quarter of the numbers"
