"""The ladder on ONNX files: what is written, what is repaired, who is blamed, where it stops."""

from functools import partial

import numpy as np
import pytest

from refquant.apply.rewrite import fold_batch_norms
from refquant.interop.onnx_export import export_onnx
from refquant.metrics import sqnr
from refquant.nn.data import digits
from refquant.nn.models import trained_digits_cnn
from refquant.workflow._onnx_moments import _gain, moments_of
from refquant.workflow.onnx_ladder import (
    Blame,
    File,
    FileClimb,
    Recipe,
    _grid,
    _relative_error,
    blame,
    climb_file,
    output_of,
    rungs_for_file,
    sparing,
    untrainable,
    written,
)
from refquant.workflow.quantize import activation_plan, observe, quantize_layers
from refquant.workflow.weights import by_gptq, grid, nearest

onnx = pytest.importorskip("onnx")
from refquant.interop.onnx_float import open_float, run_values  # noqa: E402

pytestmark = pytest.mark.peer
DATA, NET = digits(), trained_digits_cnn()
RAW = (NET.nodes, NET.values)
X = {"x": (np.float32, ("n", 8, 8, 1))}
FIT = [{"x": DATA.x_train[:200]}]
CHOOSE, LABELS = [{"x": DATA.x_test[:300]}], DATA.y_test[:300]


def opened(network):
    return open_float(export_onnx(*network, X, ["logits"]))


def accuracy(output):
    return float((output.argmax(1) == LABELS).mean())


def judge(model, file):
    return accuracy(output_of(model, file.content, CHOOSE, "logits"))


def model_of(nodes, constants, *, outputs=("y",), width=8):
    """A model of one input."""
    make = onnx.helper
    graph = make.make_graph(
        [make.make_node(kind, inputs, [out], **settings) for kind, inputs, out, settings in nodes],
        "g", [make.make_tensor_value_info("x", 1, ["n", width])],
        [make.make_tensor_value_info(n, 1, None) for n in outputs],
        [onnx.numpy_helper.from_array(np.float32(v), k) for k, v in constants.items()])
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 21)])
    model.ir_version = 10
    return open_float(model.SerializeToString())


RNG = np.random.default_rng(3)
W = {n: RNG.standard_normal(shape) for n, shape in (
    ("w1", (8, 16)), ("w2", (16, 8)), ("w3", (8, 6)), ("w4", (8, 16)))}
BIAS = {n: 20 * RNG.standard_normal(k) for n, k in (("b1", 16), ("b2", 8))}
#: Every way in which a product can have a bias, and none.
CHAIN = [("MatMul", ["x", "w1"], "a", {}), ("Add", ["b1", "a"], "ab", {}),
         ("Relu", ["ab"], "r", {}), ("Gemm", ["r", "w2", "b2"], "g", {}),
         ("Relu", ["g"], "s", {}), ("Gemm", ["s", "w3"], "y", {})]
ROWS = [{"x": RNG.standard_normal((400, 8)).astype(np.float32)}]


def chain():
    return model_of(CHAIN, {**{n: W[n] for n in ("w1", "w2", "w3")}, **BIAS})


def outputs_of_layers(model, content, batches):
    """Of the nodes that multiply by a weight, with the shifts that stand behind them."""
    proto = onnx.ModelProto.FromString(content)
    names = {n.output[0] for n in model.proto.graph.node
             if n.name in {x.node for x in model.layers} or n.output[0] in {
                 x.node for x in model.layers}}
    both = [next(iter(run_values(m, batches, sorted(names))))
            for m in (model, model._replace(proto=proto))]
    return {n: (both[0][n], both[1][n]) for n in sorted(names)}


def channel_moments(value, kind):
    axes = (0, 2, 3) if value.ndim == 4 and kind == "Conv" else tuple(range(value.ndim - 1))
    return value.mean(axes), value.std(axes)


