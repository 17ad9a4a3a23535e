"""Sensitivities of networks: the same as by running everything, and exact curvature by name."""

from functools import partial

import numpy as np
import pytest
from joblib import parallel_config
from scipy.stats import spearmanr
from threadpoolctl import threadpool_limits

from refquant.apply.mixed import (
    allocated,
    candidates,
    divergences,
    eigenvalues,
    fisher,
    gradient_of,
    losses,
    sizes,
    smooth_at,
    traces,
)
from refquant.apply.rewrite import fold_batch_norms
from refquant.apply.simulate import input_names, weight_names
from refquant.apply.train import shuffled, start, train
from refquant.calibration.minmax import absmax
from refquant.granularity import all_but
from refquant.mixed_precision.hessian import hessian_product, hutchinson
from refquant.mixed_precision.integer_program import Budget, allocate
from refquant.mixed_precision.learned_bits import clipped, wave_penalty
from refquant.mixed_precision.pareto import dynamic_program
from refquant.mixed_precision.sensitivity import (
    added_loss,
    prediction_divergence,
    weighted_error,
)
from refquant.nn._train_small import fit as fit_network
from refquant.nn.data import digits
from refquant.nn.models import accuracy, with_loss
from refquant.nn.network import Node, backward, run
from refquant.nn.operations import linear, relu, relu6
from refquant.nn.optimizers import cosine
from refquant.nn.replicas import replica
from refquant.nn.small_models import PLAIN, SEPARABLE, network, split, trained
from refquant.qat.periodic import waveq
from refquant.quantizer import fake_quantize
from refquant.quantizers.uniform import asymmetric, symmetric

MODEL, DATA = replica(0), digits(seed=0)
NAMES, NET = weight_names(MODEL.nodes), with_loss(MODEL.nodes)
VALUES = {**MODEL.values, "x": DATA.x_train[:32], "labels": DATA.y_train[:32]}
WIDE = {n: v.astype(np.float64) if v.dtype == np.float32 else v for n, v in VALUES.items()}


def fit(w, bits):
    return symmetric(absmax(w), bits=bits)


TABLES = ((divergences, MODEL.nodes), (losses, NET))
WEIGHTS = candidates(MODEL.values, NAMES, [partial(fit, bits=bits) for bits in (2, 4)])


def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("backend", [{"backend": "threading"},
                                     {"backend": "loky", "inner_max_num_threads": 1}])
def test_every_backend_of_joblib_fills_the_same_table(backend):
    heard = []
    with threadpool_limits(1, "blas"):              # or sums would go in another order
        alone = [fill(net, VALUES, NAMES[:3], WEIGHTS) for fill, net in TABLES]
        with parallel_config(n_jobs=2, **backend):
            there = [fill(net, VALUES, NAMES[:3], WEIGHTS,
                          progress=lambda done, total, table: heard.append((done, total)))
                     for fill, net in TABLES]
    assert all(map(np.array_equal, alone, there))
    assert heard == 2 * [(i, 6) for i in range(1, 7)]


def test_each_entry_is_that_of_the_whole_network_with_one_layer_replaced():
    logits = run(MODEL.nodes, VALUES).values["logits"]
    table = divergences(MODEL.nodes, VALUES, NAMES, WEIGHTS)
    added = losses(NET, VALUES, NAMES, WEIGHTS)
    assert table.shape == added.shape == (10, 2)
    for i, k in ((0, 0), (4, 1), (9, 0)):
        seen = run(NET, {**VALUES, NAMES[i]: WEIGHTS[i][k]}).values
        assert table[i, k] == prediction_divergence(logits, seen["logits"])
        assert added[i, k] == seen["loss"]


def test_a_table_of_a_network_can_be_resumed():
    full = divergences(MODEL.nodes, VALUES, NAMES, WEIGHTS)
    known, heard = full.copy(), []
    known[3, 1] = np.nan
    again = divergences(MODEL.nodes, VALUES, NAMES, WEIGHTS, known=known,
                        progress=lambda done, total, table: heard.append((done, total)))
    assert np.array_equal(again, full)
    assert heard == [(20, 20)]


