"""The moons: where they lie, and a network that has the right derivative and learns them."""

from functools import partial

import numpy as np
from _oracles.derivatives import assert_pullback

from refquant.nn.models import with_loss
from refquant.nn.moons import Moons, initial_mlp, mlp, two_moons
from refquant.nn.network import backward, run
from refquant.nn.operations import relu
from refquant.nn.optimizers import adam, adam_start


def rng(seed=0):
    return np.random.default_rng(seed)


def test_without_noise_each_point_lies_on_its_half_circle():
    moons = two_moons(101, rng=rng(), noise=0.0)
    assert isinstance(moons, Moons)
    upper, lower = moons.x[moons.y == 0], moons.x[moons.y == 1]
    assert np.allclose((upper**2).sum(1), 1, atol=1e-6)
    assert (upper[:, 1] >= -1e-6).all()
    assert np.allclose(((lower - [1, 0.5]) ** 2).sum(1), 1, atol=1e-6)
    assert (lower[:, 1] <= 0.5 + 1e-6).all()
    assert len(upper) == len(lower) + 1


def test_noise_has_its_deviation_and_the_generator_decides():
    moons = two_moons(20_000, rng=rng(), noise=0.2)
    same = two_moons(20_000, rng=rng(), noise=0.0)
    assert np.allclose((moons.x - same.x).std(0), 0.2, rtol=0.03)
    assert moons.x.dtype == np.float32


def test_the_network_has_the_gradient_of_its_loss():
    moons, nodes = two_moons(20, rng=rng()), with_loss(mlp())
    values = {k: v.astype(float) for k, v in initial_mlp((2, 4, 3, 2), rng=rng(1)).items()}
    inputs = {"x": moons.x.astype(float), "labels": moons.y}

    def loss(*arrays):
        trace = run(nodes, inputs | dict(zip(values, arrays, strict=True)))
        return trace.values["loss"], lambda g: tuple(
            backward(trace, {"loss": g})[name] for name in values)

    assert_pullback(loss, tuple(values.values()), tolerance=1e-6)


def test_the_network_learns_the_moons():
    train, test = two_moons(300, rng=rng(0)), two_moons(300, rng=rng(1))
    nodes, values = with_loss(mlp(activation=partial(relu))), initial_mlp(rng=rng(2))
    state = adam_start(values)
    for _ in range(150):
        trace = run(nodes, {"x": train.x, "labels": train.y} | values)
        values, state = adam(values, backward(trace, {"loss": 1.0}), state, rate=0.02)
    logits = run(mlp(), {"x": test.x} | values).values["logits"]
    assert np.mean(logits.argmax(1) == test.y) > 0.95