def test_a_recipe_without_codes_is_the_model_itself():
    model = opened(RAW)
    file = written(model, Recipe({}, {}, {}, {}))
    assert isinstance(file, File)
    assert file.bits == 32
    assert file.size == len(file.content)
    assert np.array_equal(output_of(model, file.content, CHOOSE, "logits"),
                          output_of(model, None, CHOOSE, "logits"))


def test_moments_of_every_layer_are_those_of_the_float_model():
    """On the batch that was measured, with biases of all kinds."""
    model = chain()
    seen = observe(model, ROWS, rng=np.random.default_rng(0))
    made = rungs_for_file(model, seen, ROWS, bits=2, output="y", rng=np.random.default_rng(0))
    file, bare = made["moments"](), made["clip"]()
    for name, (exact, got) in outputs_of_layers(model, file.content, ROWS).items():
        (mean, deviation), (m, d) = (channel_moments(v, "Gemm") for v in (exact, got))
        if name != "a":                     # its shift is in the Add behind it
            assert np.abs(m - mean).max() < 0.01 * deviation.max(), name
        assert d == pytest.approx(deviation, rel=0.01), name
    exact = output_of(model, None, ROWS, "y")
    assert sqnr(exact, output_of(model, file.content, ROWS, "y")) > sqnr(
        exact, output_of(model, bare.content, ROWS, "y"))


def test_moments_of_convolutions_are_those_of_the_float_model():
    """Norms not folded, so that the layers have no bias: the file gets some."""
    model = opened(RAW)
    seen = observe(model, FIT, rng=np.random.default_rng(0))
    file = rungs_for_file(model, seen, FIT, bits=3, output="logits",
                          rng=np.random.default_rng(0))["moments"]()
    for name, (exact, got) in outputs_of_layers(model, file.content, FIT).items():
        if name.startswith("logits"):
            continue
        (mean, deviation), (m, d) = (channel_moments(v, "Conv") for v in (exact, got))
        assert m == pytest.approx(mean, abs=0.01 * float(deviation.max())), name
        assert np.median(np.abs(d / deviation - 1)) < 0.01, name
    unread = {t.name for t in onnx.ModelProto.FromString(file.content).graph.initializer} - {
        i for n in onnx.ModelProto.FromString(file.content).graph.node for i in n.input}
    assert not unread


@pytest.mark.parametrize("size", [1, 2, 4])
def test_moments_of_small_batches_repair_as_those_of_one_large_batch_do(size):
    """Each is compared with the float model on the same examples, however few those are."""
    model = chain()
    rows = [{"x": ROWS[0]["x"][i : i + size]} for i in range(0, 64, size)]
    whole = [{"x": ROWS[0]["x"][:64]}]
    seen = observe(model, whole, rng=np.random.default_rng(0))
    exact = output_of(model, None, ROWS, "y")

    def quality(name, batches):
        made = rungs_for_file(model, seen, batches, bits=3, output="y",
                              rng=np.random.default_rng(0))
        return sqnr(exact, output_of(model, made[name]().content, ROWS, "y"))

    for name in ("moments", "GPTQ"):
        assert quality(name, rows) > quality(name, whole) - 1, name


@pytest.mark.parametrize("bits", [4, 5, 8])
def test_groups_of_wide_codes_are_not_multiplied_with_integers(bits):
    """onnxruntime takes the scales of a product of two 8-bit integers for those of columns."""
    model = model_of([("MatMul", ["x", "w1"], "a", {}), ("Relu", ["a"], "r", {}),
                      ("MatMul", ["r", "w2"], "y", {})], {n: W[n] for n in ("w1", "w2")})
    seen = observe(model, ROWS, rng=np.random.default_rng(0))
    made = rungs_for_file(model, seen, ROWS, bits=bits, group_size=4, output="y",
                          rng=np.random.default_rng(0))
    exact = output_of(model, None, ROWS, "y")
    for name in ("nearest", "mixed"):
        file = made[name]()
        assert sqnr(exact, output_of(model, file.content, ROWS, "y")) > 15, name
    plain = quantize_layers(model, nearest, bits={"w1": bits}, group_size=4, seen=seen,
                            activations=activation_plan(model, seen))
    assert plain.weights["w1"].scale.shape[1] == (2 if bits == 4 else 1)
    alone = quantize_layers(model, nearest, bits={"w1": bits}, group_size=4, seen=seen)
    assert alone.weights["w1"].scale.shape[1] == 2


