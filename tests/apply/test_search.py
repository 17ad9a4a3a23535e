"""What searches ask of a network, and the supernet that trains all widths at once."""

import os
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
from _oracles.derivatives import assert_pullback

from refquant.apply.search import (
    alternating,
    judge,
    layer_shapes,
    negative_loss,
    noisy,
    supernet,
    supernet_logits,
    weight_costs,
    weight_versions,
)
from refquant.apply.simulate import static, weight_names
from refquant.apply.train import resume, shuffled, start, train
from refquant.mixed_precision.differentiable import annealed, cost_product, cost_sum
from refquant.mixed_precision.environment import additive_cost
from refquant.nn.data import digits
from refquant.nn.models import digits_cnn, predict
from refquant.nn.network import backward, run
from refquant.nn.optimizers import adam, adam_start
from refquant.nn.replicas import replica
from refquant.quantizers.uniform import symmetric

CHOICES = np.array([2, 4, 8], np.int32)
MODEL, DATA = replica(0), digits(seed=0)
NAMES = weight_names(MODEL.nodes)
COSTS = weight_costs(MODEL.parameters, NAMES, CHOICES)


def fit(weight, bits):
    return symmetric(np.abs(weight).max(), bits=bits)


VERSIONS = weight_versions(MODEL.parameters, NAMES, CHOICES, fit)
QUANTIZERS = {n: [fit(MODEL.parameters[n], int(b)) for b in CHOICES] for n in NAMES}


def test_a_policy_is_judged_by_the_network_that_simulates_it():
    x, labels = DATA.x_train[:64], DATA.y_train[:64]
    reward = judge(MODEL, VERSIONS, CHOICES, x, partial(negative_loss, labels=labels))
    rng = np.random.default_rng(0)
    for _ in range(3):
        bits = CHOICES[rng.integers(3, size=10)]
        plan = {n: fit(MODEL.parameters[n], int(b)) for n, b in zip(NAMES, bits, strict=True)}
        logits = predict(MODEL, x, tap=static(plan)).astype(np.float64)
        likely = logits[np.arange(64), labels] - np.log(np.exp(logits).sum(1))
        assert reward(bits) == pytest.approx(likely.mean(), rel=1e-6)
    with pytest.raises(ValueError, match="zip"):
        reward(bits[:3])


def test_costs_are_the_bits_of_the_codes():
    cost = additive_cost(CHOICES, COSTS)
    weights = sum(MODEL.parameters[n].size for n in NAMES)
    assert weights == 26816
    for bits in (2, 4, 8):
        assert cost(np.full(10, bits)) == bits * weights


def test_shapes_are_those_of_the_layers():
    shapes = layer_shapes(MODEL.nodes, {"x": DATA.x_test[:1], **MODEL.values})
    by_name = dict(zip(NAMES, shapes, strict=True))
    assert by_name["stem.weight"] == (False, 1, 16, 1, 3, 144, 64)
    assert by_name["dw2.weight"] == (True, 32, 32, 2, 3, 288, 16)
    assert by_name["pw2.weight"] == (False, 32, 64, 1, 1, 2048, 4)
    assert by_name["fc.weight"] == (False, 64, 10, 0, 1, 640, 1)


def supernet_of(objective):
    per_weight = COSTS / 26816
    return supernet(digits_cnn(training=True), QUANTIZERS, per_weight, objective)


def inputs_of(nodes, step=0, n=16):
    rng = np.random.default_rng(0)
    data = shuffled({"x": DATA.x_train[:n], "labels": DATA.y_train[:n]}, n, rng=rng)
    batch = noisy(data, data, NAMES, CHOICES, lambda step: 0.7, rng=rng)
    return {**batch(step), **MODEL.parameters, **supernet_logits(NAMES, CHOICES),
            **MODEL.statistics}


def test_a_supernet_at_a_corner_is_the_network_of_that_policy():
    nodes = supernet_of(partial(cost_sum, weight=0.5))
    values = inputs_of(nodes)
    bits = np.array([2, 4, 8, 2, 4, 8, 2, 4, 8, 8])
    for name, b in zip(NAMES, bits, strict=True):
        layer = name.removesuffix("weight")
        values[f"{layer}logits"] = np.where(b == CHOICES, 200, 0).astype(np.float32)
    seen = run(nodes, values).values
    plan = {n: fit(MODEL.parameters[n], int(b)) for n, b in zip(NAMES, bits, strict=True)}
    plain = run(digits_cnn(training=True), {"x": values["x"], **MODEL.values}, tap=static(plan))
    assert np.allclose(seen["logits"], plain.values["logits"], atol=1e-5)
    cost = additive_cost(CHOICES, COSTS)(bits) / 26816
    assert float(seen["cost"]) == pytest.approx(cost, rel=1e-5)
    assert float(seen["loss"]) == pytest.approx(float(seen["task"]) + 0.5 * cost, rel=1e-5)
    assert [n.name for n in nodes[-3:]] == ["task", "cost", "loss"]


