"""Moved data: counts that can be checked by hand, laws of ranges, and turned and noisy digits."""

from functools import partial

import numpy as np
import pytest
from apply._mlp import DATA, LAYERS, NODES, X_TEST, X_TRAIN, trained
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from refquant.calibration.dynamic import per_tensor
from refquant.calibration.minmax import absmax
from refquant.metrics import sqnr
from refquant.nn.network import run
from refquant.quantizer import fake_quantize
from refquant.quantizers.uniform import asymmetric, symmetric
from refquant.workflow.fairness import Interval
from refquant.workflow.shift import Answers, Fall, Shift, fall, shift, shifts

SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS, st.sampled_from([4, 8]), st.floats(0.2, 5), st.floats(-1, 1))
def test_each_figure_of_an_activation_is_counted_from_its_range(seed, bits, gain, offset):
    rng = np.random.default_rng(seed)
    x = np.append(rng.random(200) * 2 - 1, [-1, 1])
    now = gain * x[: rng.integers(1, 200)] + offset
    q = symmetric(np.array(1.0), bits=bits)
    made, half = shift(x, now, q), float(q.scale) / 2
    assert isinstance(made, Shift)
    assert made.clipped_before == 0
    assert made.clipped == np.mean(np.abs(now) > 1 + half)
    far = np.abs(now).max() - 1
    assert made.beyond == pytest.approx(far / 2 if far > half else 0, abs=1e-3)
    assert made.distance == pytest.approx(
        max(abs(np.mean(x <= t) - np.mean(now <= t)) for t in (*x, *now)), abs=1e-12)
    assert made.static == sqnr(now, fake_quantize(now, q))
    assert made.dynamic == sqnr(now, fake_quantize(now, per_tensor(now, bits=q.code_bits)))


@given(SEEDS)
def test_data_that_did_not_move_are_found_where_they_were(seed):
    x = np.random.default_rng(seed).normal(size=300)
    for q in (per_tensor(x, bits=8), symmetric(np.array(1.0), bits=8)):
        made = shift(x, x, q)
        assert made.distance == 0
        assert made.clipped == made.clipped_before
    assert shift(x, x, per_tensor(x, bits=8))[:3] == (0, 0, 0)
    assert made.beyond > 0


@given(SEEDS, st.integers(-8, 8))
def test_a_fresh_range_follows_any_gain(seed, power):
    """By a power of two, exactly: neither the codes nor the ratio of signal to noise change."""
    x = np.random.default_rng(seed).normal(size=100)
    q = per_tensor(x, bits=6)
    assert shift(x, x * 2.0**power, q).dynamic == pytest.approx(shift(x, x, q).dynamic, abs=1e-9)


@given(SEEDS, st.floats(1, 3), st.floats(1.01, 2))
def test_more_gain_clips_more_and_reaches_farther(seed, gain, more):
    x = np.random.default_rng(seed).random(100)
    q = per_tensor(x, bits=8)
    less, much = (shift(x, g * x, q) for g in (gain, gain * more))
    assert much.clipped >= less.clipped
    assert much.beyond >= less.beyond
    assert much.static <= less.static + 1 or much.clipped == 0


def test_a_fresh_range_is_not_always_the_better_one():
    """Static 8 bits over [-1, 1] against one outlier in ten thousand, which takes the range."""
    x = np.random.default_rng(0).random(10_000) * 2 - 1
    now = np.append(x, 20.0)
    quantizer = symmetric(np.array(1.0), bits=4)
    inside = fake_quantize(now, quantizer)[:-1], fake_quantize(now, per_tensor(now, bits=4))[:-1]
    assert sqnr(x, inside[0]) > sqnr(x, inside[1]) + 10


def test_the_most_clipped_comes_first_and_names_of_no_plan_are_left_out():
    x = np.linspace(0, 1, 200)
    q = per_tensor(x, bits=8)
    tight = asymmetric(np.array(0.0), np.array(0.5), bits=8)        # clips half before and now
    made = shifts(dict.fromkeys("abcd", x), {"a": x, "b": 3 * x, "c": x**2, "d": x, "e": x},
                  {"a": tight, "b": q, "c": q, "d": q})
    assert list(made) == ["b", "c", "a", "d"]
    assert made["a"].clipped == made["a"].clipped_before > 0.4
    assert all(one == shift(x, {"b": 3 * x, "c": x**2}.get(n, x), {"a": tight}.get(n, q))
               for n, one in made.items())
    assert shifts({}, {}, {}) == {}


def answers(rng, n, right, agree):
    labels = rng.integers(0, 4, n)
    exact = np.where(rng.random(n) < right, labels, (labels + 1) % 4)
    return Answers(labels, exact, np.where(rng.random(n) < agree, exact, rng.integers(0, 4, n)))


@given(SEEDS, st.integers(1, 60), st.integers(1, 60))
@settings(max_examples=40)
def test_the_excess_is_what_the_float_network_does_not_lose(seed, n, m):
    rng = np.random.default_rng(seed)
    before, now = answers(rng, n, 0.9, 0.9), answers(rng, m, 0.6, 0.7)
    made = fall(before, now, rng=rng, draws=200)
    assert isinstance(made, Fall)
    assert isinstance(made.interval, Interval)
    right = [[np.mean(p == a.labels) for p in a[1:]] for a in (before, now)]
    assert made.exact == pytest.approx(right[0][0] - right[1][0])
    assert made.coarse == pytest.approx(right[0][1] - right[1][1])
    assert made.excess == pytest.approx(made.coarse - made.exact)
    assert made.flips == np.mean(now.exact != now.coarse)
    assert made.flips_before == np.mean(before.exact != before.coarse)
    back = fall(now, before, rng=rng, draws=200)
    assert back.excess == pytest.approx(-made.excess)
    assert made.interval.low <= made.interval.high


