"""A real network against real targets: every violation planted is named, and no other."""

import numpy as np
import pytest

from refquant.apply.simulate import input_names, weight_names
from refquant.apply.targets import layer_formats
from refquant.mixed_precision.targets import check, target
from refquant.nn.models import trained_digits_cnn
from refquant.quantizers.codebook import nearest
from refquant.quantizers.uniform import Uniform

MODEL = trained_digits_cnn()


def plan(bits=8, low=-127, signed_inputs=True):
    made = {}
    for name in weight_names(MODEL.nodes):
        w = MODEL.parameters[name]
        scale = np.abs(w).max(axis=(1, 2, 3) if w.ndim == 4 else 1, keepdims=True) / 127
        made[name] = Uniform(scale, np.zeros(scale.shape, int), low, 127)
    for name in input_names(MODEL.nodes):
        ends = (-128, 127) if signed_inputs else (0, 255)
        made[name] = Uniform(np.array(0.02), np.array(ends[0]), *ends)
    return made


def test_a_plan_for_tflite_runs_on_cmsis_nn_and_the_edge_tpu_and_not_on_tensorrt():
    formats = layer_formats(MODEL.nodes, MODEL.parameters, plan())
    assert [f.name for f in formats] == weight_names(MODEL.nodes)
    assert {f.operation for f in formats} == {"convolution", "depthwise", "linear"}
    assert check(formats, target("cmsis-nn")) == check(formats, target("edge-tpu")) == []
    found = check(formats, target("tensorrt"))
    assert {v.rule for v in found} == {"must be symmetric; got a zero point"}
    assert len(found) == len(formats)


def test_one_planted_violation_is_found_alone():
    bad = plan()
    q = bad["r2a.weight"]
    bad["r2a.weight"] = Uniform(q.scale, q.zero_point, -128, 127)
    found = check(layer_formats(MODEL.nodes, MODEL.parameters, bad), target("edge-tpu"))
    assert [v.layer for v in found] == ["r2a.weight"]


def test_what_is_not_planned_is_float():
    short = plan()
    del short["fc.weight"]
    found = check(layer_formats(MODEL.nodes, MODEL.parameters, short), target("cmsis-nn"))
    assert [str(v) for v in found] == ["`fc.weight`: weight must be int8; got float32"]


def test_codebooks_are_refused():
    made = plan() | {"fc.weight": nearest(np.array([-1.0, 0.0, 1.0]))}
    message = r"`plan` must hold `Uniform` for `fc.weight`; got Codebook"
    with pytest.raises(TypeError, match=message):
        layer_formats(MODEL.nodes, MODEL.parameters, made)
