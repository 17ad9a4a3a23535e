"""Quantize kernels of real runtimes: what exact emulation costs, and how often they round off."""

import warnings

import numpy as np

from refquant.integer import dialects
from refquant.integer.dialects import DIALECTS
from refquant.quantizers.uniform import Uniform

from ..common import Benchmark, Quality, need, size, weights

NAMES = [d.name for d in DIALECTS]
BY_NAME = dict(zip(NAMES, DIALECTS, strict=True))


def eighths(n: int) -> np.ndarray:
    """Gaussian values on a grid of 1/8: with scale 1/4, a tie every fourth value."""
    return np.round(weights("gauss", n) * 8) / np.float32(8)


def odd_zero_point() -> Uniform:
    return Uniform(np.array(0.25, np.float32), np.array(3), -128, 127)


class Dialects(Benchmark):
    params = (["refquant", "runtime"], NAMES)
    param_names = ("impl", "dialect")

    def setup(self, impl: str, name: str) -> None:
        self.x, self.q = weights("gauss", size(1_000_000)).copy(), odd_zero_point()
        self.encode = BY_NAME[name].encode
        if impl == "runtime":
            self.encode = self.runtime(BY_NAME[name])

    def runtime(self, dialect: dialects.Dialect):
        calls = {
            dialects.TORCH_QUANTIZE: self.torch_quantize,
            dialects.TORCH_FAKE: self.torch_fake,
        }
        if dialect not in calls:
            raise NotImplementedError("only torch quantizes without a model file")
        self.torch = need("torch")
        return calls[dialect]

    def torch_quantize(self, x: np.ndarray, q: Uniform):
        x = self.torch.from_numpy(x)
        with warnings.catch_warnings():     # torch announces the removal of qint8
            warnings.simplefilter("ignore")
            return self.torch.quantize_per_tensor(x, float(q.scale), 3, self.torch.qint8)

    def torch_fake(self, x: np.ndarray, q: Uniform):
        x = self.torch.from_numpy(x)
        return self.torch.fake_quantize_per_tensor_affine(x, float(q.scale), 3, -128, 127)

    def time_encode(self, impl: str, name: str) -> None:
        self.encode(self.x, self.q)


class DialectsQuality(Quality):
    """Share of codes that correct rounding of the exact quotient would not give."""

    params = (NAMES,)
    param_names = ("dialect",)

    def track_mismatch_on_ties(self, name: str) -> float:
        return self.mismatch(name, eighths(100_000), odd_zero_point())

    def track_mismatch_beside_ties(self, name: str) -> float:
        rng = np.random.default_rng(0)
        q = Uniform(np.array(0.1, np.float32), np.array(3), -128, 127)
        ties = q.scale * (rng.integers(-120, 120, 100_000) + np.float32(0.5))
        return self.mismatch(name, ties.astype(np.float32), q)

    def mismatch(self, name: str, x: np.ndarray, q: Uniform) -> float:
        # A quotient of two float32 is never so near to a tie that float64 would call it one.
        exact = Uniform(q.scale.astype(np.float64), q.zero_point, q.qmin, q.qmax)
        wrong = BY_NAME[name].encode(x, q) != exact.encode(x.astype(np.float64))
        return float(wrong.mean())

    track_mismatch_on_ties.unit = "share of codes"
    track_mismatch_beside_ties.unit = "share of codes"
