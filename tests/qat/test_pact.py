"""PACT: levels, the authors' gradient, and the part they leave out."""

from functools import partial

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from qat._estimators import G, X, by_torch, close, straight

from refquant.qat.lsq import lsq
from refquant.qat.pact import Penalty, alpha_penalty, pact, pact_full_chain

VALUES = st.lists(st.floats(-3, 3), min_size=1, max_size=30)
ALPHAS = st.sampled_from([0.25, 0.9, 1.0, 1.75, 10.0])


def test_the_published_vector():
    y, pullback = pact(X, np.array(1.2), bits=3)
    close(y, [0, 0, 0, 0, 0, 0.171429, 0.342857, 1.028571, 1.2])
    g_x, g_alpha = pullback(G)
    close(g_x, [0, 0, 0, 0, 0.5, 0.6, 0.7, 0.8, 0])
    close(g_alpha, 0.9)
    close(pact_full_chain(X, np.array(1.2), bits=3)[1](G)[1], 0.944762)


@given(VALUES, ALPHAS, st.integers(1, 8))
@example([0.0, -0.0, 1.0, 0.5], 1.0, 1)
def test_the_formula_holds_for_each_element_and_the_gradients_add_up(values, alpha, bits):
    x, g, n = np.array(values), np.arange(1.0, len(values) + 1), 2**bits - 1
    y, pullback = pact(x, np.array(alpha), bits=bits)
    half = 0.5 * (np.abs(x) - np.abs(x - alpha) + alpha)            # eq. (1)
    assert (np.abs(y - half) <= alpha / n / 2 * (1 + 1e-9) + 1e-15).all()
    np.testing.assert_allclose(y * n / alpha, np.rint(y * n / alpha), atol=1e-9)
    g_x, g_alpha = pullback(g)
    assert g_x.tolist() == [k if 0 <= v < alpha else 0 for k, v in zip(g, x, strict=True)]
    assert g_alpha == sum(k for k, v in zip(g, x, strict=True) if v >= alpha)
    assert g_alpha + g_x.sum() == g[x >= 0].sum()


@given(VALUES, ALPHAS, st.integers(1, 8))
def test_the_full_chain_is_lsq_on_the_step(values, alpha, bits):
    """alpha = n s: the gradient of alpha is that of s over n; elements below 0 do not matter."""
    n = 2**bits - 1
    x, g = np.array(values), np.arange(1.0, len(values) + 1)
    step = lsq(x, np.array(alpha / n), qmin=0, qmax=n)[1](g)[1]
    ours = pact_full_chain(x, np.array(alpha), bits=bits)[1](g)[1]
    np.testing.assert_allclose(ours, step / n, rtol=1e-9, atol=1e-9)


def test_a_ceiling_that_clips_nothing_gets_no_gradient_and_a_high_one_is_a_relu():
    x = np.array([-1.0, 0.0, 0.3, 2.0])
    assert pact(x, np.array(2.5), bits=4)[1](np.ones(4))[1] == 0
    y, _ = pact(x, np.array(1e4), bits=24)
    np.testing.assert_allclose(y, np.maximum(x, 0), atol=1e4 / 2**24)


def test_the_penalty_and_its_gradient():
    alpha = np.array([2.0, 3.0], np.float32)
    value, gradient = alpha_penalty(alpha, strength=0.1)
    assert isinstance(alpha_penalty(alpha, strength=0.1), Penalty)
    assert abs(value - 1.3) < 1e-6
    assert gradient.dtype == np.float32
    for i, e in enumerate(np.eye(2) * 1e-4):
        up, down = (alpha_penalty(alpha.astype(float) + d, strength=0.1).value for d in (e, -e))
        assert abs((up - down) / 2e-4 - gradient[i]) < 1e-6


def test_one_ceiling_per_channel_is_a_loop():
    rng = np.random.default_rng(0)
    x, g = rng.standard_normal((2, 40, 3))
    alpha = np.array([0.3, 0.8, 5.0])
    for f in (pact, pact_full_chain):
        y, pullback = f(x, alpha, bits=2)
        g_x, g_alpha = pullback(g)
        for c in range(3):
            alone, back = f(x[:, c], alpha[c], bits=2)
            assert (alone == y[:, c]).all()
            assert (back(g[:, c])[0] == g_x[:, c]).all()
            np.testing.assert_allclose(back(g[:, c])[1], g_alpha[c], rtol=1e-12, atol=1e-14)


def test_what_is_refused():
    with pytest.raises(ValueError, match="`alpha` must be positive"):
        pact(X, np.array(0.0), bits=2)
    with pytest.raises(ValueError, match="`bits` must be at least 1"):
        pact_full_chain(X, np.array(1.0), bits=0)


@pytest.mark.peer
def test_torch_with_detach_gives_both_gradients():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, g = rng.standard_normal((2, 200))
    alpha = np.array(0.8)

    def clipped(x, a):
        return 0.5 * (x.abs() - (x - a).abs() + a)

    def paper(x, a, n=7):
        return straight((clipped(x, a) * n / a).round() * a / n, clipped(x, a))

    def chain(x, a, n=7):
        v = clipped(x, a) * n / a
        return straight(v.round(), v) * a / n

    for f, reference in ((pact, paper), (pact_full_chain, chain)):
        y, pullback = partial(f, bits=3)(x, alpha)
        value, gradients = by_torch(reference, g, x, alpha)
        np.testing.assert_allclose(y, value, atol=1e-15)
        for ours, theirs in zip(pullback(g), gradients, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-13)
    assert torch is not None
