"""AdaRound: within one step, gradients that are derivatives, near the optimum; networks."""

import itertools
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refquant.apply.rewrite import fold_batch_norms
from refquant.calibration.minmax import absmax
from refquant.calibration.mse import omse
from refquant.nn.convolution import patches
from refquant.nn.models import Model, accuracy
from refquant.nn.network import run
from refquant.nn.operations import relu
from refquant.nn.small_models import PLAIN, split, trained
from refquant.ptq import adaround as module
from refquant.ptq._descent import Adam
from refquant.ptq.adaquant import adaquant
from refquant.ptq.adaround import (
    Learned,
    adaround,
    identity,
    rectified_sigmoid,
    sharpness,
    start_at,
)
from refquant.quantizer import fake_quantize
from refquant.quantizers.uniform import Uniform, symmetric
from refquant.rounding import stochastic

SEEDS = st.integers(0, 2**32 - 1)
STEP = Uniform(np.array([[1.0]]), np.array([[0]]), -4, 4)


def layer(seed, n=40, width=6, out=3):
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(width, width)) / 2 + np.eye(width)
    return rng.normal(size=(out, width)), rng.normal(size=(n, width)) @ mix


def rng():
    return np.random.default_rng(7)


@given(st.floats(0, 1))
def test_the_start_is_the_soft_weight_itself(fraction):
    assert np.isclose(rectified_sigmoid(start_at(np.array([fraction]))), fraction, atol=1e-12)


def test_the_slider_is_exactly_0_or_1_beyond_2_398():
    assert rectified_sigmoid(np.array([2.3979])) == 1
    assert rectified_sigmoid(np.array([-2.3979])) == 0
    assert rectified_sigmoid(np.array([2.397])) < 1
    assert rectified_sigmoid(np.array([0.0])) == 0.5


@given(SEEDS, st.sampled_from([2, 3, 4]))
@settings(max_examples=15)
def test_each_weight_becomes_one_of_its_two_neighbours_or_is_clipped(seed, bits):
    w, x = layer(seed)
    q = symmetric(0.8 * absmax(w, axis=1), bits=bits)
    r = adaround(w, x, x @ w.T, q, rng=rng(), steps=60)
    assert isinstance(r, Learned)
    ratio = w / q.scale
    lowest, highest = (np.clip(f(ratio), q.qmin, q.qmax) for f in (np.floor, np.ceil))
    assert ((r.codes == lowest) | (r.codes == highest)).all()
    assert np.array_equal(q.decode(r.codes), r.weight)


@given(SEEDS)
@settings(max_examples=15)
def test_no_steps_are_nearest_rounding_with_ties_up(seed):
    w, x = layer(seed)
    q = symmetric(absmax(w, axis=1), bits=3)
    assert np.array_equal(adaround(w, x, x @ w.T, q, rng=rng(), steps=0).codes, q.encode(w))
    ties = np.array([[-1.5, -0.5, 0.5, 1.5]])
    r = adaround(ties, np.ones((2, 4)), np.zeros((2, 1)), STEP, rng=rng(), steps=0)
    assert r.codes.tolist() == [[-1, 0, 1, 2]]


def test_weights_on_the_grid_stay():
    w = np.array([[-2.0, 0.0, 3.0, 1.0]])
    x = np.random.default_rng(0).normal(size=(30, 4))
    assert np.array_equal(adaround(w, x, x @ w.T, STEP, rng=rng(), steps=200).weight, w)


