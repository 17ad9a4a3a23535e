"""Distances of statistics: laws, derivatives, torch. The descent: a pause changes no bit."""

import numpy as np
import pytest
from _oracles.derivatives import assert_dtypes, assert_pullback
from hypothesis import given
from hypothesis import strategies as st

from refquant.nn.optimizers import adam, adam_start
from refquant.zero_shot.batchnorm_statistics import (
    Distillation,
    batch_distance,
    distill,
    gaussian_divergence,
    sample_distance,
    start,
)

DISTANCES = [batch_distance, sample_distance, gaussian_divergence]
SEEDS = st.integers(0, 999)


def case(seed, n=3, side=2, channels=4):
    """A batch of images, and statistics that are not theirs."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, side, side, channels)) * np.exp(rng.standard_normal(channels))
    return x, rng.standard_normal(channels), np.exp(rng.standard_normal(channels))


def moments(x):
    rows = x.reshape(-1, x.shape[-1])
    return rows.mean(0), rows.var(0, ddof=1)


@given(SEEDS, st.integers(1, 4), st.integers(2, 3))
def test_the_distance_is_zero_where_the_statistics_are_those_of_the_batch(seed, n, side):
    x, *_ = case(seed, n, side)
    for distance in (batch_distance, gaussian_divergence):
        value, pullback = distance(x, *moments(x))
        assert abs(value) < 1e-12
        assert np.abs(pullback(np.array(1.0))[0]).max() < 1e-9


@given(SEEDS)
def test_and_only_there(seed):
    x, *_ = case(seed)
    mean, variance = moments(x)
    for distance in DISTANCES:
        at_home = distance(x, mean, variance)[0]
        assert distance(x, mean + np.array([0.1, 0, 0, 0]), variance)[0] > at_home
        assert batch_distance(x, mean, variance * [1.1, 1, 1, 1])[0] > 1e-6
        assert gaussian_divergence(x, mean, variance * [1.1, 1, 1, 1])[0] > 1e-6


@given(SEEDS)
def test_the_distance_is_the_sum_of_squares_that_the_definition_says(seed):
    x, mean, variance = case(seed)
    rows = x.reshape(-1, 4)
    expected = sum((rows[:, c].mean() - mean[c]) ** 2
                   + (np.sqrt(rows[:, c].var(ddof=1) + 1e-6) - np.sqrt(variance[c] + 1e-6)) ** 2
                   for c in range(4))
    assert np.isclose(batch_distance(x, mean, variance)[0], expected, rtol=1e-12)
    each = [batch_distance(image[None], mean, variance)[0] for image in x]
    assert np.isclose(sample_distance(x, mean, variance)[0], np.mean(each), rtol=1e-12)


@given(SEEDS)
def test_the_divergence_is_that_of_normal_densities(seed):
    """The integral of p log(p / q) on a fine grid, for one channel."""
    x, mean, variance = (array[..., :1] for array in case(seed))
    a, s = x.mean(), np.sqrt(x.var(ddof=1) + 1e-6)
    b, t = mean[0], np.sqrt(variance[0] + 1e-6)
    grid = np.linspace(a - 12 * s, a + 12 * s, 20001)
    log_p = -np.log(s) - (grid - a) ** 2 / (2 * s**2)
    log_q = -np.log(t) - (grid - b) ** 2 / (2 * t**2)
    density = np.exp(log_p) / np.sqrt(2 * np.pi)
    expected = (density * (log_p - log_q)).sum() * (grid[1] - grid[0])
    assert np.isclose(gaussian_divergence(x, mean, variance)[0], expected, rtol=1e-6, atol=1e-9)


@given(SEEDS)
def test_order_and_place_do_not_matter_to_the_batch_and_images_do_to_the_sample(seed):
    x, mean, variance = case(seed, n=4)
    rng = np.random.default_rng(seed)
    pixels = rng.permutation(x.reshape(-1, 4)).reshape(x.shape)
    for distance in (batch_distance, gaussian_divergence):
        assert np.isclose(distance(pixels, mean, variance)[0], distance(x, mean, variance)[0])
    images = rng.permutation(x)
    within = x[:, ::-1, ::-1]
    at_home = sample_distance(x, mean, variance)[0]
    assert np.isclose(sample_distance(images, mean, variance)[0], at_home)
    assert np.isclose(sample_distance(within, mean, variance)[0], at_home)


@given(SEEDS)
def test_shifting_data_and_means_together_changes_nothing_and_scale_is_squared(seed):
    x, mean, variance = case(seed)
    for distance in DISTANCES:
        at_home = distance(x, mean, variance, epsilon=0)[0]
        assert np.isclose(distance(x + 3, mean + 3, variance, epsilon=0)[0], at_home)
        scaled = distance(2 * x, 2 * mean, 4 * variance, epsilon=0)[0]
        power = 1 if distance is gaussian_divergence else 4      # a divergence has no unit
        assert np.isclose(scaled, power * at_home)


@pytest.mark.parametrize("distance", DISTANCES)
def test_the_pullback_is_the_derivative(distance):
    x, mean, variance = case(1)
    assert_pullback(lambda v: one_gradient(distance, v, mean, variance), [x])
    assert_dtypes(lambda v: one_gradient(distance, v, mean.astype(np.float32),
                                         variance.astype(np.float32)), [x])
    assert distance(x, mean, variance)[1](np.array(1.0))[1:] == (None, None)


def one_gradient(distance, x, mean, variance):
    value, pullback = distance(x, mean, variance)
    return value, lambda g: pullback(g)[:1]


@pytest.mark.peer
@pytest.mark.parametrize(("distance", "axes"), [(batch_distance, (0, 1, 2)),
                                                (sample_distance, (1, 2))])
def test_torch_finds_the_same_value_and_gradient(distance, axes):
    torch = pytest.importorskip("torch")
    x, mean, variance = case(2)
    ours, pullback = distance(x, mean, variance)
    there = torch.tensor(x, requires_grad=True)
    spread = torch.sqrt(there.var(axes, unbiased=True) + 1e-6)
    gap = (there.mean(axes) - torch.tensor(mean)) ** 2 + (
        spread - torch.sqrt(torch.tensor(variance) + 1e-6)) ** 2
    theirs = gap.sum() if axes == (0, 1, 2) else gap.sum(1).mean()
    theirs.backward()
    assert np.isclose(ours, theirs.item(), rtol=1e-12)
    assert np.allclose(pullback(np.array(1.0))[0], there.grad.numpy(), rtol=1e-10, atol=1e-14)


def test_a_constant_channel_has_a_finite_distance_and_feels_no_spread():
    x = np.full((4, 2, 2, 1), 5.0)
    for distance in (batch_distance, sample_distance, gaussian_divergence):
        value, pullback = distance(x, np.array([5.0]), np.array([1.0]))
        (dx, *_) = pullback(np.array(1.0))
        assert np.isfinite(value)
        assert value > 0
        assert np.array_equal(dx, np.zeros_like(x))
    value, _ = batch_distance(x, np.array([5.0]), np.array([0.0]))
    assert value == 0                       # a channel that was constant in training, too


def test_one_image_is_a_batch_as_long_as_it_has_two_positions():
    x, mean, variance = case(3, n=1)
    assert np.isclose(batch_distance(x, mean, variance)[0], sample_distance(x, mean, variance)[0])


def test_what_has_no_variance_is_refused():
    one, two = np.zeros(2), np.ones((3, 2))
    with pytest.raises(ValueError, match="at least two values per channel"):
        batch_distance(two[:1], one, one)
    with pytest.raises(ValueError, match="at least two values per channel"):
        sample_distance(two, one, one)
    with pytest.raises(ValueError, match=r"`mean` must have shape \(2,\); got \(3,\)"):
        batch_distance(two, np.zeros(3), one)
    for distance in (batch_distance, sample_distance, gaussian_divergence):
        with pytest.raises(TypeError, match="`x` must be floats; got int64"):
            distance(np.ones((4, 3, 2), int), one, one)
    with pytest.raises(ValueError, match=r"`variance` must have shape \(2,\)"):
        gaussian_divergence(two, one, np.zeros(1))


# The descent.

MEAN, VARIANCE = np.array([1.0, -2.0]), np.array([4.0, 0.25])


def loss_and_gradient(x):
    value, pullback = batch_distance(x, MEAN, VARIANCE)
    return float(value), pullback(np.ones((), x.dtype))[0]


def noise(dtype=np.float64):
    return np.random.default_rng(0).standard_normal((20, 3, 3, 2)).astype(dtype)


def test_the_descent_arrives_at_the_statistics():
    made = distill(loss_and_gradient, start(noise()), steps=400)
    mean, variance = moments(made.x)
    assert made.losses.shape == (400,)
    assert made.losses[-1] < 1e-6 * made.losses[0]
    assert np.allclose(mean, MEAN, atol=1e-3)
    assert np.allclose(variance, VARIANCE, rtol=1e-2)


@given(st.integers(0, 30))
def test_a_pause_anywhere_changes_no_bit(pause):
    whole = distill(loss_and_gradient, start(noise()), steps=30, patience=3)
    part = distill(loss_and_gradient, start(noise()), steps=pause, patience=3)
    rest = distill(loss_and_gradient, part, steps=30 - pause, patience=3)
    for ours, other in zip(whole, rest, strict=True):
        assert np.array_equal(ours, other)


def test_an_interrupted_descent_goes_on_from_what_progress_saw():
    seen: list[Distillation] = []

    def stop(state):
        seen.append(state)
        if len(seen) == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(loss_and_gradient, start(noise()), steps=20, progress=stop)
    rest = distill(loss_and_gradient, seen[-1], steps=13)
    whole = distill(loss_and_gradient, start(noise()), steps=20)
    assert np.array_equal(rest.x, whole.x)
    assert np.array_equal(rest.losses, whole.losses)


def test_steps_are_those_of_the_networks_adam_and_the_rate_falls_on_a_plateau():
    """Two derivations: the optimizer of `nn`, and the rule of the plateau written out."""
    x, state = {"x": noise()}, start(noise())
    memory, rate, best, bad = adam_start(x), 0.5, np.inf, 0
    for step in range(150):
        loss, gradient = loss_and_gradient(x["x"])
        x, memory = adam(x, {"x": gradient}, memory, rate=rate)
        best, bad = (loss, 0) if loss < best * 0.9999 else (best, bad + 1)
        if bad == 6:
            rate, bad = max(rate / 10, 1e-4), 0
        state = distill(loss_and_gradient, state, steps=1, patience=5)
        assert np.isclose(state.rate, rate, rtol=1e-12), step
    assert np.allclose(state.x, x["x"], atol=1e-9)
    assert state.rate < 0.5


def test_the_rate_falls_after_patience_and_stops_at_the_least():
    flat = distill(lambda x: (1.0, np.zeros_like(x)), start(noise()), steps=12, patience=2,
                   factor=0.1, least=0.02)
    assert flat.rate == 0.02
    slow = distill(lambda x: (1.0, np.zeros_like(x)), start(noise(), rate=0.001), steps=12,
                   patience=2, least=0.02)
    assert slow.rate == 0.001               # a rate below the least is not raised


def test_the_images_keep_their_dtype_and_the_start_is_not_changed():
    x = noise(np.float32)
    before = x.copy()
    made = distill(loss_and_gradient, start(x), steps=3)
    assert made.x.dtype == np.float32
    assert np.array_equal(x, before)
    assert np.array_equal(distill(loss_and_gradient, start(x), steps=0).x, x)


def test_bad_input_is_refused():
    with pytest.raises(TypeError, match="`x` must be float32 or float64"):
        start(np.zeros((2, 2), int))
    with pytest.raises(ValueError, match="`x` must not be empty"):
        start(np.zeros((0, 2)))
    with pytest.raises(ValueError, match="`x` must be finite"):
        start(np.array([np.nan]))
    with pytest.raises(ValueError, match="`rate` must be positive"):
        start(noise(), rate=0.0)
    state = start(noise())
    with pytest.raises(ValueError, match="`steps` must be at least 0"):
        distill(loss_and_gradient, state, steps=-1)
    with pytest.raises(ValueError, match=r"`factor` must lie in \(0, 1\]"):
        distill(loss_and_gradient, state, factor=0.0)
    with pytest.raises(ValueError, match="must stay finite; got loss nan at step 0"):
        distill(lambda x: (np.nan, x), state)
    with pytest.raises(ValueError, match="`gradient` must have shape"):
        distill(lambda x: (1.0, x[:1]), state)
