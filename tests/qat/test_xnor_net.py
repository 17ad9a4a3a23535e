"""XNOR-Net: the best scale, the chain rule and the printed gradient, and the map of scales."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.qat.xnor_net import (
    binary_weight,
    printed_weight,
    window_scales,
)
from refquant.quantizer import fake_quantize
from refquant.quantizers.binary import xnor

X = np.array([-1.3, -0.75, -0.31, -0.05, 0, 0.12, 0.4, 0.95, 1.6])
G = np.arange(1, 10) / 10
SEEDS = st.integers(0, 2**32 - 1)


def test_golden_vector_of_the_chain_rule():
    y, pullback = binary_weight(X)
    assert np.allclose(y, np.where(X >= 0, 0.608889, -0.608889), atol=5e-7)
    assert np.allclose(pullback(G)[0], [-0.277778, -0.156, -0.095111, -0.034222, 0.582222,
                                        0.643111, 0.704, 0.764889, 0.277778], atol=5e-7)


@given(SEEDS, st.sampled_from([None, 1, (1, 2)]))
def test_both_gradients_equal_their_formula_element_by_element(seed, axis):
    rng = np.random.default_rng(seed)
    w, g = rng.normal(size=(2, 3, 4, 2))
    chain, printed = binary_weight(w, axis=axis)[1](g)[0], printed_weight(w, axis=axis)[1](g)[0]
    for index in np.ndindex(w.shape):
        group = {None: (...,), 1: (index[0], slice(None), index[2]), (1, 2): (index[0],)}[axis]
        n, alpha = w[group].size, np.abs(w[group]).mean()
        sign = np.where(w >= 0, 1, -1)
        inside = abs(w[index]) <= 1
        expected = sign[index] / n * (g * sign)[group].sum() + alpha * inside * g[index]
        assert np.isclose(chain[index], expected, rtol=1e-12, atol=1e-12)
        assert np.isclose(printed[index], g[index] * (1 / n + inside * alpha), rtol=1e-12)


@given(SEEDS)
def test_within_one_the_chain_rule_is_the_derivative_of_scale_times_a_line(seed):
    """What differentiates to it: alpha(w) * l, l a line through the sign with slope 1."""
    rng = np.random.default_rng(seed)
    w, g, d = rng.uniform(0.01, 0.9, (3, 6)) * rng.choice([-1, 1], (3, 6))
    _, pullback = binary_weight(w)

    def surrogate(v):
        return np.sum(g * np.abs(v).mean() * (np.where(w >= 0, 1, -1) + (v - w)))

    h = 1e-6
    slope = (surrogate(w + h * d) - surrogate(w - h * d)) / (2 * h)
    assert np.isclose(np.sum(pullback(g)[0] * d), slope, rtol=1e-7, atol=1e-9)


@given(SEEDS)
def test_no_other_scale_or_signs_are_nearer(seed):
    rng = np.random.default_rng(seed)
    w = rng.normal(size=7)
    best = np.sum((w - binary_weight(w)[0]) ** 2)
    signs = np.array(np.meshgrid(*[[-1, 1]] * 7)).reshape(7, -1).T
    alphas = signs @ w / 7                              # the best for each
    assert best <= np.sum((w - alphas[:, None] * signs) ** 2, axis=1).min() + 1e-12


@given(SEEDS)
def test_both_values_are_what_the_xnor_quantizer_decodes(seed):
    w = np.random.default_rng(seed).normal(size=(3, 5)).astype(np.float32)
    for estimator in (binary_weight, printed_weight):
        assert np.array_equal(estimator(w, axis=1)[0], fake_quantize(w, xnor(w, axis=1)))


@given(SEEDS)
def test_scaling_the_weight_scales_the_value(seed):
    w = np.random.default_rng(seed).normal(size=(3, 5))
    assert np.array_equal(binary_weight(4 * w, axis=1)[0], 4 * binary_weight(w, axis=1)[0])


@given(SEEDS, st.sampled_from([(1, 1, 0), (3, 1, 1), (3, 2, 1), (2, 2, 0)]))
def test_window_scales_are_the_mean_magnitudes_of_the_windows(seed, shape):
    size, stride, padding = shape
    x = np.random.default_rng(seed).normal(size=(2, 5, 4, 3))
    k, _ = window_scales(x, size=size, stride=stride, padding=padding)
    framed = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    for n, i, j, _ in np.ndindex(k.shape):
        window = framed[n, i * stride :, j * stride :][:size, :size]
        assert window.shape[:2] == (size, size)
        assert np.isclose(k[n, i, j, 0], np.abs(window).mean(), rtol=1e-12)
    assert k.shape[1:] == (*((m + 2 * padding - size) // stride + 1 for m in (5, 4)), 1)


@given(SEEDS)
def test_the_gradient_of_the_window_scales_is_their_derivative(seed):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.1, 1, (1, 4, 5, 2)) * rng.choice([-1, 1], (1, 4, 5, 2))
    k, pullback = window_scales(x, size=3, stride=2, padding=1)
    g, d = rng.normal(size=k.shape), rng.normal(size=x.shape)
    h = 1e-4
    plus, minus = (window_scales(x + s * h * d, size=3, stride=2, padding=1)[0] for s in (1, -1))
    # Linear as long as no sign changes, so the difference is exact to rounding.
    assert np.isclose(np.sum(pullback(g)[0] * d), np.sum(g * (plus - minus)) / (2 * h),
                      rtol=1e-8, atol=1e-9)


def test_scales_times_signs_are_nearest_to_each_product_of_windows():
    """A 1x1 image of c channels: K alpha is |x|.mean() |w|.mean(), the paper's eq. (7)."""
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(1, 1, 1, 64)), rng.normal(size=(64,))
    k, y = window_scales(x, size=1)[0], binary_weight(w)[0]
    approximate = (np.sign(x) * np.sign(w)).sum() * k * np.abs(y[0])
    assert np.isclose(approximate, (np.abs(x).mean() * np.abs(w).mean()
                                    * (np.sign(x) @ np.sign(w))).item())


