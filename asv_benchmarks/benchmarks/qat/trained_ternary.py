"""TTQ: three levels, two of them trained, beside torch."""

import numpy as np

from benchmarks.qat._born import _There
from refquant.qat.trained_ternary import trained_levels

NEGATIVE, POSITIVE = np.array(0.04, np.float32), np.array(0.07, np.float32)


class TrainedTernary(_There):
    @staticmethod
    def ours(w):
        return trained_levels(w, NEGATIVE, POSITIVE)

    @staticmethod
    def theirs(torch, t):
        n, p = (torch.tensor(float(v), requires_grad=True) for v in (NEGATIVE, POSITIVE))
        bound = 0.05 * t.detach().abs().max()
        above, below = t > bound, t < -bound
        one = torch.ones_like(t)
        factor = torch.where(above, p, torch.where(below, n, one)).detach()
        return torch.where(above, p, torch.where(below, -n, 0 * one)) + factor * (t - t.detach())
