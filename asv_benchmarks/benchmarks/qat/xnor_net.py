"""XNOR-Net: scaled signs with the gradient of the chain rule, beside torch."""

from benchmarks.qat._born import _There
from refquant.qat.xnor_net import binary_weight


class XnorNet(_There):
    @staticmethod
    def ours(w):
        return binary_weight(w, axis=1)

    @staticmethod
    def theirs(torch, t):
        clamped = torch.clamp(t, -1, 1)
        sign = clamped + (torch.where(t >= 0, 1.0, -1.0) - clamped).detach()
        return sign * t.abs().mean(1, keepdim=True)
