"""BinaryConnect: signs and the gradient that passes, beside torch."""

from benchmarks.qat._born import _There
from refquant.qat.binary_connect import binary_connect


class BinaryConnect(_There):
    @staticmethod
    def ours(w):
        return binary_connect(w)

    @staticmethod
    def theirs(torch, t):
        clamped = torch.clamp(t, -1, 1)
        return clamped + (torch.where(t >= 0, 1.0, -1.0) - clamped).detach()
