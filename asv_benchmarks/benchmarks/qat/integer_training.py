"""WAGE: time of the four roundings of one layer and step, and of the update beside torch."""

from functools import partial

import numpy as np

from benchmarks.qat._born import _There
from refquant.qat.integer_training import (
    integer_activation,
    integer_error,
    integer_update,
    integer_weight,
)
from refquant.rounding import stochastic

UP = partial(stochastic, rng=np.random.default_rng(0))


class IntegerTraining(_There):
    @staticmethod
    def ours(w):
        """Weight and activation forward; error, clip and update on the way back."""
        a, back = integer_activation(integer_weight(w)[0])
        _, error = integer_error(a)

        def pullback(g):
            (e,) = back(*error(g))
            return integer_update(w, e, rate=4.0, rounding=UP)

        return a, pullback

    @staticmethod
    def theirs(torch, t):
        def q(x, bits):
            sigma = 2.0 ** (1 - bits)
            return torch.clamp(torch.round(x / sigma) * sigma, -1 + sigma, 1 - sigma)

        def shift(x):
            return 2.0 ** torch.round(torch.log2(x))

        def update(e):
            e = q(e / shift(e.abs().max()), 8)
            units = torch.floor(4 * e / shift(e.abs().max()) + torch.rand_like(e))
            return torch.clamp(t.detach() - units / 128, -127 / 128, 127 / 128)

        t.register_hook(update)
        w = q(t.detach(), 2) + (t - t.detach())
        clipped = torch.clamp(w, -127 / 128, 127 / 128)
        return clipped + (q(clipped, 8) - clipped).detach()
