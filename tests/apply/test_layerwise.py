"""The loops over a network: what each layer is shown, and that no backend changes a code."""

import weakref
from functools import partial
from typing import NamedTuple

import numpy as np
import pytest
from joblib import parallel_config

from refquant.apply.calibrate import collect
from refquant.apply.layerwise import Layerwise, parallel, sequential, silent
from refquant.apply.simulate import weight_names
from refquant.calibration.minmax import absmax
from refquant.calibration.second_moment import SecondMoment
from refquant.nn.convolution import conv2d, depthwise_conv2d
from refquant.nn.network import Node, run
from refquant.nn.operations import global_average_pool, linear, relu
from refquant.ptq.gptq import gptq
from refquant.quantizers.uniform import symmetric

RNG = np.random.default_rng(0)
NET = [
    Node("h.sum", linear, ("x", "a.weight", "a.bias")),
    Node("h", relu, ("h.sum",)),
    Node("left", linear, ("h", "b.weight")),
    Node("right", linear, ("h", "c.weight")),
    Node("y", linear, ("left", "d.weight")),
]
VALUES = {"a.weight": RNG.normal(size=(6, 5)), "a.bias": RNG.normal(size=6),
          "b.weight": RNG.normal(size=(4, 6)), "c.weight": RNG.normal(size=(4, 6)),
          "d.weight": RNG.normal(size=(3, 4)).astype(np.float32)}
BATCHES = [{"x": RNG.normal(size=(n, 5))} for n in (20, 1, 7)]
NAMES = weight_names(NET)


class Rows(NamedTuple):
    """A statistic that keeps everything."""

    x: np.ndarray

    def merge(self, other):
        return Rows(np.concatenate([self.x, other.x]))


class Seen(NamedTuple):
    weight: np.ndarray
    x: np.ndarray


def halve(weight, rows):
    return Seen(weight / 2, rows.x)


def three_bits(weight, inputs):
    fit = partial(lambda w: symmetric(absmax(w, axis=1), bits=3))
    return gptq(weight, inputs.hessian, fit)


def joined(network_values, name):
    return collect(NET, network_values, BATCHES, names=[name])[name]


def test_each_layer_sees_the_inputs_that_the_replaced_layers_before_it_give():
    made = sequential(NET, VALUES, BATCHES, Rows, halve, names=NAMES)
    assert isinstance(made, Layerwise)
    assert list(made.results) == NAMES
    for name, source in zip(NAMES, ["x", "h", "h", "left"], strict=True):
        assert np.array_equal(made.values[name], VALUES[name] / 2)
        assert np.array_equal(made.results[name].x, joined(made.values, source))
    assert np.array_equal(made.values["a.bias"], VALUES["a.bias"])


def test_in_parallel_each_layer_sees_the_inputs_of_the_float_network():
    made = parallel(NET, VALUES, BATCHES, Rows, halve, names=NAMES)
    assert list(made.results) == NAMES
    for name, source in zip(NAMES, ["x", "h", "h", "left"], strict=True):
        assert np.array_equal(made.values[name], VALUES[name] / 2)
        assert np.array_equal(made.results[name].x, joined(VALUES, source))


@pytest.mark.parametrize("loop", [sequential, parallel])
def test_a_weight_that_two_layers_share_is_fitted_to_the_inputs_of_the_last(loop):
    net = [Node("h", linear, ("x", "w")), Node("y", linear, ("h", "w"))]
    values, x = {"w": np.array([[1.0, 2.0], [3.0, 4.0]])}, np.array([[1.0, -1.0]])
    made = loop(net, values, [{"x": x}], Rows, halve, names=["w"])
    assert np.array_equal(made.results["w"].x, x @ values["w"].T)
    assert np.array_equal(made.values["w"], values["w"] / 2)


@pytest.mark.parametrize("loop", [sequential, parallel])
def test_only_what_is_named_changes_in_the_order_of_the_run(loop):
    seen = []
    made = loop(NET, VALUES, BATCHES, Rows, halve, names=["c.weight", "a.weight"],
                progress=lambda done, total, name: seen.append((done, total, name)))
    assert seen == [(1, 2, "a.weight"), (2, 2, "c.weight")]
    assert made.values["b.weight"] is VALUES["b.weight"]
    assert made.values["d.weight"] is VALUES["d.weight"]


@pytest.mark.parametrize("loop", [sequential, parallel])
def test_a_tap_sees_inputs_and_nodes_and_what_it_returns_counts(loop):
    names = []

    def tap(name, value):
        names.append(name)
        return value * 0 + 1 if name == "h" else value

    made = loop(NET, VALUES, BATCHES[:1], Rows, halve, names=NAMES, tap=tap)
    assert names == ["x", "h.sum", "h", "left", "right"] + ["y"] * (names[-1] == "y")
    assert (made.results["b.weight"].x == 1).all()


@pytest.mark.parametrize("loop", [sequential, parallel])
def test_no_names_change_nothing(loop):
    assert loop(NET, VALUES, BATCHES, Rows, halve, names=[]).results == {}


