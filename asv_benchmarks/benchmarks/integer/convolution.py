"""Integer layers of ResNet-8's and DS-CNN's sizes: the definition and the fast way."""

import numpy as np

from refquant.integer.convolution import (
    convolution,
    depthwise_convolution,
    fully_connected,
    same,
)
from refquant.quantizers.uniform import Uniform

from ..common import Benchmark, Quality, share_of_time

KINDS = ["convolution 16", "convolution 64", "depthwise 64", "linear 640"]


def quantizer(scale: object, zero: int) -> Uniform:
    scale = np.asarray(scale)
    return Uniform(scale, np.full(scale.shape, zero), -128, 127)


def problem(kind: str):
    rng = np.random.default_rng(0)
    x, y = quantizer(0.02, -128), quantizer(0.03, -10)
    name, channels = kind.split()
    n = int(channels)
    w, bias = quantizer(rng.uniform(0.001, 0.002, n), 0), rng.integers(-999, 999, n)
    if name == "linear":
        layer = fully_connected(rng.integers(-127, 128, (n, n)), bias, x, w, y)
        return layer, rng.integers(-128, 128, (1, n)).astype(np.int32)
    image = (32, 32) if n == 16 else (25, 5)
    window = same(image, (3, 3))
    make, depth = (convolution, n) if name == "convolution" else (depthwise_convolution, 1)
    layer = make(rng.integers(-127, 128, (n, 3, 3, depth)), bias, x, w, y, window)
    return layer, rng.integers(-128, 128, (1, *image, n)).astype(np.int32)


class Convolution(Benchmark):
    params = (["refquant", "definition"], KINDS)
    param_names = ("impl", "kind")

    def setup(self, impl: str, kind: str) -> None:
        self.layer, self.codes = problem(kind)

    def time_layer(self, impl: str, kind: str) -> None:
        if impl == "refquant":
            self.layer(self.codes)
        else:
            self.layer.finish(self.layer.accumulate(self.codes))


class ConvolutionQuality(Quality):
    params = (KINDS,)
    param_names = ("kind",)

    def track_share_of_the_definition(self, kind: str) -> float:
        layer, codes = problem(kind)
        return share_of_time(
            lambda: layer(codes), lambda: layer.finish(layer.accumulate(codes)))

    track_share_of_the_definition.unit = "time of the definition"
