"""Networks that train in few bits: grids are kept, scales exact, and integers all the way."""

from functools import partial

import numpy as np
import pytest

from refquant.apply.low_precision import (
    Steps,
    cast_gradients,
    drawn,
    fp8,
    initial_integers,
    integer_network,
    integer_sgd,
    loss_scaled,
    scaled,
    stored_sgd,
)
from refquant.apply.train import ADAM, SGD, resume, save, shuffled, start, train
from refquant.nn.convolution import patches
from refquant.nn.data import digits
from refquant.nn.models import digits_cnn, initial_parameters, initial_statistics, with_loss
from refquant.nn.network import backward, run
from refquant.nn.optimizers import cosine
from refquant.qat.fp8_training import cast, tensor_scale
from refquant.quantizers.fixed_point import FixedPoint
from refquant.quantizers.minifloat import E4M3FN, E5M2
from refquant.rounding import half_even

DATA = digits()
GRID = FixedPoint(8, 7)
NODES = with_loss(digits_cnn(training=True))


def fresh(grid=None):
    p = initial_parameters(rng=np.random.default_rng(0))
    if grid is not None:
        p = {k: grid.decode(grid.encode(v)) if k.endswith(".weight") else v for k, v in p.items()}
    return p


def batches(size=16):
    return shuffled({"x": DATA.x_train, "labels": DATA.y_train}, size,
                    rng=np.random.default_rng(0))


def trained(nodes, optimizer, parameters, *, steps, rate=0.05, statistics=None, state=None):
    statistics = initial_statistics() if statistics is None else statistics
    state = state or start(parameters, statistics, optimizer)
    return train(nodes, state, batches(), steps=steps, rate=lambda step: rate, optimizer=optimizer)


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def test_stored_weights_never_leave_their_grid_and_a_resumed_run_draws_the_same(tmp_path):
    optimizer = stored_sgd(GRID, seed=3)
    whole = trained(NODES, optimizer, fresh(GRID), steps=4)
    for name, value in whole.parameters.items():
        if name.endswith(".weight"):
            assert value.dtype == np.float32
            assert np.array_equal(value, GRID.decode(GRID.encode(value)))
    half = trained(NODES, optimizer, fresh(GRID), steps=2)
    save(half, tmp_path / "half.npz")
    again = trained(NODES, optimizer, None, steps=4, state=resume(tmp_path / "half.npz", optimizer))
    assert again.optimizer == whole.optimizer == Steps(4)
    assert same(again.parameters, whole.parameters)
    other = trained(NODES, stored_sgd(GRID, seed=4), fresh(GRID), steps=4)
    assert not same(other.parameters, whole.parameters)


@pytest.mark.parametrize("optimizer", [stored_sgd(GRID, seed=1), integer_sgd(seed=1)])
def test_each_step_draws_anew(optimizer):
    p, g = {"a.weight": np.zeros(200)}, {"a.weight": np.linspace(0.01, 0.99, 200) * GRID.scale}
    one, other = (optimizer.step(p, g, Steps(k), rate=1.0)[0]["a.weight"] for k in (0, 1))
    assert not np.array_equal(one, other)
    assert np.array_equal(one, optimizer.step(p, g, Steps(0), rate=1.0)[0]["a.weight"])


def test_with_nearest_updates_exactly_those_of_half_a_step_are_taken():
    before = fresh(GRID)
    trace = run(NODES, batches()(0) | before)
    g = backward(trace, {"loss": 1.0})
    after = trained(NODES, stored_sgd(GRID, seed=0, rounding=lambda rng: half_even), before,
                    steps=1).parameters
    for name in before:
        update = np.float32(0.05) * g[name]
        if name.endswith(".weight"):
            assert not (after[name] != before[name])[np.abs(update) < GRID.scale / 2].any()
            inside = np.abs(before[name]) < 0.9
            assert (after[name] != before[name])[inside & (np.abs(update) > GRID.scale / 2)].all()
        else:
            assert np.array_equal(after[name], before[name] - update)


@pytest.mark.parametrize("optimizer", [SGD, ADAM])
def test_a_scale_that_is_a_power_of_two_changes_no_bit_of_a_run(optimizer):
    plain = trained(NODES, optimizer, fresh(), steps=3, rate=1e-3)
    scale = {"loss.scale": np.float32(2.0**12), "loss.clean": np.float32(0)}
    wrapped = loss_scaled(optimizer, interval=2)
    other = trained(scaled(NODES), wrapped, fresh() | scale, steps=3, rate=1e-3)
    assert other.parameters.pop("loss.scale") == 2.0**13
    assert other.parameters.pop("loss.clean") == 1
    assert same(plain.parameters, other.parameters)


def test_an_infinite_gradient_skips_the_step_and_halves_the_scale():
    def half(g):
        with np.errstate(over="ignore"):
            return g.astype(np.float16).astype(g.dtype)

    nodes = scaled(cast_gradients(NODES, half))
    scale = {"loss.scale": np.float32(2.0**30), "loss.clean": np.float32(0)}
    state = trained(nodes, loss_scaled(ADAM), fresh() | scale, steps=1)
    assert state.parameters["loss.scale"] == 2.0**29
    assert state.optimizer.steps == 0
    assert all(np.array_equal(state.parameters[k], v) for k, v in fresh().items())
    later = trained(nodes, loss_scaled(ADAM), None, steps=20, state=state, rate=1e-3)
    assert later.parameters["loss.scale"] < 2.0**24
    assert later.optimizer.steps > 5


