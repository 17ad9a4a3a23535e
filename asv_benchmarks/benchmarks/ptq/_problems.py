"""Layers to round: correlated inputs, a few of them large, as in a transformer."""

from functools import lru_cache

import numpy as np

from benchmarks.common import QUICK
from refquant.calibration.minmax import absmax
from refquant.calibration.second_moment import SecondMoment, output_error
from refquant.granularity import group, ungroup
from refquant.quantizer import fake_quantize
from refquant.quantizers.uniform import Uniform, symmetric

SIZE = 32 if QUICK else 256
GROUP = 16 if QUICK else 64


@lru_cache(maxsize=4)
def layer(size=SIZE, dtype="float64"):
    """Weight ``(size, size)``, inputs, and their second moment; read-only."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((size, size)) / size**0.5
    mix = np.eye(size) + rng.standard_normal((size, size)) / size**0.5
    x = rng.standard_normal((4 * size, size)) @ mix
    x[:, :: size // 8] *= 6                     # eight channels that stand out
    arrays = [a.astype(dtype) for a in (weight, x, SecondMoment.of(x).hessian)]
    for a in arrays:
        a.flags.writeable = False
    return tuple(arrays)


def fit(weight, bits=3) -> Uniform:
    """Symmetric, a scale for each row."""
    return symmetric(absmax(weight, axis=-1), bits=bits)


def nearest(weight, bits=3, group_size=GROUP):
    """The baseline: round to nearest in groups."""
    blocks = group(weight, group_size)
    return ungroup(fake_quantize(blocks, fit(blocks, bits)))


def relative_error(weight, rounded, hessian, bits=3, group_size=GROUP):
    """Output error over that of rounding to nearest with the same groups."""
    baseline = output_error(weight - nearest(weight, bits, group_size), hessian)
    return output_error(weight - rounded, hessian) / baseline
