"""What chips accept: the data, the check, and formats read off quantizers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.mixed_precision.targets import (
    OPERATIONS,
    Format,
    LayerFormat,
    Pair,
    Target,
    TensorRule,
    Violation,
    check,
    format_of,
    target,
    targets,
)
from refquant.quantizers.uniform import Uniform

ALL = sorted(targets())
NAMES = sorted({f for t in targets().values() for p in t.pairs
                for rule in (p.weight, p.activation) for f in rule.formats})
FORMATS = st.builds(Format, st.sampled_from(NAMES), st.booleans(), st.booleans(),
                    st.sampled_from([0, 32, 64, 128]), st.booleans(), st.booleans())
LAYERS = st.builds(LayerFormat, st.just("layer"), st.sampled_from(OPERATIONS), FORMATS, FORMATS)


def best(rule):
    """What a rule accepts."""
    return Format(rule.formats[0], block=rule.block[0] if rule.grouped else 0,
                  power_of_two=rule.power_of_two, narrow=rule.narrow)


@pytest.mark.parametrize("name", ALL)
def test_every_target_has_a_source_and_a_layer_that_it_accepts(name):
    chip = target(name)
    assert len(chip.source) > 20
    assert chip.title
    for pair in chip.pairs:
        layer = LayerFormat("x", pair.operations[0], best(pair.weight), best(pair.activation))
        assert check([layer], chip) == []


@given(LAYERS, st.sampled_from(ALL))
def test_a_layer_is_accepted_exactly_when_one_pair_has_nothing_against_it(layer, name):
    def fits(rule, found):
        return (found.name in rule.formats
                and (found.symmetric or not rule.symmetric)
                and (rule.per_channel or not found.per_channel)
                and (found.block in rule.block or (found.block == 0 and not rule.grouped))
                and (found.power_of_two or not rule.power_of_two)
                and (found.narrow or not rule.narrow or not found.name.startswith("int")))

    good = any(fits(p.weight, layer.weight) and fits(p.activation, layer.activation)
               and layer.operation in p.operations for p in target(name).pairs)
    assert (check([layer], target(name)) == []) == good


@given(st.lists(LAYERS, max_size=4), st.sampled_from(ALL))
def test_layers_are_judged_one_by_one(layers, name):
    chip = target(name)
    assert check(layers, chip) == [v for layer in layers for v in check([layer], chip)]


def test_the_nearest_pair_says_what_has_to_change():
    chip = Target("t", "t", (
        Pair(TensorRule(("int8",), True, False), TensorRule(("int8",), True, False), OPERATIONS),
        Pair(TensorRule(("int4",), True, True, block=(32,)), TensorRule(("int16",), False, False),
             ("linear",)),
    ), "made up")
    a = Format("int16", symmetric=False)
    layer = LayerFormat("c", "convolution", Format("int4", per_channel=True, block=64), a)
    assert check([layer], chip) == [
        Violation("c", "weight", "must have groups of 32; got groups of 64"),
        Violation("c", "operation", "must be linear; got convolution")]
    assert str(check([layer], chip)[1]) == "`c`: operation must be linear; got convolution"


PER_CHANNEL = Format("int8", per_channel=True, narrow=True)
ASYMMETRIC = Format("int8", symmetric=False)


@pytest.mark.parametrize(("name", "weight", "activation", "violations"), [
    ("cmsis-nn", PER_CHANNEL, ASYMMETRIC, []),
    ("cmsis-nn", PER_CHANNEL, Format("int16", symmetric=False),
     ["activation must be symmetric; got a zero point"]),
    ("cmsis-nn-q7", PER_CHANNEL._replace(power_of_two=True), Format("int8", power_of_two=True),
     ["weight must have one scale; got one per channel"]),
    ("gap8", Format("int4"), Format("uint8"), []),
    ("gap8", Format("int4"), ASYMMETRIC._replace(name="uint8"),
     ["activation must be symmetric; got a zero point"]),
    ("edge-tpu", PER_CHANNEL._replace(narrow=False), ASYMMETRIC,
     ["weight must not use its most negative code; got the full range"]),
    ("x86-avx2", PER_CHANNEL, ASYMMETRIC._replace(name="uint8"),
     ["weight must be int7; got int8"]),
    ("x86-vnni", PER_CHANNEL, ASYMMETRIC._replace(name="uint8"), []),
    ("turing", Format("int4"), Format("int8"), ["weight must be int8; got int4"]),
    ("hopper", Format("int4"), Format("int4"),
     ["weight must be int8; got int4", "activation must be int8; got int4"]),
    ("tensorrt", PER_CHANNEL, ASYMMETRIC, ["activation must be symmetric; got a zero point"]),
])
def test_what_catches_people_out(name, weight, activation, violations):
    layer = LayerFormat("x", "convolution", weight, activation)
    assert [f"{v.tensor} {v.rule}" for v in check([layer], target(name))] == violations


@pytest.mark.parametrize(("name", "weight", "activation", "violations"), [
    ("cmsis-nn", Format("int4", per_channel=True), ASYMMETRIC,
     ["weight must have one scale; got one per channel"]),
    ("cmsis-nn", PER_CHANNEL, Format("int16"), ["weight must have one scale; got one per channel"]),
    ("cmsis-nn", PER_CHANNEL, ASYMMETRIC, []),
    ("cmsis-nn", Format("int4"), ASYMMETRIC, []),
    ("tensorrt", Format("int4", per_channel=True, block=128), Format("float16"), []),
    ("tensorrt", Format("int4", per_channel=True), Format("float16"),
     ["weight must have groups of 64 or 128; got none"]),
    ("tensorrt", Format("int4", per_channel=True, block=32), Format("float16"),
     ["weight must have groups of 64 or 128; got groups of 32"]),
])
def test_linear_layers_have_rules_of_their_own(name, weight, activation, violations):
    layer = LayerFormat("x", "linear", weight, activation)
    assert [f"{v.tensor} {v.rule}" for v in check([layer], target(name))] == violations


BITS = st.integers(1, 16)


@given(BITS, st.booleans(), st.integers(-3, 3), st.booleans())
def test_a_format_is_read_off_a_quantizer(bits, signed, power, channels):
    if signed and bits == 1:
        return
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    scale = np.full((3, 1) if channels else (1, 1), 2.0**power)
    q = Uniform(scale, np.zeros(scale.shape, int), low, high)
    found = format_of(q, (3, 5))
    assert found == Format(f"{'int' if signed else 'uint'}{bits}", True, channels, 0, True, False)
    assert not format_of(Uniform(scale * 1.1, q.zero_point, low, high), (3, 5)).power_of_two
    assert not format_of(Uniform(scale, q.zero_point + high, low, high), (3, 5)).symmetric
    if signed and bits > 2:
        assert format_of(Uniform(scale, q.zero_point, low + 1, high), (3, 5)).narrow


def test_groups_are_read_off_the_shape_of_the_scale():
    q = Uniform(np.ones((4, 3, 1)), np.zeros((4, 3, 1), int), -8, 7)
    assert format_of(q, (4, 3, 32)) == Format("int4", per_channel=True, block=32, power_of_two=True)
    assert format_of(Uniform(np.ones((1, 7)), np.zeros((1, 7), int), 0, 3), (5, 7),
                     channel=None).block == 1


@pytest.mark.parametrize(("call", "message"), [
    (lambda: target("tpu9"), r"`name` must be one of cmsis-nn, .*; got tpu9"),
    (lambda: check([LayerFormat("x", "add", PER_CHANNEL, ASYMMETRIC)], target("gap8")),
     "`operation` must be one of convolution, depthwise, linear; got add"),
    (lambda: format_of(Uniform(np.ones(3), np.zeros(3, int), 0, 3), (4, 5)),
     r"`quantizer.scale` must broadcast to the data of shape \(4, 5\)"),
    (lambda: format_of(Uniform(np.ones((2, 3, 4)), np.zeros((2, 3, 4), int), 0, 3), (2, 3, 4)),
     "`quantizer` must have scales along the channel and one more axis"),
])
def test_wrong_values_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
