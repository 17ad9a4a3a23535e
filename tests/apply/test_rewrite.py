"""Rewriting a network keeps its function and the names of what survives."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refquant.apply.rewrite import fold_batch_norms
from refquant.nn.convolution import conv2d, depthwise_conv2d
from refquant.nn.data import digits
from refquant.nn.models import digits_cnn, predict, trained_digits_cnn
from refquant.nn.network import Node, run
from refquant.nn.normalization import batch_norm, batch_norm_training
from refquant.nn.operations import add, global_average_pool, linear, relu

MODEL = trained_digits_cnn()
X = digits().x_test[:50]
WIDE = {name: value.astype(np.float64) for name, value in MODEL.values.items()}


def network(kinds, rng):
    """A chain of blocks: (layer, biased, epsilon or None for no norm, shortcut)."""
    nodes, values, source = [], {"x": rng.standard_normal((3, 5, 5, 4))}, "x"
    for i, (kind, biased, epsilon, shortcut) in enumerate(kinds):
        name = f"b{i}"
        op = partial(conv2d, padding=1) if kind else partial(depthwise_conv2d, padding=1)
        values[f"{name}.weight"] = rng.standard_normal((4, 3, 3, 4 if kind else 1)) / 3
        if biased:
            values[f"{name}.bias"] = rng.standard_normal(4)
        inputs = (source, f"{name}.weight", *([f"{name}.bias"] if biased else []))
        nodes.append(Node(f"{name}.conv", op, inputs))
        if epsilon is not None:
            norm = [f"{name}.{p}" for p in ("gamma", "beta", "mean", "variance")]
            draws = rng.standard_normal((4, 4))
            values |= dict(zip(norm, [*draws[:3], np.exp(draws[3])], strict=True))
            nodes.append(
                Node(f"{name}.norm", partial(batch_norm, epsilon=epsilon), (nodes[-1].name, *norm))
            )
        if shortcut:
            nodes.append(Node(f"{name}.sum", add, (nodes[-1].name, source)))
        nodes.append(Node(name, relu, (nodes[-1].name,)))
        source = name
    values["fc.weight"] = rng.standard_normal((2, 4))
    return [
        *nodes,
        Node("pool", global_average_pool, (source,)),
        Node("logits", linear, ("pool", "fc.weight")),
    ], values


BLOCK = st.tuples(st.booleans(), st.booleans(), st.sampled_from([None, 1e-5, 1e-3]), st.booleans())


@settings(deadline=None)
@given(st.lists(BLOCK, min_size=1, max_size=4), st.integers(0, 99))
def test_every_value_that_survives_is_what_it_was(kinds, seed):
    nodes, values = network(kinds, np.random.default_rng(seed))
    before = run(nodes, values).values
    folded = fold_batch_norms(nodes, values)
    after = run(folded.nodes, folded.values).values
    norms = sum(epsilon is not None for _, _, epsilon, _ in kinds)
    assert len(folded.nodes) == len(nodes) - norms
    assert not [n for n in folded.nodes if getattr(n.op, "func", n.op) is batch_norm]
    for node in folded.nodes:
        scale = np.abs(before[node.name]).max() + 1
        assert np.abs(after[node.name] - before[node.name]).max() <= 1e-11 * scale


def test_the_digits_network_loses_nine_norms_and_no_digit():
    folded = fold_batch_norms(MODEL.nodes, WIDE)
    names = [node.name for node in folded.nodes]
    assert names == [n.name for n in MODEL.nodes if not n.name.endswith(".conv")]
    exact = predict(MODEL._replace(parameters=WIDE, statistics={}), X.astype(np.float64))
    logits = run(folded.nodes, {"x": X.astype(np.float64), **folded.values}).values["logits"]
    assert np.abs(logits - exact).max() < 1e-12
    assert not any(".gamma" in name or ".mean" in name for name in folded.values)


def test_folding_twice_is_folding_once():
    once = fold_batch_norms(MODEL.nodes, MODEL.values)
    twice = fold_batch_norms(*once)
    assert twice.nodes == once.nodes
    assert all(twice.values[name] is value for name, value in once.values.items())


def one_block(**changes):
    rng = np.random.default_rng(0)
    return network([(True, False, 1e-5, False)], rng)


def test_a_norm_whose_layer_has_another_reader_stays():
    nodes, values = one_block()
    nodes.append(Node("spy", relu, ("b0.conv",)))
    assert fold_batch_norms(nodes, values).nodes == nodes


def test_a_norm_whose_layer_shares_its_weight_stays():
    nodes, values = one_block()
    nodes.append(Node("twin", partial(conv2d, padding=1), ("x", "b0.weight")))
    assert fold_batch_norms(nodes, values).nodes == nodes


def test_a_norm_after_something_else_stays():
    nodes, values = one_block()
    nodes[0] = Node("b0.conv", relu, ("x",))
    assert fold_batch_norms(nodes, values).nodes == nodes


def test_a_norm_over_a_weight_that_is_computed_stays():
    nodes, values = one_block()
    nodes.insert(0, Node("computed", relu, ("b0.weight",)))
    nodes[1] = nodes[1]._replace(inputs=("x", "computed"))
    assert fold_batch_norms(nodes, values).nodes == nodes


def test_the_statistics_of_the_batch_cannot_be_folded():
    nodes = digits_cnn(training=True)
    assert batch_norm_training in [n.op for n in nodes]
    assert fold_batch_norms(nodes, MODEL.values).nodes == nodes


def test_arrays_that_another_norm_reads_are_kept():
    nodes, values = one_block()
    nodes.append(Node("again", batch_norm, ("b0", *nodes[1].inputs[1:])))
    folded = fold_batch_norms(nodes, values)
    assert len(folded.nodes) == len(nodes) - 1
    assert np.array_equal(folded.values["b0.gamma"], values["b0.gamma"])


def test_a_bias_that_cannot_have_its_name_is_refused():
    nodes, values = one_block()
    with pytest.raises(ValueError, match=r"leave the name of the new bias free; got 'b0\.bias'"):
        fold_batch_norms(nodes, {**values, "b0.bias": np.zeros(4)})


def test_the_old_network_is_not_changed():
    nodes, values = one_block()
    kept, copies = list(nodes), {name: value.copy() for name, value in values.items()}
    fold_batch_norms(nodes, values)
    assert nodes == kept
    assert all(np.array_equal(values[name], copy) for name, copy in copies.items())