def test_an_allocation_replaces_the_named_weights_and_nothing_else():
    values = allocated(MODEL.values, NAMES, WEIGHTS, [0, 1] * 5)
    for i, name in enumerate(NAMES):
        assert values[name] is WEIGHTS[i][i % 2]
    assert all(values[name] is MODEL.values[name] for name in MODEL.values if name not in NAMES)
    with pytest.raises(ValueError, match="zip"):
        allocated(MODEL.values, NAMES, WEIGHTS, [0])


def test_sizes_count_codes():
    table = sizes(MODEL.values, NAMES, [2, 4])
    assert table[:, 0].sum() == 2 * sum(MODEL.values[n].size for n in NAMES)
    assert np.array_equal(table[:, 1], 2 * table[:, 0])


@pytest.mark.parametrize("name", ["stem.weight", "r2a.weight", "fc.weight", "x", "r1b", "pool"])
def test_the_gradient_from_a_name_on_is_that_of_the_whole_network(name):
    trace = run(NET, WIDE)
    whole = backward(trace, {"loss": 1.0})[name]
    assert np.array_equal(gradient_of(NET, WIDE, name)(trace.values[name]), whole)


def test_a_name_that_the_loss_does_not_depend_on_is_refused():
    with pytest.raises(ValueError, match="`name` must be something that the loss depends on"):
        gradient_of(NET, WIDE, "unknown")
    with pytest.raises(ValueError, match="`name`"):
        gradient_of(MODEL.nodes, WIDE, "fc.weight")


def test_the_network_without_kinks_is_the_same_function_here_with_the_same_gradients():
    smooth = smooth_at(NET, WIDE)
    before, after = run(NET, WIDE), run(smooth, WIDE)
    assert np.allclose(before.values["logits"], after.values["logits"], rtol=1e-12)
    g, h = (backward(t, {"loss": 1.0}) for t in (before, after))
    assert all(np.allclose(g[n], h[n], rtol=1e-9, atol=1e-14) for n in NAMES)


def test_a_relu6_is_held_at_its_upper_corner_too():
    x = np.array([-1.0, 3.0, 9.0])
    net = smooth_at([Node("y", relu6, ("x",))], {"x": x})
    assert np.array_equal(run(net, {"x": x + 0.5}).values["y"], [0, 3.5, 6])


def test_on_the_digits_network_steps_reach_kinks_and_the_smooth_one_has_none():
    """The trap: differences over a hundredth see twice the curvature between the kinks."""
    many = {**WIDE, "x": DATA.x_train[:128].astype(float), "labels": DATA.y_train[:128]}

    def mean(net, name, step):
        product = hessian_product(gradient_of(net, many, name), many[name], step=step)
        return hutchinson(product, many[name].shape, rng=rng(), samples=3).trace

    smooth = smooth_at(NET, many)
    between = mean(smooth, "r2a.weight", 1e-5)
    assert mean(smooth, "r2a.weight", 1e-3) == pytest.approx(between, rel=2e-2)
    assert mean(NET, "r2a.weight", 1e-2) > 1.5 * between
    # No ReLU comes after the last layer.
    last = [mean(net, "fc.weight", 1e-2) for net in (NET, smooth)]
    assert last[0] == pytest.approx(last[1], rel=1e-9)


def test_products_with_the_hessian_are_symmetric():
    smooth = smooth_at(NET, WIDE)
    for name in ("stem.weight", "dw2.weight"):
        product = hessian_product(gradient_of(smooth, WIDE, name), WIDE[name], step=1e-5)
        u, v = rng().normal(size=(2, *WIDE[name].shape))
        assert np.vdot(u, product(v)) == pytest.approx(np.vdot(v, product(u)), rel=1e-6)


def test_the_trace_of_an_activation_is_the_mean_of_the_traces_of_the_inputs():
    """Logits are activations whose Hessian is known: (diag(p) - p p^T) / n."""
    z = run(NET, WIDE).values["logits"] / 8                 # predictions that are not yet certain
    net, values = NET[-1:], {"logits": z, "labels": VALUES["labels"]}
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    exact = float((1 - (p**2).sum(1)).mean())
    (found,) = traces(net, values, ["logits"], rng=rng(), samples=200)
    assert abs(found.trace - exact) <= 3 * found.standard_error
    assert found.standard_error < 0.05 * exact
    few = {"logits": z[:3], "labels": VALUES["labels"][:3]}
    (top,) = eigenvalues(net, few, ["logits"], rng=rng(), tolerance=1e-7)
    blocks = [np.linalg.eigvalsh(np.diag(q) - np.outer(q, q))[-1] / 3 for q in p[:3]]
    assert top.value == pytest.approx(max(blocks), rel=1e-3)


