"""Tables as networks have them: layers of very different size, losses that fall fourfold a bit."""

import numpy as np

from benchmarks.common import QUICK

BITS = np.array([2, 3, 4, 5, 6, 8])


def tables(layers):
    """Losses and whole costs."""
    layers = min(layers, 4) if QUICK else layers
    rng = np.random.default_rng(0)
    counts = 16 * rng.integers(1, 400, layers)
    noise = np.exp(0.3 * rng.standard_normal((layers, len(BITS))))
    loss = np.exp(2 * rng.standard_normal(layers))[:, None] * 4.0**-BITS * noise * counts[:, None]
    return loss, counts[:, None] * BITS


def limit(cost, average=4):
    return average * int(cost[:, 0].sum()) // 2


def chosen(table, choice):
    return float(table[np.arange(len(table)), choice].sum())
