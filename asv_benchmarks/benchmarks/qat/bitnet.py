"""BitNet b1.58: ternary weight, and rows of 8 bits, beside torch."""

from benchmarks.qat._born import _There
from refquant.qat.bitnet import absmean_weight, token_activation


class Bitnet(_There):
    @staticmethod
    def ours(w):
        return absmean_weight(w)

    @staticmethod
    def theirs(torch, t):
        gamma = t.detach().abs().mean().clamp(min=1e-5)
        return t + (torch.clamp(torch.round(t / gamma), -1, 1) * gamma - t).detach()


class BitnetTokens(_There):
    @staticmethod
    def ours(w):
        return token_activation(w)

    @staticmethod
    def theirs(torch, t):
        step = t.detach().abs().amax(-1, keepdim=True) / 127
        return t + (torch.clamp(torch.round(t / step), -128, 127) * step - t).detach()