def test_networks_that_always_agree_have_no_excess_and_are_sure_of_it():
    before, now = (answers(np.random.default_rng(0), 50, right, 1.0) for right in (0.9, 0.5))
    made = fall(before, now, rng=np.random.default_rng(0))
    assert made.exact == made.coarse > 0.2
    assert made.interval == (0, 0)
    assert made.excess == made.flips == 0


def test_what_was_lost_before_the_data_moved_is_no_excess():
    labels = np.zeros(6, int)
    lost = Answers(labels, labels, labels + 1)              # all right in float, none in codes
    assert fall(lost, lost, rng=np.random.default_rng(0)).interval == (0, 0)
    fine = Answers(labels, labels, labels)
    assert fall(lost, fine, rng=np.random.default_rng(0)).interval == (-1, -1)


def test_without_labels_what_falls_is_agreement():
    before, now = (answers(np.random.default_rng(0), 100, 0.9, agree) for agree in (0.95, 0.7))
    made = fall(*(a._replace(labels=a.exact) for a in (before, now)),
                rng=np.random.default_rng(0))
    assert made.exact == 0
    assert made.excess == pytest.approx(made.flips - made.flips_before)


def test_an_interval_of_the_excess_holds_the_truth_as_often_as_it_says():
    """300 samples of a known excess of 0.1, 200 answers before and 150 now: 95 %, 4 standard
    errors of the binomial, 1.3 points each."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(300):
        pairs = []
        for n, chances in ((200, (0.05, 0.05, 0.9)), (150, (0.15, 0.05, 0.8))):
            kind = rng.choice(3, n, p=chances)                  # spoilt, mended, the same
            pairs.append(Answers(np.zeros(n, int), (kind == 1).astype(int),
                                 (kind == 0).astype(int)))
        low, high = fall(*pairs, rng=rng, draws=300).interval
        held += low <= 0.1 <= high
    assert 0.9 <= held / 300 <= 0.99


def turned(x, degrees):
    return np.stack([ndimage.rotate(image.reshape(8, 8), degrees, reshape=False, order=1).ravel()
                     for image in x]).astype(np.float32)


def noisy(x, deviation):
    return (x + deviation * np.random.default_rng(0).standard_normal(x.shape)).astype(np.float32)


def test_digits_that_are_turned_or_noisy_are_seen_to_have_moved():
    """W4A8 MLP. By distance at once; by accuracy the float network pays more than quantization."""
    values = trained(0)
    rounded = {n: fake_quantize(v, symmetric(absmax(v, axis=1), bits=4)) if n in LAYERS else v
               for n, v in values.items()}
    names = ("x", "r1", "r2")

    def seen(x):
        found = run(NODES, {"x": x, **values}).values
        return {n: found[n] for n in names}

    reference = seen(X_TRAIN[:400])
    plan = {n: per_tensor(v, bits=8) for n, v in reference.items()}

    def judged(x):
        exact, coarse = (run(NODES, {"x": x, **v}, tap=tap).values["logits"].argmax(1)
                         for v, tap in ((values, lambda _, a: a),
                                        (rounded, lambda n, a: fake_quantize(a, plan[n])
                                         if n in plan else a)))
        return Answers(DATA.y_test, exact, coarse)

    still = shifts(reference, seen(X_TEST), plan)
    moves = {"turned": partial(turned, degrees=30), "noisy": partial(noisy, deviation=0.5),
             "bright": lambda x: 2 * x}
    for name, move in moves.items():
        made = shifts(reference, seen(move(X_TEST)), plan)
        assert max(s.distance for s in made.values()) > 2 * max(
            s.distance for s in still.values()), name
        worst = next(iter(made.values()))
        if name != "turned":                    # turning moves ink, and makes none
            assert worst.clipped > 0.01 > next(iter(still.values())).clipped
        paid = fall(judged(X_TEST), judged(move(X_TEST)), rng=np.random.default_rng(0))
        assert paid.interval.low <= paid.excess <= paid.interval.high
        assert paid.excess < 0.1
        assert paid.flips >= paid.flips_before
    assert max(s.clipped for s in still.values()) < 0.01


ONE = np.ones(1)
Q = symmetric(np.array(1.0), bits=4)
SOME = Answers(ONE, ONE, ONE)
RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: shift(np.empty(0), ONE, Q), "must not be empty"),
    (lambda: shift(ONE, np.empty(0), Q), "must not be empty"),
    (lambda: shift(ONE, np.array([np.nan]), Q), "`now` must be finite; got nan"),
    (lambda: shift(ONE, np.array([np.inf]), Q), "`now` must be finite; got inf"),
    (lambda: shift(np.array([np.inf]), ONE, Q), "`reference` must be finite; got inf"),
    (lambda: shifts({"a": ONE}, {}, {"a": Q}), "`now` must hold the whole plan; 'a' is"),
    (lambda: shifts({}, {"a": ONE}, {"a": Q}), "`reference` must hold the whole plan"),
    (lambda: fall(SOME, SOME._replace(labels=np.empty(0)), rng=RNG), "`now.labels` must not be e"),
    (lambda: fall(SOME._replace(exact=np.ones(2)), SOME, rng=RNG), "`before.exact` must have sh"),
    (lambda: fall(SOME, SOME, rng=RNG, confidence=2), "`confidence` must lie in"),
    (lambda: fall(SOME, SOME, rng=RNG, draws=0), "`draws` must be at least 1"),
])
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
