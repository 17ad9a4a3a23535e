"""Limits of fused activations, and the one sentence of a layer."""

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from refquant.integer.layers import (
    NONE,
    RELU,
    RELU6,
    RELU_N1_TO_1,
    Limits,
    Rescaled,
    clamp,
    limits,
)
from refquant.integer.requantize import double_away, single_up
from refquant.quantizers.uniform import Uniform


def quantizer(scale: float, zero: int) -> Uniform:
    return Uniform(np.array(scale), np.array(zero), -128, 127)


@given(st.floats(0.001, 100), st.integers(-128, 127))
def test_limits_are_the_nearest_codes_of_the_ends(scale, zero):
    q = quantizer(scale, zero)
    assert limits(NONE, q) == (-128, 127)
    assert limits(RELU, q) == (zero, 127)
    for activation in (RELU6, RELU_N1_TO_1):
        low, high = limits(activation, q)
        for end, code in zip(activation, (low, high), strict=True):
            if -128 < code < 127:
                quotient = Fraction(float(np.float32(end) / np.float32(scale)))
                assert abs(code - zero - quotient) <= Fraction(1, 2)


def test_published_limit_of_relu6():
    assert limits(RELU6, quantizer(0.0235294, -128)).high == 127


def test_clamp_holds_both_ends():
    assert clamp(np.array([-9, -2, 3, 9]), -2, 3).tolist() == [-2, -2, 3, 3]


def test_a_layer_is_sums_rule_zero_point_and_limits():
    q = quantizer(1.0, 10)
    layer = Rescaled(lambda x: x - 3, np.array(0.25), double_away, q, Limits(9, 12))
    sums = layer.accumulate(np.array([4, 8, 9, 100]))
    assert layer.finish(sums).tolist() == [11, 12, 12, 12]
    assert (layer(np.array([4, 8, 9, 100])) == layer.finish(sums)).all()
    other = Rescaled(lambda x: x - 3, np.array(0.25), single_up, q, Limits(9, 12))
    assert other(np.array([4, 8, 9, 100])).tolist() == [10, 11, 12, 12]


def test_a_fast_way_is_taken_where_there_is_one():
    q = quantizer(1.0, 0)
    layer = Rescaled(lambda x: x, np.array(1.0), double_away, q, Limits(-128, 127), lambda x: x + 1)
    assert layer(np.array([1])) == 2