@pytest.mark.parametrize("activation", [identity, relu])
@pytest.mark.parametrize("reach", [1.0, 0.55])
def test_the_gradient_of_the_sliders_is_the_derivative_of_the_loss(
    monkeypatch, activation, reach
):
    """One step with a spy in place of Adam sees the gradient; differences of the loss give it.

    Also where weights lie beyond the grid, and sliders at their ends.
    """
    w, x = layer(1, n=8)
    q = symmetric(reach * absmax(w, axis=1), bits=3)
    v = start_at(w / q.scale - np.floor(w / q.scale))
    v[0, 0], v[1, 1] = 4.0, -4.0
    target = activation(x @ w.T + 0.3)[0]
    penalty, seen = 0.05, []

    class Spy:
        def __init__(self, shape, rate):
            pass

        def step(self, gradient):
            seen.append(gradient)
            return np.zeros_like(gradient)

    monkeypatch.setattr(module, "Adam", Spy)
    monkeypatch.setattr(module, "sharpness", lambda step, steps: 3.0)
    monkeypatch.setattr(module, "start_at", lambda fraction: v)
    adaround(w, x, target, q, rng=np.random.default_rng(0), bias=np.full(3, 0.1),
             activation=activation, steps=1, penalty=penalty, batch=8)
    chosen = np.random.default_rng(0).integers(0, 8, 8)

    def loss(v):
        h = np.clip(1.2 / (1 + np.exp(-v)) - 0.1, 0, 1)
        soft = np.clip(np.floor(w / q.scale) + h, q.qmin, q.qmax) * q.scale
        y = activation(x[chosen] @ soft.T + 0.1)[0]
        return (((y - target[chosen]) ** 2).sum(1).mean()
                + penalty * (1 - np.abs(2 * h - 1) ** 3).sum())

    for index in itertools.product(range(3), range(6)):
        d = np.zeros_like(v)
        d[index] = 1e-6
        slope = (loss(v + d) - loss(v - d)) / 2e-6
        if np.isclose(np.abs(w[index] / q.scale[index[0], 0]), q.qmax, atol=1e-9):
            continue                            # at the end of the range the loss has a kink
        assert np.isclose(seen[0][index], slope, rtol=1e-4, atol=1e-6)


def test_on_tiny_problems_it_comes_near_the_best_of_all_roundings():
    """Geometric mean over 25 problems of ten weights; nearest rounding stands beside it."""
    ours, nearest = [], []
    for seed in range(25):
        generator = np.random.default_rng(seed)
        w = generator.normal(size=(1, 10))
        x = generator.normal(size=(60, 10)) @ (generator.normal(size=(10, 10)) / 2 + np.eye(10))
        q = symmetric(absmax(w, axis=1), bits=3)
        h = x.T @ x / len(x)
        floor = np.floor(w / q.scale)

        def cost(up, w=w, q=q, h=h, floor=floor):
            d = w - q.scale * np.clip(floor + up, q.qmin, q.qmax)
            return np.einsum("oi,ij,oj->o", d, h, d)[0]

        ups = np.array(list(itertools.product([0, 1], repeat=10)))
        d = w - q.scale * np.clip(floor + ups, q.qmin, q.qmax)
        best = np.einsum("oi,ij,oj->o", d, h, d).min()
        found = adaround(w, x, x @ w.T, q, rng=rng(), steps=600, penalty=1.0, batch=60)
        ours.append(cost(found.codes / 1 - floor) / best)
        nearest.append(cost(q.encode(w) - floor) / best)
    assert min(ours) >= 1 - 1e-9
    means = np.exp(np.mean(np.log(ours))), np.exp(np.mean(np.log(nearest)))
    assert means[0] < 1.4 < means[1]


def test_too_small_a_penalty_leaves_sliders_undecided():
    w, x = layer(2, n=100, width=20, out=10)
    q = symmetric(absmax(w, axis=1), bits=3)

    def undecided(penalty):
        h = adaround(w, x, x @ w.T, q, rng=rng(), steps=300, penalty=penalty, rate=0.03).slider
        return np.mean((h > 0.01) & (h < 0.99))

    assert undecided(1e-6) > 0.5
    assert undecided(1.0) < 0.2


def test_the_penalty_warms_up_and_then_sharpens():
    exponents = [sharpness(t, 100) for t in range(101)]
    assert exponents[:20] == [None] * 20
    assert exponents[20] == 20
    assert np.isclose(exponents[100], 2)
    assert (np.diff(np.array(exponents[20:])) < 0).all()


def test_convolutions_have_positions_and_the_generator_decides():
    w, _ = layer(0)
    x = np.random.default_rng(0).normal(size=(12, 9, 6)).astype(np.float32)
    target = x @ w.T.astype(np.float32)
    q = symmetric(absmax(w, axis=1), bits=2)
    one, other = (adaround(w.astype(np.float32), x, target, q, rng=np.random.default_rng(s),
                           steps=50) for s in (3, 3))
    assert np.array_equal(one.slider, other.slider)
    assert one.weight.dtype == np.float32
    assert one.losses.shape == (50,)


