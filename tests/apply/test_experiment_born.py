"""The table of networks born in few bits: what it shows, and that its rows can be made again."""

import numpy as np
import pytest
from scipy.stats import chi2

from refquant.apply._experiment_born import ROWS, SEEDS, TABLE, measure, read, text

TABLE_ROWS = read()


def column(row, field="accuracy"):
    """One value for each seed, in the order of the seeds."""
    return np.array([getattr(r, field) for r in TABLE_ROWS if r.row == row])


def mean(row):
    return 100 * column(row).mean()


def test_the_table_has_every_row_once_for_each_of_five_seeds():
    assert sorted((r.row, r.seed) for r in TABLE_ROWS) == sorted(
        (row, seed) for row in ROWS for seed in SEEDS)
    assert text(TABLE_ROWS) == TABLE.read_text("utf-8")


def test_nearest_updates_stall_and_random_ones_train():
    assert mean("nearest 8") <= 30
    assert mean("nearest 6") <= 15
    assert mean("nearest 10") <= 85
    for bits in (8, 10, 12, 16):
        assert mean(f"stochastic {bits}") >= mean("float") - 2
    # Paired by seed: on every one of the five splits, by more than half of all digits.
    assert (column("stochastic 8") - column("nearest 8")).min() > 0.5
    assert column("nearest 8", "moved").max() < 1e-3 < column("stochastic 8", "moved").min()


def test_what_random_rounding_adds_has_the_mean_and_variance_of_the_argument():
    """Each drift is a standard normal number if the sums are unbiased, and each run has draws of
    its own, so their squares add to chi-square of 25; the spread is a mean over 20,000 walks or
    more, whose error is about 1 %."""
    drift = np.concatenate([column(f"stochastic {b}", "drift") for b in (16, 12, 10, 8, 6)])
    spread = np.concatenate([column(f"stochastic {b}", "spread") for b in (16, 12, 10, 8, 6)])
    assert drift.size == 25
    assert chi2.cdf(np.sum(drift**2), 25) < 0.999
    assert abs(drift.mean()) < 4 / 5
    assert np.abs(spread - 1).max() < 0.04


def test_short_gradients_and_products_cost_nothing_that_can_be_seen():
    for row in ("fp16", "fp16 scaled", "fp8"):
        assert mean(row) >= mean("float32") - 1


def test_integers_alone_learn_to_read():
    assert mean("wage") >= 94
    assert mean("wage") <= mean("the same in floats")


def test_two_and_three_levels_must_be_trained():
    for row in ("BWN, not trained", "TWN, not trained", "BitNet, not trained"):
        assert mean(row) <= 60
    for row in ("BWN, chain rule", "BWN, as printed", "BinaryConnect",
                "BinaryConnect, from floats"):
        assert mean(row) >= 94.5
    for row in ("TWN", "TTQ", "BitNet", "LSQ"):
        assert mean(row) >= 96
    assert mean("BinaryConnect, drawn") <= 30       # too narrow, and too few steps


@pytest.mark.parametrize("row", ["stochastic 8"])
def test_a_row_is_made_again(row):
    """Another BLAS sums in another order; two points are eighteen digits."""
    again = measure(row, 0)
    there = next(r for r in TABLE_ROWS if r.row == row and r.seed == 0)
    assert abs(again.accuracy - there.accuracy) < 0.02
    assert abs(again.moved - there.moved) < 0.002
    assert abs(again.drift) < 4
    assert abs(again.spread - 1) < 0.04


@pytest.mark.whole
def test_every_row_is_made_again_by_one_seed():
    for row in ROWS:
        again = measure(row, 1)
        there = next(r for r in TABLE_ROWS if r.row == row and r.seed == 1)
        trained = not row.endswith("not trained")
        assert abs(again.accuracy - there.accuracy) < (0.04 if trained else 0.005), row
