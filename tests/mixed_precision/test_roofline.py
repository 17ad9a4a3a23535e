"""The roofline: two lines that meet at the ridge."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.mixed_precision.roofline import Machine, attainable, layer_time, ridge

POWERS = st.integers(-20, 40).map(lambda k: 2.0**k)         # so that quotients are exact
MACHINES = st.builds(Machine, POWERS, POWERS)


@given(MACHINES)
def test_the_two_lines_meet_at_the_ridge(machine):
    at = ridge(machine)
    assert attainable(at, machine) == machine.peak == machine.bandwidth * at
    assert attainable(at / 2, machine) == machine.peak / 2
    assert attainable(2 * at, machine) == machine.peak
    assert attainable(0, machine) == 0


@given(MACHINES, POWERS, POWERS)
def test_the_time_is_the_work_over_what_is_attainable(machine, macs, moved):
    operations = 2 * macs
    expected = operations / attainable(operations / moved, machine)
    assert layer_time(macs, moved, machine) == expected


@given(MACHINES, POWERS, POWERS)
def test_fewer_bytes_help_exactly_left_of_the_ridge(machine, macs, moved):
    faster = layer_time(macs, moved / 2, machine) < layer_time(macs, moved, machine)
    assert faster == (2 * macs / moved < ridge(machine))


@pytest.mark.parametrize(("call", "message"), [
    (lambda: ridge(Machine(0, 1)), "`peak` must be positive and finite; got 0"),
    (lambda: ridge(Machine(1, float("inf"))), "`bandwidth` must be positive and finite; got inf"),
    (lambda: attainable(-1, Machine(1, 1)), "`intensity` must be at least 0; got -1"),
    (lambda: layer_time(float("nan"), 1, Machine(1, 1)), "`macs` must be at least 0; got nan"),
    (lambda: layer_time(1, -2, Machine(1, 1)), "`moved` must be at least 0; got -2"),
])
def test_wrong_values_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