def test_the_trace_of_the_last_layer_is_that_of_its_whole_hessian():
    seen = run(NET, WIDE).values
    x, z = seen["pool"], seen["logits"] / 4
    net = [Node("z", linear, ("x", "w")), *with_loss([])]
    net[-1] = net[-1]._replace(inputs=("z", "labels"))
    values = {"x": x, "w": WIDE["fc.weight"] / 4, "labels": VALUES["labels"]}
    z = x @ values["w"].T
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    exact = float(((1 - (p**2).sum(1)) * (x**2).sum(1)).mean())
    heard = []
    (found,) = traces(net, values, ["w"], rng=rng(), samples=100,
                      progress=lambda *news: heard.append(news))
    assert abs(found.trace - exact) <= 3 * found.standard_error
    assert heard == [(1, 1, "w")]
    (top,) = eigenvalues(net, values, ["w"], rng=rng(), tolerance=1e-6,
                         progress=lambda *news: heard.append(news))
    hessian = np.mean([np.kron(np.diag(q) - np.outer(q, q), np.outer(r, r))
                       for q, r in zip(p, x, strict=True)], axis=0)
    assert top.value == pytest.approx(np.linalg.eigvalsh(hessian)[-1], rel=1e-3)
    assert len(heard) == 2


def test_curvature_ranks_rounded_activations_as_runs_of_the_network_do():
    """Four bits, three copies: rank correlations 0.94, 0.94, 0.89; error alone 0.71 at most."""
    found = []
    for seed in range(3):
        model, data = replica(seed), digits(seed=seed)
        values = {**model.values, "x": data.x_train[:64], "labels": data.y_train[:64]}
        names, seen = input_names(model.nodes), run(NET, values).values
        exact = [seen[name] for name in names]
        rounded = [[fake_quantize(a, asymmetric(np.float32(0), a.max(), bits=4))] for a in exact]
        truth = divergences(model.nodes, values, names, rounded)[:, 0]
        traced = traces(NET, values, names, rng=rng(), samples=4)
        mean = [t.trace / a.size for t, a in zip(traced, exact, strict=True)]
        found.append([spearmanr(weighted_error(exact, rounded, h)[:, 0], truth).statistic
                      for h in (mean, None)])
    curvature, error = np.mean(found, axis=0)
    assert curvature > 0.8
    assert curvature > error + 0.1


def test_the_fisher_diagonal_runs_inputs_one_by_one():
    few = {name: VALUES[name][:3] for name in ("x", "labels")}
    got = fisher(NET, MODEL.values, few, ["pw1.weight", "fc.weight"])
    for name, f in zip(["pw1.weight", "fc.weight"], got, strict=True):
        squares = []
        for i in range(3):
            one = {key: value[i : i + 1] for key, value in few.items()}
            g = backward(run(NET, {**MODEL.values, **one}), {"loss": 1.0})[name]
            squares.append(g.astype(np.float64) ** 2)
        assert np.allclose(f, np.mean(squares, axis=0), rtol=1e-12)


def test_replaced_inputs_of_a_relu_do_not_move_its_pattern():
    net = smooth_at([Node("y", relu, ("x",))], {"x": np.array([-1.0, 1.0])})
    value, pullback = net[0].op(np.array([5.0, -5.0]))
    assert np.array_equal(value, [0, -5])
    assert np.array_equal(pullback(np.ones(2))[0], [0, 1])


def three_bits_and_three_and_a_half(model):
    """Accuracy at 3 bits everywhere, and at 3.5 on average where the integer program wants them.

    Per channel, smallest and largest value, batch norms folded, the loss measured on 256 images.
    """
    data, bits = split(), (2, 3, 4, 6, 8)
    nodes, values = fold_batch_norms(model.nodes, model.values)[:2]
    names, net = weight_names(nodes), with_loss(nodes)
    made = candidates(values, names, [partial(per_channel, bits=b) for b in bits])
    shown = {**values, "x": data.x_train[:256], "labels": data.y_train[:256]}
    table = added_loss(losses(net, shown, names, made), float(run(net, shown).values["loss"]))
    size = sizes(values, names, bits)
    limit = 3.5 * size[:, 0].sum() / 2
    program = allocate(table, [Budget("size", size, limit)])
    assert program.costs["size"] <= limit
    # Another derivation of the same least loss.
    best = dynamic_program(table, size, limit)
    least = table[np.arange(len(names)), best].sum()
    assert program.loss == pytest.approx(least, abs=1e-6 * table.max())
    return [accuracy(model._replace(nodes=nodes, parameters=allocated(values, names, made, choice),
                                    statistics={}), data.x_test, data.y_test)
            for choice in ([1] * len(names), program.choice)]


