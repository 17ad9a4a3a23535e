"""Curvature: what estimates from products cost, and how far from the truth they are."""

import numpy as np

from benchmarks.common import QUICK, Benchmark, Quality
from refquant.mixed_precision.hessian import gaussian, hutchinson, rademacher, top_eigenvalue

N = 40 if QUICK else 400


def matrix():
    """A Hessian as networks have them: few large eigenvalues, many small ones."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((N, N)) / np.arange(1, N + 1)[:, None]
    return rows.T @ rows


class Hessian(Benchmark):
    params = (["refquant"],)
    param_names = ("impl",)

    def setup(self, impl):
        self.h = matrix()

    def time_trace(self, impl):
        hutchinson(lambda v: self.h @ v, (N,), rng=np.random.default_rng(0))

    def time_top_eigenvalue(self, impl):
        top_eigenvalue(lambda v: self.h @ v, (N,), rng=np.random.default_rng(0))


class HessianError(Quality):
    params = (["rademacher", "gaussian"],)
    param_names = ("draw",)

    def track_standard_error(self, draw):
        h = matrix()
        found = hutchinson(lambda v: h @ v, (N,), rng=np.random.default_rng(0), samples=200,
                           draw=rademacher if draw == "rademacher" else gaussian)
        return found.samples.std() / np.trace(h)

    track_standard_error.unit = "of the trace, for one sample"
