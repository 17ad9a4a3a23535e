"""Estimators whose own tests have no peer, written once more with torch.autograd."""

import numpy as np
import pytest
from qat._estimators import by_torch, straight

from refquant.qat.batchnorm import corrected
from refquant.qat.blending import blend
from refquant.qat.learned_levels import logistic, staircase
from refquant.qat.lq_nets import fake_quantize_activation as lq_activation
from refquant.qat.n2uq import fake_quantize_activation as n2uq_activation
from refquant.qat.periodic import sinreq, waveq
from refquant.qat.pulse import staircase as pulses
from refquant.qat.quant_noise import quant_noise

RNG = np.random.default_rng(0)
X, G = RNG.standard_normal((2, 200))
MASK = RNG.random(200) < 0.5
THRESHOLDS, LEVELS = np.array([-0.6, 0.1, 0.9]), np.array([-1.0, -0.3, 0.2, 1.5])
WIDTHS, START = np.array([0.5, 0.9, 0.4]), np.array(-0.3)
BASIS = np.array([0.3, 0.7])


def stairs(x, t, levels):
    """Exact to the levels; to the rest, logistic steps of width 0.3."""
    jumps = levels.diff().detach()
    soft = ((x[:, None] - t) / 0.3).sigmoid() @ jumps
    exact = levels[(x[:, None] > t).sum(1)]
    return exact + soft - soft.detach()


def expectation(x, widths, start):
    """N2UQ: steps of two thirds in the middles; to the gradients, a ramp over each width."""
    ends = start + widths.cumsum(0)
    begins = ends - widths
    ramp = ((x[:, None] - begins) / widths).clamp(0, 1).sum(1) * (2 / 3)
    return straight((x[:, None] > begins + widths / 2).sum(1) * (2 / 3), ramp)


def waves(w, beta):
    return ((np.pi * w * (2**beta - 1)).sin() ** 2) / 2**beta


def normed(y, gamma, beta, mean, variance, running):
    y, sigma = y.reshape(50, 4), (variance + 1e-5).sqrt()
    out = y * ((running + 1e-5).sqrt() / sigma) + beta - gamma * mean / sigma
    return out.reshape(-1)


def corrected_flat(y, *more):
    value, pullback = corrected(y.reshape(50, 4), *more)
    return value.reshape(-1), lambda g: [p.reshape(-1) for p in pullback(g.reshape(50, 4))]


CHANNELS = [RNG.uniform(0.5, 2, 4) for _ in range(5)]
CASES = {
    "staircase": (lambda *a: staircase(*a, logistic(0.3)), stairs, (X, THRESHOLDS, LEVELS)),
    "N2UQ": (n2uq_activation, expectation, (X, WIDTHS, START)),
    "SinReQ": (sinreq, lambda w, s: (np.pi * w / s).sin() ** 2, (X, np.array(0.3))),
    "WaveQ": (waveq, waves, (X, np.array(2.3))),
    "pulse": (lambda x: pulses(x, jumps=np.array([0.6]), half_width=0.4),
              lambda x: straight(x.sign() * (x.abs() > 0.6),
                                 x.sign() * ((x.abs() - 0.2) / 0.8).clamp(0, 1)), (X,)),
    "AlphaBlend": (lambda w: _first(blend(w, np.array(0.25), project=np.rint)),
                   lambda w: 0.75 * w + 0.25 * w.round().detach(), (X,)),
    "QuantNoise": (lambda w: _first(quant_noise(w, MASK, project=np.rint)),
                   lambda w: straight(_mixed(w), w), (X,)),
    "LQ-Nets": (lambda x: lq_activation(x, BASIS),
                lambda x: straight(_nearest(x), x.clamp(max=1.0)), (X,)),
    "corrected norm": (corrected_flat, normed, (X, *CHANNELS)),
}


def _first(estimator):
    value, pullback = estimator
    return value, lambda g: pullback(g)[:1]


def _mixed(w):
    import torch

    return torch.where(torch.tensor(MASK), w.round(), w)


def _nearest(x):
    import torch

    levels = torch.tensor([0.0, 0.3, 0.7, 1.0], dtype=x.dtype)
    return levels[(x[:, None] - levels).abs().argmin(1)]


@pytest.mark.peer
@pytest.mark.parametrize("name", CASES)
def test_value_and_gradients_are_those_of_torch(name):
    pytest.importorskip("torch")
    f, reference, arrays = CASES[name]
    value, pullback = f(*arrays)
    theirs, gradients = by_torch(reference, G, *arrays)
    np.testing.assert_allclose(value, theirs, atol=1e-12)
    for ours, wanted in zip(pullback(G), gradients, strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-9, atol=1e-10)
