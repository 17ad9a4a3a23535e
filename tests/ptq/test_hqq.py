"""HQQ: each half step is exact, and the loss falls at every step that is kept."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ptq._experiments import by_hqq, nearest, text_bits
from scipy.optimize import minimize_scalar

from refquant.ptq.hqq import HalfQuadratic, hqq, shrink

SEEDS = st.integers(0, 2**32 - 1)


def weight(seed, shape=(6, 64), scale=0.04):
    return np.random.default_rng(seed).standard_t(4, shape) * scale


@given(SEEDS, st.sampled_from([1, 2, 3, 4, 8]), st.sampled_from([0.04, 1.0, 30.0]))
@settings(max_examples=40)
def test_the_loss_falls_with_every_step_that_is_kept(seed, bits, scale):
    w = weight(seed, scale=scale)
    r = hqq(w, bits=bits)
    assert isinstance(r, HalfQuadratic)
    assert all(b < a for a, b in zip(r.losses, r.losses[1:], strict=False))
    assert np.isclose(r.losses[-1], np.abs(w - r.weight).mean())
    assert r.codes.min() >= 0
    assert r.codes.max() <= 2**bits - 1
    assert np.allclose(r.scale * (r.codes - r.zero_point), r.weight)


@given(SEEDS)
@settings(max_examples=20)
def test_codes_are_nearest_for_their_zero_point(seed):
    w = weight(seed)
    r = hqq(w, bits=3)
    levels = r.scale[..., None] * (np.arange(8) - r.zero_point[..., None])
    best = np.abs(w[..., None] - levels).min(-1)
    assert np.allclose(np.abs(w - r.weight), best)


@pytest.mark.parametrize("x", [-3.0, -0.9, 0.4, 0.8, 2.0, 10.0])
def test_with_p_1_shrinking_is_the_exact_soft_threshold(x):
    """argmin |e| + beta/2 (e - x)^2."""
    found = minimize_scalar(lambda e: abs(e) + 2.0 * (e - x) ** 2, bounds=(-11, 11),
                            method="bounded", options={"xatol": 1e-10})
    assert np.isclose(shrink(np.array([x]), 4.0, 1.0)[0], found.x, atol=1e-6)


@given(st.floats(-1e3, 1e3), st.floats(0.5, 100), st.floats(0.1, 1))
def test_shrinking_never_changes_the_sign_and_kills_what_is_small(x, beta, p):
    y = shrink(np.array([x]), beta, p)[0]
    assert abs(y) <= abs(x)
    assert y * x >= 0
    if abs(x) < 0.999 * beta ** (-1 / (2 - p)):
        assert y == 0


@given(SEEDS)
@settings(max_examples=20)
def test_the_step_of_the_zero_point_is_the_least_squares_one(seed):
    """Given codes and outliers, no other z is closer to the rest."""
    w = weight(seed, (1, 32))
    r = hqq(w, bits=2, steps=1)
    if len(r.losses) == 2:
        start = hqq(w, bits=2, steps=0)
        outliers = shrink(w - start.weight, 10.0, 0.7)

        def error(z):
            return ((w - outliers - start.scale * (start.codes - z)) ** 2).sum()

        best = error(r.zero_point)
        assert all(error(r.zero_point + d) >= best for d in (-1e-3, 1e-3, -0.1, 0.1))


@pytest.mark.parametrize("growth", [1.0, 3.0])
def test_the_second_step_pulls_harder_by_the_growth(growth):
    """Weights of size 10, whose errors are large enough to be shrunk."""
    w = 10 * weight(2, (1, 32)) / weight(2, (1, 32)).std()
    one, two = (hqq(w, bits=2, growth=growth, steps=n) for n in (1, 2))
    assert len(two.losses) == 3
    rest = w - shrink(w - one.weight, 10.0 * growth, 0.7)
    assert np.allclose(two.zero_point, np.mean(one.codes - rest / one.scale))


def test_on_small_weights_the_shrinking_does_nothing_and_on_large_ones_it_does():
    small = weight(0, (50, 64))
    assert np.isclose(10 ** (-1 / 1.3), 0.170, atol=5e-4)
    one, other = hqq(small, bits=4), hqq(small, bits=4, p=1.0)
    assert np.mean(np.abs(small - one.weight) > 0.17) < 1e-3
    assert np.allclose(one.zero_point, other.zero_point, atol=0.05)
    assert not np.allclose(hqq(100 * small, bits=4).zero_point, one.zero_point, atol=1e-3)


def test_groups_that_are_constant_or_empty():
    w = np.array([[0.25, 0.25, 0.25], [0.0, 0.0, 0.0], [-1.0, 0.0, 3.0]])
    r = hqq(w, bits=2)
    assert np.allclose(r.weight[:2], w[:2])
    assert r.scale[:2].tolist() == [[1.0], [1.0]]
    assert hqq(np.zeros((0, 4)), bits=2).weight.shape == (0, 4)
    assert hqq(np.zeros((2, 0)), bits=2).weight.shape == (2, 0)


def test_float32_stays_float32_and_arguments_are_unchanged():
    w = weight(1).astype(np.float32)
    before = w.copy()
    assert hqq(w, bits=3).weight.dtype == np.float32
    assert np.array_equal(w, before)


@pytest.mark.parametrize(("settings_", "message"), [
    ({"bits": 0}, "`bits` must be at least 1; got 0"),
    ({"bits": 2, "p": 1.5}, "`p` must be at most 1; got 1.5"),
    ({"bits": 2, "p": 0.0}, "`p` must be above 0 and finite; got 0.0"),
    ({"bits": 2, "beta": -1.0}, "`beta` must be above 0 and finite; got -1.0"),
    ({"bits": 2, "steps": -1}, "`steps` must be at least 0; got -1"),
])
def test_bad_settings_are_refused(settings_, message):
    with pytest.raises(ValueError, match=message):
        hqq(weight(0), **settings_)


def test_bad_weights_are_refused():
    with pytest.raises(ValueError, match="`weight` must be finite"):
        hqq(np.array([[1.0, np.nan]]), bits=2)
    with pytest.raises(TypeError, match="`weight` must be float32 or float64"):
        hqq(np.array([[1, 2]]), bits=2)


def test_on_text_it_is_better_than_nearest_rounding_in_the_same_groups():
    """A19. 2 bits: 3.325 -> 3.012 bits per character."""
    assert text_bits(by_hqq, bits=2, size=32) < text_bits(nearest, bits=2, size=32) - 0.2


def test_a_number_has_no_groups():
    with pytest.raises(ValueError, match="`weight` must have an axis of groups"):
        hqq(np.float64(1), bits=4)


def test_codes_fit_into_int32_and_the_pull_does_not_relax():
    assert hqq(np.array([[0.0, 0.5, 1.0]]), bits=31).codes.max() == 2**31 - 1
    with pytest.raises(ValueError, match=r"^`bits` must be at most 31; got 32"):
        hqq(np.ones((1, 2)), bits=32)
    with pytest.raises(ValueError, match=r"^`growth` must be at least 1; got 0\.5"):
        hqq(np.ones((1, 2)), bits=4, growth=0.5)


def test_an_infinite_pull_shrinks_to_nothing():
    assert (shrink(np.ones(2), 5e-324, 0.5) == 0).all()
