"""Proximal maps against brute force, their limits, and BinaryRelax against its definition."""

from functools import partial

import numpy as np
import pytest
from _oracles.derivatives import assert_dtypes, assert_pullback
from _oracles.estimators import X
from hypothesis import example, given
from hypothesis import strategies as st

from refquant.qat.proximal import (
    binary_relax,
    geometric,
    pull_to,
    pull_to_binary,
    ramp,
    w_shape,
)
from refquant.quantizer import fake_quantize
from refquant.quantizers.binary import sign, xnor
from refquant.quantizers.ternary import twn

REALS = st.floats(-4, 4)
STRENGTH = st.floats(0, 3)
LEVEL = st.floats(0.1, 2)
LINE = np.arange(-6000, 6001) / 1000            # the candidates of brute force


@given(REALS, STRENGTH, LEVEL)
@example(0.0, 0.3, 1.0)
@example(-1.3, 0.3, 1.0)
def test_the_binary_prox_is_the_global_minimum_by_brute_force(theta, strength, level):
    """No point of a line of 12,001 has a lower objective; the line comes within its spacing."""
    def objective(z):
        return (z - theta) ** 2 / 2 + strength * np.abs(np.abs(z) - level)

    ours = pull_to_binary(np.array(theta), strength, level=np.array(level))
    assert objective(ours) <= objective(LINE).min() + 1e-12
    assert objective(LINE).min() <= objective(ours) + 1e-3 * (strength + 7)


@given(REALS, STRENGTH)
def test_the_squared_prox_is_the_global_minimum_by_brute_force(theta, strength):
    """R = dist(z, integers)**2 / 2; near the weight's own level, which is where prox stays."""
    ours = pull_to(np.array([theta]), strength, project=np.rint)[0]

    def objective(z):
        return (z - theta) ** 2 / 2 + strength * (z - np.rint(z)) ** 2 / 2

    assert objective(ours) <= objective(LINE).min() + 1e-12


@given(st.lists(REALS, min_size=1, max_size=8), st.sampled_from([np.float32, np.float64]))
def test_no_pull_is_the_identity_and_enough_is_the_sign(values, dtype):
    w, one = np.array(values, dtype), np.ones((), dtype)
    assert np.array_equal(pull_to_binary(w, 0.0, level=one), w) or np.allclose(
        pull_to_binary(w, 0.0, level=one), w, rtol=1e-6, atol=1e-7)
    enough = float(np.abs(np.abs(w) - 1).max())
    assert np.array_equal(pull_to_binary(w, enough, level=one), sign(w))
    assert np.array_equal(pull_to(w, 0.0, project=np.rint), w)
    assert np.array_equal(pull_to(w, np.inf, project=np.rint), np.rint(w))
    assert pull_to(w, 0.7, project=np.rint).dtype == dtype
    assert pull_to_binary(w, 0.7, level=one).dtype == dtype


@given(st.floats(0.01, 4), STRENGTH)
def test_the_binary_prox_is_odd_and_never_steps_over_the_level(theta, strength):
    w, one = np.array([theta, -theta]), np.array(1.0)
    pulled = pull_to_binary(w, strength, level=one)
    assert pulled[0] == -pulled[1]
    assert (pulled[0] - 1) * (theta - 1) >= 0
    assert np.isclose(abs(pulled[0] - theta), min(strength, abs(theta - 1)))


def test_it_jumps_at_zero():
    just = pull_to_binary(np.array([-1e-9, 0.0]), 0.4, level=np.array(1.0))
    assert np.allclose(just, [-0.4, 0.4])


@given(st.integers(0, 2**32 - 1))
def test_channels_have_levels_of_their_own(seed):
    rng = np.random.default_rng(seed)
    w, level = rng.normal(size=(3, 5)), rng.uniform(0.2, 2, (3, 1))
    whole = pull_to_binary(w, 0.2, level=level)
    for row, a, ours in zip(w, level, whole, strict=True):
        assert np.array_equal(pull_to_binary(row, 0.2, level=a), ours)


