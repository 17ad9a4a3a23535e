"""A plan goes into a network as trained quantizers, and comes out again."""

from functools import partial

import numpy as np
import pytest

from refquant.apply.calibrate import collect
from refquant.apply.learned import (
    Learned,
    Prepared,
    clipped_ends,
    dorefa_activations,
    dorefa_weights,
    fixed_grid,
    insert,
    keep_valid,
    lsq_activation,
    lsq_offset,
    lsq_weight,
    min_max_ends,
    moving_grid,
    pact_ceiling,
    read_back,
    tqt_threshold,
)
from refquant.apply.norms import evaluation
from refquant.apply.simulate import input_names, static, weight_names
from refquant.apply.train import SGD, shuffled, start, train
from refquant.nn.data import digits
from refquant.nn.models import Model, digits_cnn, predict, with_loss
from refquant.nn.network import Node, run
from refquant.nn.operations import linear
from refquant.nn.optimizers import constant
from refquant.nn.replicas import replica
from refquant.qat.lsq import gradient_factor, initial_scale, lsq
from refquant.quantizers.uniform import Uniform, asymmetric, symmetric

SIGNED = Uniform(np.array([0.25], np.float32), np.array([0]), -4, 3)
CODES = Uniform(np.array([0.25], np.float32), np.array([0]), 0, 7)
SHIFTED = Uniform(np.array([0.25], np.float32), np.array([3]), 0, 7)
#: Makers whose first value is exactly that of the record they start from.
FAITHFUL = {
    "fixed": (fixed_grid, SHIFTED), "lsq weight": (lsq_weight, SIGNED),
    "lsq activation": (lsq_activation, CODES), "pact": (pact_ceiling, CODES),
    "tqt": (tqt_threshold, SIGNED), "tqt unsigned": (tqt_threshold, CODES),
    "ends": (min_max_ends, SHIFTED), "clipped ends": (clipped_ends, SHIFTED),
}
X = (np.arange(-20, 21) / 16).astype(np.float32).reshape(1, 41)


@pytest.fixture(scope="module")
def plans():
    """A network, and what calibration says of its weights and activations at 4 bits."""
    model, data = replica(0), digits(seed=0)
    names = input_names(model.nodes)
    seen = collect(model.nodes, model.values, [{"x": data.x_train[:64]}], names=names)
    weights = {n: symmetric(np.abs(model.parameters[n]).max(keepdims=True), bits=4)
               for n in weight_names(model.nodes)}
    inputs = {n: asymmetric(np.zeros(1, np.float32), x.max().reshape(1), bits=4)
              for n, x in seen.items()}
    return model, data, weights, inputs


@pytest.mark.parametrize(("make", "quantizer"), FAITHFUL.values(), ids=FAITHFUL)
def test_training_starts_at_the_record_and_gives_it_back(make, quantizer):
    net = insert([Node("y", lambda x: (x, lambda g: (g,)), ("x",))], {}, {"x": quantizer}, make)
    trace = run(net.nodes, {"x": X, **net.parameters})
    assert (trace.values["x.q"] == quantizer.decode(quantizer.encode(X))).all()
    found = read_back(net.nodes, net.parameters)["x"]
    assert found.qmax - found.qmin == quantizer.qmax - quantizer.qmin
    assert (found.decode(found.encode(X)) == trace.values["x.q"]).all()
    assert found.scale.dtype == np.float32


@pytest.mark.parametrize(("make", "quantizer"), [
    *FAITHFUL.values(), (lsq_offset, SHIFTED), (moving_grid, SIGNED), (dorefa_weights, SIGNED),
    (dorefa_activations, CODES)])
def test_every_maker_gives_float32_gradients_to_what_it_trains(make, quantizer):
    made = make(quantizer)
    assert isinstance(made, Learned)
    y, pullback = made.op(X, *made.parameters.values())
    gradients = pullback(np.ones_like(X))
    assert y.dtype == np.float32
    assert [(g.shape, g.dtype) for g in gradients] == [
        (a.shape, np.float32) for a in (X, *made.parameters.values())]