def test_moments_are_those_of_all_rows_however_they_are_batched():
    model, x = chain(), ROWS[0]["x"]
    at_once, in_parts = (moments_of(model, [{"x": part} for part in np.split(x, n)])
                         for n in (1, 8))
    for name, whole in at_once.items():
        assert in_parts[name].mean == pytest.approx(whole.mean, rel=1e-4, abs=1e-4)
        assert in_parts[name].deviation == pytest.approx(whole.deviation, rel=1e-4)


def test_a_channel_is_stretched_by_no_more_than_four_and_not_at_all_where_nothing_varies():
    wanted, variance = np.array([2, 100, 0.01, 0, 1]), np.array([1.0, 1, 1, 1, 0])
    assert _gain(wanted, variance).tolist() == [2, 4, 0.25, 1, 1]


def test_what_is_spared_makes_up_for_a_division_that_others_need():
    both = model_of([("MatMul", ["x", "w1"], "a", {}), ("MatMul", ["x", "w4"], "b", {}),
                     ("Add", ["a", "b"], "y", {})], {n: W[n] for n in ("w1", "w4")})
    x = [{"x": ROWS[0]["x"] * np.float32([100, 10, 1, 1, 1, 1, 0.1, 0.01])}]
    seen = observe(both, x, rng=np.random.default_rng(0))
    scale = np.float32([10, 3, 1, 1, 1, 1, 0.3, 0.1])
    made = quantize_layers(both, nearest, bits={"w1": 8, "w4": 8}, group_size=None, seen=seen,
                           divide={"x": scale})
    recipe = Recipe(made.weights, activation_plan(both, seen, {"x": scale}), {"x": scale}, {})
    exact = output_of(both, None, x, "y")
    whole = sqnr(exact, output_of(both, written(both, recipe).content, x, "y"))
    for name in ("w1", "w4"):
        spared = written(both, recipe, [name])
        assert sqnr(exact, output_of(both, spared.content, x, "y")) > whole - 1
        assert set(spared.recipe.weights) == {"w1", "w4"} - {name}
        assert spared.bits == 20
    nothing = written(both, recipe, ["w1", "w4"])
    assert np.array_equal(output_of(both, nothing.content, x, "y"), exact)


@pytest.mark.parametrize("rung", ["SmoothQuant", "AWQ", "AdaRound", "mixed"])
def test_rungs_for_products_agree_with_the_model_at_8_bits(rung):
    model = chain()
    seen = observe(model, ROWS, rng=np.random.default_rng(0))
    made = rungs_for_file(model, seen, ROWS, bits=8, output="y", rng=np.random.default_rng(0))
    file = made[rung]()
    assert sqnr(*(output_of(model, c, ROWS, "y") for c in (None, file.content))) > 30
    assert file.bits <= 9


def test_a_program_gives_widths_that_cost_no_more_than_one_bit():
    model = opened(RAW)
    seen = observe(model, FIT, rng=np.random.default_rng(0))
    made = rungs_for_file(model, seen, FIT, bits=3, output="logits",
                          rng=np.random.default_rng(0))
    file, plain = made["mixed"](), made["GPTQ"]()
    assert 3 < file.bits <= 4
    assert len({c.bits for c in file.recipe.weights.values()}) > 1
    exact = output_of(model, None, FIT, "logits")
    assert sqnr(exact, output_of(model, file.content, FIT, "logits")) > 2 + sqnr(
        exact, output_of(model, plain.content, FIT, "logits"))