@pytest.mark.parametrize("loop", [sequential, parallel])
@pytest.mark.parametrize("settings", [{}, {"padding": 1}, {"stride": 2, "padding": 1}])
def test_a_convolution_is_a_linear_layer_on_patches(loop, settings):
    net = [Node("c", partial(conv2d, **settings), ("x", "w", "bias")),
           Node("y", global_average_pool, ("c",))]
    values = {"w": RNG.normal(size=(3, 3, 3, 2)), "bias": np.zeros(3)}
    x = RNG.normal(size=(2, 6, 6, 2))
    made = loop(net, values, [{"x": x}], Rows, halve, names=["w"])
    rows, weight = made.results["w"].x, values["w"].reshape(3, -1)
    exact = run(net, {"x": x, **values}).values["c"]
    assert np.allclose((rows @ weight.T).reshape(exact.shape), exact)
    assert np.array_equal(made.values["w"], values["w"] / 2)


@pytest.mark.parametrize("loop", [sequential, parallel])
def test_convolutions_of_one_value_with_other_settings_have_rows_of_their_own(loop):
    net = [Node("c", conv2d, ("x", "v")), Node("d", partial(conv2d, padding=1), ("x", "w")),
           Node("e", partial(conv2d, padding=1), ("x", "u"))]
    values = {name: RNG.normal(size=(3, 3, 3, 2)) for name in "uvw"}
    made = loop(net, values, [{"x": RNG.normal(size=(2, 6, 6, 2))}], Rows, halve, names="vwu")
    assert [len(made.results[name].x) for name in "vwu"] == [2 * 4 * 4, 2 * 6 * 6, 2 * 6 * 6]


@pytest.mark.parametrize("loop", [sequential, parallel])
def test_what_is_not_needed_any_more_is_neither_run_nor_kept(loop):
    alive = []

    def noted(x):
        alive.append(weakref.ref(made := x + 1))
        return made, None

    def look(x):
        assert alive[0]() is None, "read for the last time by the node before"
        return x + 1, None

    def never(x):
        raise AssertionError("no named layer is behind this node")

    net = [Node("a", noted, ("x",)), Node("b", lambda x: (x + 1, None), ("a",)),
           Node("c", look, ("b",)), Node("y", linear, ("c", "w")), Node("z", never, ("y",))]
    made = loop(net, {"w": np.eye(2)}, [{"x": np.eye(2)}], Rows, halve, names=["w"])
    assert np.array_equal(made.results["w"].x, np.eye(2) + 3)


def test_in_sequence_one_statistic_is_in_memory_at_a_time():
    kept = []

    class Counted:
        def __init__(self, x):
            kept.append(weakref.ref(self))

    def alone(weight, statistic):
        assert [one for one in kept if one() is not None] == kept[-1:]
        return Seen(weight, weight)

    sequential(NET, VALUES, BATCHES[:1], Counted, alone, names=NAMES)
    assert len(kept) == 3                       # two layers read the same value


@pytest.mark.parametrize("backend", ["threading", "loky", "sequential"])
def test_every_backend_of_joblib_gives_the_same_codes(backend):
    alone = parallel(NET, VALUES, BATCHES, SecondMoment.of, three_bits, names=NAMES)
    workers = {} if backend == "sequential" else {"n_jobs": 2}
    with parallel_config(backend, **workers):
        there = parallel(NET, VALUES, BATCHES, SecondMoment.of, three_bits, names=NAMES)
    for name in NAMES:
        assert np.array_equal(alone.results[name].codes, there.results[name].codes)
        assert there.values[name].dtype == VALUES[name].dtype


def test_an_error_in_a_worker_reaches_the_caller():
    def broken(weight, inputs):
        raise ValueError("not this one")

    with parallel_config("threading", n_jobs=2), pytest.raises(ValueError, match="not this one"):
        parallel(NET, VALUES, BATCHES, SecondMoment.of, broken, names=NAMES)


def test_arguments_are_unchanged():
    before = {name: v.copy() for name, v in VALUES.items()}
    sequential(NET, VALUES, BATCHES, SecondMoment.of, three_bits, names=NAMES)
    assert all(np.array_equal(VALUES[name], v) for name, v in before.items())
    assert set(BATCHES[0]) == {"x"}


@pytest.mark.parametrize("loop", [sequential, parallel])
def test_bad_input_is_refused(loop):
    with pytest.raises(ValueError, match="`batches` must hold at least one batch; got none"):
        loop(NET, VALUES, [], Rows, halve, names=NAMES)
    with pytest.raises(ValueError, match=r"`names` must hold weights .*; got 'a.bias'"):
        loop(NET, VALUES, BATCHES, Rows, halve, names=["a.bias"])
    depthwise = [Node("y", depthwise_conv2d, ("x", "w.weight"))]
    with pytest.raises(ValueError, match=r"`names` must hold weights .*; got 'w.weight'"):
        loop(depthwise, {"w.weight": np.ones((2, 3, 3, 1))}, BATCHES, Rows, halve,
             names=["w.weight"])


def test_silence():
    assert silent(1, 2, "a") is None


@pytest.mark.parametrize("loop", [sequential, parallel])
def test_a_method_without_a_weight_and_a_batch_of_another_network_are_refused(loop):
    for wrong in (None, VALUES["a.weight"][:1], Layerwise({}, {})):
        with pytest.raises(ValueError, match=r"^`method` must return a record with a weight"):
            loop(NET, VALUES, BATCHES, Rows, lambda w, s, made=wrong: made, names=NAMES)
    with pytest.raises(ValueError, match=r"^`nodes` must read known names; got 'x' in 'h.sum'"):
        loop(NET, VALUES, [{"image": BATCHES[0]["x"]}], Rows, halve, names=NAMES)
