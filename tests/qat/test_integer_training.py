"""WAGE: every number is an integer of few bits, and only directions survive."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.qat.integer_training import (
    divisor,
    initial_weight,
    integer_activation,
    integer_error,
    integer_update,
    integer_weight,
    integers,
    shift,
)
from refquant.rounding import stochastic

SEEDS = st.integers(0, 2**32 - 1)
BITS = st.integers(2, 12)


def is_integer_of(x, bits):
    units = np.asarray(x, np.float64) * 2 ** (bits - 1)
    return np.array_equal(units, np.rint(units)) and (np.abs(units) < 2 ** (bits - 1)).all()


@given(SEEDS, BITS)
def test_all_four_kinds_are_integers_of_their_bits(seed, bits):
    rng = np.random.default_rng(seed)
    x, g = rng.normal(size=(2, 30)) * 10.0 ** rng.integers(-6, 6)
    assert is_integer_of(integer_weight(x, bits=bits)[0], bits)
    assert is_integer_of(integer_activation(x, alpha=4.0, bits=bits)[0], bits)
    assert is_integer_of(integer_error(x, bits=bits)[1](g)[0], bits)
    stored = integers(bits).decode(integers(bits).encode(x))
    up = partial(stochastic, rng=rng)
    assert is_integer_of(integer_update(stored, g, rate=3.0, rounding=up, bits=bits), bits)


@given(SEEDS, BITS)
def test_rounding_is_the_formula_of_the_paper(seed, bits):
    x = np.random.default_rng(seed).normal(size=30)
    sigma = 2.0 ** (1 - bits)
    expected = np.clip(sigma * np.rint(x / sigma), -1 + sigma, 1 - sigma)
    assert np.array_equal(integer_weight(x, bits=bits)[0], expected)


@given(st.floats(1e-30, 1e30))
def test_shift_is_the_nearest_power_of_two_in_the_logarithm(x):
    s = shift(np.array(x))
    assert np.frexp(s)[0] == 0.5
    assert 2**-0.5 * (1 - 1e-12) <= x / s <= 2**0.5 * (1 + 1e-12)


def test_weights_begin_wide_enough_for_all_three_levels():
    w = initial_weight((200, 1024), rng=np.random.default_rng(0))
    assert w.dtype == np.float32
    assert is_integer_of(w, 8)
    share = np.mean(integer_weight(w)[0] == 0)
    assert abs(share - 1 / 3) < 0.01            # uniform to 0.75, zero up to 0.25 inclusive
    narrow = initial_weight((50, 4), rng=np.random.default_rng(0))
    assert np.abs(narrow).max() == 1 - 2.0**-7  # sqrt(6 / 4) is beyond the range


@pytest.mark.parametrize(("fan_in", "alpha"), [(1, 1), (10, 1), (21, 1), (22, 2), (90, 4),
                                               (4096, 16)])
def test_the_divisor_is_the_power_of_two_nearest_to_how_much_too_wide_they_are(fan_in, alpha):
    assert divisor(fan_in) == alpha


def test_an_activation_beyond_the_range_is_clipped_and_passes_nothing():
    end = 1 - 2.0**-7
    x = np.array([-2 * end, -2 * end - 0.1, 0.3, 2 * end])
    y, pullback = integer_activation(x, alpha=2.0)
    assert y.tolist() == [-end, -end, 0.1484375, end]
    assert pullback(np.ones(4))[0].tolist() == [0.5, 0, 0.5, 0.5]
    assert np.array_equal(integer_weight(x)[1](x)[0], x)


@given(SEEDS, st.integers(-40, 40))
def test_the_size_of_an_error_or_gradient_does_not_matter_if_it_is_a_power_of_two(seed, exponent):
    """So it does not matter either that the divisor is left out on the way back."""
    rng = np.random.default_rng(seed)
    g, factor = rng.normal(size=20), 2.0**exponent
    back = integer_error(g)[1]
    assert np.array_equal(back(factor * g)[0], back(g)[0])
    w = np.zeros(20)
    assert np.array_equal(integer_update(w, factor * g, rate=2.0), integer_update(w, g, rate=2.0))


def test_zeros_stay():
    zeros = np.zeros((2, 3), np.float32)
    assert (integer_error(zeros)[1](zeros)[0] == 0).all()
    w = np.full((2, 3), 0.5, np.float32)
    moved = integer_update(w, zeros, rate=8.0)
    assert moved.dtype == np.float32
    assert np.array_equal(moved, w)


def test_the_update_is_right_on_average():
    """E[dW] = sigma * rate * g / Shift(max |g|); 40,000 draws, standard error 1/400 unit."""
    g = np.repeat([1.0, -0.3, 0.01], 40_000)
    up = partial(stochastic, rng=np.random.default_rng(0))
    moved = integer_update(np.zeros_like(g), g, rate=1.7, rounding=up)
    means = -moved.reshape(3, -1).mean(1) * 128
    assert np.allclose(means, [1.7, -0.51, 0.017], atol=5 / 400)
    near = integer_update(np.zeros_like(g), g, rate=1.7)
    assert -near.reshape(3, -1).mean(1).round(9)[2] * 128 == 0      # lost without the draw


def test_the_update_moves_against_the_gradient_and_stops_at_the_ends():
    w = np.array([0.0, 0.9921875, -0.9921875])
    moved = integer_update(w, np.array([1.0, -1.0, 1.0]), rate=5.0)
    assert np.array_equal(moved, [-5 / 128, 0.9921875, -0.9921875])


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="`gradient` must be finite"):
        integer_update(np.zeros(1), np.array([np.nan]), rate=1.0)
    with pytest.raises(ValueError, match="`error` must be finite"):
        integer_error(np.zeros(1))[1](np.array([np.inf]))
    with pytest.raises(ValueError, match="`rate` must be positive"):
        integer_update(np.zeros(1), np.zeros(1), rate=0.0)
    with pytest.raises(ValueError, match="`bits` must be at least 2; got 1"):
        integers(1)
    with pytest.raises(ValueError, match="`fan_in` must be at least 1"):
        divisor(0)
    with pytest.raises(ValueError, match="`x` must be positive"):
        shift(np.array(0.0))
    with pytest.raises(ValueError, match="`alpha` must be positive"):
        integer_activation(np.zeros(1), alpha=0.0)


@pytest.mark.peer
def test_equals_the_formulas_written_with_autograd():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, g = rng.normal(size=(2, 60))
    t = torch.tensor(x, requires_grad=True)
    clipped = torch.clamp(t / 2, -1 + 2.0**-7, 1 - 2.0**-7)
    y = clipped + (torch.round(clipped * 128) / 128 - clipped).detach()
    y.backward(torch.tensor(g))
    ours, pullback = integer_activation(x, alpha=2.0)
    assert np.allclose(ours, y.detach().numpy(), rtol=1e-15)
    assert np.array_equal(pullback(g)[0], t.grad.numpy())
