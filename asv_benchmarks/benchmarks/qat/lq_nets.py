"""LQ-Nets: one round of QEM, and how near it comes to levels without ties between them."""

import numpy as np

from benchmarks.common import Benchmark, Quality, size, weights
from refquant.qat.lq_nets import (
    SIGNS,
    fake_quantize_weight,
    initial_weight_basis,
    qem_step,
)
from refquant.quantizers.optimal_kmeans import optimal_kmeans


class LqNets(Benchmark):
    params = (["refquant"], [2, 3])
    param_names = ("impl", "planes")

    def setup(self, impl, planes):
        self.w = weights("laplace", size(200_000))
        self.basis = initial_weight_basis(planes, 2)

    def time_qem_step(self, impl, planes):
        qem_step(self.w, self.basis, SIGNS)


class LqNetsError(Quality):
    params = ([2, 3],)
    param_names = ("planes",)

    def track_error_over_kmeans(self, planes):
        """20 rounds on Laplace data, against the best levels of all."""
        w = weights("laplace", 10_000).astype(np.float64)
        basis = initial_weight_basis(planes, 2)
        for _ in range(20):
            basis = qem_step(w, basis, SIGNS)
        ours = np.square(w - fake_quantize_weight(w, basis)[0]).mean()
        best = optimal_kmeans(w, 2**planes)
        return ours / np.square(w - best.decode(best.encode(w))).mean()

    track_error_over_kmeans.unit = "times the least MSE"