def test_cast_gradients_casts_each_gradient_once_and_changes_no_value():
    nodes = cast_gradients(NODES, lambda g: 2 * g, keep=("loss", "logits"))
    values = batches()(0) | fresh()
    plain, other = run(NODES, values), run(nodes, values)
    assert np.array_equal(plain.values["loss"], other.values["loss"])
    before, after = backward(plain, {"loss": 1.0}), backward(other, {"loss": 1.0})
    assert np.array_equal(after["fc.weight"], before["fc.weight"])
    assert np.array_equal(after["pool"], 2 * before["pool"])
    assert np.array_equal(after["pw2.weight"], 16 * before["pw2.weight"])   # pool, pw2, norm, conv


def test_fp8_layers_read_and_return_numbers_of_their_formats():
    nodes = fp8(NODES, keep=("stem.conv", "logits"))
    values = batches()(0) | fresh()
    trace = run(nodes, values)
    g = backward(trace, {"loss": 1.0})
    assert "stem.conv.x8" not in trace.values
    for name in ("r1b.conv", "dw2.conv"):
        for of, source in (("x8", trace.values[name.replace("conv", "")[:-1].replace(
                "r1b", "r1a").replace("dw2", "r2b")]), ("w8", values[name[:-4] + "weight"])):
            expected = cast(source, E4M3FN, scale=tensor_scale(np.abs(source).max(), E4M3FN))
            assert np.array_equal(trace.values[f"{name}.{of}"], expected)
        assert np.array_equal(g[name], cast(
            g[f"{name}.g8"], E5M2, scale=tensor_scale(np.abs(g[f"{name}.g8"]).max(), E5M2)))
    with pytest.raises(ValueError, match="`keep` must name layers"):
        fp8(NODES, keep=("conv1",))


def test_the_integer_network_computes_with_integers_forward_and_back():
    """Each layer again in int64: products of codes, a shift, a clip."""
    nodes, p = with_loss(integer_network()), initial_integers(rng=np.random.default_rng(1))
    trace = run(nodes, batches()(0) | p)
    v, g = trace.values, backward(trace, {"loss": 1.0})
    for name, short in (("c1", "c1.short"), ("c2", "c2.short"), ("c3", "c3.short")):
        assert np.array_equal(128 * v[name], np.rint(128 * v[name]))
        assert np.array_equal(128 * g[short], np.rint(128 * g[short]))
        assert np.abs(g[short]).max() >= 0.5
    assert np.array_equal(128 * g["fc.shift"], np.rint(128 * g["fc.shift"]))
    for name, source, alpha in (("fc", "flat", 4), ("c2", "c1", 4)):
        if name == "fc":
            weight = (2 * v["fc.integers"]).astype(np.int64)
            sums = (128 * v[source]).astype(np.int64) @ weight.T
            assert np.array_equal(sums, 2 * 128 * alpha * v["logits"].astype(np.float64))
            continue
        weight = (2 * v[f"{name}.integers"]).astype(np.int64).reshape(32, -1)
        rows = patches((128 * v[source]), (3, 3), stride=2, padding=1).astype(np.int64)
        sums = np.maximum(rows.reshape(-1, 144) @ weight.T, 0)
        codes = np.clip(np.rint(sums / (2 * alpha)), -127, 127)
        assert np.array_equal(codes, 128 * v[name].reshape(-1, 32))


def test_a_logit_is_not_clipped_so_that_its_class_cannot_be_lost():
    p = {k: np.full_like(w, 0.5) for k, w in
         initial_integers(rng=np.random.default_rng(0)).items()}
    trace = run(with_loss(integer_network()), batches()(0) | p)
    assert trace.values["logits"].min() > 1
    assert (backward(trace, {"loss": 1.0})["fc"] != 0).any()


def test_an_integer_run_learns_and_its_weights_stay_integers():
    optimizer = integer_sgd(seed=0)
    state = train(with_loss(integer_network()), start(
        initial_integers(rng=np.random.default_rng(0)), {}, optimizer), batches(64), steps=70,
        rate=cosine(8.0, 70), optimizer=optimizer)
    for w in state.parameters.values():
        assert np.array_equal(128 * w, np.rint(128 * w))
        assert np.abs(w).max() <= 127 / 128
    logits = run(integer_network(), {"x": DATA.x_test, **state.parameters}).values["logits"]
    assert (logits.argmax(1) == DATA.y_test).mean() > 0.75


def test_the_generator_decides_what_is_drawn():
    x = np.full(100, 0.5)
    one, other = (drawn(np.random.default_rng(s))(x) for s in (0, 0))
    assert np.array_equal(one, other)
    assert set(one) == {0, 1}
    frozen = partial(integer_sgd(seed=0).step, {"w": np.zeros(2)}, {"w": np.ones(2)}, Steps(7))
    assert frozen(rate=lambda name: 0.0)[0]["w"].tolist() == [0, 0]
    assert frozen(rate=1.0)[1] == Steps(8)