@pytest.mark.parametrize("objective", [partial(cost_sum, weight=0.3), cost_product])
def test_gradients_of_the_logits_agree_with_finite_differences(objective):
    """In float64, through all layers: mixtures are smooth in the logits."""
    nodes = supernet_of(objective)
    values = {n: v.astype(np.float64) if v.dtype.kind == "f" else v
              for n, v in inputs_of(nodes).items()}

    def loss(logits):
        trace = run(nodes, {**values, "r1a.logits": logits})
        return trace.values["loss"], lambda g: (backward(trace, {"loss": g})["r1a.logits"],)

    assert_pullback(loss, [np.array([0.3, -0.2, 0.1])], tolerance=1e-6)


def small_run(steps, *, state=None, checkpoint=None, seed=0):
    rng = np.random.default_rng(seed)
    halves = [shuffled({"x": DATA.x_train[part], "labels": DATA.y_train[part]}, 16, rng=rng)
              for part in (slice(200), slice(200, 400))]
    batch = noisy(*halves, NAMES, CHOICES, annealed(5.0, 0.1, 12), rng=rng)
    optimizer = alternating(lambda name: name.endswith(".logits"), factor=50.0)
    if state is None:
        state = start(MODEL.parameters | supernet_logits(NAMES, CHOICES), MODEL.statistics,
                      optimizer)
    nodes = supernet_of(partial(cost_sum, weight=0.1))
    return train(nodes, state, batch, steps=steps, rate=lambda step: 1e-3, optimizer=optimizer,
                 checkpoint=checkpoint, every=1), optimizer


def test_even_steps_move_weights_and_odd_steps_logits():
    before, _ = small_run(0)
    first, _ = small_run(1)
    second, _ = small_run(2)
    for name, value in before.parameters.items():
        moved = [not np.array_equal(a, b) for a, b in (
            (value, first.parameters[name]),
            (first.parameters[name], second.parameters[name]))]
        assert moved == ([False, True] if name.endswith(".logits") else [True, False]), name


SCRIPT = """
import sys, time
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from apply import test_search
test_search.small_run(10**4, checkpoint=Path(sys.argv[1]))
"""


def test_a_killed_training_of_a_supernet_resumes_to_the_same_policy(tmp_path):
    """SIGKILL in the middle of a step; the resumed run has the same arrays as a whole one."""
    file = tmp_path / "state.npz"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(file), *sys.path])
    try:
        while not file.exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.wait()
    assert process.returncode == -signal.SIGKILL
    _, optimizer = small_run(0)
    state = resume(file, optimizer)
    assert state.step >= 1
    steps = state.step + 3
    whole, _ = small_run(steps)
    resumed, _ = small_run(steps, state=state)
    for name, value in whole.parameters.items():
        assert np.array_equal(value, resumed.parameters[name]), name


def test_noise_is_a_function_of_the_step_and_gumbel():
    data = lambda step: {}                                               # noqa: E731
    batch = noisy(data, data, NAMES, CHOICES, lambda step: 2.0 - step, rng=np.random.default_rng(0))
    again = noisy(data, data, NAMES, CHOICES, lambda step: 2.0 - step, rng=np.random.default_rng(0))
    assert all(np.array_equal(batch(7)[k], again(7)[k]) for k in batch(7))
    assert batch(1)["temperature"] == 1.0
    drawn = np.array([batch(step)[f"{n.removesuffix('weight')}noise"]
                      for step in range(100) for n in NAMES])
    deviation = np.pi / 6**0.5
    assert abs(drawn.mean() - np.euler_gamma) < 4 * deviation / drawn.size**0.5
    assert drawn.std() == pytest.approx(deviation, rel=0.05)


def test_alternating_is_two_adams():
    rng = np.random.default_rng(0)
    both = {"w": rng.standard_normal(3), "t": rng.standard_normal(2)}
    gradients = [{n: rng.standard_normal(v.shape) for n, v in both.items()} for _ in range(6)]
    optimizer = alternating(lambda name: name == "t", factor=10.0)
    state, found = optimizer.start(both), both
    for g in gradients:
        found, state = optimizer.step(found, g, state, rate=lambda name: 0.1)
    for name, own, rate in (("w", gradients[0::2], 0.1), ("t", gradients[1::2], 1.0)):
        one = {name: both[name]}
        memory = adam_start(one)
        for g in own:
            one, memory = adam(one, {name: g[name]}, memory, rate=rate)
        assert np.array_equal(one[name], found[name])
