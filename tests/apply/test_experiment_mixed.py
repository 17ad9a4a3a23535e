"""The measured table of mixed precision: what may be said of it, and that it can be had again."""

from functools import lru_cache

import numpy as np
import pytest

from refquant.apply._experiment_mixed import AVERAGES, BITS, Problem, read, rows, short, tables
from refquant.mixed_precision.integer_program import Budget, allocate
from refquant.mixed_precision.pareto import dynamic_program
from refquant.nn.data import digits
from refquant.nn.replicas import replica

ROWS = read()
METHODS = ["weights", "divergence", "loss", "eigenvalue", "trace"]


@lru_cache(maxsize=1)
def problem_of_copy_0():
    return Problem(replica(0), digits(seed=0))


def mean(network, bits, method):
    """Accuracy in percent and NLL, means over the five seeds."""
    found = [(100 * r.accuracy, r.nll) for r in ROWS
             if (r.network, r.bits, r.method) == (network, bits, method)]
    assert len(found) == 5
    return np.mean(found, axis=0)


def test_every_policy_keeps_its_budget():
    sizes = problem_of_copy_0().size[:, 0] // 2
    policies = [r for r in ROWS if r.policy]
    assert len(policies) == 10 * (2 + 3 * len(METHODS))     # uniform at 3 and 4, the rest thrice
    for r in policies:
        assert sum(int(b) * n for b, n in zip(r.policy, sizes, strict=True)) <= r.bits * sizes.sum()


def test_three_bits_shared_out_by_curvature_beat_three_bits_everywhere_by_five_points():
    """Measured: 85.4 -> 93.4 %. The copies trained for less gain 2.4 points (7 by divergence)."""
    assert mean("replica", 3, "trace")[0] >= mean("replica", 3, "uniform")[0] + 5
    assert mean("short", 3, "divergence")[0] >= mean("short", 3, "uniform")[0] + 5


def test_at_four_bits_the_loss_falls_by_a_quarter_and_most_of_the_gap_to_float_closes():
    """Measured NLL: 0.090 -> 0.062, float 0.059; trained for less: 0.169 -> 0.109, float 0.093.

    Accuracy: +2.0 points where uniform bits lose 2.2; +0.9 where they lose only 1.0.
    """
    for network in ("replica", "short"):
        uniform, shared = (mean(network, 4, method) for method in ("uniform", "trace"))
        whole = mean(network, 32, "float")
        assert shared[1] <= 0.75 * uniform[1]
        assert shared[0] - uniform[0] >= 0.75 * (whole[0] - uniform[0])
    assert mean("short", 4, "trace")[0] >= mean("short", 4, "uniform")[0] + 1


def test_any_measurement_is_far_better_than_chance():
    for network in ("replica", "short"):
        for method in METHODS:
            assert mean(network, 3, method)[0] >= mean(network, 3, "random")[0] + 25
            assert mean(network, 4, method)[0] >= mean(network, 4, "random")[0] + 20


def test_over_all_ten_networks_the_published_margins_hold():
    """HAWQ-V2 over uniform bits: 1.4 points at 4 bits, 5.2 at 3; over chance 27 and 37.

    Neither kind of network meets them all: the better trained have less to gain at 4 bits, the
    others spread by 8 points at 3 bits.
    """
    def gain(bits, over):
        apart = [mean(n, bits, "trace")[0] - mean(n, bits, over)[0] for n in ("replica", "short")]
        return np.mean(apart)

    assert gain(4, "uniform") >= 1
    assert gain(3, "uniform") >= 5
    assert min(gain(3, "random"), gain(4, "random")) >= 25


def test_curvature_helps_the_error_of_the_weights_at_three_bits():
    """By the likelihood alone: 0.253 -> 0.216 and 0.499 -> 0.461. Accuracies are within noise."""
    for network in ("replica", "short"):
        assert mean(network, 3, "trace")[1] < mean(network, 3, "weights")[1]


def test_the_cheap_rows_of_one_network_are_measured_again():
    """Uniform bits, error of the weights and divergences of copy 0; a minute is for the slow test.

    Sums differ with the BLAS in the last bits, so that a policy could differ at a tie.
    """
    problem = problem_of_copy_0()
    kept = {(r.bits, r.method): r for r in ROWS if (r.network, r.seed) == ("replica", 0)}
    found = tables(problem, rng=np.random.default_rng(0))
    cheap = dict([next(found), next(found)])
    assert set(cheap) == {"weights", "divergence"}
    choices = {("uniform", 4.0): np.full(10, BITS.index(4))}
    for name, table in cheap.items():
        limit = problem.limit(4.0)
        choices[name, 4.0] = allocate(table, [Budget("size", problem.size, limit)]).choice
        # The dynamic program has the same least loss.
        at = np.arange(10)
        again = dynamic_program(table, problem.size, limit)
        assert table[at, again].sum() == pytest.approx(table[at, choices[name, 4.0]].sum())
    for (name, average), choice in choices.items():
        accuracy, nll = problem.judge(choice)
        row = kept[average, name]
        assert accuracy == pytest.approx(row.accuracy, abs=0.005)
        assert nll == pytest.approx(row.nll, rel=0.05)


@pytest.mark.whole
@pytest.mark.parametrize(("network", "load"), [("replica", replica), ("short", short)])
def test_all_rows_of_a_network_are_measured_again(network, load):
    rng = np.random.default_rng(1)
    problem = Problem(load(1), digits(seed=1))
    again = list(rows(problem, network, 1, tables(problem, rng=rng), rng=rng))
    kept = [r for r in ROWS if (r.network, r.seed) == (network, 1)]
    assert [(r.bits, r.method) for r in again] == [(r.bits, r.method) for r in kept]
    for new, old in zip(again, kept, strict=True):
        assert new.accuracy == pytest.approx(old.accuracy, abs=0.02)
        assert new.nll == pytest.approx(old.nll, rel=0.1)
    assert [r.method for r in again if r.bits == AVERAGES[0]] == ["random", *METHODS]
