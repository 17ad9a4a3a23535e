"""The exact score: against quadrature, against a slope, and against the flow of one Gaussian."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.nn.denoiser import noise_left, sampling_steps
from refquant.nn.mixture import Mixture, exact_noise, flow, log_density, membership, ring

UNEVEN = Mixture(np.array([[-1.0], [0.5], [2.0]]), 0.3, np.array([0.5, 0.2, 0.3]))
STEPS = st.integers(0, 999)


@given(t=st.integers(5, 999), at=st.floats(-3, 3))
def test_the_noise_is_its_mean_given_the_point_by_quadrature_over_the_clean_point(t, at):
    left = float(noise_left(t))
    # Of p(x0) p(x_t | x0) no factor is narrower than 0.02.
    x0 = np.linspace(-4, 6, 20_001)
    prior = np.exp(-((x0 - UNEVEN.means) ** 2) / (2 * 0.3**2)).T @ UNEVEN.shares
    noise = (at - np.sqrt(left) * x0) / np.sqrt(1 - left)
    exponent = np.log(prior + 1e-300) - noise**2 / 2
    weight = np.exp(exponent - exponent.max())
    expected = (weight * noise).sum() / weight.sum()
    found = exact_noise(UNEVEN, np.array([[at]]), t)[0, 0]
    assert np.isclose(found, expected, rtol=1e-6, atol=1e-6)


@given(t=STEPS, seed=st.integers(0, 1000))
def test_the_noise_is_minus_the_slope_of_the_log_density_times_its_deviation(t, seed):
    rng = np.random.default_rng(seed)
    x, d = rng.standard_normal((2, 5, 2))
    mixture, h = ring(5, radius=0.8, std=0.2), 1e-5
    slope = (log_density(mixture, x + h * d, t) - log_density(mixture, x - h * d, t)) / (2 * h)
    deviation = np.sqrt(1 - float(noise_left(t)))
    assert np.allclose(-deviation * slope, (exact_noise(mixture, x, t) * d).sum(1),
                       rtol=1e-5, atol=1e-7)


def test_the_density_sums_to_one_at_any_time():
    x = np.linspace(-9, 9, 9001)[:, None]
    for t in (0, 300, 999):
        assert np.isclose(np.exp(log_density(UNEVEN, x, t)).sum() * 18 / 9000, 1, rtol=1e-9)


@given(t=STEPS, seed=st.integers(0, 1000))
def test_memberships_are_shares_that_turn_with_the_ring(t, seed):
    mixture, x = ring(6), np.random.default_rng(seed).standard_normal((4, 2))
    r = membership(mixture, x, t)
    assert (r >= 0).all()
    assert np.allclose(r.sum(1), 1)
    turn = np.array([[0.5, -np.sqrt(0.75)], [np.sqrt(0.75), 0.5]])      # by one sixth
    assert np.allclose(membership(mixture, x @ turn.T, t), np.roll(r, 1, axis=1), atol=1e-9)


def test_one_gaussian_is_moved_as_the_probability_flow_moves_it_and_the_error_halves():
    """The flow keeps the quantile of every point: a straight line from Gaussian to Gaussian."""
    one = Mixture(np.array([[0.7, -0.2]]), 0.4, np.ones(1))
    noise = np.random.default_rng(0).standard_normal((50, 2))

    def error(count):
        left = float(noise_left(int(sampling_steps(count)[0])))
        spread = np.sqrt(left * one.std**2 + 1 - left)
        exact = one.means + one.std * (noise - np.sqrt(left) * one.means) / spread
        return np.abs(flow(one, noise, count=count) - exact).max()

    errors = [error(count) for count in (50, 100, 200)]
    assert errors[0] < 0.05
    assert all(1.8 < a / b < 2.2 for a, b in pairwise(errors))


def test_the_points_that_are_drawn_lie_where_the_mixture_has_its_own():
    drawn = flow(ring(8, std=0.05), np.random.default_rng(0).standard_normal((400, 2)), count=100)
    distance = np.linalg.norm(drawn[:, None] - ring(8).means, axis=2)
    assert (distance.min(1) < 0.3).mean() > 0.99
    counts = np.bincount(distance.argmin(1), minlength=8)
    assert (np.abs(counts - 50) < 4 * np.sqrt(50)).all()            # 4 standard deviations


def test_the_tap_sees_state_input_and_answer_in_this_order_at_every_step():
    names, hours = [], []

    def tap(name, value):
        names.append(name)
        return value

    noise = np.zeros((1, 2))
    flow(ring(), noise, count=4, tap=tap, watch=lambda t, x: hours.append(t))
    assert names == ["state", "x", "noise"] * 4
    assert hours == [750, 500, 250, 0]


def test_what_the_tap_makes_of_the_state_is_kept_and_of_the_input_is_not():
    noise = np.array([[0.4, -0.9]])

    def shift(which):
        return flow(ring(), noise, count=1, tap=lambda name, v: v + (0.01 if name == which else 0))

    assert not np.array_equal(shift("state"), flow(ring(), noise, count=1))
    # One step at t = 0: the point moves with its state, and hardly with what the score reads.
    assert np.abs(shift("x") - flow(ring(), noise, count=1)).max() < 1e-3
    assert np.abs(shift("state") - flow(ring(), noise, count=1)).min() > 0.009


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"`x` must have shape \(3, 2\); got \(3, 1\)"):
        exact_noise(ring(), np.zeros((3, 1)), 5)
    with pytest.raises(ValueError, match="`noise` must be finite; got nan"):
        flow(ring(), np.full((1, 2), np.nan))
    with pytest.raises(ValueError, match="`t` must lie in"):
        log_density(ring(), np.zeros((1, 2)), 1000)
    with pytest.raises(ValueError, match="`count` must be at least 1; got 0"):
        ring(0)
    with pytest.raises(ValueError, match="`std` must be positive and finite; got 0"):
        ring(3, std=0)
