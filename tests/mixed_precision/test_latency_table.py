"""A table of times: sums, what it refuses, and files that are wrong."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.mixed_precision.integer_program import Budget, allocate
from refquant.mixed_precision.latency_table import LatencyTable, Shape, from_json, to_json

SIZES = st.integers(1, 10**6)
SHAPES = st.builds(Shape, SIZES, SIZES, SIZES, st.booleans())
TABLES = st.builds(
    LatencyTable,
    st.dictionaries(st.tuples(SHAPES, st.integers(1, 32), st.integers(1, 32)),
                    st.floats(1e-9, 1e3), max_size=8),
    st.text(max_size=20))


@given(TABLES)
def test_a_table_survives_its_file_and_the_file_is_a_function_of_the_table(table):
    text = to_json(table)
    assert from_json(text) == table
    backwards = dict(reversed(list(table.seconds.items())))
    assert to_json(LatencyTable(backwards, table.machine)) == text


@given(TABLES)
def test_a_total_is_the_sum_of_its_layers_whatever_their_order(table):
    keys = list(table.seconds)
    if not keys:
        return
    shapes, weights, activations = (list(x) for x in zip(*keys, strict=True))
    total = table.total(shapes, weights, activations)
    assert total == math.fsum(table.seconds.values())
    assert total == table.total(shapes[::-1], weights[::-1], activations[::-1])


def test_costs_are_infinite_where_nothing_was_measured():
    a, b = Shape(1, 2, 3), Shape(4, 5, 6)
    table = LatencyTable({(a, 8, 8): 1.0, (a, 4, 8): 0.5, (b, 8, 8): 2.0}, "m")
    costs = table.costs([a, b], [(4, 8), (8, 8)])
    assert np.array_equal(costs, [[0.5, 1.0], [np.inf, 2.0]])


def test_an_allocation_never_chooses_what_has_no_kernel():
    a, b = Shape(1, 2, 3), Shape(4, 5, 6)
    table = LatencyTable({(a, 8, 8): 1.0, (a, 4, 8): 0.5, (b, 8, 8): 2.0}, "m")
    costs = table.costs([a, b], [(4, 8), (8, 8)], missing=100.0)
    loss = np.array([[1.0, 0.5], [0.0, 3.0]])       # the missing one would lose the least
    found = allocate(loss, [Budget("seconds", costs, 2.6)])
    assert found.choice.tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"the least possible is 2\.5"):
        allocate(loss, [Budget("seconds", costs, 2.4)])


def test_what_was_not_measured_is_refused_and_not_interpolated():
    a = Shape(1, 2, 3)
    table = LatencyTable({(a, 4, 8): 1.0, (a, 8, 8): 2.0}, "m")
    with pytest.raises(ValueError, match=r"at W6A8; got .*measured at W4A8, W8A8"):
        table.of(a, 6, 8)
    with pytest.raises(ValueError, match="not measured at all"):
        table.of(a._replace(depthwise=True), 8, 8)
    with pytest.raises(ValueError, match="shorter"):
        table.total([a, a], [8], [8])


GOOD = {"rows": 1, "inputs": 2, "outputs": 3, "depthwise": False, "weight_bits": 8,
        "activation_bits": 8, "seconds": 1.0}


@pytest.mark.parametrize(("text", "message"), [
    ("", "must be JSON"),
    ("[" * 100_000, "must be JSON"),
    ("[]", "must hold `machine` and `entries`"),
    ('{"machine": 1, "entries": []}', "must hold"),
    ('{"machine": "m", "entries": [1]}', "must have exactly the fields"),
    (json.dumps({"machine": "m", "entries": [GOOD | {"rows": 0}]}), "`rows` must be positive"),
    (json.dumps({"machine": "m", "entries": [GOOD | {"rows": True}]}), "`rows` must be positive"),
    (json.dumps({"machine": "m", "entries": [GOOD | {"depthwise": 1}]}),
     "`depthwise` must be true or false; got 1"),
    (json.dumps({"machine": "m", "entries": [GOOD | {"seconds": float("inf")}]}),
     "`seconds` must be positive; got inf"),
    (json.dumps({"machine": "m", "entries": [GOOD | {"seconds": float("nan")}]}),
     "`seconds` must be positive; got nan"),
    (json.dumps({"machine": "m", "entries": [GOOD | {"more": 1}]}), "exactly the fields"),
])
def test_a_file_that_is_no_table_is_refused_in_one_line(text, message):
    with pytest.raises(ValueError, match=message):
        from_json(text)