def test_convolutions_are_not_evened_out_and_large_models_not_learned(monkeypatch):
    model = opened(RAW)
    assert list(rungs_for_file(model, {}, FIT, bits=4, output="logits",
                               rng=np.random.default_rng(0))) == [
        "nearest", "clip", "moments", "GPTQ", "AdaRound", "mixed", "trained"]
    monkeypatch.setattr("refquant.workflow.onnx_ladder.MOST_LEARNED", 10)
    assert list(rungs_for_file(chain(), {}, ROWS, bits=4, output="y",
                               rng=np.random.default_rng(0))) == [
        "nearest", "clip", "moments", "GPTQ", "SmoothQuant", "AWQ", "mixed"]


@pytest.mark.parametrize("folded", [True, False], ids=["folded", "with norms"])
@pytest.mark.parametrize("bits", [4, 2])
def test_a_point_of_float_is_reached_with_fewer_bits_than_uniform_int8(folded, bits):
    """The digits network as a file of somebody: 4 bits at once, 2 bits by moments and GPTQ."""
    model = opened(fold_batch_norms(*RAW) if folded else RAW)
    seen = observe(model, FIT, rng=np.random.default_rng(0))
    float_ = accuracy(output_of(model, None, CHOOSE, "logits"))
    made = climb_file(
        model, rungs_for_file(model, seen, FIT, bits=bits, output="logits",
                              rng=np.random.default_rng(0)),
        partial(judge, model), lambda file: [], baseline=float_, max_drop=0.01)
    eight = written(model, Recipe(quantize_layers(
        model, nearest, bits=dict.fromkeys(model.by_weight, 8), group_size=None, seen=seen).weights,
        activation_plan(model, seen), {}, {}))
    assert isinstance(made, FileClimb)
    assert made.climb.reached
    assert made.climb.candidate.bits < 4.01
    assert made.climb.candidate.size < 0.75 * eight.size
    assert judge(model, made.climb.candidate) >= float_ - 0.01
    if bits == 2:
        assert made.climb.steps[0].drop > 0.1           # nearest rounding was not enough
        assert made.climb.steps[-1].name in ("moments", "GPTQ", "AdaRound", "mixed")


@pytest.mark.parametrize("bad", ["r1a.weight", "pw2.weight", "fc.weight"])
def test_a_layer_with_too_few_bits_is_blamed_first(bad):
    model = opened(RAW)
    seen = observe(model, FIT, rng=np.random.default_rng(0))
    made = quantize_layers(model, by_gptq, bits=dict.fromkeys(model.by_weight, 8) | {bad: 2},
                           group_size=None, seen=seen)
    file = written(model, Recipe(made.weights, activation_plan(model, seen), {}, {}))
    heard = []
    found = blame(model, file, CHOOSE, output="logits", judge=accuracy,
                  progress=lambda *args: heard.append(args))
    assert isinstance(found[0], Blame)
    assert found[0].layer == bad
    assert found[0].gain > 6 > 3 > found[1].gain
    assert found[0].bits == 2
    assert len(heard) == len(found) == len(model.layers)
    rungs = sparing(model, file, [b.layer for b in found])
    first = next(iter(rungs.values()))()
    assert next(iter(rungs)) == f"spare {bad}"
    assert bad not in first.recipe.weights
    assert all(rung().bits <= 16 for rung in rungs.values())


def test_training_needs_no_label_and_leaves_codes_of_the_grid():
    """Two bits of a product: four levels a row, and an output nearer than by any rounding."""
    model = model_of([("Gemm", ["x", "w1", "b1"], "a", {}), ("Relu", ["a"], "r", {}),
                      ("MatMul", ["r", "w2"], "y", {})],
                     {"w1": W["w1"], "w2": W["w2"], "b1": BIAS["b1"] / 20})
    seen = observe(model, ROWS, rng=np.random.default_rng(0))

    def made():
        return rungs_for_file(model, seen, ROWS, bits=2, output="y",
                              rng=np.random.default_rng(0))

    exact, rungs = output_of(model, None, ROWS, "y"), made()
    file, best = rungs["trained"](), rungs["AdaRound"]()
    assert all(len(np.unique(row)) <= 4 for c in file.recipe.weights.values() for row in c.codes)
    assert set(file.recipe.shift) == {"w1", "w2"}
    assert sqnr(exact, output_of(model, file.content, ROWS, "y")) > 1 + sqnr(
        exact, output_of(model, best.content, ROWS, "y"))
    assert made()["trained"]().content == file.content


