"""The debugger: what each layer adds, and three planted failures that it finds (A24)."""

from functools import lru_cache

import numpy as np
import pytest

from refquant.apply.calibrate import observe
from refquant.apply.calibrate import plan as planned
from refquant.apply.debug import (
    LayerError,
    accumulated_errors,
    all_but_one,
    alone,
    layers_of,
    local_errors,
    suspects,
    without,
)
from refquant.apply.rewrite import fold_batch_norms
from refquant.apply.simulate import static, weight_names
from refquant.calibration.minmax import absmax
from refquant.calibration.statistics import Range
from refquant.metrics import sqnr
from refquant.nn.network import Node, run
from refquant.nn.operations import linear, relu
from refquant.nn.small_models import SEPARABLE, split, trained
from refquant.quantizers.uniform import asymmetric, symmetric

DATA = split()
X = DATA.x_test[:200]
LAYERS = ("c1", "d1", "p1", "d2", "p2")
OUTPUTS = (*LAYERS, "logits")


@lru_cache
def network(seed=0):
    model = trained(SEPARABLE, seed=seed)
    return fold_batch_norms(model.nodes, model.values)


def moved(values, factors):
    """The same function, channels of each layer multiplied, and divided where they are read."""
    new, before = dict(values), None
    for layer in (*LAYERS, "fc"):
        w = new[f"{layer}.weight"].astype(np.float64)
        if before is not None:
            w = w / (before[:, None, None, None] if layer.startswith("d") else before)
        before = factors.get(layer, np.ones(len(w)))
        new[f"{layer}.weight"] = (w * before.reshape(-1, *[1] * (w.ndim - 1))).astype(np.float32)
        new[f"{layer}.bias"] = (new[f"{layer}.bias"] * before).astype(np.float32)
    return new


def uneven(values, draw):
    """Factors with a standard deviation of 0.5 in the logarithm, layer after layer."""
    rng = np.random.RandomState(draw)       # the generator of the experiment that A24 reports
    return moved(values, {n: np.exp(0.5 * rng.randn(len(values[f"{n}.weight"]))) for n in LAYERS})


def eight_bits(values):
    """Weights and activations, per tensor, min-max."""
    nodes = network().nodes
    seen = observe(nodes, values, [{"x": DATA.x_train[:500]}], Range.of, names=["x", *OUTPUTS])
    weights = {n: symmetric(absmax(values[n]), bits=8) for n in weight_names(nodes)}
    return weights | planned(seen, ranged)


def ranged(r):
    return asymmetric(np.minimum(r.low, 0), np.maximum(r.high, 0), bits=8)


def judge(values):
    """Decibels of the logits."""
    nodes, x = network().nodes, {"x": X, **values}
    exact = run(nodes, x).values["logits"]
    return lambda tap: sqnr(exact, run(nodes, x, tap=tap).values["logits"])


def report(values, plan, look=local_errors):
    return look(network().nodes, values, {"x": X}, plan)


def test_a_healthy_network_has_errors_of_rounding():
    values = network().values
    rows = report(values, eight_bits(values))
    assert sorted(row.name for row in rows) == sorted(OUTPUTS)
    assert all(isinstance(row, LayerError) and 0.2 < row.rmse_per_scale < 0.5 for row in rows)
    assert not suspects(rows)
    assert [r.sqnr for r in rows] == sorted(r.sqnr for r in rows)


# Three planted failures, in any layer.

def a_weight_of_three_bits(layer):
    values, name = network().values, f"{layer}.weight"
    return values, eight_bits(values) | {name: symmetric(absmax(values[name]), bits=3)}


def a_range_too_narrow(layer):
    values = network().values
    plan = eight_bits(values)
    high = float(plan[layer].scale.item() * 255)
    return values, plan | {layer: ranged(Range(np.array(0.0), np.array(high / 4)))}


def a_range_too_wide(layer):
    values = network().values
    plan = eight_bits(values)
    high = float(plan[layer].scale.item() * 255)
    return values, plan | {layer: ranged(Range(np.array(0.0), np.array(high * 50)))}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("plant", [a_weight_of_three_bits, a_range_too_narrow, a_range_too_wide])
def test_a_planted_failure_is_named_and_proved(plant, layer):
    values, plan = plant(layer)
    rows, nodes = report(values, plan), network().nodes
    assert rows[0].name == layer
    assert layer in suspects(rows)
    scores, groups = judge(values), layers_of(nodes, plan)
    base = scores(static(plan))
    freed = all_but_one(plan, groups, scores)
    assert next(iter(freed)) == f"{layer}.weight"
    assert freed[f"{layer}.weight"] >= base + 6
    assert next(iter(alone(plan, groups, scores))) == f"{layer}.weight"


