"""Rotations: time to make and to apply, and what they leave of the error of 4-bit products."""

from functools import partial

import numpy as np

from benchmarks.common import QUICK, Benchmark, Quality
from benchmarks.ptq._problems import SIZE, layer
from refquant.calibration.minmax import absmax
from refquant.ptq import rotation
from refquant.quantizer import fake_quantize
from refquant.quantizers.uniform import symmetric


def four_bits(x):
    return fake_quantize(x, symmetric(absmax(x, axis=-1), bits=4))


def signed_hadamard(n, *, rng):
    return rotation.random_signs(rotation.hadamard(n), rng=rng)


MAKERS = {"none": lambda n, *, rng: np.eye(n), "hadamard": signed_hadamard,
          "kronecker": rotation.kronecker, "orthogonal": rotation.orthogonal}


class Rotation(Quality):
    params = (list(MAKERS),)
    param_names = ("rotation",)

    def setup(self, name):
        self.weight, self.x, _ = layer()
        self.make = partial(MAKERS[name], SIZE)
        self.q = self.make(rng=np.random.default_rng(0))

    def time_make(self, name):
        self.make(rng=np.random.default_rng(0))

    def time_apply(self, name):
        rotation.rotate(self.x, self.q)

    def track_error(self, name):
        exact = self.x @ self.weight.T
        noise = [np.square(four_bits(rotation.rotate(self.x, q))
                           @ four_bits(rotation.rotate(self.weight, q)).T - exact).mean()
                 for q in (self.q, np.eye(SIZE))]
        return float(noise[0] / noise[1])

    track_error.unit = "of the output error without rotation"


class Transform(Benchmark):
    """64 tokens by a Hadamard matrix: the matrix, and two small ones."""

    params = (["matrix", "transform"], [64] if QUICK else [1024, 4096])
    param_names = ("impl", "width")

    def setup(self, impl, width):
        x = np.random.default_rng(0).standard_normal((64, width)).astype(np.float32)
        q = rotation.hadamard(width).astype(np.float32)
        self.run = {"matrix": lambda: rotation.rotate(x, q),
                    "transform": lambda: rotation.hadamard_transform(x)}[impl]

    def time_apply(self, impl, width):
        self.run()
