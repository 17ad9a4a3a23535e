"""Costs read off networks: against their definition, and per input."""

import numpy as np
import pytest

from refquant.apply.costs import layer_costs, layer_shapes
from refquant.apply.simulate import weight_names
from refquant.nn.data import digits
from refquant.nn.models import trained_digits_cnn
from refquant.nn.small_models import SEPARABLE, trained

X = digits().x_test


@pytest.mark.parametrize("model", [trained_digits_cnn(), trained(SEPARABLE)])
def test_counts_are_those_of_a_loop_over_the_outputs(model):
    values = {"x": X[:2], **model.values}
    shapes, costs = layer_shapes(model.nodes, values), layer_costs(model.nodes, values)
    assert list(shapes) == [c.name for c in costs] == weight_names(model.nodes)
    for cost in costs:
        weight, shape = model.parameters[cost.name], shapes[cost.name]
        assert (cost.weights, cost.channels) == (weight.size, len(weight))
        # every output adds up as many products as a filter has weights
        assert cost.macs == cost.outputs * weight[0].size
        assert 2 * cost.macs == shape.rows * shape.inputs * shape.outputs
        assert shape.depthwise == (weight.shape[-1] == 1 and cost.name[0] == "d")


def test_known_layers():
    model = trained_digits_cnn()
    costs = {c.name: c for c in layer_costs(model.nodes, {"x": X[:3], **model.values})}
    assert costs["stem.weight"][1:] == (144, 64 * 144, 64, 64 * 16, 16)
    assert costs["dw1.weight"][1:] == (144, 16 * 144, 64 * 16, 16 * 16, 16)
    assert costs["fc.weight"][1:] == (640, 640, 64, 10, 10)
    assert sum(c.weights for c in costs.values()) == sum(
        v.size for n, v in model.parameters.items() if n.endswith(".weight"))


def test_a_batch_multiplies_rows_and_no_count():
    model = trained_digits_cnn()
    one, many = ({"x": X[:n], **model.values} for n in (1, 5))
    assert layer_costs(model.nodes, one) == layer_costs(model.nodes, many)
    assert layer_shapes(model.nodes, many)["pw1.weight"].rows == 5 * 16
    assert np.isfinite(X).all()
