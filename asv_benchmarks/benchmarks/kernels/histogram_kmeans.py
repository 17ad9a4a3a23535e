"""A million values to 16 levels: bins and dynamic programming against libraries for it."""

import numpy as np

from benchmarks.common import Quality, least_time, need, size, weights
from refquant.kernels.histogram_kmeans import histogram_kmeans, kmeans_of_16_bits
from refquant.metrics import mse
from refquant.quantizers.codebook import nearest


def scikit_learn(x, k):
    cluster, column = need("sklearn.cluster"), x[:, np.newaxis]
    return lambda: cluster.KMeans(k, random_state=0).fit(column).cluster_centers_[:, 0]


def flash(x, k):
    library, values = need("flash1dkmeans"), x.astype(np.float64)
    return lambda: library.kmeans_1d(values, k, random_state=0)[0]


def refquant(x, k):
    return lambda: histogram_kmeans(x, k).levels


def bfloat16(x, k):
    x = (x.view(np.uint32) & 0xFFFF0000).view(np.float32)
    return lambda: kmeans_of_16_bits(x, k).levels


IMPLS = {"refquant": refquant, "refquant, bfloat16 values": bfloat16,
         "flash1dkmeans": flash, "scikit-learn": scikit_learn}


class HistogramKmeans(Quality):
    params = (list(IMPLS), [16, 256])
    param_names = ("impl", "levels")

    def setup(self, impl, levels):
        self.x = weights("gauss", size(1_000_000))
        if impl == "scikit-learn" and levels > 16:
            raise NotImplementedError("takes a minute")
        self.fit = IMPLS[impl](self.x, levels)
        self.found = self.fit()                         # numba compiles at the first call

    def time_fit(self, impl, levels):
        self.fit()

    def track_mse(self, impl, levels):
        """On the original values, for all."""
        q = nearest(np.sort(np.asarray(self.found, np.float32)))
        return mse(self.x, q.decode(q.encode(self.x)))

    track_mse.unit = "variance of the data"

    def track_time_of_refquant_over_this(self, impl, levels):
        """Time over that of `impl`, side by side."""
        ours, theirs = least_time([refquant(self.x, levels), self.fit], repeats=2)
        return ours / theirs

    track_time_of_refquant_over_this.unit = "ratio"