@given(st.integers(0, 2**32 - 1))
def test_the_gradient_of_the_w_is_its_derivative_and_the_prox_steps_along_it(seed):
    rng = np.random.default_rng(seed)
    w, level = rng.normal(size=(3, 4)), rng.uniform(0.3, 1.5, (3, 1))
    w = w[:, :] + np.where(np.abs(np.abs(w) - level) < 1e-3, 0.01, 0)
    w = np.where(np.abs(w) < 1e-3, 0.01, w)
    assert_pullback(w_shape, (w, level))
    assert_dtypes(w_shape, (w, level))
    small = float(np.abs(np.abs(w) - level).min()) / 2
    step = w - small * w_shape(w, level)[1](np.ones_like(w))[0]
    assert np.allclose(pull_to_binary(w, small, level=level), step)


def test_golden_vectors():
    ours = pull_to_binary(X, 0.3, level=np.array(1.0))
    assert np.allclose(ours, [-1, -1, -0.61, -0.35, 0.3, 0.42, 0.7, 1, 1.3])
    relaxed, _ = binary_relax(X, np.array(2.0), project=sign)
    assert np.allclose(relaxed, [-1.1, -0.916667, -0.77, -0.683333, 0.666667, 0.706667, 0.8,
                                 0.983333, 1.2], atol=1e-6)


@given(st.integers(0, 2**32 - 1), st.floats(0, 50))
def test_binary_relax_is_the_pulled_value_with_an_untouched_gradient(seed, strength):
    rng = np.random.default_rng(seed)
    w, g = rng.normal(size=(2, 9))
    for fit in (xnor, twn):
        value, pullback = binary_relax(w, np.array(strength),
                                       project=lambda w, fit=fit: fake_quantize(w, fit(w)))
        expected = (w + strength * fake_quantize(w, fit(w))) / (1 + strength)
        assert np.allclose(value, expected)
        assert pullback(g)[0] is g
        assert pullback(g)[1] is None


def test_prox_steps_find_the_best_corner_of_a_quadratic_and_binary_relax_ends_on_a_corner():
    """0.5 (x - t)^T A (x - t) with four weights; the corner is known by trying all sixteen."""
    corners = np.array(np.meshgrid(*[[-1.0, 1.0]] * 4)).reshape(4, -1).T
    a, t = np.diag([1.0, 2.0, 0.5, 1.5]) + 0.1, np.array([0.6, -0.4, 1.3, -1.2])

    def gradient(x):
        return a @ (x - t)

    best = min(corners, key=lambda c: (c - t) @ a @ (c - t))
    eager, latent = np.full(4, 0.01), np.full(4, 0.01)
    for step in range(400):
        eager = pull_to_binary(eager - 0.1 * gradient(eager), ramp(step, rate=5e-4),
                               level=np.array(1.0))
        x, pullback = binary_relax(latent, np.array(geometric(step, growth=1.02, until=300)),
                                   project=sign)
        latent = latent - 0.02 * pullback(gradient(x))[0]
    assert np.array_equal(eager, best)
    assert np.array_equal(sign(latent), best)


def test_schedules():
    assert [ramp(t, rate=0.5) for t in range(3)] == [0, 0.5, 1]
    rising = [geometric(t, start=0.5, growth=1.1, until=20) for t in range(25)]
    assert np.allclose(np.diff(np.log(rising[:20])), np.log(1.1))
    assert rising[20:] == [np.inf] * 5


def test_bad_input_is_refused():
    w, one = np.ones(3), np.array(1.0)
    for call in (partial(pull_to_binary, level=one), partial(pull_to, project=np.rint)):
        with pytest.raises(ValueError, match="`strength` must be at least 0; got -1"):
            call(w, -1)
        with pytest.raises(ValueError, match="`strength` must be at least 0; got nan"):
            call(w, np.nan)
        with pytest.raises(TypeError, match="`strength` must be a real number"):
            call(w, "strong")
    with pytest.raises(ValueError, match="`level` must broadcast"):
        w_shape(w, np.ones(2))