def test_read_back_is_the_network_that_was_trained(plans):
    """Taps with the plan that is read back give the logits of the inserted nodes, to the bit."""
    model, data, weights, inputs = plans
    net = insert(model.nodes, model.parameters, weights, lsq_weight)
    net = insert(*net, inputs, lsq_activation)
    moved = {n: p * np.float32(1.1) if n.endswith("scale") else p
             for n, p in net.parameters.items()}
    trained = Model(net.nodes, moved, model.statistics)
    plan = read_back(net.nodes, moved)
    assert plan.keys() == weights.keys() | inputs.keys()
    x = data.x_test[:20]
    assert (predict(trained, x) == predict(model, x, tap=static(plan))).all()


@pytest.mark.parametrize(("make", "quantizer", "moved"), [
    (lsq_weight, SIGNED, {"scale": 0.31}), (pact_ceiling, CODES, {"alpha": 0.9}),
    (tqt_threshold, SIGNED, {"log2_threshold": -0.7}),
    (tqt_threshold, CODES, {"log2_threshold": 0.2}),
    (min_max_ends, SHIFTED, {"low": -0.4, "high": 1.1}),
    (dorefa_activations, CODES, {})])
def test_what_training_arrives_at_is_what_is_read_back(make, quantizer, moved):
    net = insert([Node("y", lambda x: (x, lambda g: (g,)), ("x",))], {}, {"x": quantizer}, make)
    values = {f"x.{n}": np.array([v], np.float32) for n, v in moved.items()}
    assert values.keys() == net.parameters.keys()
    found = read_back(net.nodes, values)["x"]
    x = X + np.float32(0.001)               # no ties: two ways to divide part there
    ran = run(net.nodes, {"x": x, **values}).values["x.q"]
    np.testing.assert_allclose(found.decode(found.encode(x)), ran, rtol=1e-6, atol=1e-7)


def test_the_estimators_damp_by_weights_and_by_values_of_one_sample():
    x = np.random.default_rng(0).standard_normal((5, 6, 2)).astype(np.float32)
    g = np.ones_like(x)
    for make, q, n in ((lsq_weight, SIGNED, 60), (lsq_activation, CODES, 12)):
        made = make(q)
        scale = made.parameters["scale"]
        ours = made.op(x, scale)[1](g)[1]
        plain = lsq(x, scale, qmin=q.qmin, qmax=q.qmax)[1](g)[1]
        np.testing.assert_allclose(ours, gradient_factor(n, q.qmax) * plain, rtol=1e-5)


def test_a_moving_grid_follows_each_channel_and_ends_where_the_weights_end():
    q = Uniform(np.ones((3, 1), np.float32), np.zeros((3, 1), int), -2, 1)
    w = np.array([[0.5, -1], [2, 0.1], [-3, 3]], np.float32)
    net = insert([Node("y", linear, ("x", "w"))], {"w": w}, {"w": q}, moving_grid)
    assert net.parameters.keys() == {"w"}
    assert read_back(net.nodes, {"w": w})["w"].scale.ravel().tolist() == [1, 2, 3]
    assert (run(net.nodes, {"x": np.eye(2, dtype=np.float32), "w": w}).values["w.q"]
            == [[0, -1], [2, 0], [-3, 3]]).all()


def test_what_has_no_record_of_its_own_is_left_out():
    for make, q in ((lsq_offset, SHIFTED), (dorefa_weights, SIGNED), (moving_grid, CODES)):
        net = insert([Node("y", linear, ("x", "w"))], {}, {"x": q}, make)
        assert read_back(net.nodes, net.parameters) == {}


@pytest.mark.parametrize(("weight", "activation"), [
    (fixed_grid, pact_ceiling), (lsq_weight, lsq_offset), (tqt_threshold, tqt_threshold),
    (moving_grid, min_max_ends), (lsq_weight, clipped_ends), (dorefa_weights, dorefa_activations),
], ids=lambda f: f.__name__)
def test_a_few_steps_train_every_parameter_and_keep_its_kind(plans, weight, activation):
    model, data, weights, inputs = plans
    weights = {n: Uniform(q.scale, q.zero_point, -8, 7) for n, q in weights.items()}
    inputs = {n: Uniform(q.scale / 2, q.zero_point, 0, 15) for n, q in inputs.items()}  # clip
    nodes, parameters = with_loss(digits_cnn(training=True)), model.parameters
    net = insert(*insert(nodes, parameters, weights, weight), inputs, activation)
    batch = shuffled({"x": data.x_train, "labels": data.y_train}, 64,
                     rng=np.random.default_rng(0))
    state = train(net.nodes, start(net.parameters, model.statistics), batch, steps=2,
                  rate=constant(1e-4), after=keep_valid)
    assert state.parameters.keys() == net.parameters.keys()
    still = [n for n, p in state.parameters.items() if (p == net.parameters[n]).all()]
    # The ends of activations that are never below zero have nothing to clip there.
    assert all(n.endswith(".low") for n in still)
    judged = Model(evaluation(net.nodes), state.parameters, state.statistics)
    assert np.isfinite(predict(judged, data.x_test[:5])).all()


