"""Tasks compared: boxes that can be counted by hand, and the share that is kept."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.nn.network import Node, backward, run
from refquant.nn.small_models import split
from refquant.quantizers.uniform import symmetric
from refquant.workflow.tasks import Placed, degradation, kept, overlap, placed, squared_error

DATA = split()
SEEDS = st.integers(0, 2**32 - 1)
CORNERS = st.tuples(*[st.integers(0, 7)] * 4)


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
