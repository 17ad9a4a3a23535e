"""Layers that learn a target: what a method is shown, on any network and on trained ones."""

from functools import partial

import numpy as np
import pytest

from refquant.apply.reconstruct import Layer, reconstruct
from refquant.apply.rewrite import fold_batch_norms
from refquant.apply.simulate import weight_names
from refquant.calibration.minmax import absmax
from refquant.nn.convolution import depthwise_conv2d
from refquant.nn.network import Node, run
from refquant.nn.operations import add, linear, relu
from refquant.nn.small_models import SEPARABLE6, split, trained
from refquant.ptq.adaround import adaround, identity
from refquant.quantizers.uniform import symmetric

MODEL = trained(SEPARABLE6, seed=1)
NODES, VALUES = fold_batch_norms(MODEL.nodes, MODEL.values)
X = split().x_train[:24]
NAMES = weight_names(NODES)


def seen_by(method):
    """Every layer as the method saw it, by name."""
    layers = []

    def watching(layer):
        layers.append(layer)
        return method(layer)

    new = reconstruct(NODES, VALUES, {"x": X}, watching, names=NAMES)
    return dict(zip(NAMES, layers, strict=True)), new


def output(layer, weight):
    bias = 0 if layer.bias is None else layer.bias
    return layer.activation(layer.x @ weight.T + bias)[0]


def test_a_layer_is_the_product_that_the_method_is_told():
    """Convolutions, depthwise ones and the last layer; nothing replaced, so the target is met."""
    layers, new = seen_by(lambda layer: layer.weight)
    for layer in layers.values():
        assert np.allclose(output(layer, layer.weight), layer.target, atol=2e-5)
    assert all(np.array_equal(new[name], VALUES[name]) for name in VALUES)
    assert [layer.activation is identity for layer in layers.values()] == [False] * 5 + [True]


def test_inputs_come_from_replaced_layers_and_targets_from_the_float_network():
    def halve(layer):
        return layer.weight / 2

    layers, new = seen_by(halve)
    exact = run(NODES, {"x": X, **VALUES}).values
    now = run(NODES, {"x": X, **new}).values
    assert np.array_equal(layers["fc.weight"].x[:, 0], now["pool"])
    assert np.array_equal(layers["fc.weight"].target[:, 0], exact["logits"])
    assert np.array_equal(layers["p1.weight"].x.ravel(), now["d1"].ravel())
    assert np.array_equal(layers["p1.weight"].target.ravel(), exact["p1"].ravel())
    assert all(np.array_equal(new[name], VALUES[name] / 2) for name in NAMES)


def test_channels_that_a_depthwise_kernel_does_not_read_are_zeros_and_come_back_as_nothing():
    layers, _ = seen_by(lambda layer: layer.weight)
    dense = layers["d1.weight"].weight.reshape(16, 9, 16)
    assert (dense[~np.eye(16, dtype=bool)[:, None].repeat(9, 1)] == 0).all()
    net = [Node("y", depthwise_conv2d, ("x", "w"))]
    kernel = np.arange(1.0, 9.0).reshape(2, 2, 2, 1)
    made = reconstruct(net, {"w": kernel}, {"x": np.ones((1, 3, 3, 2))},
                       lambda layer: layer.weight + 100, names=["w"])
    assert np.array_equal(made["w"], kernel + 100)


def test_learned_rounding_leaves_the_zeros_of_a_depthwise_layer_alone():
    layers, _ = seen_by(lambda layer: layer.weight)
    layer = layers["d1.weight"]
    grid = symmetric(absmax(layer.weight, axis=1), bits=3)
    made = adaround(layer.weight, layer.x, layer.target, grid, rng=np.random.default_rng(0),
                    bias=layer.bias, activation=layer.activation, steps=50, rate=0.1)
    assert (made.codes[layer.weight == 0] == 0).all()


def test_only_named_weights_change_and_progress_hears_of_each():
    heard = []
    made = reconstruct(NODES, VALUES, {"x": X}, lambda layer: 0 * layer.weight,
                       names=["fc.weight", "p1.weight"],
                       progress=lambda *said: heard.append(said))
    assert heard == [(1, 2, "p1.weight"), (2, 2, "fc.weight")]
    assert [name for name in VALUES if not np.array_equal(made[name], VALUES[name])] == [
        "p1.weight", "fc.weight"]


def test_a_tap_acts_on_the_replaced_network_alone():
    net = [Node("h", relu, ("x",)), Node("y", linear, ("h", "w"))]
    seen = []

    def keep(layer: Layer):
        seen.append(layer)
        return layer.weight

    x = np.array([[1.4, 2.6]])
    reconstruct(net, {"w": np.ones((1, 2))}, {"x": x}, keep, names=["w"],
                tap=lambda name, v: np.rint(v) if name == "h" else v)
    assert np.array_equal(seen[0].x, [[[1.0, 3.0]]])
    assert np.array_equal(seen[0].target, [[[4.0]]])


def test_an_activation_counts_only_if_nobody_else_reads_the_layer():
    net = [Node("h", linear, ("x", "w")), Node("r", relu, ("h",)), Node("y", add, ("h", "r"))]
    seen = []
    reconstruct(net, {"w": -np.eye(2)}, {"x": np.ones((1, 2))},
                lambda layer: seen.append(layer) or layer.weight, names=["w"])
    assert seen[0].activation is identity
    assert (seen[0].target < 0).all()


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match=r"linear layers and convolutions; got 'c1\.bias'"):
        reconstruct(NODES, VALUES, {"x": X}, lambda layer: layer.weight, names=["c1.bias"])
    with pytest.raises(ValueError, match=r"`method` must keep the shape \(16, 9\) of 'c1\.weight'"):
        reconstruct(NODES, VALUES, {"x": X}, lambda layer: layer.weight[:1], names=["c1.weight"])


def test_learned_roundings_of_a_whole_network_beat_nearest():
    """Three bits, 60 steps a layer: mean squared error of the logits, on other images."""
    grid = partial(symmetric, bits=3)

    def nearest(layer):
        q = grid(absmax(layer.weight, axis=1))
        return q.decode(q.encode(layer.weight))

    def learned(layer):
        return adaround(layer.weight, layer.x, layer.target, grid(absmax(layer.weight, axis=1)),
                        rng=np.random.default_rng(0), bias=layer.bias,
                        activation=layer.activation, steps=60, rate=0.1).weight

    other = split().x_test[:100]
    exact = run(NODES, {"x": other, **VALUES}).values["logits"]
    error = [np.square(run(NODES, {"x": other, **seen_by(m)[1]}).values["logits"] - exact).mean()
             for m in (nearest, learned)]
    assert error[1] < error[0] / 2