def test_errors_in_steps_do_not_see_a_step_that_is_too_long():
    """The blind spot of RMSE over scale, and why the report has decibels beside it."""
    values, plan = a_range_too_wide("p1")
    row = next(r for r in report(values, plan) if r.name == "p1")
    assert row.rmse_per_scale < 0.35
    assert row.sqnr < 15


def broken(seed, draw):
    """A network with uneven channels, and what a plan of eight bits makes of it."""
    nodes, values = network().nodes, uneven(network(seed).values, draw)
    plan = eight_bits(values)
    return values, plan, layers_of(nodes, plan), judge(values)


def spared(seed, draw):
    """The worst layer, and decibels gained by sparing each, and all suspects."""
    values, plan, groups, scores = broken(seed, draw)
    rows, base = report(values, plan), scores(static(plan))
    freed = all_but_one(plan, groups, scores)
    exempt = [name for name, names in groups.items() if names[-1] in suspects(rows)]
    return (max(rows, key=lambda row: row.rmse_per_scale),
            {groups[name][-1]: score - base for name, score in freed.items()},
            scores(static(without(plan, groups, exempt))) - base)


def test_where_one_layer_is_to_blame_the_worst_is_the_best_one_to_leave_in_float():
    """A24: factors of seed 0 on the second network, +9.7 dB; of the others at most 1.4.

    (16.5 dB to 25.3, others at most 0.4, on the network that the row is from; here 14.6 to 24.3.)
    """
    worst, gains, together = spared(1, 0)
    first, second = list(gains)[:2]
    assert first == worst.name == "p1"
    assert worst.rmse_per_scale > 0.9
    assert gains[first] >= 6
    assert together >= 6
    assert gains[second] <= 2


def test_six_decibels_are_there_only_if_one_layer_makes_three_quarters_of_the_noise():
    """The same factors on all five networks: 3.8, 9.7, 3.7, 5.7 and, by another layer, 2.9 dB.

    Noises of layers add up, so that sparing one of share p gains -10 log10(1 - p): 6 dB is 3/4.
    Shares of the layer that is best to spare: 0.53, 0.80, 0.57, 0.72, 0.42.
    """
    agree, above = 0, []
    for seed in range(5):
        worst, gains, _ = spared(seed, 0)
        best = next(iter(gains))
        agree += best == worst.name
        _, plan, groups, scores = broken(seed, 0)
        noise = {groups[n][-1]: 10 ** (-d / 10) for n, d in alone(plan, groups, scores).items()}
        share = noise[best] / sum(noise.values())
        assert gains[best] == pytest.approx(-10 * np.log10(1 - share), abs=0.8 + 2.5 * (seed == 1))
        above.append((gains[best] >= 6) == (share >= 0.75))
    assert agree == 4
    assert all(above)


@pytest.mark.slow
def test_of_draws_that_were_not_chosen_the_worst_layer_is_the_best_to_spare_in_a_third():
    """25 draws on each of five networks: A24's 6 dB are the exception.

    The worst layer is the best to spare in 48 of 125, or 38 %; to spare it gains 6 dB in 6, or
    5 %, to spare all suspects in 12; in 20 no layer is off by more than 0.7 steps.
    """
    named, alone_enough, enough, quiet = 0, 0, 0, 0
    for seed in range(5):
        for draw in range(25):
            worst, gains, together = spared(seed, draw)
            named += next(iter(gains)) == worst.name
            alone_enough += gains[worst.name] >= 6
            enough += together >= 6
            quiet += worst.rmse_per_scale <= 0.7
    assert abs(named - 48) <= 3
    assert abs(alone_enough - 6) <= 1
    assert abs(enough - 12) <= 2
    assert abs(quiet - 20) <= 2


