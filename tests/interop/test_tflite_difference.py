"""Differences of engines, layer by layer: counted by brute force, predicted, worked out."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from _oracles.tflite_builder import Operator, Tensor, constant, model
from _oracles.tflite_cases import OPERATORS, cases

from refquant.integer.engines import ENGINES, LITERT_X86, TFLM, XNNPACK
from refquant.interop._tflite_operators import BUILDERS
from refquant.interop.tflite import read_tflite
from refquant.interop.tflite_difference import difference_report, explain_difference
from refquant.interop.tflite_program import prepare, run

DATA = Path(os.environ.get("REFQUANT_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
MODELS = sorted((DATA / "tflite").glob("*int8*.tflite"))


def convolution(multiplier: float, channels: int = 16, then_reshape: bool = False):
    """A 1x1 convolution with small weights whose outputs nothing clips."""
    rng = np.random.default_rng(0)
    s_x = np.float32(0.02)
    s_w = np.float32(multiplier * rng.uniform(0.86, 1.14, channels))
    tensors = [Tensor((1, 24, 24, 6), "int8", s_x, -3),
               constant(rng.integers(-3, 4, (channels, 1, 1, 6)), "int8", s_w),
               constant(rng.integers(-9, 9, channels), "int32", s_x * s_w),
               Tensor((1, 24, 24, channels), "int8", s_x, 5)]
    steps = [Operator("CONV_2D", [0, 1, 2], [3],
                      {"padding": 1, "stride_w": 1, "stride_h": 1})]
    if then_reshape:
        tensors += [constant([1, 576 * channels], "int32"),
                    Tensor((1, 576 * channels), "int8", s_x, 5)]
        steps.append(Operator("RESHAPE", [3, 4], [5]))
    content = model(tensors, steps, [0], [len(tensors) - 1])
    inputs = [[rng.integers(-40, 40, (1, 24, 24, 6)).astype(np.int8)] for _ in range(4)]
    return read_tflite(content), inputs


@pytest.mark.parametrize(("multiplier", "right"), [(0.3, 1), (0.2, 2), (0.1, 3), (0.04, 4)])
@pytest.mark.parametrize("second", [LITERT_X86, XNNPACK])
def test_the_predicted_count_is_the_measured_one(multiplier, right, second):
    """Small sums are no random ones: an eighth of the prediction, and five standard errors."""
    loaded, inputs = convolution(multiplier)
    (found,) = explain_difference(loaded, inputs, TFLM, second)
    assert found.elements == 4 * 576 * 16
    assert 0.5 < found.expected / (found.elements * 2.0 ** -(right + 1)) <= 1.1
    assert abs(found.apart - found.expected) < found.expected / 8 + 5 * np.sqrt(found.expected)
    assert found.largest == 1


@pytest.mark.parametrize("kind", [k for k in OPERATORS if k in BUILDERS])
def test_of_one_operator_the_counts_are_those_of_whole_runs(kind):
    case = cases(kind, OPERATORS[kind][1][0], 1, seed=5)[0]
    loaded = read_tflite(case.content)
    (found,) = explain_difference(loaded, case.runs, TFLM, XNNPACK)
    one, two = (prepare(loaded, e) for e in (TFLM, XNNPACK))
    outputs = [(run(one, x).outputs[0], run(two, x).outputs[0]) for x in case.runs]
    assert found.elements == sum(a.size for a, _ in outputs)
    assert found.apart == found.apart_in_all == sum(int((a != b).sum()) for a, b in outputs)
    assert bool(found.worked) == (found.apart > 0)


def test_a_difference_stays_where_it_is_made():
    loaded, inputs = convolution(0.2, then_reshape=True)
    first, second = explain_difference(loaded, inputs, TFLM, LITERT_X86)
    assert first.apart == first.apart_in_all == second.apart_in_all > 0
    assert (second.apart, second.expected, second.worked) == (0, 0.0, ())


def test_an_engine_does_not_differ_from_itself():
    loaded, inputs = convolution(0.2)
    for engine in ENGINES.values():
        (found,) = explain_difference(loaded, inputs, engine, engine)
        assert (found.apart, found.apart_in_all, found.expected) == (0, 0, 0)
        assert found.rules[0] == found.rules[1]


def test_the_worked_element_adds_up():
    """acc and M are those of the layer, and both results are the codes less the zero point."""
    loaded, inputs = convolution(0.2)
    (found,) = explain_difference(loaded, inputs, TFLM, XNNPACK)
    head, sums, *ways, last = found.worked
    a, b = (int(n) for n in re.findall(r"(-?\d+) on", head))
    place = tuple(int(n) for n in re.search(r"\((.*)\)", head)[1].split(","))
    codes = [run(prepare(loaded, e), inputs[0]).outputs[0] for e in (TFLM, XNNPACK)]
    assert (a, b) == tuple(int(c[place]) for c in codes)
    assert abs(a - b) == 1
    weight, bias, x = loaded.tensors[1].data, loaded.tensors[2].data, inputs[0][0].astype(int)
    acc = int(((x[place[:3]] + 3) * weight[place[3], 0, 0].astype(int)).sum()) + int(bias[place[3]])
    assert f"acc = {acc}," in sums
    assert [int(re.search(r"(-?\d+)$", way)[1]) for way in ways] == [a - 5, b - 5]
    assert last.startswith("then +5")


def test_the_report_names_layers_rules_and_rates():
    loaded, inputs = convolution(0.2, then_reshape=True)
    text = difference_report(explain_difference(loaded, inputs, TFLM, LITERT_X86), "tflm", "x86")
    lines = text.splitlines()
    assert lines[1].split()[:4] == ["no", "operator", "elements", "apart"]
    assert re.match(r"  0  CONV_2D +36864 +\d+ +\d+\.\d{3} % +\d+\.\d{3} % +\d+  DA +DU$", lines[2])
    assert "the same in all" in lines[3]
    assert "operator 0 (CONV_2D), the first element that differs:" in lines


@pytest.mark.skipif(not MODELS, reason="no models: set REFQUANT_DATA")
@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
@pytest.mark.parametrize("second", ["litert_x86", "xnnpack"])
def test_real_layers_part_as_often_as_predicted(path, second):
    loaded = read_tflite(path.read_bytes())
    rng = np.random.default_rng(0)
    shapes = [(loaded.tensors[i].shape, loaded.tensors[i].dtype) for i in loaded.inputs]
    inputs = [[rng.integers(-128, 128, s).astype(t) for s, t in shapes] for _ in range(4)]
    for found in explain_difference(loaded, inputs, TFLM, ENGINES[second]):
        assert found.largest <= 1
        if found.expected is not None:
            room = found.expected / 2 + 5 * np.sqrt(found.expected) + 3
            assert abs(found.apart - found.expected) < room, found
