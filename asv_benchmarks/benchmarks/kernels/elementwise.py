"""Encode, decode and fake-quantize fast, beside the definition, torch and a plain copy."""

import tracemalloc

import numpy as np

from benchmarks.common import Benchmark, Quality, need, share_of_time, size, weights
from refquant.granularity import group
from refquant.kernels import elementwise
from refquant.quantizer import fake_quantize
from refquant.quantizers.uniform import Uniform, symmetric
from refquant.rounding import stochastic

COLUMNS = 4096


def blocks_of(x, granularity):
    if granularity == "tensor":
        return x.reshape(1, -1)
    return x if granularity == "channel" else group(x, 128)


def data():
    rows = max(size(10_000_000) // COLUMNS, 1)
    return weights("gauss", rows * COLUMNS).reshape(rows, COLUMNS)


def torch_fake_quantize(x, q: Uniform):
    torch = need("torch")
    torch.set_num_threads(1)
    tensor = torch.from_numpy(x.reshape(q.scale.size, -1).copy())
    if q.scale.size == 1:
        scale = float(q.scale.flat[0])
        return lambda: torch.fake_quantize_per_tensor_affine(tensor, scale, 0, q.qmin, q.qmax)
    scale, zero = torch.from_numpy(q.scale.ravel()), torch.zeros(q.scale.size, dtype=torch.int32)
    return lambda: torch.fake_quantize_per_channel_affine(tensor, scale, zero, 0, q.qmin, q.qmax)


class Elementwise(Benchmark):
    """Ten million values; `in place` writes to memory of the caller, `copy` is the floor."""

    params = (
        ["refquant", "in place", "definition", "naive", "torch", "copy"],
        ["tensor", "channel", "group of 128"],
    )
    param_names = ("impl", "granularity")

    def setup(self, impl, granularity):
        x = blocks_of(data(), granularity)
        q = symmetric(np.abs(x).max(-1, keepdims=True), bits=8)
        out = np.zeros_like(x)
        self.fresh = lambda: elementwise.fake_quantize(x, q)
        self.in_place = lambda: elementwise.fake_quantize(x, q, out=out)
        if impl == "torch":
            self.call = torch_fake_quantize(x, q)
        else:
            self.call = {
                "refquant": self.fresh,
                "in place": self.in_place,
                "definition": lambda: fake_quantize(x, q),
                "naive": lambda: np.clip(np.round(x / q.scale), q.qmin, q.qmax) * q.scale,
                "copy": lambda: np.copyto(out, x),
            }[impl]

    def time_fake_quantize(self, impl, granularity):
        self.call()

    def peakmem_fake_quantize(self, impl, granularity):
        self.call()

    def track_time_in_place_over_this(self, impl, granularity):
        """Time of refquant, writing to the caller's memory, over that of `impl`, side by side."""
        return share_of_time(self.in_place, self.call)

    track_time_in_place_over_this.unit = "ratio"

    def track_time_of_refquant_over_this(self, impl, granularity):
        """Time of refquant, with a new array for the result, over that of `impl`, side by side."""
        return share_of_time(self.fresh, self.call)

    track_time_of_refquant_over_this.unit = "ratio"


class Codes(Benchmark):
    params = (["refquant", "definition"], ["tensor", "channel", "group of 128"])
    param_names = ("impl", "granularity")

    def setup(self, impl, granularity):
        x = blocks_of(data(), granularity)
        q = symmetric(np.abs(x).max(-1, keepdims=True), bits=8)
        codes = q.encode(x)
        if impl == "refquant":
            self.there = lambda: elementwise.encode(x, q)
            self.back = lambda: elementwise.decode(codes, q)
        else:
            self.there, self.back = lambda: q.encode(x), lambda: q.decode(codes)

    def time_encode(self, impl, granularity):
        self.there()

    def time_decode(self, impl, granularity):
        self.back()


class StochasticRound(Benchmark):
    """Values around ten; `in place` writes to memory of the caller."""

    params = (["refquant", "in place", "definition", "naive", "torch"],)
    param_names = ("impl",)

    def setup(self, impl):
        x = weights("gauss", size(10_000_000)) * np.float32(10)
        rng, out = np.random.Generator(np.random.SFC64(0)), np.zeros_like(x)
        self.in_place = lambda: elementwise.stochastic_round(x, rng=rng, out=out)
        if impl == "torch":
            torch = need("torch")
            torch.set_num_threads(1)
            tensor = torch.from_numpy(x)
            self.call = lambda: torch.floor(tensor + torch.rand_like(tensor))
        else:
            self.call = {
                "refquant": lambda: elementwise.stochastic_round(x, rng=rng),
                "in place": self.in_place,
                "definition": lambda: stochastic(x, rng=rng),
                "naive": lambda: np.floor(x + rng.random(x.shape)),
            }[impl]

    def time_round(self, impl):
        self.call()

    def peakmem_round(self, impl):
        self.call()

    def track_time_in_place_over_this(self, impl):
        """Time of refquant, writing to the caller's memory, over that of `impl`, side by side."""
        return share_of_time(self.in_place, self.call)

    track_time_in_place_over_this.unit = "ratio"


class ElementwiseMemory(Quality):
    """Input, output and work arrays at their peak, over input plus output."""

    params = (["encode", "decode", "fake_quantize"], ["float32", "float64"])
    param_names = ("operation", "dtype")

    def setup(self, operation, dtype):
        self.x = weights("gauss", 1_000_000, dtype)
        self.quantizer = symmetric(np.abs(self.x).max(), bits=8)
        if operation == "decode":
            self.x = self.quantizer.encode(self.x)

    def track_peak_over_arrays(self, operation, dtype):
        tracemalloc.start()
        try:
            result = getattr(elementwise, operation)(self.x, self.quantizer)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        return (self.x.nbytes + peak) / (self.x.nbytes + result.nbytes)

    track_peak_over_arrays.unit = "times input plus output"


class StochasticBias(Quality):
    """Mean error of rounding ten copies of evenly spread fractions with 16 random bits."""

    params = (["refquant", "definition"],)
    param_names = ("impl",)

    def track_bias(self, impl):
        x = np.tile((np.arange(100_000, dtype=np.float32) + 0.5) / 100_000, 10)
        rng = np.random.Generator(np.random.SFC64(0))
        round_ = elementwise.stochastic_round if impl == "refquant" else stochastic
        return abs(float(np.mean(round_(x, rng=rng) - x, dtype=np.float64)))

    track_bias.unit = "steps"
