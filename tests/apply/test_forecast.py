"""The forecast: exact where the series ends, and as wrong as its first missing term elsewhere."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.apply.forecast import Forecast, added, forecast
from refquant.apply.mixed import smooth_at
from refquant.apply.simulate import weight_names
from refquant.calibration.minmax import absmax
from refquant.nn.models import with_loss
from refquant.nn.network import Node
from refquant.nn.operations import linear, relu
from refquant.nn.text import text_data, trained_text_model
from refquant.quantizer import fake_quantize
from refquant.quantizers.uniform import symmetric

SEEDS = st.integers(0, 10_000)


def form(x, *, a, b):
    return np.asarray(0.5 * x @ a @ x + b @ x), lambda g: (g * (a @ x + b),)


def joint(u, v):
    """Nothing but an interaction: neither layer alone has any curvature."""
    return np.asarray((u * v).sum()), lambda g: (g * v, g * u)


@given(seed=SEEDS)
def test_a_quadratic_is_forecast_exactly(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((4, 4)), rng.standard_normal(4)
    a = a + a.T
    w, new = rng.standard_normal((2, 4))
    net = [Node("loss", lambda x: form(x, a=a, b=b), ("w",))]
    made, d = forecast(net, {"w": w}, {"w": new}), new - w
    assert np.isclose(made.first, (a @ w + b) @ d, atol=1e-8)
    assert np.isclose(made.second, 0.5 * d @ a @ d, atol=1e-7)
    assert np.isclose(made.total, added(net, {"w": w}, {"w": new}), atol=1e-7)


def test_layers_that_act_on_each_other_are_seen_together():
    net, w = [Node("loss", joint, ("u", "v"))], {"u": np.ones(3), "v": np.ones(3)}
    up = {name: np.full(3, 1.5) for name in w}
    alone = [forecast(net, w, {name: up[name]}).second for name in w]
    assert np.allclose(alone, 0, atol=1e-9)
    assert np.isclose(forecast(net, w, up).second, 3 * 0.5 * 0.5)


@given(seed=SEEDS)
def test_the_error_of_a_cubic_is_its_third_term(seed):
    rng = np.random.default_rng(seed)
    w, new = rng.uniform(0.5, 2, (2, 3))
    net = [Node("loss", lambda x: (np.asarray((x**3).sum()), lambda g: (3 * g * x**2,)), ("w",))]
    rest = added(net, {"w": w}, {"w": new}) - forecast(net, {"w": w}, {"w": new}).total
    assert np.isclose(rest, ((new - w) ** 3).sum(), atol=1e-6)


def test_a_kink_is_in_the_truth_and_not_in_the_forecast():
    net = [Node("y", relu, ("w",)),
           Node("loss", lambda y: (np.asarray(y.sum()), lambda g: (g * np.ones_like(y),)), ("y",))]
    at, past = {"w": np.array([-0.5])}, {"w": np.array([1.0])}
    assert forecast(net, at, past) == Forecast(0.0, 0.0)
    assert added(net, at, past) == 1.0
    assert added(smooth_at(net, at), at, past) == 0.0
    near = {"w": np.array([-1e-5])}                         # within the step of the difference
    assert forecast(net, near, past) == Forecast(0.0, 0.0)


def test_the_mean_over_random_signs_is_half_of_the_trace():
    rng = np.random.default_rng(0)
    net = [Node("y", linear, ("x", "w")),
           Node("loss", lambda y: (np.asarray((y**2).sum()), lambda g: (2 * g * y,)), ("y",))]
    values = {"x": rng.standard_normal((5, 3)), "w": rng.standard_normal((2, 3))}
    every = [2.0 * np.array(s).reshape(2, 3) for s in np.ndindex(*[2] * 6)]
    halves = [forecast(net, values, {"w": values["w"] + 0.1 * (s - 1)}).second
              for s in every]
    exact = 2 * 2 * (values["x"] ** 2).sum()                # tr H: two outputs, second derivative 2
    assert np.isclose(np.mean(halves), 0.5 * 0.01 * exact)


def test_the_character_model_at_8_bits_loses_what_is_forecast_to_a_fifth_on_average():
    model, data = trained_text_model(), text_data()
    nodes, missed = with_loss(model.nodes), []
    new = {n: fake_quantize(model.values[n], symmetric(absmax(model.values[n]), bits=8))
           for n in weight_names(nodes)}
    for seed in range(11, 17):          # not those of the chapter
        some = np.random.default_rng(seed).integers(0, len(data.x_train), 500)
        values = {**model.values, "x": data.x_train[some], "labels": data.y_train[some]}
        made = forecast(nodes, values, new)
        missed.append((added(nodes, values, new) - made.total) / made.second)
    assert abs(np.mean(missed)) < 0.2
    assert np.abs(missed).max() < 0.6


def test_what_cannot_be_is_refused():
    net, values = [Node("loss", joint, ("u", "v"))], {"u": np.ones(3), "v": np.ones(3)}
    with pytest.raises(ValueError, match="`changed` must name at least one value; got none"):
        forecast(net, values, {})
    with pytest.raises(ValueError, match="`changed` must name known values; got 'w'"):
        forecast(net, values, {"w": np.ones(3)})
    with pytest.raises(ValueError, match=r"`changed\['u'\]` must have shape \(3,\); got \(2,\)"):
        added(net, values, {"u": np.ones(2)})
    with pytest.raises(ValueError, match=r"`changed\['u'\]` must be finite; got inf"):
        added(net, values, {"u": np.array([1, 2, np.inf])})
    with pytest.raises(ValueError, match="`step` must be positive and finite; got 0"):
        forecast(net, values, {"u": np.ones(3)}, step=0)