def test_training_does_not_mind_the_unit_of_a_weight():
    """ReLU lets a factor through: what one layer gains in size, the next can lose."""
    found = []
    for unit in (1, 50):
        model = model_of([("Gemm", ["x", "w1", "b1"], "a", {}), ("Relu", ["a"], "r", {}),
                          ("MatMul", ["r", "w2"], "y", {})],
                         {"w1": unit * W["w1"], "w2": W["w2"] / unit, "b1": unit * BIAS["b1"] / 20})
        rungs = rungs_for_file(model, observe(model, ROWS, rng=np.random.default_rng(0)), ROWS,
                               bits=2, output="y", rng=np.random.default_rng(0))
        found.append(sqnr(*(output_of(model, c, ROWS, "y")
                            for c in (None, rungs["trained"]().content))))
    assert found[0] == pytest.approx(found[1], abs=1)


def test_the_loss_of_training_is_relative_and_its_gradient_the_slope():
    rng = np.random.default_rng(0)
    y, target, move = rng.standard_normal((3, 4, 2))
    loss, back = _relative_error(y, target)
    assert loss == pytest.approx(np.square(y - target).sum() / np.square(target).sum())
    slope = (_relative_error(y + 1e-6 * move, target)[0] - loss) / 1e-6
    assert np.vdot(back(1.0)[0], move) == pytest.approx(slope, rel=1e-4)


@pytest.mark.parametrize("bits", range(2, 9))
def test_training_stays_on_the_grid_that_all_methods_share(bits):
    w = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    q, shared = _grid(nearest(w, bits, 8), 2), grid(w, bits=bits)
    assert (q.qmin, q.qmax) == (shared.qmin, shared.qmax)
    assert np.allclose(q.scale, shared.scale)
    assert np.array_equal(q.zero_point, shared.zero_point)


def test_a_program_spends_its_bits_where_the_output_hears_them():
    """Five layers alike, four of them a hundredth as loud: the other one gets 8 bits of 4."""
    names = [f"v{i}" for i in range(5)]
    nodes = [("MatMul", ["x", n], f"{n}.y", {}) for n in names]
    nodes += [("Mul", [f"{n}.y", "quiet"], f"{n}.z", {}) for n in names[1:]]
    nodes.append(("Sum", ["v0.y", *(f"{n}.z" for n in names[1:])], "y", {}))
    rng = np.random.default_rng(5)
    model = model_of(nodes, {n: rng.standard_normal((8, 16)) for n in names} | {"quiet": 0.01})
    seen = observe(model, ROWS, rng=np.random.default_rng(0))
    file = rungs_for_file(model, seen, ROWS, bits=3, output="y",
                          rng=np.random.default_rng(0))["mixed"]()
    assert {n: c.bits for n, c in file.recipe.weights.items()} == dict.fromkeys(names, 3) | {
        "v0": 8}


def test_what_cannot_be_trained_says_why(monkeypatch):
    model = model_of([("MatMul", ["x", "w1"], "a", {}), ("Erf", ["a"], "y", {})], {"w1": W["w1"]})
    assert untrainable(model, ROWS[0], "y") == "y: Erf has no way back here"
    assert untrainable(chain(), ROWS[0], "y") == ""
    assert "trained" not in rungs_for_file(model, {}, ROWS, bits=4, output="y",
                                           rng=np.random.default_rng(0))
    monkeypatch.setattr("refquant.workflow.onnx_ladder.MOST_PRODUCTS", 8 * 16 + 16 * 8 + 8 * 6)
    assert untrainable(chain(), ROWS[0], "y") == ""
    monkeypatch.setattr("refquant.workflow.onnx_ladder.MOST_PRODUCTS", 8 * 16 + 16 * 8 + 8 * 6 - 1)
    assert untrainable(chain(), ROWS[0], "y") == "too many products to train unasked"
    monkeypatch.setattr("refquant.workflow.onnx_ladder.MOST_LEARNED", 10)
    assert untrainable(chain(), ROWS[0], "y") == "too many weights to train unasked"