def test_without_its_factor_descent_on_a_step_runs_away():
    """SGD at 0.01, 2 bits: a sum over thousands of values moves a step beyond zero."""
    model, data = replica(0), digits(seed=0)
    names = input_names(model.nodes)
    seen = collect(model.nodes, model.values, [{"x": data.x_train[:256]}], names=names)
    plan = {}
    for arrays, qmin, qmax in ((seen, 0, 3), (model.parameters, -2, 1)):
        for name in (names if arrays is seen else weight_names(model.nodes))[1:-1]:
            scale = initial_scale(arrays[name], qmax=qmax).ravel()
            plan[name] = Uniform(scale, np.array([0]), qmin, qmax)
    batch = shuffled({"x": data.x_train, "labels": data.y_train}, 64,
                     rng=np.random.default_rng(0))

    def plain(quantizer):
        return Learned(partial(lsq, qmin=quantizer.qmin, qmax=quantizer.qmax),
                       {"scale": quantizer.scale})

    def trained(make):
        net = insert(with_loss(digits_cnn(training=True)), model.parameters, plan, make)
        begun = start(net.parameters, model.statistics, SGD)
        return train(net.nodes, begun, batch, steps=4, rate=constant(1e-2), optimizer=SGD)

    state = trained(lsq_weight)
    assert all((p > 0.01).all() for n, p in state.parameters.items() if n.endswith("scale"))
    with pytest.raises(ValueError, match="`scale` must be positive and finite"):
        trained(plain)


def test_what_training_left_outside_is_brought_back():
    found = keep_valid({"a.scale": np.array([-1.0, 2.0]), "a.alpha": np.array(0.0),
                        "a.low": np.array(0.3), "a.high": np.array(-0.3), "w": np.array(-1.0)})
    assert {n: p.tolist() for n, p in found.items()} == {
        "a.scale": [1e-6, 2.0], "a.alpha": 1e-6, "a.low": 0.0, "a.high": 0.0, "w": -1.0}


def test_what_is_refused():
    nodes = [Node("y", linear, ("x", "w"))]
    assert isinstance(insert(nodes, {}, {}, fixed_grid), Prepared)
    with pytest.raises(ValueError, match="`name` must occur in the network; got 'v'"):
        insert(nodes, {}, {"v": SIGNED}, fixed_grid)
    once = insert(nodes, {}, {"w": SIGNED}, lsq_weight)
    with pytest.raises(ValueError, match=r"new names free; got 'w\.scale'"):
        insert(*once, {"w": SIGNED}, lsq_weight)
    with pytest.raises(ValueError, match=r"got no 'w\.scale'"):
        read_back(once.nodes, {})
    with pytest.raises(ValueError, match="must have zero point 0"):
        lsq_weight(SHIFTED)
    with pytest.raises(ValueError, match="must have codes from 0; got -4"):
        pact_ceiling(SIGNED)
    with pytest.raises(ValueError, match="must have all codes of its bits; got -3 to 3"):
        tqt_threshold(symmetric(np.array(1.0), bits=3))


@pytest.mark.parametrize(("low", "high"), [(0.1, 1.0), (-1.0, -0.5), (0.0, 0.0), (np.nan, 1.0)])
def test_ends_on_one_side_of_zero_are_no_record(low, high):
    """The estimator refuses them; read back they were a range that had never been trained."""
    net = [Node("y", linear, ("x", "w"))]
    grid = Uniform(np.array(0.5), np.array(3, np.int32), 0, 7)
    new = insert(net, {"w": np.eye(2)}, {"w": grid}, min_max_ends)
    moved = {"w.low": np.array(low), "w.high": np.array(high)}
    with pytest.raises(ValueError, match="`low` and `high` must hold 0 between them; got"):
        read_back(new.nodes, {**new.parameters, **moved})