def test_asymmetric_grids_and_channels_of_zeros():
    q = Uniform(np.array([[0.5], [1.0]]), np.array([[3], [0]]), 0, 7)
    w = np.array([[-1.4, 1.9], [0.0, 0.0]])
    x = np.random.default_rng(0).normal(size=(30, 2))
    r = adaround(w, x, x @ w.T, q, rng=rng(), steps=100)
    assert np.array_equal(r.weight[1], [0, 0])
    assert (np.abs(r.weight[0] - w[0]) <= 0.5).all()


def test_bad_input_is_refused():
    w, x = layer(0)
    with pytest.raises(ValueError, match=r"`weight` must have shape \(out, 6\)"):
        adaround(w[:, :5], x, x @ w.T, STEP, rng=rng())
    with pytest.raises(ValueError, match=r"`target` must have shape \(40, 3\); got \(40, 2\)"):
        adaround(w, x, (x @ w.T)[:, :2], STEP, rng=rng())
    with pytest.raises(ValueError, match="`x` must be finite"):
        adaround(w, x * np.nan, x @ w.T, STEP, rng=rng())
    with pytest.raises(ValueError, match="`steps` must be at least 0; got -1"):
        adaround(w, x, x @ w.T, STEP, rng=rng(), steps=-1)
    with pytest.raises(ValueError, match="`batch` must be at least 1; got 0"):
        adaround(w, x, x @ w.T, STEP, rng=rng(), batch=0)
    with pytest.raises(ValueError, match="`x` must not be empty"):
        adaround(w, x[:0], x[:0] @ w.T, STEP, rng=rng())


DATA = split()
SOURCE = {"c1": ("x", 1), "c2": ("c1", 2), "c3": ("c2", 1)}


def nearest(w, rows, target, grid, bias, after):
    return fake_quantize(w, grid), bias


def learned(w, rows, target, grid, bias, after):
    r = adaround(w, rows, target, grid, rng=np.random.default_rng(1), bias=bias, activation=after)
    return r.weight, bias


def adapted(w, rows, target, grid, bias, after, *, rate=0.01):
    r = adaquant(w, rows, target, grid, rng=np.random.default_rng(1), bias=bias, activation=after,
                 rate=rate)
    return r.weight, r.bias.astype(np.float32)


def adapted_at_constant_rate(w, rows, target, grid, bias, after, *, rate=0.01):
    """Adam as it is in the authors' code: no schedule, the rate in units of the weights."""
    r = adaquant(w, rows, target, grid, rng=np.random.default_rng(1), bias=bias, activation=after,
                 rate=rate / float(np.mean(grid.scale)), schedule=lambda done: 1.0)
    return r.weight, r.bias.astype(np.float32)


def accuracy_of(method, *, seed, bits, images=256):
    """Per channel, least squared error grids, each layer fed by the rounded ones before it."""
    model = trained(PLAIN, seed=seed)
    nodes, values = fold_batch_norms(model.nodes, model.values)
    values = dict(values)
    shown = DATA.x_train[:images]
    clean = run(nodes, {"x": shown, **values}).values
    for layer in ("c1", "c2", "c3", "fc"):
        w = values[f"{layer}.weight"]
        flat = w.reshape(len(w), -1)
        grid = omse(flat, partial(symmetric, bits=bits), axis=1)
        now = run(nodes, {"x": shown, **values}).values
        if layer == "fc":
            rows, after, last = now["pool"], identity, "logits"
        else:
            source, stride = SOURCE[layer]
            rows, after, last = (
                patches(now[source], (3, 3), stride=stride, padding=1), relu, layer)
        new, values[f"{layer}.bias"] = method(
            flat, rows.reshape(images, -1, flat.shape[1]),
            clean[last].reshape(images, -1, len(w)), grid, values[f"{layer}.bias"], after)
        values[f"{layer}.weight"] = new.reshape(w.shape)
    return accuracy(Model(list(nodes), values, {}), DATA.x_test, DATA.y_test)


@pytest.mark.slow
def test_two_bits_are_enough_when_rounding_is_learned():
    """A10. Measured 0.97 +- 0.004 where nearest ends at 0.35 +- 0.14 (mean and s.d. of five)."""
    ours = [accuracy_of(learned, seed=s, bits=2) for s in range(5)]
    plain = [accuracy_of(nearest, seed=s, bits=2) for s in range(5)]
    assert min(ours) >= 0.95
    assert np.mean(ours) >= np.mean(plain) + 0.4