def test_layers_are_spared_one_more_each_time_until_it_is_good_enough():
    model = chain()
    seen = observe(model, ROWS, rng=np.random.default_rng(0))
    made = quantize_layers(model, nearest, bits=dict.fromkeys(seen, 4), group_size=None, seen=seen)
    file = written(model, Recipe(made.weights, activation_plan(model, seen), {}, {}))
    worst = [Blame(n, 4, 1, 0.0, 0.0) for n in ("w3", "w2", "w1")]
    exact = output_of(model, None, ROWS, "y")

    def decibels(made):
        return sqnr(exact, output_of(model, made.content, ROWS, "y"))

    now = decibels(file)
    spared = climb_file(model, {"only": lambda: file}, decibels, lambda f: worst,
                        baseline=now + 0.5, max_drop=0.0)
    names = [s.name for s in spared.climb.steps]
    assert names[:2] == ["only", "float inputs"]
    assert names[2:] == [] or names[2] == "spare w3"
    never = climb_file(model, {"only": lambda: file}, decibels, lambda f: worst,
                       baseline=np.inf, max_drop=0.0)
    assert not never.climb.reached
    assert [s.name for s in never.climb.steps] == ["only", "float inputs", "spare w3"]
    best = max(never.climb.steps, key=lambda s: s.score)
    assert decibels(never.climb.candidate) == best.score
    enough = climb_file(model, {"only": lambda: file}, decibels, lambda f: worst, baseline=now,
                        max_drop=0.0)
    assert [s.name for s in enough.climb.steps] == ["only"]
    assert enough.blamed == worst


def test_the_same_seed_gives_the_same_bytes():
    model = chain()

    def bytes_of(rung):
        seen = observe(model, ROWS, rng=np.random.default_rng(0))
        return rungs_for_file(model, seen, ROWS, bits=3, output="y",
                              rng=np.random.default_rng(5))[rung]().content

    for rung in ("GPTQ", "AWQ", "AdaRound"):
        assert bytes_of(rung) == bytes_of(rung)


def test_a_bias_that_cannot_take_a_shift_is_shifted_behind_the_layer():
    """A Gemm whose bias is no constant of its own, a product that is itself an output."""
    model = model_of([("Gemm", ["x", "w1", "c"], "g", {"beta": 0.5}), ("Relu", ["g"], "r", {}),
                      ("MatMul", ["r", "w2"], "y", {}), ("Add", ["y", "b2"], "z", {})],
                     {"w1": W["w1"], "w2": W["w2"], "b2": BIAS["b2"], "c": BIAS["b1"]},
                     outputs=("z", "y", "g"))
    seen = observe(model, ROWS, rng=np.random.default_rng(0))
    file = rungs_for_file(model, seen, ROWS, bits=2, output="z",
                          rng=np.random.default_rng(0))["moments"]()
    for name in ("g", "y", "z"):
        exact, got = (output_of(model, c, ROWS, name) for c in (None, file.content))
        assert got.mean(0) == pytest.approx(exact.mean(0), abs=0.01 * float(exact.std()))
        assert sqnr(exact, got) > 8


def test_what_makes_no_sense_is_refused():
    model = chain()
    with pytest.raises(ValueError, match="`bits` must"):
        rungs_for_file(model, {}, ROWS, bits=1, output="y", rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="`model` must have a layer to quantize"):
        rungs_for_file(model_of([("Relu", ["x"], "y", {})], {}), {}, ROWS, bits=4, output="y",
                       rng=np.random.default_rng(0))
    flat = model_of([("ReduceSum", ["x"], "y", {"keepdims": 0})], {})
    with pytest.raises(ValueError, match="`y` must have a row for each example"):
        output_of(flat, None, ROWS, "y")
