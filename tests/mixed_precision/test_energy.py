"""Energy of operations: the published table, and interpolation that agrees with it."""

import pytest

from refquant.mixed_precision.energy import (
    ADD,
    AREA_ADD,
    AREA_MULTIPLY,
    MEMORY,
    MULTIPLY,
    access_energy,
    add_energy,
    mac_energy,
    multiply_energy,
)


def test_the_interpolation_meets_the_published_figures():
    assert add_energy(8) == ADD["int8"]
    assert multiply_energy(8) == MULTIPLY["int8"]
    assert abs(multiply_energy(32) / MULTIPLY["int32"] - 1) < 0.05
    assert abs(add_energy(32) / ADD["int32"] - 1) <= 0.2 + 1e-12


def test_a_multiplier_grows_with_the_product_of_its_widths():
    for b in (1, 2, 4, 8):
        assert multiply_energy(2 * b) == pytest.approx(4 * multiply_energy(b), rel=1e-15)
        assert multiply_energy(b, 8) == multiply_energy(8, b)
        assert add_energy(2 * b) == pytest.approx(2 * add_energy(b), rel=1e-15)
    assert mac_energy(4, 8, accumulator_bits=16) == multiply_energy(4, 8) + add_energy(16)


def test_energy_and_area_order_the_arithmetics_alike():
    for energy, area in ((ADD, AREA_ADD), (MULTIPLY, AREA_MULTIPLY)):
        assert energy["int8"] < energy["float16"] < energy["float32"]
        assert area["int8"] < area["float16"] < area["float32"]
    assert round(ADD["float32"] / ADD["int8"], 9) == 30


def test_memory_is_stated_per_64_bits_and_the_copied_row_is_per_32():
    assert access_energy(64, MEMORY["cache 8 KB"]) == 10
    assert access_energy(32, MEMORY["cache 8 KB"]) == 5
    assert access_energy(32, MEMORY["dram"]) == 975    # "640" is the least, halved
    assert access_energy(0, MEMORY["dram"]) == 0
    small, middle, large, dram = MEMORY.values()
    assert small.most < middle.least < large.least < dram.least


@pytest.mark.parametrize(("call", "message"), [
    (lambda: add_energy(0), "`bits` must be at least 1; got 0"),
    (lambda: multiply_energy(4, 0), "`other_bits` must be at least 1; got 0"),
    (lambda: mac_energy(4, 4, accumulator_bits=0), "`accumulator_bits` must be at least 1"),
    (lambda: access_energy(-1, MEMORY["dram"]), "`bits` must be at least 0; got -1"),
    (lambda: access_energy(float("nan"), MEMORY["dram"]), "`bits` must be at least 0; got nan"),
])
def test_wrong_values_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
