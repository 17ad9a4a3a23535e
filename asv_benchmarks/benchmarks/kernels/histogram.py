"""Clip search from a histogram, against rounding the data for every candidate."""

from functools import partial

import numpy as np

from benchmarks.common import QUICK, Benchmark, Quality, least_time, need, size, weights
from refquant.calibration.entropy import candidate_divergences
from refquant.kernels.histogram import ValueHistogram, kl_divergences, uniform_errors
from refquant.quantizers.uniform import symmetric

N = size(10_000_000)
CANDIDATES = 2048
TRIED = 2               # by the naive loop, whose time for all candidates is extrapolated


def candidates(x, bits, count=CANDIDATES):
    shares = np.arange(1, count + 1, dtype=x.dtype) / count
    return symmetric(np.abs(x).max() * shares, bits=bits)


def search(x, bits):
    bins = 2**16 if bits <= 4 else 2**18
    return int(np.argmin(uniform_errors(ValueHistogram.of(x, bins=bins), candidates(x, bits))))


def naive(x, bits, count=TRIED):
    top = 2 ** (bits - 1) - 1
    errors = []
    for scale in candidates(x, bits, count).scale:
        x_hat = np.clip(np.rint(x / scale), -top, top) * scale
        errors.append(float(np.sum(np.square(x - x_hat), dtype=np.float64)))
    return int(np.argmin(errors))


def torch_observer(x, bits):
    torch = need("torch")
    observer = torch.ao.quantization.HistogramObserver(
        quant_min=-(2 ** (bits - 1)), quant_max=2 ** (bits - 1) - 1, dtype=torch.qint8
    )
    observer(torch.from_numpy(x))
    return observer.calculate_qparams()


IMPL = {"refquant": search, "naive": naive, "torch": torch_observer}


class Histogram(Benchmark):
    """The naive loop runs 2 of the 2048 candidates; PyTorch's observer has its own search."""

    params = (list(IMPL), [4, 8])
    param_names = ("impl", "bits")

    def setup(self, impl, bits):
        if impl == "torch":
            need("torch").set_num_threads(1)
        self.x = weights("gauss", N).copy()

    def time_search(self, impl, bits):
        IMPL[impl](self.x, bits)

    def peakmem_search(self, impl, bits):
        IMPL[impl](self.x, bits)

    def track_time_of_the_search_over_this(self, impl, bits):
        """Time of refquant's search over that of `impl` for as many candidates, side by side."""
        ours, theirs = least_time([partial(f, self.x, bits) for f in (search, IMPL[impl])])
        return ours / (theirs * (CANDIDATES / TRIED if impl == "naive" else 1))

    track_time_of_the_search_over_this.unit = "ratio"


class HistogramAccuracy(Quality):
    """Largest relative difference to the errors of the data themselves."""

    params = ([2, 4, 8], ["gauss", "laplace", "outlier"])
    param_names = ("bits", "kind")

    def setup(self, bits, kind):
        self.x = weights(kind, size(2**22), "float64")

    def track_relative_error(self, bits, kind):
        bounds = np.abs(self.x).max() * np.array([1.0, 0.7, 0.4])
        quantizer = symmetric(bounds, bits=bits)
        bins = 2**16 if bits <= 4 else 2**18
        found = uniform_errors(ValueHistogram.of(self.x, bins=bins), quantizer)
        top = quantizer.qmax
        direct = [
            np.sum(np.square(self.x - s * np.clip(np.rint(self.x / s), -top, top)))
            for s in quantizer.scale
        ]
        return float(np.max(np.abs(found / direct - 1)))

    track_relative_error.unit = "relative"


class HistogramDivergences(Benchmark):
    params = (["refquant", "naive"],)
    param_names = ("impl",)

    def setup(self, impl):
        absolute = np.abs(weights("gauss", size(1_000_000)))
        self.counts = np.histogram(absolute, bins=512 if QUICK else 2048)[0]

    def time_divergences(self, impl):
        (kl_divergences if impl == "refquant" else candidate_divergences)(self.counts)
