"""Roundings: what each costs, and how far it drifts on ties and on dyadic grids."""

from functools import partial

import numpy as np

from benchmarks.common import Benchmark, Quality, need, size, weights
from refquant import rounding

NAMES = ["half_even", "half_away", "half_up", "floor", "toward_zero", "stochastic",
         "stochastic_few_bits"]


def rounding_of(name, rng):
    function = getattr(rounding, name)
    if name == "stochastic":
        return partial(function, rng=rng)
    if name == "stochastic_few_bits":
        return partial(function, random_bits=8, rng=rng)
    return function


def naive(name, rng):
    return {
        "half_even": np.round,
        "half_away": lambda x: np.trunc(x + np.copysign(0.5, x)),       # wrong next to ties
        "half_up": lambda x: np.floor(x + 0.5),                         # likewise
        "floor": np.floor,
        "toward_zero": np.fix,
        "stochastic": lambda x: np.floor(x + rng.random(x.shape)),
        "stochastic_few_bits": lambda x: np.floor(x + rng.integers(0, 256, x.shape) / 256),
    }[name]


def torch_rounding(name):
    torch = need("torch")
    torch.set_num_threads(1)
    if name in ("half_away", "half_up", "stochastic_few_bits"):
        raise NotImplementedError(f"torch has no {name}")
    return {
        "half_even": torch.round,
        "floor": torch.floor,
        "toward_zero": torch.trunc,
        "stochastic": lambda x: torch.floor(x + torch.rand_like(x)),
    }[name]


class Rounding(Benchmark):
    params = (["refquant", "naive", "torch"], NAMES)
    param_names = ("impl", "rounding")

    def setup(self, impl, name):
        self.x = weights("gauss", size(1_000_000)) * np.float32(10)
        if impl == "torch":
            self.function = torch_rounding(name)
            self.x = need("torch").from_numpy(self.x)
        else:
            make = rounding_of if impl == "refquant" else naive
            self.function = make(name, np.random.default_rng(0))

    def time_round(self, impl, name):
        self.function(self.x)

    def peakmem_round(self, impl, name):
        self.function(self.x)


class RoundingBias(Quality):
    """Distance of the mean error from zero on quarters, where every other value is near a tie."""

    params = (["refquant", "naive"], NAMES)
    param_names = ("impl", "rounding")

    def setup(self, impl, name):
        self.x = np.tile(np.arange(32) / 4, 4000)
        make = rounding_of if impl == "refquant" else naive
        self.function = make(name, np.random.default_rng(0))

    def track_bias_on_quarters(self, impl, name):
        return abs(float(np.mean(self.function(self.x) - self.x)))

    track_bias_on_quarters.unit = "steps"
