"""Signs, steps and fixed grids whose gradients are those of their surrogates."""

from functools import partial

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from qat._estimators import G, X, by_torch, close, slopes, straight

from refquant.qat.straight_through import (
    closed_range,
    everywhere,
    fake_quantize,
    open_range,
    pass_through,
    refit,
    rounded,
    sign_bireal,
    sign_clipped,
    sign_hardtanh,
    sign_identity,
    sign_swish,
    sign_tanh,
    step_clipped_relu,
    step_relu,
    step_sigmoid,
)
from refquant.quantizers.codebook import nearest
from refquant.quantizers.uniform import Uniform, symmetric


def sigma(x):
    return 1 / (1 + np.exp(-x))


def parabola(x):
    """The approximation of the sign in Liu et al., eq. (7)."""
    x = np.clip(x, -1, 1)
    return np.where(x < 0, 2 * x + x * x, 2 * x - x * x)


def sign_of_swish(x, beta=5.0):
    return 2 * sigma(beta * x) * (1 + beta * x * (1 - sigma(beta * x))) - 1


SIGNS = {
    "identity": (sign_identity, lambda x: x),
    "hardtanh": (sign_hardtanh, lambda x: np.clip(x, -1, 1)),
    "clipped": (partial(sign_clipped, limit=0.3), lambda x: np.clip(x, -0.3, 0.3)),
    "tanh": (sign_tanh, np.tanh),
    "sharp tanh": (partial(sign_tanh, sharpness=4.0), lambda x: np.tanh(4 * x)),
    "bireal": (sign_bireal, parabola),
    "swish": (sign_swish, sign_of_swish),
    "soft swish": (partial(sign_swish, sharpness=2.0), partial(sign_of_swish, beta=2.0)),
}
STEPS = {
    "sigmoid": (step_sigmoid, sigma),
    "relu": (step_relu, lambda x: np.maximum(x, 0)),
    "clipped relu": (step_clipped_relu, lambda x: np.clip(x, 0, 1)),
}
ALL = {**SIGNS, **STEPS}
SMOOTH = np.linspace(-2.013, 2.017, 100)        # meets no kink of any surrogate


