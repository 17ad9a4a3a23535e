"""Who pays: figures by subgroup that can be checked by hand, and the rare classes (A25)."""

from functools import lru_cache, partial

import numpy as np
import pytest
from apply._mlp import DATA, LAYERS, NODES, X_TEST, X_TRAIN, fit, initial
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, ks_2samp

from refquant.calibration.minmax import absmax
from refquant.nn.network import run
from refquant.quantizer import fake_quantize
from refquant.quantizers.uniform import asymmetric, symmetric
from refquant.workflow.fairness import (
    Drift,
    Group,
    Interval,
    Subgroups,
    by_subgroup,
    calibration_error,
    clipped_share,
    drift,
    tied,
    wilson,
)

SEEDS = st.integers(0, 2**32 - 1)


def answers(seed, n, names=3, share=0.8):
    """Labels, two predictions that agree for the most part, groups."""
    rng = np.random.default_rng(seed)
    labels, groups = rng.integers(0, 4, n), rng.integers(0, names, n)
    before = np.where(rng.random(n) < share, labels, rng.integers(0, 4, n))
    after = np.where(rng.random(n) < share, before, rng.integers(0, 4, n))
    return labels, before, after, groups


def test_a_gap_that_closes_changes_by_less_than_nothing_in_every_resampling():
    """One group has lost all that it had, the other never had anything."""
    groups = np.repeat(["had", "had not"], 5)
    labels, before = np.zeros(10, int), np.repeat([0, 1], 5)
    made = by_subgroup(labels, before, np.ones(10, int), groups, rng=np.random.default_rng(0))
    assert (made.gap_before, made.gap_after) == (1, 0)
    assert made.gap_interval == (-1, -1)


def test_a_confidence_at_the_end_of_a_bin_belongs_to_it():
    """0.5 in the first of two bins, 0.6 in the second: neither error makes up for the other."""
    found = calibration_error(np.array([0.5, 0.6]), np.array([True, False]), bins=2)
    assert found == pytest.approx((0.5 + 0.6) / 2)


@given(SEEDS, st.integers(1, 80))
@settings(max_examples=40)
def test_each_figure_is_a_count_of_its_own_group(seed, n):
    labels, before, after, groups = answers(seed, n)
    made = by_subgroup(labels, before, after, groups, rng=np.random.default_rng(0), draws=50)
    assert isinstance(made, Subgroups)
    assert sum(g.n for g in made.groups) == n
    for g in made.groups:
        assert isinstance(g, Group)
        mine = groups == g.name
        assert g.before == np.mean(before[mine] == labels[mine])
        assert g.after == np.mean(after[mine] == labels[mine])
        assert g.drop == pytest.approx(g.before - g.after)
        assert g.flips == np.mean(before[mine] != after[mine])
        assert abs(g.drop) <= g.flips + 1e-12
        assert g.drop_interval.low <= g.drop_interval.high
        assert g.after_interval.low - 1e-12 <= g.after <= g.after_interval.high + 1e-12
    drops = [g.drop for g in made.groups]
    assert drops == sorted(drops, reverse=True)
    assert made.worst is made.groups[0]
    for when in ("before", "after"):
        scores = [getattr(g, when) for g in made.groups]
        assert getattr(made, f"gap_{when}") == pytest.approx(max(scores) - min(scores))


def test_the_same_network_twice_pays_nothing_and_is_sure_of_it():
    labels, before, _, groups = answers(0, 200)
    made = by_subgroup(labels, before, before, groups, rng=np.random.default_rng(0))
    assert all(g.drop == g.flips == 0 and g.drop_interval == (0, 0) for g in made.groups)
    assert made.gap_interval == (0, 0)


def test_the_order_of_examples_does_not_matter():
    arrays = answers(1, 100)
    order = np.random.default_rng(0).permutation(100)
    one, two = (by_subgroup(*a, rng=np.random.default_rng(0), draws=50)
                for a in (arrays, [x[order] for x in arrays]))
    assert one == two


def test_drawing_counts_is_resampling_pairs():
    """Same mean and deviation as drawing the examples themselves; 4 standard errors."""
    labels, before, after, _ = answers(2, 150)
    made = by_subgroup(labels, before, after, np.zeros(150, int), rng=np.random.default_rng(0),
                       draws=20000, confidence=0.68)
    rng = np.random.default_rng(1)
    difference = (before == labels).astype(float) - (after == labels)
    drawn = difference[rng.integers(0, 150, (20000, 150))].mean(1)
    assert made.worst.drop_interval == pytest.approx(np.quantile(drawn, [0.16, 0.84]), abs=0.007)


