"""DoReFa: levels, both gradients of the weights, and gradients that are right on average."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from qat._estimators import G, X, by_torch, close, straight

from refquant.qat.dorefa import (
    dorefa_activation,
    dorefa_binary,
    dorefa_gradient,
    dorefa_weight,
    dorefa_weight_chain,
)

VALUES = st.lists(st.floats(-3, 3), min_size=1, max_size=30)


def test_the_published_vector():
    y, pullback = dorefa_weight(X, bits=3)
    close(y, [-1, -0.714286, -0.428571, -0.142857, 0.142857, 0.142857, 0.428571, 0.714286, 1])
    close(pullback(G)[0], [0.027931, 0.129458, 0.296116, 0.432912, 0.542494, 0.641708, 0.649851,
                           0.392958, 0.146988])


@given(VALUES, st.integers(2, 8))
@example([0.0, 0.0], 2)
def test_weights_lie_on_an_even_grid_within_one(values, bits):
    w, n = np.array(values), 2**bits - 1
    y, _ = dorefa_weight(w, bits=bits)
    codes = (y + 1) * n / 2
    np.testing.assert_allclose(codes, np.rint(codes), atol=1e-12)
    assert np.abs(y).max() <= 1
    assert (y != 0).all()                                   # there is no level at zero
    if np.abs(w).max() > 1e-3:
        assert np.abs(y).max() == 1
        soft = np.tanh(w) / np.abs(np.tanh(w)).max()
        assert (np.abs(y - soft) <= 1 / n + 1e-12).all()


def test_the_gradient_is_that_of_the_squashing_and_the_chain_also_moves_the_maximum():
    """Differences of tanh(w) / (2M) + 1/2, times 2; M held, and M moving."""
    w, g, step = np.array([0.3, -1.2, 0.8, 0.05]), np.array([1.0, 2.0, -3.0, 4.0]), 1e-6

    def soft(w, largest):
        return np.tanh(w) / largest

    largest = np.abs(np.tanh(w)).max()
    for f, moving in ((dorefa_weight, False), (dorefa_weight_chain, True)):
        for i, e in enumerate(np.eye(4) * step):
            ends = [g @ soft(w + d, np.abs(np.tanh(w + d)).max() if moving else largest)
                    for d in (e, -e)]
            assert abs(f(w, bits=3)[1](g)[0][i] - (ends[0] - ends[1]) / (2 * step)) < 1e-8


def test_of_equal_largest_weights_the_first_takes_the_extra_term():
    w, g = np.array([[0.5, -2.0], [2.0, 0.1]]), np.ones((2, 2))
    extra = dorefa_weight_chain(w, bits=2)[1](g)[0] - dorefa_weight(w, bits=2)[1](g)[0]
    assert (extra != 0).tolist() == [[False, True], [False, False]]


def test_one_bit_is_the_mean_size_with_signs():
    y, pullback = dorefa_binary(X)
    close(np.abs(y), np.full(9, np.abs(X).mean()))
    assert (np.sign(y) == np.where(X >= 0, 1, -1)).all()
    assert pullback(G)[0] is G


@given(VALUES, st.integers(1, 8))
@example([0.0, -0.0, 1.0, 0.5], 1)
def test_activations_are_the_formula(values, bits):
    x, g, n = np.array(values), np.arange(1.0, len(values) + 1), 2**bits - 1
    y, pullback = dorefa_activation(x, bits=bits)
    assert (y == np.rint(np.clip(x, 0, 1) * n) / n).all()
    assert pullback(g)[0].tolist() == [k if 0 <= v <= 1 else 0 for k, v in zip(g, x, strict=True)]


def test_gradients_are_right_on_average_and_on_few_levels():
    """20,000 draws: standard error below a step over sqrt(12 n), three times of it allowed... 5."""
    g = np.array([[-1.0, -0.4, 0.0, 0.11, 0.62, 0.9], [0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
                  [20.0, -3.0, 1.0, 0.5, -0.5, -11.0]])
    n, draws = 7, 20_000
    _, pullback = dorefa_gradient(np.zeros((draws, 3, 6)).reshape(-1, 6), bits=3,
                                  rng=np.random.default_rng(0))
    (back,) = pullback(np.tile(g, (draws, 1)))
    back = back.reshape(draws, 3, 6)
    bound = 2 * np.abs(g).max(1, keepdims=True)
    levels = (back / np.where(bound > 0, bound, 1) + 0.5) * n
    np.testing.assert_allclose(levels[:, [0, 2]], np.rint(levels[:, [0, 2]]), atol=1e-9)
    assert (back[:, 1] == 0).all()
    inside = np.abs(g) < np.abs(g).max(1, keepdims=True) * (1 - 1 / n)
    error = np.abs(back.mean(0) - g) / (bound / n / 2 + 1e-30) * np.sqrt(draws)
    assert (error[inside] < 5).all()


def test_the_largest_gradient_is_biased_towards_zero():
    """Its noise is clipped at one side: the levels stop there."""
    _, pullback = dorefa_gradient(np.zeros((4000, 1)), bits=1, rng=np.random.default_rng(0))
    assert np.abs(pullback(np.ones((4000, 1)))[0]).max() == 1
    back = dorefa_gradient(np.zeros((1, 2)), bits=2, rng=np.random.default_rng(0))[1]
    means = np.mean([back(np.array([[1.0, 0.9]]))[0][0, 1] for _ in range(4000)])
    assert means == pytest.approx(0.9, abs=0.05)


def test_zero_weights_stay_finite():
    for f in (dorefa_weight, dorefa_weight_chain):
        y, pullback = f(np.zeros(4), bits=2)
        assert np.isfinite(y).all()
        assert np.isfinite(pullback(np.ones(4))[0]).all()
    assert (dorefa_binary(np.zeros(3))[0] == 0).all()


def test_what_is_refused():
    with pytest.raises(ValueError, match="`bits` must be at least 2"):
        dorefa_weight(X, bits=1)
    with pytest.raises(TypeError, match="`x` must be float32 or float64"):
        dorefa_activation(np.arange(3), bits=1)


@pytest.mark.peer
def test_torch_with_detach_gives_the_same_gradients():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    w, g = rng.standard_normal((2, 5, 7))

    def reference(w, hold):
        soft = w.tanh()
        largest = soft.abs().max()
        r = soft / (2 * (largest.detach() if hold else largest)) + 0.5
        return 2 * straight((r * 7).round() / 7, r) - 1

    def activation(x):
        r = x.clamp(0, 1)
        return straight((r * 7).round() / 7, r)

    for f, h in ((dorefa_weight, lambda w: reference(w, True)),
                 (dorefa_weight_chain, lambda w: reference(w, False)),
                 (dorefa_activation, activation)):
        y, pullback = f(w, bits=3)
        value, gradients = by_torch(h, g, w)
        np.testing.assert_allclose(y, value, atol=1e-14)
        np.testing.assert_allclose(pullback(g)[0], gradients[0], rtol=1e-11, atol=1e-13)
    assert torch is not None