def test_local_errors_start_from_what_the_layer_really_gets():
    """By hand: inputs rounded to 1, weight 0.6 to 1: the second layer adds 1 - 0.6 alone."""
    nodes = [Node("h", linear, ("x", "a")), Node("y", linear, ("h", "b"))]
    values, one = {"a": np.array([[1.0]]), "b": np.array([[0.6]])}, symmetric(np.array(1.0), bits=2)
    x, plan = {"x": np.array([[0.7], [0.9]])}, {"h": one, "b": one}
    local = {r.name: r for r in local_errors(nodes, values, x, plan)}
    whole = {r.name: r for r in accumulated_errors(nodes, values, x, plan)}
    assert local["h"].mean_error == pytest.approx(0.2)
    assert local["h"].mean_squared_error == pytest.approx((0.3**2 + 0.1**2) / 2)
    assert local["h"].stddev == 0                   # each example has one number, which is its mean
    assert local["h"].max_abs_error == pytest.approx((0.3 + 0.1) / 2)
    assert local["y"].mean_error == pytest.approx(0.4)
    assert whole["y"].mean_error == pytest.approx(1 - 0.6 * 0.8)
    assert local["h"].scale == 1
    assert np.isnan(local["y"].rmse_per_scale)
    assert local["y"].elements == 1


def test_errors_in_front_do_not_show_up_behind_locally_but_accumulate():
    values, plan = a_range_too_narrow("c1")
    local = {r.name: r.sqnr for r in report(values, plan)}
    whole = {r.name: r.sqnr for r in report(values, plan, accumulated_errors)}
    assert whole["c1"] == pytest.approx(local["c1"], abs=3)
    assert whole["logits"] < 20 < local["logits"]


def test_nothing_quantized_has_no_error():
    nodes = [Node("h", linear, ("x", "a")), Node("y", relu, ("h",))]
    values, x = {"a": np.array([[1.0]])}, {"x": np.array([[1.0], [-1.0]])}
    row, = local_errors(nodes, values, x, {"a": symmetric(np.array(1.0), bits=2)})
    assert row.mean_squared_error == row.max_abs_error == 0
    assert row.sqnr == np.inf


def test_each_figure_is_of_an_example_and_then_the_mean_over_examples():
    """By hand: errors of -1/4 and -1/4 in the first, of 0 and 0.4 in the second; steps of 1."""
    net, x = [Node("y", linear, ("x", "w"))], np.array([[0.25, 1.25], [2.0, -0.4]])
    plan = {"y": symmetric(np.array(127.0), bits=8)}
    (row,) = local_errors(net, {"w": np.eye(2)}, {"x": x}, plan)
    signal, noise = np.square(x).sum(), 2 / 16 + 0.16
    assert row[0] == "y"
    assert row[1:] == pytest.approx(
        (2, -0.025, 0.1, 0.325, 0.07125, 1.0, 10 * np.log10(signal / noise)))
    assert row.rmse_per_scale == pytest.approx(0.07125**0.5)


def test_behind_a_value_with_two_readers_nothing_belongs_to_one_layer():
    net = [Node("h", linear, ("x", "w")), Node("r", relu, ("h",)), Node("s", relu, ("h",))]
    q = symmetric(np.array(1.0), bits=8)
    assert layers_of(net, {"w": q, "r": q}) == {"w": ["w"]}
    assert layers_of(net[:2], {"w": q, "r": q}) == {"w": ["w", "r"]}


def test_a_layer_is_its_weight_and_the_next_planned_value():
    nodes = network().nodes
    plan = eight_bits(network().values)
    assert layers_of(nodes, plan) == {
        f"{n}.weight": [f"{n}.weight", "logits" if n == "fc" else n] for n in (*LAYERS, "fc")}
    only = {n: q for n, q in plan.items() if n in ("p1", "fc.weight")}
    assert layers_of(nodes, only) == {"p1.weight": ["p1"], "fc.weight": ["fc.weight"]}
    left = without(plan, layers_of(nodes, plan), ["p1.weight", "fc.weight"])
    assert set(plan) - set(left) == {"p1.weight", "p1", "fc.weight", "logits"}


def test_what_is_not_there_is_refused():
    with pytest.raises(ValueError, match="`plan` must name values of the network"):
        report(network().values, {"nothing": symmetric(np.array(1.0), bits=2)})
    with pytest.raises(ValueError, match="`exempt` must name layers; got 'c9'"):
        without({}, {"c1": []}, ["c9"])


def test_a_value_that_has_become_nan_is_the_worst_and_suspect():
    def broken(x):
        return x * np.nan, lambda g: (g,)

    nodes = [Node("h", linear, ("x", "a")), Node("n", broken, ("x",)), Node("y", relu, ("h",))]
    rows = accumulated_errors(nodes, {"a": np.array([[0.9]])}, {"x": np.array([[1.0], [2.0]])},
                              {"a": symmetric(np.array(1.0), bits=2)})
    assert [row.name for row in rows] == ["n", "y"]
    assert "n" in suspects(rows)
