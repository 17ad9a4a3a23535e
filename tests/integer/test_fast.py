"""Requantization in floats against the rules in integers, next to every kind of tie."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.integer import _fast
from refquant.integer.convolution import convolution, fully_connected, same
from refquant.integer.layers import Limits, Rescaled
from refquant.integer.requantize import (
    double_away,
    double_up,
    in_float32,
    in_float64,
    lanes,
    single_up,
)
from refquant.quantizers.uniform import Uniform

FAST = [double_away, double_up, single_up, in_float32, lanes(double_up, double_away, width=4)]
BOUND = 2**22


def layer(rule, real, zero=3):
    wide = Uniform(np.array(1.0), np.array(zero), -(2**31), 2**31 - 1)
    return Rescaled(lambda x: x, real, rule, wide, Limits(-(2**31), 2**31 - 1))


def near_ties(real: float, seed: int) -> np.ndarray:
    """Sums whose product lies beside a half, random ones, and the ends."""
    rng = np.random.default_rng(seed)
    halves = rng.integers(-40, 40, 300) + 0.5
    beside = np.rint(halves / real)[:, None] + np.arange(-2, 3)
    sums = [beside.ravel(), rng.integers(-BOUND, BOUND, 500), [0, 1, -1, BOUND - 1, 1 - BOUND]]
    sums = np.concatenate(sums)
    return sums[np.abs(sums) < BOUND].astype(np.int64)


@pytest.mark.parametrize("rule", FAST)
@pytest.mark.parametrize("right", range(21))
def test_floats_give_the_codes_of_the_rule(rule, right):
    """Powers of two, where every second sum can be a tie, and any other multiplier."""
    for real in (0.5 * 2.0**-right, 0.75 * 2.0**-right, 0.7310585786300049 * 2.0**-right):
        sums = near_ties(real, right)
        sums = np.repeat(sums[:, None], 7, axis=1)
        bias = np.arange(-3, 4) * 5
        one = layer(rule, np.full(7, real))
        finish = _fast._finish(one, bias, BOUND)
        inner = (sums - bias)[np.abs(sums - bias).max(axis=1) < BOUND - 20]
        expected = one.finish(inner + bias)
        assert (finish(inner.astype(np.float64)) == expected).all()
        if np.abs(inner).max() < 2**24:
            assert (finish(inner.astype(np.float32)) == expected).all()


def test_all_sums_of_a_small_layer():
    """Every int20 sum, for each rule and a few multipliers: no sample could miss one."""
    sums = np.arange(-(2**19), 2**19)[:, None]
    for rule in FAST:
        for real in (0.25, 2.0**-9, 0.0013, 0.9999999):
            one = layer(rule, np.full(1, real))
            found = _fast._finish(one, np.zeros(1, int), BOUND)(sums.astype(np.float32))
            assert (found == one.finish(sums)).all()


@given(st.floats(1, 100), st.integers(0, 2**32 - 1))
def test_multipliers_above_one_take_the_rule_itself(real, seed):
    one = layer(double_away, np.full(3, real))
    sums = np.random.default_rng(seed).integers(-(2**20), 2**20, (5, 3))
    assert (_fast._finish(one, np.zeros(3, int), BOUND)(sums.astype(float))
            == one.finish(sums)).all()


def quantizer(scale, zero=0):
    scale = np.asarray(scale)
    return Uniform(scale, np.full(scale.shape, zero), -128, 127)


@pytest.mark.parametrize("rule", [in_float32, in_float64])
def test_sums_that_no_float32_holds_are_whole_all_the_same(rule):
    """Odd weights and large sums, every bit of which stands in the output."""
    rng = np.random.default_rng(0)
    wide = Uniform(np.array(1.0), np.array(0), -(2**31), 2**31 - 1)
    weight = rng.integers(50, 64, (8, 3000)) * 2 + 1
    one = fully_connected(weight, rng.integers(-(2**20), 2**20, 8), quantizer(1.0), quantizer(1.0),
                          wide, rule=rule)
    codes = rng.integers(20, 128, (500, 3000))
    sums = one.accumulate(codes)
    assert sums.min() > 2**24
    assert (one(codes) == rule(sums, 1.0)).all()


def test_results_are_not_memory_of_the_next_call():
    rng = np.random.default_rng(0)
    one = convolution(rng.integers(-9, 9, (4, 3, 3, 2)), None, quantizer(0.1), quantizer(0.1),
                      quantizer(0.2), same((8, 8), (3, 3)))
    x = rng.integers(-128, 128, (2, 1, 8, 8, 2))
    first = one(x[0])
    kept = first.copy()
    assert (one(x[1]) != kept).any()
    assert (first == kept).all()


def test_threads_do_not_share_memory():
    rng = np.random.default_rng(0)
    one = fully_connected(rng.integers(-9, 9, (64, 256)), None, quantizer(0.1), quantizer(0.01),
                          quantizer(0.2))
    inputs = rng.integers(-128, 128, (2, 8, 256))
    expected = [one.finish(one.accumulate(x)) for x in inputs]
    wrong = []

    def work(k):
        wrong.extend(k for _ in range(200) if (one(inputs[k]) != expected[k]).any())

    threads = [threading.Thread(target=work, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_codes_outside_the_quantizer_are_refused():
    q = quantizer(0.1)
    one = fully_connected(np.ones((1, 2), int), None, q, q, quantizer(1.0))
    with pytest.raises(ValueError, match=r"`codes` must lie in \[-128, 127\]; got 200"):
        one(np.array([[0, 200]]))