def test_three_bits_are_nearly_free_when_rounding_is_learned():
    assert accuracy_of(learned, seed=2, bits=3) >= 0.97
    assert accuracy_of(nearest, seed=2, bits=3) < 0.9


def test_which_way_each_weight_is_rounded_decides_and_nearest_is_not_the_best():
    """Three bits, one scale per tensor: all down or all up is chance. The best of twenty random
    roundings beats nearest on four of five networks: 0.834 (0.876), 0.858 (0.768), 0.770 (0.738),
    0.924 (0.914), 0.920 (0.848), although the mean of the twenty is 0.08 to 0.22 below it.
    """
    def rounded(values, rounding):
        new = dict(values)
        for name in ("c1.weight", "c2.weight", "c3.weight", "fc.weight"):
            grid = omse(values[name], partial(symmetric, bits=3))
            codes = np.clip(rounding(values[name] / grid.scale), grid.qmin, grid.qmax)
            new[name] = grid.decode(codes.astype(np.int32)).astype(np.float32)
        return accuracy(Model(list(nodes), new, {}), DATA.x_test, DATA.y_test)

    ahead = []
    for seed in range(2):
        model, draws = trained(PLAIN, seed=seed), np.random.default_rng(0)
        nodes, values = fold_batch_norms(model.nodes, model.values)
        assert max(rounded(values, np.floor), rounded(values, np.ceil)) < 0.2
        near = rounded(values, np.rint)
        found = [rounded(values, partial(stochastic, rng=draws)) for _ in range(20)]
        assert np.mean(found) < near
        ahead.append(max(found) > near)
    assert ahead == [False, True]


@pytest.mark.slow
def test_with_eight_images_fewer_degrees_of_freedom_win():
    """A11. AdaQuant at the rate that experiment takes, 0.01 and constant: 0.91 against 0.615, and
    0.25 to 0.34 between them on each of five networks (0.942 against 0.572 where the row is from).

    Most of it is the constant rate. The same rate falling to 0 on a cosine gives 0.78, and 0.01 of
    the mean scale, the best of 0.005 to 0.1, gives 0.84: against that AdaQuant the +0.15 is not
    there, only +0.07. With 128 images the three reach 0.95, 0.96 and 0.97.
    """
    ours, constant, falling = (
        np.array([accuracy_of(method, seed=s, bits=2, images=8) for s in range(networks)])
        for method, networks in ((learned, 5), (adapted_at_constant_rate, 5), (adapted, 3)))
    assert (ours >= constant + 0.15).all()
    assert (ours[:3] > falling).all()
    assert 0.05 <= np.mean(ours[:3] - falling) < 0.15


def test_a_weight_beyond_the_grid_has_no_slider_to_move():
    """Both of its neighbours are the same code; without a penalty it stays where it began."""
    w, x = np.array([[5.3, 0.4]]), np.ones((20, 2))
    r = adaround(w, x, np.zeros((20, 1)), STEP, rng=rng(), steps=30, penalty=0.0)
    assert r.slider[0, 0] == pytest.approx(0.3)
    assert r.slider[0, 1] < 0.35
    assert r.codes[0, 0] == STEP.qmax


def test_every_step_of_adam_is_the_rate_while_the_gradient_stays():
    adam = Adam((2,), 0.1)
    assert all(np.allclose(adam.step(np.array([3.0, -0.02])), [0.1, -0.1]) for _ in range(5))


def test_sliders_far_beyond_their_ends_do_not_overflow():
    assert np.array_equal(rectified_sigmoid(np.array([-1e4, 1e4])), [0, 1])
    w, x = layer(0)
    adaround(w, x, x @ w.T, symmetric(np.abs(w).max(1, keepdims=True), bits=4), rng=rng(),
             steps=60, rate=200.0)


def test_a_fraction_lies_between_its_neighbours():
    for wrong in (1.5, -1.0, np.nan):
        with pytest.raises(ValueError, match=r"^`fraction` must lie in \[0, 1\]"):
            start_at(np.array([wrong]))
