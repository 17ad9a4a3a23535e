"""Norms change their form and the network does not."""

from functools import partial

import numpy as np
import pytest

from refquant.apply.learned import fixed_grid, insert
from refquant.apply.norms import evaluation, fold_norms, freeze_norms, measured_again
from refquant.apply.rewrite import fold_batch_norms
from refquant.apply.simulate import static
from refquant.apply.train import shuffled, start, train
from refquant.nn._nodes import function_of, settings_of
from refquant.nn.convolution import conv2d
from refquant.nn.data import digits
from refquant.nn.models import Model, digits_cnn, initial_parameters, predict, with_loss
from refquant.nn.network import Node, backward, run
from refquant.nn.normalization import batch_norm, batch_norm_training
from refquant.nn.optimizers import constant
from refquant.nn.replicas import replica
from refquant.quantizers.uniform import symmetric

TRAINING = with_loss(digits_cnn(training=True))


@pytest.fixture(scope="module")
def values():
    """A trained network in float64, a batch, and statistics that are not those of the batch."""
    model, data = replica(0), digits(seed=0)
    arrays = {n: a.astype(np.float64) for n, a in model.values.items()}
    return arrays | {"x": data.x_train[:16].astype(np.float64), "labels": data.y_train[:16]}


def test_evaluation_of_the_training_form_is_the_form_that_ships():
    for ours, shipped in zip(evaluation(TRAINING), digits_cnn(), strict=True):
        assert (ours.name, ours.inputs) == (shipped.name, shipped.inputs)
        assert function_of(ours.op) is function_of(shipped.op)
        assert settings_of(ours.op) == settings_of(shipped.op)
    assert [n.name for n in evaluation(TRAINING, output="stem")] == [
        "stem.conv", "stem.norm", "stem"]


def test_folded_in_training_the_values_and_gradients_are_those_of_the_norm(values):
    plain, folded = run(TRAINING, values), run(fold_norms(TRAINING), values)
    np.testing.assert_allclose(folded.values["logits"], plain.values["logits"], atol=1e-9)
    wanted, ours = (backward(trace, {"loss": 1.0}) for trace in (plain, folded))
    for name in initial_parameters(rng=np.random.default_rng(0)):
        np.testing.assert_allclose(ours[name], wanted[name], rtol=1e-7, atol=1e-10)


def test_frozen_it_is_the_network_of_evaluation_and_of_folding_after_training(values):
    frozen = run(freeze_norms(fold_norms(TRAINING)), values).values
    after = run(evaluation(TRAINING), values).values
    deployed = fold_batch_norms(digits_cnn(), values)
    np.testing.assert_allclose(frozen["logits"], after["logits"], atol=1e-9)
    for name in ("stem.weight", "pw2.weight"):
        np.testing.assert_allclose(frozen[f"{name}.folded"], deployed.values[name], rtol=1e-12)
    np.testing.assert_allclose(frozen["stem.bias.folded"], deployed.values["stem.bias"],
                               rtol=1e-12)


def test_a_frozen_network_with_quantizers_is_the_deployed_one(values):
    """Fake quantization of the folded weights in training = a static plan on the folded net."""
    deployed = fold_batch_norms(digits_cnn(), values)
    names = [
        name for name in deployed.values if name.endswith(".weight") and name != "fc.weight"]
    plan = {n: symmetric(np.abs(deployed.values[n]).max(keepdims=True), bits=4) for n in names}
    net = insert(fold_norms(TRAINING), {}, {f"{n}.folded": q for n, q in plan.items()}, fixed_grid)
    ours = run(evaluation(net.nodes), values).values["logits"]
    theirs = run(deployed.nodes, {"x": values["x"], **deployed.values}, tap=static(plan))
    np.testing.assert_allclose(ours, theirs.values["logits"], atol=1e-9)


def test_training_in_the_folded_form_keeps_the_running_averages():
    model, data = replica(1), digits(seed=1)
    batch = shuffled({"x": data.x_train, "labels": data.y_train}, 32,
                     rng=np.random.default_rng(0))
    begun = start(model.parameters, model.statistics)
    states = [train(nodes, begun, batch, steps=2, rate=constant(1e-4))
              for nodes in (TRAINING, fold_norms(TRAINING))]
    for name, array in states[0].statistics.items():
        assert (array != model.statistics[name]).any()
        np.testing.assert_allclose(states[1].statistics[name], array, rtol=2e-3, atol=2e-4)
    frozen = train(freeze_norms(fold_norms(TRAINING)), begun, batch, steps=2, rate=constant(1e-4))
    assert all((a == model.statistics[n]).all() for n, a in frozen.statistics.items())
    assert (frozen.parameters["stem.gamma"] != model.parameters["stem.gamma"]).any()
    x = data.x_test[:50]
    for nodes, state in ((fold_norms(TRAINING), states[1]), (TRAINING, states[0])):
        judged = Model(evaluation(nodes), state.parameters, state.statistics)
        assert (predict(judged, x).argmax(1) == data.y_test[:50]).mean() > 0.9


def test_the_epsilon_of_the_norm_goes_along():
    nodes = [Node("a.conv", conv2d, ("x", "a.weight")),
             Node("a.norm", partial(batch_norm_training, epsilon=0.5), ("a.conv", "g", "b"))]
    rng = np.random.default_rng(0)
    values = {"x": rng.standard_normal((2, 4, 4, 3)), "a.weight": rng.standard_normal((5, 1, 1, 3)),
              "g": np.ones(5), "b": np.zeros(5), "a.mean": np.zeros(5), "a.variance": np.ones(5)}
    plain, folded = (run(n, values).values["a.norm"] for n in (nodes, fold_norms(nodes)))
    np.testing.assert_allclose(plain, folded, atol=1e-12)
    last = evaluation(nodes, output="a.norm")[-1]
    assert (function_of(last.op), last.op.keywords) == (batch_norm, {"epsilon": 0.5})


def test_a_norm_that_follows_no_layer_stays():
    nodes = [Node("a.norm", batch_norm_training, ("x", "g", "b"))]
    assert fold_norms(nodes) == nodes == freeze_norms(nodes)


def test_measured_again_the_averages_are_those_of_the_batches_and_nothing_else():
    model, data = replica(0), digits(seed=0)
    nodes = digits_cnn(training=True)
    batches = [{"x": data.x_train[i : i + 50]} for i in (0, 50, 100)]
    found = measured_again(nodes, model.parameters, model.statistics, batches)
    products = [run(nodes, {**b, **model.parameters}).values["r1a.conv"] for b in batches]
    rows = [p.reshape(-1, 16) for p in products]
    np.testing.assert_allclose(found["r1a.mean"], np.mean([r.mean(0) for r in rows], 0),
                               rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["r1a.variance"], np.mean([r.var(0, ddof=1) for r in rows], 0),
                               rtol=1e-4)
    assert found.keys() == model.statistics.keys()
    from_nothing = {n: np.zeros_like(a) for n, a in model.statistics.items()}
    other = measured_again(nodes, model.parameters, from_nothing, batches)
    assert all((other[n] == found[n]).all() for n in found)     # what was before is forgotten
    with pytest.raises(ValueError, match="at least one batch; got none"):
        measured_again(nodes, model.parameters, model.statistics, [])


def test_an_unknown_output_is_refused():
    with pytest.raises(ValueError, match="`output` must be the name of a node; got 'y'"):
        evaluation(TRAINING, output="y")
