"""What was trained is what is deployed, down to whole numbers."""

import numpy as np
import pytest

from refquant.apply.calibrate import collect
from refquant.apply.deploy import Deployed, deployed
from refquant.apply.learned import (
    dorefa_weights,
    fixed_grid,
    insert,
    lsq_activation,
    lsq_offset,
    lsq_weight,
    pact_ceiling,
)
from refquant.apply.lower import execute, lower, stored_names
from refquant.apply.norms import evaluation, fold_norms
from refquant.apply.simulate import input_names, static, weight_names
from refquant.nn.data import digits
from refquant.nn.models import Model, digits_cnn, predict, with_loss
from refquant.nn.network import Node, run
from refquant.nn.normalization import batch_norm
from refquant.nn.operations import linear
from refquant.nn.replicas import replica
from refquant.quantizers.uniform import Uniform, asymmetric, symmetric

BITS = 8


@pytest.fixture(scope="module")
def net():
    """Replica 2 with LSQ everywhere; negative gammas exist in it, or are made."""
    model, data = replica(2), digits(seed=2)
    names = input_names(model.nodes)
    seen = collect(model.nodes, model.values, [{"x": data.x_train[:128]}], names=names)
    parameters = dict(model.parameters)
    parameters["r2a.gamma"] = parameters["r2a.gamma"] * np.where(np.arange(32) % 2, -1, 1).astype(
        np.float32)
    weights = {n: symmetric(np.abs(parameters[n]).max(keepdims=True), bits=BITS)
               for n in weight_names(model.nodes)}
    inputs = {n: asymmetric(np.zeros(1, np.float32), x.max().reshape(1), bits=BITS)
              for n, x in seen.items()}
    return model, data, parameters, weights, inputs


def inserted(net, make_weight=lsq_weight, make_input=lsq_activation, *, folded=False):
    model, _, parameters, weights, inputs = net
    nodes = with_loss(digits_cnn(training=True))
    suffix = ".folded" if folded else ""
    weights = {n + (suffix if n != "fc.weight" else ""): q for n, q in weights.items()}
    trained = insert(fold_norms(nodes) if folded else nodes, parameters, weights, make_weight)
    trained = insert(*trained, inputs, make_input)
    return trained.nodes, {**trained.parameters, **model.statistics}


@pytest.mark.parametrize("folded", [False, True])
def test_the_deployed_network_computes_what_was_judged_in_training(net, folded):
    nodes, values = inserted(net, folded=folded)
    x = net[1].x_test[:60]
    done = deployed(nodes, values)
    assert isinstance(done, Deployed)
    assert not any(node.name.endswith((".q", ".norm.q")) for node in done.nodes)
    # float32: a value on the other side of a tie moves by one code of 8 bits, here and there.
    ours = run(done.nodes, {"x": x, **done.values}, tap=static(done.plan)).values["logits"]
    judged = run(evaluation(nodes), {"x": x, **values}).values["logits"]
    assert np.abs(ours - judged).max() < 0.05 * np.abs(judged).max()
    assert (ours.argmax(1) == judged.argmax(1)).all()


def test_in_float64_it_is_equal_to_rounding(net):
    nodes, values = inserted(net)
    values = {n: np.asarray(v, np.float64) for n, v in values.items()}
    x = net[1].x_test[:10].astype(np.float64)
    done = deployed(nodes, values)
    ours = run(done.nodes, {"x": x, **done.values}, tap=static(done.plan)).values["logits"]
    judged = run(evaluation(nodes), {"x": x, **values}).values["logits"]
    np.testing.assert_allclose(ours, judged, rtol=1e-9, atol=1e-9)


def test_weights_are_levels_of_their_plan_and_negative_channels_turn_their_codes(net):
    nodes, values = inserted(net)
    done = deployed(nodes, values)
    for name in weight_names(net[0].nodes):
        q, w = done.plan[name], done.values[name]
        np.testing.assert_allclose(q.decode(q.encode(w)), w, rtol=3e-6, atol=1e-9)
        assert (q.qmin, q.qmax) == (-127, 127)
    plain = net[3]["r2a.weight"].encode(net[2]["r2a.weight"])
    turned = done.plan["r2a.weight"].encode(done.values["r2a.weight"])
    assert (turned == plain * np.sign(net[2]["r2a.gamma"]).reshape(-1, 1, 1, 1)).all()


def test_a_lopsided_range_is_widened_where_a_code_needs_it():
    w = np.array([[-1.0, 0.5], [-1.0, 0.5]])
    net = [Node("y.conv", linear, ("x", "w")),
           Node("logits", batch_norm, ("y.conv", "g", "b", "m", "v"))]
    values = {"w": w, "g": np.array([1.0, -1.0]), "b": np.zeros(2), "m": np.zeros(2),
              "v": np.ones(2)}
    grid = Uniform(np.array([0.5]), np.array([0]), -2, 1)
    trained = insert(net, values, {"w": grid}, fixed_grid)
    done = deployed(trained.nodes, trained.parameters)
    assert (done.plan["w"].qmin, done.plan["w"].qmax) == (-2, 2)
    assert done.plan["w"].encode(done.values["w"]).tolist() == [[-2, 1], [2, -1]]


def test_the_integer_program_of_a_trained_network_reads_digits(net):
    """Lowered to int8: the same answers as the simulation, but for a few codes."""
    nodes, values = inserted(net, make_input=pact_ceiling)
    data = net[1]
    done = deployed(nodes, values)
    x = data.x_test[:100]
    clean = run(done.nodes, {"x": data.x_train[:128], **done.values}).values
    rest = {n: asymmetric(clean[n].min().reshape(1), clean[n].max().reshape(1), bits=8)
            for n in stored_names(done.nodes) if n not in done.plan}
    plan = {**rest, **done.plan}
    program = lower(done.nodes, done.values, plan, {"x": x})
    codes = execute(program, {"x": plan["x"].encode(x)})["logits"]
    simulated = run(done.nodes, {"x": x, **done.values}, tap=static(plan)).values["logits"]
    assert (codes.argmax(1) == simulated.argmax(1)).mean() >= 0.97
    assert np.abs(plan["logits"].encode(simulated) - codes).max() <= 3


def test_what_has_no_record_stays_a_node_or_becomes_its_values(net):
    nodes, values = inserted(net, dorefa_weights, lsq_offset)
    done = deployed(nodes, values)
    assert not done.plan
    assert [n.name for n in done.nodes if n.name.endswith(".q")][:2] == ["x.q", "stem.q"]
    x = net[1].x_test[:5]
    ours = predict(Model(done.nodes, done.values, {}), x)
    judged = run(evaluation(nodes), {"x": x, **values}).values["logits"]
    assert np.abs(ours - judged).max() < 0.05 * np.abs(judged).max()
