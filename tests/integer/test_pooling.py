"""Pools and means against Python integers and fractions."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refquant.integer.convolution import Window, same, valid
from refquant.integer.layers import RELU
from refquant.integer.pooling import (
    average_pool,
    max_pool,
    mean,
    mean_in_float32,
    mean_over_space,
)
from refquant.integer.requantize import in_float32
from refquant.quantizers.uniform import Uniform


def q(scale=0.5, zero=0):
    return Uniform(np.array(scale, np.float32), np.array(zero), -128, 127)


@pytest.mark.parametrize(("total", "count", "expected"), [
    (6, 4, 2), (-6, 4, -2), (-7, 4, -2), (7, 4, 2), (2, 4, 1), (-2, 4, -1), (4, 3, 1), (5, 3, 2),
])
def test_averages_of_the_specification(total, count, expected):
    x = np.zeros((1, 1, count, 1), int)
    x[0, 0, 0] = total
    assert average_pool(x, (1, count), Window(), q()).item() == expected


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 3), st.integers(1, 3),
       st.integers(1, 3), st.booleans(), st.integers(0, 2**32 - 1))
def test_pools_see_only_the_image(height, width, kh, kw, stride, inside, seed):
    if inside and (kh > height or kw > width):
        return
    place = valid if inside else same
    window = place((height, width), (kh, kw), (stride, stride))
    x = np.random.default_rng(seed).integers(-128, 128, (1, height, width, 2))
    average = average_pool(x, (kh, kw), window, q(), activation=RELU)
    largest = max_pool(x, (kh, kw), window, q())
    (above, _), (left, _) = window.padding
    for i, j in np.ndindex(average.shape[1:3]):
        top, side = i * stride - above, j * stride - left
        seen = x[0, max(top, 0) : top + kh, max(side, 0) : side + kw].reshape(-1, 2)
        assert (largest[0, i, j] == seen.max(axis=0)).all()
        for c in range(2):
            exact = Fraction(int(seen[:, c].sum()), len(seen))
            whole = int(abs(exact) + Fraction(1, 2)) * (1 if exact >= 0 else -1)
            assert average[0, i, j, c] == max(whole, 0)


def test_mean_of_the_specification_rounds_twice():
    codes = np.full((1, 49), 25)
    codes[0, 0] = 34
    assert mean(codes, (1,), q(0.05), q(0.04)).item() == 32          # exactly 31.48


def test_the_zero_points_decide_near_a_half_in_float32():
    """As XNNPACK gives them; exactly -99.4999956 and -95.4999952."""
    sums = [(84, 49, 0.02374685, 0.00904641, -97, -104, -100),
            (-432, 8, 0.75, 1.0000001, 37, -55, -96)]
    for total, count, s, t, zx, zy, code in sums:
        codes = np.full((1, count), total // count + zx)
        codes[0, : total % count] += 1
        assert mean_in_float32(codes, (1,), q(s, zx), q(t, zy)).item() == code


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.02, 0.2), st.floats(0.02, 0.2))
def test_all_means_lie_within_a_code_and_a_half(seed, s, t):
    rng = np.random.default_rng(seed)
    x, y = q(s, int(rng.integers(-128, 128))), q(t, int(rng.integers(-128, 128)))
    codes = rng.integers(-128, 128, (2, 5, 3, 4))
    real = ((codes - x.zero_point) * float(x.scale)).mean(axis=(1, 2), keepdims=True)
    real = np.clip(real / float(y.scale) + y.zero_point, -128, 127)
    ways = [mean(codes, (1, 2), x, y), mean(codes, (1, 2), x, y, rule=in_float32),
            mean_over_space(codes, x, y), mean_in_float32(codes, (1, 2), x, y)]
    for way in ways:
        assert way.shape == (2, 1, 1, 4)
        assert np.abs(way - real).max() < 1.5


@pytest.mark.parametrize(("call", "message"), [
    (lambda: max_pool(np.zeros((1, 2, 2, 1), int), (3, 3), Window(), q()), "`kernel` must fit"),
    (lambda: max_pool(np.zeros((2, 2), int), (1, 1), Window(), q()), "`x` must have four axes"),
    (lambda: average_pool(np.zeros((1, 2, 2, 1), int), (1, 1), Window(padding=((1, 1), (0, 0))),
                          q()), "`window` must meet the image everywhere"),
])
def test_windows_that_do_not_fit_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
