"""Costs of layers: sums, exact against fractions, and what is refused."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.mixed_precision.cost_model import (
    LayerCost,
    bit_operations,
    cost_table,
    memory_traffic,
    model_size,
)

COUNTS = st.integers(0, 10**6)
LAYERS = st.lists(st.builds(LayerCost, st.just("x"), COUNTS, COUNTS, COUNTS, COUNTS, COUNTS),
                  min_size=1, max_size=6)
BITS = st.sampled_from([0, 1, 1.5, 2, 3, 4, 5, 8, 16, 32])


@given(LAYERS, st.data())
def test_the_sums_are_exact(layers, data):
    w, a = (data.draw(st.lists(BITS, min_size=len(layers), max_size=len(layers))) for _ in "wa")
    scale_bits, batch = data.draw(st.integers(0, 64)), data.draw(st.integers(1, 100))
    f = Fraction
    rows = list(zip(layers, map(f, w), map(f, a), strict=True))
    size = sum(x.weights * b + x.channels * scale_bits for x, b, _ in rows) / f(8)
    operations = sum(x.macs * b * c for x, b, c in rows)
    moved = sum(x.weights * b + batch * (x.inputs + x.outputs) * c for x, b, c in rows) / f(8)
    assert model_size(layers, w, scale_bits=scale_bits) == size
    assert bit_operations(layers, w, a) == operations
    assert memory_traffic(layers, w, a, batch=batch) == moved


@given(LAYERS, st.lists(BITS, min_size=1, max_size=4), st.data())
def test_the_cost_of_a_choice_is_the_sum_of_its_entries_in_the_table(layers, choices, data):
    chosen = [data.draw(st.integers(0, len(choices) - 1)) for _ in layers]
    table = cost_table(model_size, layers, choices)
    assert table.shape == (len(layers), len(choices))
    bits = [choices[k] for k in chosen]
    assert table[np.arange(len(layers)), chosen].sum() == model_size(layers, bits)


def test_one_width_means_all_layers():
    layers = [LayerCost("a", 10, 20), LayerCost("b", 30, 40)]
    assert model_size(layers, 4) == model_size(layers, [4, 4]) == 20
    assert bit_operations(layers, 4, 8) == 60 * 32
    # size and operations of published ResNet-18 figures are in test_integer_program


@pytest.mark.parametrize(("call", "message"), [
    (lambda x: model_size(x, [4, 4]), r"`bits` must have shape \(1,\) or \(\); got \(2,\)"),
    (lambda x: model_size(x, -1), "`bits` must be finite and at least 0; got -1"),
    (lambda x: model_size(x, [np.nan]), "`bits` must be finite and at least 0; got nan"),
    (lambda x: bit_operations(x, 4, [np.inf]), "`activation_bits` must be finite"),
    (lambda x: memory_traffic(x, 4, 4, batch=0), "`batch` must be at least 1; got 0"),
    (lambda x: model_size(x, 4, scale_bits=-1), "`scale_bits` must be at least 0; got -1"),
    (lambda x: cost_table(model_size, [], [2]), "`layers` must not be empty"),
    (lambda x: cost_table(model_size, x, []), "`choices` must not be empty"),
])
def test_wrong_values_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call([LayerCost("a", 10, 20)])


def test_bits_that_are_no_numbers_are_refused():
    with pytest.raises(TypeError, match="`bits` must be a real number; got 'four'"):
        model_size([LayerCost("a", 1, 1)], "four")
    with pytest.raises(TypeError, match="`bits` must be real numbers; got bool"):
        model_size([LayerCost("a", 1, 1)], [True])