def test_an_interval_holds_the_truth_as_often_as_it_says():
    """300 samples of a known drop of 0.1: 95 % of intervals hold it, 2.6 points of standard error
    for the binomial, and a point or two less for the bootstrap of a share; 4 of them allowed."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(300):
        kind = rng.choice(4, 200, p=[0.1, 0.05, 0.15, 0.7])     # wrong both, mended, spoilt, right
        labels = np.zeros(200, int)
        before, after = (kind < 2).astype(int), np.isin(kind, (0, 2)).astype(int)
        made = by_subgroup(labels, before, after, labels, rng=rng, draws=300)
        held += made.worst.drop_interval.low <= 0.1 <= made.worst.drop_interval.high
    assert 0.9 <= held / 300 <= 0.99


def test_a_group_without_an_example_is_reported_and_takes_no_part():
    labels, before, after, groups = answers(0, 100, names=2)
    rng = np.random.default_rng
    plain = by_subgroup(labels, before, after, groups, rng=rng(0), draws=50)
    made = by_subgroup(labels, before, after, groups, rng=rng(0), draws=50, names=[7, 1, 0, 7])
    assert plain.empty == ()
    assert made.empty == (7,)
    assert made.groups[:-1] == plain.groups
    assert made[1:] == plain[1:]
    assert made.worst == plain.worst
    last = made.groups[-1]
    assert (last.name, last.n) == (7, 0)
    assert np.isnan([last.before, last.after, last.drop, last.flips, *last.drop_interval,
                     *last.after_interval]).all()


def test_a_group_of_one_has_a_drop_without_spread_and_an_interval_that_says_how_little_it_means():
    made = by_subgroup([0, 1, 1], [0, 1, 1], [0, 1, 0], ["a", "a", "b"],
                       rng=np.random.default_rng(0), draws=50)
    assert (made.worst.name, made.worst.n, made.worst.drop) == ("b", 1, 1)
    assert made.worst.drop_interval == (1, 1)
    low, high = made.worst.after_interval
    assert low == 0
    assert high > 0.7


@given(SEEDS, st.integers(1, 30), st.integers(1, 6))
def test_a_tie_is_a_prediction_that_another_order_of_classes_changes(seed, n, classes):
    logits = np.random.default_rng(seed).integers(0, 4, (n, classes))
    first, last = logits.argmax(1), classes - 1 - logits[:, ::-1].argmax(1)
    assert np.array_equal(tied(logits), first != last)
    assert np.array_equal(tied(logits / 3), first != last)


def test_coarse_logits_tie_and_flips_of_ties_go_to_the_lower_class():
    """Logits of 2 bits: where a tie is broken, the prediction is at or below that of float."""
    exact = np.random.default_rng(0).normal(size=(500, 10))
    coarse = fake_quantize(exact, symmetric(np.array(3.0), bits=3))
    ties = tied(coarse)
    assert ties.mean() > 0.2 > tied(exact).mean() == 0
    assert (coarse.argmax(1) <= exact.argmax(1))[ties].all()


@given(st.integers(1, 500), st.floats(0, 1), st.sampled_from([0.5, 0.9, 0.95]))
def test_wilson_is_the_known_formula(n, share, confidence):
    right = round(share * n)
    known = binomtest(right, n).proportion_ci(confidence, method="wilson")
    ours = wilson(right, n, confidence)
    assert isinstance(ours, Interval)
    assert ours == pytest.approx((known.low, known.high), abs=1e-12)


def test_all_of_nothing_sure_is_the_whole_range():
    assert wilson(3, 7, 1.0) == (0, 1)


@given(SEEDS, st.integers(1, 100), st.integers(1, 20))
def test_the_calibration_error_is_the_sum_over_bins(seed, n, bins):
    rng = np.random.default_rng(seed)
    confidence, right = rng.random(n), rng.random(n) < 0.6
    confidence[0] = rng.choice([0.0, 1.0])
    total = 0.0
    for b in range(bins):
        mine = (confidence > b / bins) & (confidence <= (b + 1) / bins)
        mine |= (confidence == 0) & (b == 0)
        if mine.any():
            total += mine.mean() * abs(right[mine].mean() - confidence[mine].mean())
    assert calibration_error(confidence, right, bins=bins) == pytest.approx(total, abs=1e-12)


def test_half_sure_and_half_right_is_calibrated():
    assert calibration_error(np.full(10, 0.5), np.arange(10) % 2 == 0) == 0
    assert calibration_error(np.ones(4), np.zeros(4, bool)) == 1


@given(SEEDS, st.sampled_from([partial(symmetric, np.array(2.0)),
                               partial(asymmetric, np.array(-1.0), np.array(2.0))]))
def test_the_clipped_are_those_beyond_the_ends(seed, make):
    q, x = make(bits=4), np.random.default_rng(seed).normal(size=300) * 2
    low, high = (float(q.scale.item() * (end - q.zero_point.item())) for end in (q.qmin, q.qmax))
    half = float(q.scale.item()) / 2
    assert clipped_share(x, q) == np.mean((x < low - half) | (x > high + half))


@given(SEEDS, st.integers(1, 60), st.integers(1, 60))
def test_drift_is_the_distance_of_smirnov(seed, n, m):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 9, n).astype(float), rng.integers(0, 9, m) + float(rng.integers(0, 3))
    made = drift(a, b)
    assert isinstance(made, Drift)
    assert made.distance == pytest.approx(max(abs(np.mean(a <= t) - np.mean(b <= t))
                                              for t in (*a, *b)), abs=1e-12)
    assert 0 <= made.chance <= 1


def test_drift_is_seen_where_there_is_some_and_not_where_there_is_none():
    rng = np.random.default_rng(0)
    still, moved = rng.normal(size=(2, 2000)), rng.normal(size=2000) + 0.3
    assert drift(*still).chance > 0.01
    assert drift(still[0], moved).chance < 1e-10
    known = ks_2samp(*still, method="asymp").pvalue
    assert drift(*still).chance == pytest.approx(known, abs=0.01)


# Rare classes.

RARE = {0: 8, 1: 15, 2: 30}


@lru_cache
def answers_of_a_thinned_network(seed):
    """Three classes with few examples; predictions in float, and with weights of 3 and 4 bits."""
    rng = np.random.default_rng(seed)
    kept = np.concatenate([
        rng.permutation(np.flatnonzero(DATA.y_train == c))[: RARE.get(c)]
        for c in range(10)])
    x, y = X_TRAIN[kept], DATA.y_train[kept]
    values = fit(initial(rng, (64, 64, 32, 10)), rng, x=x, y=y, steps=400)

    def predict(bits):
        rounded = values if bits is None else {
            n: fake_quantize(v, symmetric(absmax(v, axis=1), bits=bits)) if n in LAYERS else v
            for n, v in values.items()}
        return run(NODES, {"x": X_TEST, **rounded}).values["logits"].argmax(1)

    return {bits: predict(bits) for bits in (None, 4, 3)}


def test_rare_classes_change_their_answers_three_times_as_often():
    """A25, ten networks: flips, not drops of accuracy, which are within their noise."""
    rare = np.isin(DATA.y_test, list(RARE))
    for bits in (3, 4):
        flips = {True: [], False: []}
        for seed in range(10):
            made = answers_of_a_thinned_network(seed)
            report = by_subgroup(DATA.y_test, made[None], made[bits], rare,
                                 rng=np.random.default_rng(0), draws=10)
            for g in report.groups:
                flips[g.name].append(g.flips)
        assert np.mean(flips[True]) >= 3 * np.mean(flips[False]) > 0


@pytest.mark.parametrize(("call", "message"), [
    (lambda: by_subgroup([], [], [], [], rng=np.random.default_rng(0)),
     "`labels` must not be empty"),
    (lambda: by_subgroup([1], [1, 2], [1], [1], rng=np.random.default_rng(0)),
     r"`before` must have shape \(1,\); got \(2,\)"),
    (lambda: by_subgroup([1], [1], [1], [1], rng=np.random.default_rng(0), confidence=0),
     r"`confidence` must lie in \(0, 1\]; got 0"),
    (lambda: wilson(3, 2), "`right` must be at most 2; got 3"),
    (lambda: calibration_error(np.array([1.5]), np.array([True])), "must lie in"),
    (lambda: calibration_error(np.array([np.nan]), np.array([True])), "must lie in"),
    (lambda: calibration_error(np.empty(0), np.empty(0, bool)), "must not be empty"),
    (lambda: clipped_share(np.empty(0), symmetric(np.array(1.0), bits=4)), "must not be empty"),
    (lambda: drift(np.ones(2), np.empty(0)), "`x` must not be empty"),
    (lambda: drift(np.array([1, np.nan]), np.ones(2)), "`reference` must not contain NaN"),
    (lambda: tied(np.ones(2)), r"`logits` must be rows of classes; got shape \(2,\)"),
    (lambda: tied(np.ones((2, 0))), "`logits` must be rows of classes"),
    (lambda: tied(np.array([[1.0, np.nan]])), "`logits` must not contain NaN"),
])
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
