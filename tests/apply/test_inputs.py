"""Something in front of a layer that its weight undoes: the network computes what it did."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ptq._experiments import (
    embed,
    float_embeddings,
    minilm_model,
    minilm_names,
    need_minilm,
    score,
    sentences,
)

from refquant.apply.calibrate import observe
from refquant.apply.inputs import divide, repeat, rotate
from refquant.apply.simulate import dynamic, input_names, weight_names, with_quantized
from refquant.calibration.minmax import absmax
from refquant.calibration.statistics import Range
from refquant.nn.models import Model, trained_digits_cnn
from refquant.nn.network import Node, backward, run
from refquant.nn.operations import add, linear
from refquant.nn.text import bits_per_character, text_data, trained_text_model
from refquant.nn.transformer import encoder
from refquant.ptq.outlier_channel_splitting import Split, split_channels, split_for
from refquant.ptq.rotation import hadamard, orthogonal, random_signs
from refquant.ptq.smoothquant import smoothing_scale
from refquant.quantizer import fake_quantize
from refquant.quantizers.uniform import symmetric

SEEDS = st.integers(0, 2**32 - 1)
TINY = [Node("a", linear, ("x", "a.weight", "a.bias")), Node("b", linear, ("x", "b.weight")),
        Node("s", add, ("a", "b")), Node("y", linear, ("s", "y.weight"))]


def tiny(seed):
    rng = np.random.default_rng(seed)
    shapes = {"a.weight": (3, 4), "a.bias": (3,), "b.weight": (3, 4), "y.weight": (2, 3)}
    values = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    return values, rng.standard_normal((5, 4)), rng


def changes(values, rng):
    """Each rewrite with its argument for the weights a and y."""
    names = ["a.weight", "y.weight"]
    widths = {name: values[name].shape[1] for name in names}
    return {
        divide: {n: np.exp(rng.standard_normal(w)) for n, w in widths.items()},
        repeat: {n: split_channels(values[n], 2) for n in names},
        rotate: {n: orthogonal(w, rng=rng) for n, w in widths.items()},
    }


@given(SEEDS)
def test_every_value_is_what_it_was_and_so_is_the_gradient_of_the_input(seed):
    values, x, rng = tiny(seed)
    g = rng.standard_normal((5, 2))
    before = run(TINY, {"x": x, **values})
    for rewrite, wanted in changes(values, rng).items():
        made = rewrite(TINY, values, wanted)
        after = run(made.nodes, {"x": x, **made.values})
        for name in ("a", "b", "s", "y"):
            assert np.allclose(after.values[name], before.values[name], rtol=1e-9, atol=1e-9)
        back = backward(after, {"y": g})["x"]
        assert np.allclose(back, backward(before, {"y": g})["x"], rtol=1e-9, atol=1e-9)
        assert weight_names(made.nodes) == weight_names(TINY)
        assert input_names(made.nodes) == ["a.input", "x", "y.input"]


@given(SEEDS)
def test_the_layer_reads_what_the_change_says(seed):
    values, x, rng = tiny(seed)
    for rewrite, wanted in changes(values, rng).items():
        made = rewrite(TINY, values, wanted)
        seen = run(made.nodes, {"x": x, **made.values}).values["a.input"]
        how = wanted["a.weight"]
        expected = (x / how if rewrite is divide else
                    x[:, how.source] if rewrite is repeat else x @ how)
        assert np.allclose(seen, expected, rtol=1e-12)


def test_layers_that_read_the_same_through_the_same_share_one_node():
    values, x, _ = tiny(0)
    scale = np.array([1.0, 2, 4, 8])
    shared = divide(TINY, values, {"a.weight": scale, "b.weight": scale.copy()})
    apart = divide(TINY, values, {"a.weight": scale, "b.weight": 2 * scale})
    assert (len(shared.nodes), len(apart.nodes)) == (5, 6)
    assert input_names(shared.nodes) == ["a.input", "s"]
    assert np.allclose(run(shared.nodes, {"x": x, **shared.values}).values["y"],
                       run(TINY, {"x": x, **values}).values["y"])


def test_a_weight_of_two_layers_gets_a_node_in_front_of_each():
    rng = np.random.default_rng(0)
    net = [Node("h", linear, ("x", "w.weight")), Node("y", linear, ("h", "w.weight"))]
    values, x = {"w.weight": rng.standard_normal((4, 4))}, rng.standard_normal((3, 4))
    for rewrite, how in {divide: np.array([1.0, 2, 4, 8]), rotate: orthogonal(4, rng=rng),
                         repeat: split_channels(values["w.weight"], 2)}.items():
        made = rewrite(net, values, {"w.weight": how})
        assert [n.name for n in made.nodes] == ["w.input", "h", "w.input2", "y"]
        assert np.allclose(run(made.nodes, {"x": x, **made.values}).values["y"],
                           run(net, {"x": x, **values}).values["y"])


def test_powers_of_two_change_no_bit_of_a_convolutional_network():
    model, rng = trained_digits_cnn(), np.random.default_rng(0)
    x = rng.random((4, 8, 8, 1)).astype(np.float32)
    scales = {n: 2.0 ** rng.integers(-3, 4, model.values[n].shape[-1])
              for n in ("r1a.weight", "r1b.weight", "fc.weight")}
    made = divide(model.nodes, model.values, scales)
    before, after = (run(nodes, {"x": x, **values}).values["logits"]
                     for nodes, values in ((model.nodes, model.values), made))
    assert np.array_equal(before, after)
    assert after.dtype == np.float32


def test_one_change_after_another_is_both():
    values, x, rng = tiny(3)
    scale, q = np.exp(rng.standard_normal(4)), orthogonal(4, rng=rng)
    first = divide(TINY, values, {"a.weight": scale})
    both = rotate(first.nodes, first.values, {"a.weight": q})
    seen = run(both.nodes, {"x": x, **both.values}).values
    assert np.allclose(seen["a.input2"], x / scale @ q)
    assert np.allclose(seen["y"], run(TINY, {"x": x, **values}).values["y"])


def test_a_change_by_nothing_changes_no_value():
    values, *_ = tiny(1)
    none = {divide: np.ones(4), repeat: split_channels(values["a.weight"], 0), rotate: np.eye(4)}
    for rewrite, how in none.items():
        made = rewrite(TINY, values, {"a.weight": how})
        assert np.array_equal(made.values["a.weight"], values["a.weight"])
        assert rewrite(TINY, values, {}) == (TINY, values)


def test_arguments_are_left_alone():
    values, _, rng = tiny(2)
    copies = {name: v.copy() for name, v in values.items()}
    for rewrite, wanted in changes(values, rng).items():
        rewrite(TINY, values, wanted)
    assert all(np.array_equal(values[name], v) for name, v in copies.items())
    assert set(values) == set(copies)


@given(SEEDS)
@settings(max_examples=10)
def test_in_an_encoder_the_shortcut_goes_by_undivided(seed):
    """Query, key and value share one division; the sum behind them reads the norm itself."""
    rng = np.random.default_rng(seed)
    nodes = encoder(layers=1, heads=2)
    produced = {n.name for n in nodes}
    values = {name: rng.standard_normal(_shape(name)) for n in nodes for name in n.inputs
              if name not in produced and name not in ("tokens", "mask")}
    feed = {"tokens": rng.integers(0, 7, (2, 3)), "mask": np.ones((2, 3))}
    scale = np.exp(rng.standard_normal(4))
    names = [f"layer0.{part}.weight" for part in ("query", "key", "value", "wide")]
    made = divide(nodes, values, dict.fromkeys(names, scale))
    assert len(made.nodes) == len(nodes) + 2
    before, after = (run(n, {**feed, **v}).values["embedding"] for n, v in ((nodes, values), made))
    assert np.allclose(before, after, rtol=1e-9, atol=1e-9)


def _shape(name):
    """Of a parameter of an encoder of width 4."""
    if name.endswith(("wide.weight", "narrow.weight")):
        return (16, 4) if "wide" in name else (4, 16)
    if name.endswith("wide.bias"):
        return (16,)
    if name.endswith(".weight"):
        return (4, 4)
    return {"words": (7, 4), "positions": (9, 4)}.get(name.rsplit(".", 1)[-1], (4,))


def test_splitting_by_name_helps_weights_of_one_scale():
    """The character model, 4 bits per tensor, 5 % more channels."""
    model, data = trained_text_model(), text_data()
    test = data.x_test[:4000], data.y_test[:4000]
    names = weight_names(model.nodes)[1:]       # the first is a table, not a layer

    def fit(w):
        return symmetric(absmax(w), bits=4)

    def spent(nodes, values, grids):
        return bits_per_character(Model(nodes, with_quantized(values, grids), {}), *test)

    plain = spent(model.nodes, model.values, {n: fit(model.values[n]) for n in names})
    split = {n: split_for(model.values[n], model.values[n].shape[1] // 20, fit) for n in names}
    made = repeat(model.nodes, model.values, {n: s for n, (s, _) in split.items()})
    assert spent(made.nodes, made.values, {n: q for n, (_, q) in split.items()}) < plain - 0.05


@pytest.mark.parametrize(("call", "words"), [
    (lambda v: divide(TINY, v, {"z.weight": np.ones(4)}), "names must be .*got 'z.weight'"),
    (lambda v: divide(TINY, v, {"a.bias": np.ones(3)}), "names must be .*got 'a.bias'"),
    (lambda v: divide(TINY, v, {"a.weight": np.ones(3)}), "`scale` must have shape"),
    (lambda v: divide(TINY, v, {"a.weight": np.array([1.0, 0, 1, 1])}), "`scales` must be posi"),
    (lambda v: rotate(TINY, v, {"a.weight": np.eye(3)}), "`rotations` must have shape"),
    (lambda v: rotate(TINY, v, {"a.weight": 2 * np.eye(4)}), "`rotations` must be orthogonal"),
    (lambda v: rotate(TINY, v, {"a.weight": 1.001 * np.eye(4)}), "`rotations` must be orthogonal"),
    (lambda v: divide([Node("y", linear, ("w", "w"))], {"w": np.eye(4)}, {"w": np.ones(4)}),
     "names must be .*got 'w'"),
    (lambda v: repeat(TINY, v, {"a.weight": split_channels(v["y.weight"], 1)}), "`splits` must"),
    (lambda v: repeat(TINY, v, {"a.weight": Split(v["a.weight"], np.array([1, 0, 2, 3]))}),
     "`splits` must keep all 4 channels"),
])
def test_wrong_arguments_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call(tiny(0)[0])


@pytest.mark.peer
@pytest.mark.slow
def test_minilm_takes_smoothing_and_rotation_by_name():
    """Activations of 6 bits per tensor, dynamic, weights of 8 bits per row. Cosine to the float
    embedding: 0.60 as it is, 0.70 with the 24 layers smoothed that read a norm, 0.994 with all 36
    rotated."""
    need_minilm()
    model, names = minilm_model(), minilm_names()

    def cosine(nodes, values):
        rows = {n: fake_quantize(values[n], symmetric(absmax(values[n], axis=1), bits=8))
                for n in names}
        fits = dict.fromkeys(input_names(nodes), lambda x: symmetric(absmax(x), bits=6))
        return score(embed({**values, **rows}, nodes=nodes, tap=dynamic(fits))).cosine

    fed = {node.inputs[1]: node.inputs[0] for node in model.nodes if node.op is linear}
    fed_by_norms = [n for n in names if not n.endswith(("narrow.weight", "output.weight"))]
    seen = observe(model.nodes, model.values, [sentences().calibration],
                   lambda x: Range.of(x.reshape(-1, x.shape[-1]), axis=0),
                   names=input_names(model.nodes))
    scales = {}
    for name in fed_by_norms:
        columns = np.max([np.abs(model.values[n]).max(0) for n in fed_by_norms
                          if fed[n] == fed[name]], axis=0)
        low, high = seen[fed[name]]
        scales[name] = smoothing_scale(np.maximum(-low, high)[0], columns)
    smoothed = divide(model.nodes, model.values, scales)
    assert len(smoothed.nodes) == len(model.nodes) + 12         # query, key and value share one
    turned = rotate(model.nodes, model.values,
                    {n: random_signs(hadamard(model.values[n].shape[1]),
                                     rng=np.random.default_rng(0)).astype(np.float32)
                     for n in names})
    for made in (smoothed, turned):
        assert np.allclose(embed(made.values, nodes=made.nodes), float_embeddings(), atol=1e-5)
    plain, divided, rotated = (cosine(*made) for made in (
        (model.nodes, model.values), smoothed, turned))
    assert divided >= plain + 0.02
    assert rotated >= 0.98


def test_what_is_no_scale_rotation_or_split_is_refused():
    nodes, values = [Node("y", linear, ("x", "w"))], {"w": np.ones((2, 3))}
    split = split_channels(values["w"], 1)
    for rewrite, wrong in ((divide, np.ones(3, int)), (rotate, np.eye(3, dtype=int)),
                           (repeat, None), (repeat, split._replace(source=split.source * 1.0))):
        with pytest.raises(TypeError, match=r"^`(scales|rotations|splits)` must be"):
            rewrite(nodes, values, {"w": wrong})
    outside = split._replace(source=np.array([0, 1, 2, 99]))
    with pytest.raises(ValueError, match=r"^`splits` must lie in \[0, 2\]; got 99"):
        repeat(nodes, values, {"w": outside})
    made = rotate(nodes, values, {"w": np.eye(3).tolist()})         # a list of reals is an array
    assert np.array_equal(made.values["w"], values["w"])
