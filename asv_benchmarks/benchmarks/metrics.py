"""Metrics of ten million values, and how near the measured error comes to its prediction."""

import numpy as np

from benchmarks.common import Benchmark, Quality, need, size, weights
from refquant import metrics
from refquant.quantizer import fake_quantize
from refquant.quantizers.uniform import symmetric


def naive(name):
    return {
        "mse": lambda x, y: float(np.mean((x.astype(float) - y) ** 2)),
        "sqnr": lambda x, y: 10 * np.log10(
            np.sum(x.astype(float) ** 2) / np.sum((x.astype(float) - y) ** 2)),
        "max_error": lambda x, y: float(np.max(np.abs(x - y))),
        "cosine": lambda x, y: float(
            np.vdot(x, y) / np.linalg.norm(x.astype(float)) / np.linalg.norm(y.astype(float))),
    }[name]


def torch_metric(name):
    torch = need("torch")
    torch.set_num_threads(1)
    if name == "sqnr":
        raise NotImplementedError("torch has no SQNR")
    return {
        "mse": torch.nn.functional.mse_loss,
        "max_error": lambda x, y: (x - y).abs().max(),
        "cosine": lambda x, y: torch.nn.functional.cosine_similarity(x, y, dim=0),
    }[name]


class Metrics(Benchmark):
    params = (["refquant", "naive", "torch"], ["mse", "sqnr", "max_error", "cosine"])
    param_names = ("impl", "metric")

    def setup(self, impl, name):
        x = weights("gauss", size(10_000_000))
        self.arrays = x, fake_quantize(x, symmetric(np.abs(x).max(), bits=8))
        if impl == "torch":
            self.metric = torch_metric(name)
            torch = need("torch")
            self.arrays = tuple(torch.from_numpy(a.copy()) for a in self.arrays)
        else:
            self.metric = getattr(metrics, name) if impl == "refquant" else naive(name)

    def time_metric(self, impl, name):
        self.metric(*self.arrays)

    def peakmem_metric(self, impl, name):
        self.metric(*self.arrays)


class Prediction(Quality):
    """Measured rounding error against ``scale**2 / 12``: the high-rate theory at few bits."""

    params = ([2, 3, 4, 6, 8], ["gauss", "laplace", "outlier"])
    param_names = ("bits", "data")

    def setup(self, bits, data):
        self.x = weights(data, size(1_000_000))
        self.quantizer = symmetric(np.abs(self.x).max(), bits=bits)

    def track_distance_from_theory(self, bits, data):
        noise = metrics.mse(self.x, fake_quantize(self.x, self.quantizer))
        return abs(noise / metrics.predicted_mse(self.quantizer.scale) - 1)

    track_distance_from_theory.unit = "relative"
