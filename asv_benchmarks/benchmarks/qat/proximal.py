"""Proximal maps: time of a pull on a layer; how far from the levels the maps leave weights."""

import numpy as np

from benchmarks.common import Benchmark, Quality, size, weights
from refquant.qat.proximal import pull_to, pull_to_binary, w_shape
from refquant.quantizers.binary import sign


class Proximal(Benchmark):
    params = (["refquant"],)
    param_names = ("impl",)

    def setup(self, impl):
        self.w = weights("gauss", size(200_000))
        self.level = np.array(0.8, np.float32)

    def time_pull_to_binary(self, impl):
        pull_to_binary(self.w, 0.1, level=self.level)

    def time_pull_to_signs(self, impl):
        pull_to(self.w, 0.1, project=sign)


class ProximalRest(Quality):
    params = (["refquant"], ["distance", "squared distance"])
    param_names = ("impl", "penalty")

    def track_distance_left(self, impl, penalty):
        """Mean distance from the levels after 20 pulls of 0.05, over that before."""
        w, one = weights("gauss", size(20_000), "float64"), np.array(1.0)
        pulled = w
        for _ in range(20):
            pulled = (pull_to_binary(pulled, 0.05, level=one) if penalty == "distance"
                      else pull_to(pulled, 0.05, project=sign))
        return float(w_shape(pulled, one)[0].mean() / w_shape(w, one)[0].mean())

    track_distance_left.unit = "of the distance before"
