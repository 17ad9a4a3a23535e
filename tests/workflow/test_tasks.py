"""Tasks compared: boxes that can be counted by hand, and the share that is kept."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.apply.rewrite import fold_batch_norms
from refquant.apply.simulate import weight_names
from refquant.apply.train import shuffled, start, train
from refquant.calibration.minmax import absmax
from refquant.granularity import all_but
from refquant.nn.network import Node, backward, run
from refquant.nn.operations import linear, relu
from refquant.nn.optimizers import cosine
from refquant.nn.small_models import PLAIN, split, trained
from refquant.quantizers.uniform import symmetric
from refquant.workflow.tasks import Placed, degradation, kept, overlap, placed, squared_error

DATA = split()
SEEDS = st.integers(0, 2**32 - 1)
CORNERS = st.tuples(*[st.integers(0, 7)] * 4)
FITS = {b: lambda w, b=b: symmetric(absmax(w, axis=all_but(0, w.ndim)), bits=b) for b in (8, 4)}


@given(CORNERS, CORNERS)
def test_overlap_is_a_count_of_cells(a, b):
    cells = [{(r, c) for r in range(top, bottom) for c in range(left, right)}
             for top, left, bottom, right in (a, b)]
    union = cells[0] | cells[1]
    expected = len(cells[0] & cells[1]) / len(union) if union else 0
    assert overlap(np.array([a], float), np.array([b], float))[0] == pytest.approx(expected)


@given(SEEDS, st.integers(8, 20))
def test_the_box_is_the_ink(seed, side):
    rng = np.random.default_rng(seed)
    made = placed(DATA.x_test[:5], side, rng=rng)
    assert isinstance(made, Placed)
    assert made.images.shape == (5, side, side, 1)
    for digit, image, box in zip(DATA.x_test, made.images, made.boxes, strict=False):
        assert image.sum() == pytest.approx(digit.sum())
        ink = np.argwhere(image[:, :, 0] > 0.25)
        assert np.allclose(box * side, [*ink.min(0), *(ink.max(0) + 1)])


@given(SEEDS, st.integers(1, 6), st.integers(1, 4))
def test_the_gradient_of_the_squared_error_is_that_of_differences(seed, n, m):
    rng = np.random.default_rng(seed)
    y, t, step = rng.normal(size=(n, m)), rng.normal(size=(n, m)), rng.normal(size=(n, m))
    value, pullback = squared_error(y, t)
    assert value == pytest.approx(sum(((a - b) ** 2).sum() for a, b in zip(y, t, strict=True))
                                  / 2 / n)
    slope = (squared_error(y + 1e-6 * step, t)[0] - squared_error(y - 1e-6 * step, t)[0]) / 2e-6
    assert (pullback(np.array(1.0))[0] * step).sum() == pytest.approx(slope, rel=1e-5, abs=1e-7)
    trace = run([Node("loss", squared_error, ("y", "t"))], {"y": y, "t": t})
    assert "t" not in backward(trace, {"loss": 1.0})


@given(st.floats(-5, 5), st.floats(-5, 5), st.floats(-5, 5), st.floats(0.1, 10), st.floats(-3, 3))
def test_the_share_kept_does_not_depend_on_the_scale_of_a_score(score, exact, chance, a, b):
    if abs(exact - chance) > 1e-3:
        share = kept(score, exact, chance)
        assert kept(a * score + b, a * exact + b, a * chance + b) == pytest.approx(
            share, rel=1e-6, abs=1e-6)
        assert kept(-score, -exact, -chance) == pytest.approx(share)
        assert kept(exact, exact, chance) == 1
        assert kept(chance, exact, chance) == 0


def box_network(seed):
    """256-128-64-4: boxes of digits on a canvas of 16 by 16."""
    rng, values, nodes = np.random.default_rng(seed), {}, []
    for i, (n, out) in enumerate([(256, 128), (128, 64), (64, 4)], 1):
        weight = rng.standard_normal((out, n)) * (2 / n) ** 0.5
        values |= {f"fc{i}.weight": weight.astype(np.float32),
                   f"fc{i}.bias": np.zeros(out, np.float32)}
        nodes.append(Node("box" if i == 3 else f"h{i}", linear,
                          (f"r{i - 1}" if i > 1 else "x", f"fc{i}.weight", f"fc{i}.bias")))
        nodes += [Node(f"r{i}", relu, (f"h{i}",))] if i < 3 else []
    some = placed(np.concatenate([DATA.x_train] * 4), 16, rng=rng)
    batch = shuffled({"x": some.images.reshape(-1, 256), "target": some.boxes}, 64, rng=rng)
    state = train([*nodes, Node("loss", squared_error, ("box", "target"))], start(values, {}),
                  batch, steps=1200, rate=cosine(3e-3, 1200))
    return nodes, state.parameters, some.boxes.mean(0, keepdims=True)


def test_places_are_lost_before_digits_at_four_bits():
    """Three box networks and three classifiers: means, by more than 0.1 of what was learned."""
    left = {"where": [], "which": []}
    for seed in range(3):
        nodes, values, middle = box_network(seed)
        test = placed(DATA.x_test, 16, rng=np.random.default_rng(99))

        def located(v, nodes=nodes, test=test):
            boxes = run(nodes, {"x": test.images.reshape(-1, 256), **v}).values["box"]
            return overlap(boxes, test.boxes).mean()

        chance = overlap(np.repeat(middle, len(test.boxes), 0), test.boxes).mean()
        made = degradation(values, weight_names(nodes), FITS, located)
        assert kept(made[8], located(values), chance) > 0.98
        left["where"].append(kept(made[4], located(values), chance))
        model = trained(PLAIN, seed=seed)
        net, weights = fold_batch_norms(model.nodes, model.values)

        def read(v, net=net):
            logits = run(net, {"x": DATA.x_test, **v}).values["logits"]
            return float((logits.argmax(1) == DATA.y_test).mean())

        made = degradation(weights, weight_names(net), FITS, read)
        left["which"].append(kept(made[4], read(weights), 0.1))
    assert np.mean(left["where"]) < np.mean(left["which"]) - 0.1


def test_only_the_named_weights_are_rounded():
    values = {"w": np.array([0.4]), "b": np.array([0.4])}
    made = degradation(values, ["w"], {2: lambda w: symmetric(np.array(1.0), bits=2)},
                       lambda v: 10 * v["w"].item() + v["b"].item())
    assert made == {2: 0.4}
    assert values["w"].item() == 0.4


@pytest.mark.parametrize(("call", "message"), [
    (lambda: placed(np.ones((1, 4, 4, 1)), 3, rng=np.random.default_rng(0)),
     "`side` must be at least 4; got 3"),
    (lambda: placed(np.zeros((1, 4, 4, 1)), 8, rng=np.random.default_rng(0)),
     "`digits` must have ink each; got none in image 0"),
    (lambda: overlap(np.ones((2, 4)), np.ones((1, 4))), r"`others` must have the shape"),
    (lambda: squared_error(np.ones((2, 1)), np.ones(2)), r"`target` must have shape \(2, 1\)"),
    (lambda: kept(0.5, 0.1, 0.1), "`exact` must differ from chance; got 0.1 for both"),
    (lambda: kept(np.nan, 1.0, 0.1), "`score` must be finite; got nan"),
])
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