def test_an_allocation_of_three_and_a_half_bits_beats_three_bits_on_separable_networks():
    """A12, `ds`: measured 0.734 -> 0.914, the mean of five; +0.12 to +0.39 on each."""
    before, after = np.array([three_bits_and_three_and_a_half(trained(SEPARABLE, seed=seed))
                              for seed in range(5)]).T
    assert (after >= before + 0.03).all()
    assert after.mean() >= before.mean() + 0.12
    assert after.mean() >= 0.89


def test_an_allocation_of_three_and_a_half_bits_beats_three_bits_where_these_do_badly():
    """A12, `cnn`: +0.15 from where that experiment begins, at about 0.7 (it has 0.708 -> 0.990).

    Measured: 0.878, 0.916, 0.698, 0.912, 0.946 with 3 bits, 0.974, 0.986, 0.968, 0.976, 0.974
    with 3.5. Only the third network is as bad as that one was; the others could not gain 0.15,
    as 0.878 + 0.15 > 1. What the program guarantees is where it ends.
    """
    before, after = np.array([three_bits_and_three_and_a_half(trained(PLAIN, seed=seed))
                              for seed in range(5)]).T
    assert before[2] < 0.72
    assert after[2] >= before[2] + 0.15
    assert (after > before).all()
    assert after.min() >= 0.96
    assert after.mean() >= before.mean() + 0.08
    assert (np.delete(before, 2) > 0.85).all()


@pytest.mark.slow
def test_networks_that_three_bits_leave_below_four_fifths_gain_a_seventh():
    """Networks of the same recipe that do not ship: it is A12's gain that depends on the network.

    Seeds 6 to 8: 0.874, 0.724, 0.796 -> 0.978, 0.976, 0.972. Of twelve, seeds 5 to
    16, five gain 0.15 (0.684 to 0.824 with 3 bits) and all end at 0.96 or more.
    """
    data = split()
    found = []
    for seed in range(6, 9):
        model = fit_network(PLAIN, data, rng=np.random.default_rng(seed))
        found.append(three_bits_and_three_and_a_half(model._replace(nodes=network(PLAIN))))
    before, after = np.array(found).T
    poor = before <= 0.8
    assert poor.any()
    assert (after[poor] >= before[poor] + 0.15).all()
    assert after.min() >= 0.95


def per_channel(w, bits):
    return symmetric(absmax(w, axis=all_but(0, w.ndim)), bits=bits)


def test_trained_with_weights_the_bits_of_large_layers_fall_to_what_the_price_says():
    """WaveQ by its parts: the wave of `qat/periodic`, the penalty, the loop. 60 steps."""
    data, model = split(), trained(PLAIN, seed=0)
    names = weight_names(model.nodes)
    first = start({**model.parameters, **{f"{n}.beta": np.array([8.0], np.float32)
                                          for n in names}}, model.statistics)
    batch = shuffled({"x": data.x_train, "labels": data.y_train}, 64,
                     rng=np.random.default_rng(0))

    def trained_at(price):
        penalty = wave_penalty(names, waveq, strength=lambda step: 0.03, price=lambda step: price)
        state = train(with_loss(network(PLAIN, training=True)), first, batch, steps=60,
                      rate=cosine(1e-3, 60), factors={".beta": 200.0}, penalty=penalty,
                      after=lambda parameters, step: clipped(parameters))
        return np.array([float(state.parameters[f"{n}.beta"][0]) for n in names])

    cheap, dear = trained_at(1e-5), trained_at(1e-3)
    assert dear.max() < cheap.min() - 1
    # Not a word about which layer is delicate: the large ones (4,608 and 9,216 weights) end alike,
    # the small ones (144 and 320) stop at a ripple higher up.
    assert abs(dear[1] - dear[2]) < 0.3
    assert dear[[0, 3]].min() > dear[[1, 2]].max() + 0.5