def test_dtypes_stay_and_shapes_are_checked():
    x = np.ones((1, 4, 4, 2), np.float32)
    k, pullback = window_scales(x, size=3, padding=1)
    assert k.dtype == pullback(k)[0].dtype == np.float32
    for estimator in (binary_weight, printed_weight):
        y, pull = estimator(x, axis=(1, 2, 3))
        assert y.dtype == pull(x)[0].dtype == np.float32
        assert (pull(x)[0].shape, y.shape) == (x.shape, x.shape)
    with pytest.raises(ValueError, match="`x` must have shape"):
        window_scales(x[0], size=1)
    with pytest.raises(ValueError, match="`size` must be at most 4; got 5"):
        window_scales(x, size=5)


@pytest.mark.peer
def test_equals_the_estimator_written_with_autograd():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    w, g = rng.normal(size=(2, 4, 9))
    t = torch.tensor(w, requires_grad=True)
    clamped = torch.clamp(t, -1, 1)
    sign = clamped + (torch.where(t >= 0, 1.0, -1.0) - clamped).detach()
    (sign * t.abs().mean(1, keepdim=True)).backward(torch.tensor(g))
    assert np.allclose(binary_weight(w, axis=1)[1](g)[0], t.grad.numpy(), rtol=1e-12, atol=1e-14)
    x = rng.normal(size=(2, 6, 6, 3))
    t = torch.tensor(x, requires_grad=True)
    k = torch.nn.functional.avg_pool2d(
        t.abs().mean(3)[:, None], 3, stride=2, padding=1, count_include_pad=True)
    ours, pullback = window_scales(x, size=3, stride=2, padding=1)
    assert np.allclose(ours[..., 0], k[:, 0].detach().numpy(), rtol=1e-12)
    k.sum().backward()
    assert np.allclose(pullback(np.ones_like(ours))[0], t.grad.numpy(), rtol=1e-12)
