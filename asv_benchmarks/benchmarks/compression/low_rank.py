"""Two thin layers for one: time to factor, and the output error at a quarter of the numbers."""

from benchmarks.common import QUICK, Quality
from benchmarks.ptq._problems import SIZE, layer
from refquant.calibration.second_moment import output_error
from refquant.compression import low_rank


class LowRank(Quality):
    params = (["weight", "inputs"], [32] if QUICK else [256, 1024])
    param_names = ("impl", "width")

    def setup(self, impl, width):
        self.weight, _, self.hessian = layer(width)
        self.rank = low_rank.break_even(self.weight.shape, self.weight.size // 4)

    def factors(self, impl):
        if impl == "weight":
            return low_rank.factorize(self.weight, self.rank)
        return low_rank.factorize_for(self.weight, self.hessian, self.rank)

    def time_factors(self, impl, width):
        self.factors(impl)

    def track_error(self, impl, width):
        if width > SIZE:
            raise NotImplementedError("at the smaller width")
        lost = output_error(self.weight - self.factors(impl).weight, self.hessian)
        return float(lost / output_error(self.weight, self.hessian))

    track_error.unit = "of the output's energy lost at a quarter of the numbers"
