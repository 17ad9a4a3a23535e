"""The global optimum: exact dynamic programming against scikit-learn and flash1dkmeans."""

import numpy as np

from benchmarks.common import Quality, need, size, weights
from refquant.metrics import mse
from refquant.quantizers.codebook import nearest
from refquant.quantizers.optimal_kmeans import optimal_kmeans


def fitted(impl, x, k):
    """Levels found by `impl`; peers with their own defaults and a fixed seed."""
    if impl == "refquant":
        return lambda: optimal_kmeans(x, k).levels
    if impl == "scikit-learn":
        cluster = need("sklearn.cluster")
        column = x[:, np.newaxis]
        return lambda: cluster.KMeans(k, random_state=0).fit(column).cluster_centers_[:, 0]
    flash = need("flash1dkmeans")
    values = x.astype(np.float64)
    return lambda: flash.kmeans_1d(values, k, random_state=0)[0]


class OptimalKmeans(Quality):
    params = (["refquant", "scikit-learn", "flash1dkmeans"], [4, 16])
    param_names = ("impl", "levels")

    def setup(self, impl, levels):
        self.x = weights("gauss", size(20_000))
        self.fit = fitted(impl, self.x, levels)
        self.fit()                                  # numba compiles at the first call

    def time_fit(self, impl, levels):
        self.fit()

    def track_mse(self, impl, levels):
        q = nearest(np.sort(np.asarray(self.fit(), np.float64)))
        return mse(self.x, q.decode(q.encode(self.x)).astype(np.float32))

    track_mse.unit = "variance of the data"