@pytest.mark.parametrize(("estimator", "surrogate"), ALL.values(), ids=ALL)
def test_the_gradient_is_the_derivative_of_the_surrogate(estimator, surrogate):
    g = np.cos(np.arange(100.0))
    (g_x,) = estimator(SMOOTH)[1](g)
    np.testing.assert_allclose(g_x, g * slopes(surrogate, SMOOTH), rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", SIGNS)
def test_a_sign_is_never_zero(name):
    y, _ = SIGNS[name][0](np.array([-1e-300, -0.0, 0.0, 1e-300, -np.inf, np.inf]))
    assert y.tolist() == [-1, 1, 1, 1, -1, 1]


@pytest.mark.parametrize("name", STEPS)
def test_a_step_is_zero_at_zero(name):
    y, _ = STEPS[name][0](np.array([-1.0, -0.0, 0.0, 1e-300, np.inf]))
    assert y.tolist() == [0, 0, 0, 1, 1]


def test_what_passes_exactly_on_the_bounds():
    x = np.array([-1.0, np.nextafter(-1, -2), -0.0, 0.0, 1.0, np.nextafter(1, 2)])
    one = np.ones(6)
    assert sign_hardtanh(x)[1](one)[0].tolist() == [1, 0, 1, 1, 1, 0]
    assert sign_bireal(x)[1](one)[0].tolist() == [0, 0, 2, 2, 0, 0]
    assert step_relu(x)[1](one)[0].tolist() == [0, 0, 0, 0, 1, 1]
    assert step_clipped_relu(x)[1](one)[0].tolist() == [0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("k", [0.5, 1.0, 8.0])
def test_a_soft_sign_has_the_area_of_the_jump(k):
    x = np.linspace(-60, 60, 400_001)
    area = sign_tanh(x, sharpness=k)[1](np.ones_like(x))[0].sum() * (x[1] - x[0])
    assert abs(area - 2) < 1e-6


@pytest.mark.parametrize("estimator", [sign_tanh, sign_swish, step_sigmoid])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_slopes_die_out_without_overflow(estimator, dtype):
    x = np.array([-np.inf, np.finfo(dtype).min / 8, -200, 200, np.inf], dtype)
    x = x[1:-1] if estimator is sign_swish else x
    slope = estimator(x)[1](np.ones_like(x))[0]
    assert slope.dtype == dtype
    np.testing.assert_allclose(slope, 0, atol=1e-30)


def test_the_gradient_of_a_bernoulli_loss_that_the_sheet_gives():
    """b ~ Bernoulli(sigma(a)), L = (b - 0.3)^2 at a = 0.4: what each estimator says."""
    p = sigma(0.4)
    true = ((1 - 0.3) ** 2 - 0.3**2) * p * (1 - p)
    upstream = p * 2 * (1 - 0.3) + (1 - p) * 2 * (0 - 0.3)      # E[L'(b)]
    as_is = upstream * sign_identity(np.array([0.4]))[1](np.ones(1))[0][0]
    damped = step_sigmoid(np.array([0.4]))[1](np.array([upstream]))[0][0]
    assert [round(v, 4) for v in (true, as_is, damped)] == [0.0961, 0.5974, 0.1435]


@given(st.floats(-9, 9), st.sampled_from([open_range, closed_range, rounded, everywhere]))
@example(0.75, rounded)
@example(-0.5, open_range)
def test_a_fixed_grid_is_the_quantizer_with_the_mask_on_its_codes(value, mask):
    q = Uniform(np.array(0.5), np.array(2), 0, 4)
    x = np.array([value])
    y, pullback = fake_quantize(x, quantizer=q, mask=mask)
    assert y[0] == q.decode(q.encode(x))[0]
    u = value / 0.5 + 2
    inside = {open_range: 0 < u < 4, closed_range: 0 <= u <= 4,
              rounded: 0 <= np.rint(value / 0.5) + 2 <= 4, everywhere: True}[mask]
    assert pullback(np.array([3.0]))[0][0] == 3.0 * inside


def test_a_fixed_grid_by_channel_is_a_loop_over_channels():
    rng = np.random.default_rng(0)
    x, g = rng.standard_normal((2, 3, 40)).astype(np.float32)
    q = Uniform(np.array([[0.1], [0.2], [0.3]], np.float32), np.array([[1], [0], [3]]), 0, 7)
    y, pullback = fake_quantize(x, quantizer=q)
    for c in range(3):
        one = Uniform(q.scale[c, 0], q.zero_point[c, 0], 0, 7)
        alone, back = fake_quantize(x[c], quantizer=one)
        assert (y[c] == alone).all()
        assert (pullback(g)[0][c] == back(g[c])[0]).all()


def test_refit_follows_the_weights_and_clips_nothing():
    fit = partial(lambda w, bits: symmetric(np.abs(w).max(), bits=bits), bits=3)
    for factor in (1.0, 0.25):
        y, pullback = refit(factor * X, fit=fit)
        close(y, factor * refit(X, fit=fit)[0])
        assert (pullback(G)[0] == G).all()


def test_pass_through_takes_any_levels():
    y, pullback = pass_through(X, quantizer=nearest(np.array([-1.0, 0.1, 0.5])))
    assert set(y) == {-1.0, 0.1, 0.5}
    assert pullback(G)[0] is G


@pytest.mark.parametrize(("make", "message"), [
    (lambda: sign_clipped(X, limit=0.0), "`limit` must be positive"),
    (lambda: sign_tanh(X, sharpness=-1.0), "`sharpness` must be positive"),
    (lambda: sign_swish(X, sharpness=np.nan), "`sharpness` must be positive"),
    (lambda: fake_quantize(np.array([np.nan]), quantizer=symmetric(np.array(1.0), bits=2)),
     "must not contain NaN"),
    (lambda: fake_quantize(X, quantizer=symmetric(np.ones(2), bits=2)), "must broadcast"),
])
def test_what_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.peer
@pytest.mark.parametrize(("estimator", "soft"), [
    (sign_identity, lambda x: x),
    (sign_hardtanh, lambda x: x.clamp(-1, 1)),
    (partial(sign_tanh, sharpness=2.0), lambda x: (2 * x).tanh()),
    (step_sigmoid, lambda x: x.sigmoid()),
    (step_clipped_relu, lambda x: x.clamp(0, 1)),
    (step_relu, lambda x: x.relu()),
], ids=["identity", "hardtanh", "tanh", "sigmoid", "clipped relu", "relu"])
def test_torch_differentiates_the_surrogate_alike(estimator, soft):
    torch = pytest.importorskip("torch")
    x = SMOOTH
    y, pullback = estimator(x)
    exact = torch.tensor(y)
    value, (g_x,) = by_torch(lambda x: straight(exact, soft(x)), np.sin(x), x)
    assert (value == y).all() or np.allclose(value, y, atol=1e-15)
    np.testing.assert_allclose(pullback(np.sin(x))[0], g_x, rtol=1e-13, atol=1e-15)


@pytest.mark.peer
def test_torch_fake_quantize_passes_the_same_gradients():
    torch = pytest.importorskip("torch")
    x = np.concatenate([X, np.arange(-20, 20) / 8]).astype(np.float32)      # many ties
    q = Uniform(np.array(0.25, np.float32), np.array(3), 0, 7)
    y, pullback = fake_quantize(x, quantizer=q)
    g = np.arange(1, len(x) + 1, dtype=np.float32)
    value, (g_x,) = by_torch(
        lambda x: torch.fake_quantize_per_tensor_affine(x, 0.25, 3, 0, 7), g, x)
    assert (value == y).all()
    assert (g_x == pullback(g)[0]).all()
