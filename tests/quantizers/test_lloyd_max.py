"""Lloyd-Max: tables to their last digit, both conditions, and that it is the optimum of samples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from quantizers.contract import LAWS, check

from refquant.quantizers.high_rate import shannon_bound
from refquant.quantizers.lloyd_max import Density, best_step, gauss, laplace, lloyd_max
from refquant.quantizers.optimal_kmeans import optimal_kmeans

DENSITIES = [gauss, laplace]
NAMES = ["gauss", "laplace"]
both = pytest.mark.parametrize("density", DENSITIES, ids=NAMES)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("k", [2, 5, 16])
def test_contract(law, k):
    check(law, lloyd_max(gauss, k).quantizer, np.linspace(-4, 4, 50).reshape(5, 10))


@pytest.mark.parametrize(("density", "expected"), [
    pytest.param(gauss, [0.3633802276, 0.1174818478, 0.03454776079, 0.009501008008,
                         0.002504668356, 0.0006442396653, 0.00016347823, 4.118508287e-05],
                 id="O1"),
    pytest.param(laplace, [0.5, 0.1761948811, 0.05447598791, 0.01537252706, 0.004102179988,
                           0.001060952288, 0.0002698737736, 6.806173968e-05], id="O2"),
])
def test_golden_errors_to_all_printed_digits(density, expected):
    for bits, mse in enumerate(expected, 1):
        assert float(f"{lloyd_max(density, 2**bits).mse:.10g}") == mse


def test_gaussian_errors_with_twenty_digits_of_a_40_digit_computation():
    # Newton's method with mpmath at 40 digits, confirmed by quadrature. (The 0.009497
    # for 4 bits that is often quoted is the entry of the table of 1960.)
    for bits, mse in enumerate([0.36338022763241865692, 0.11748184782932928712,
                                0.034547760788503730277, 0.0095010080081918861091], 1):
        assert lloyd_max(gauss, 2**bits).mse == pytest.approx(mse, rel=1e-13)


@pytest.mark.parametrize(("density", "k", "levels", "thresholds"), [
    pytest.param(gauss, 4, [0.4527800346, 1.510417608], [0.9815988216], id="O3"),
    pytest.param(gauss, 8, [0.2450941789, 0.7560052812, 1.343909279, 2.151945705],
                 [0.50054973, 1.04995728, 1.74792749], id="O9"),
    pytest.param(laplace, 4, [0.4197557398, 1.833969302], [1.126862521], id="O10"),
])
def test_golden_levels_and_thresholds(density, k, levels, thresholds):
    q = lloyd_max(density, k).quantizer
    assert q.levels[k // 2 :] == pytest.approx(levels, abs=1e-8)
    assert q.thresholds[k // 2 :] == pytest.approx(thresholds, abs=1e-8)


def test_golden_B2_three_levels_are_the_ternary_optimum():
    best = lloyd_max(gauss, 3)
    assert best.mse == pytest.approx(0.1901740392, abs=1e-9)
    assert best.quantizer.thresholds[1] == pytest.approx(0.6120031895, abs=1e-8)


@both
@pytest.mark.parametrize(("bits", "entropies"), [(2, (1.9111, 1.7283)), (8, (7.6941, 7.3832))])
def test_entropies_of_the_codes(density, bits, entropies):
    expected = entropies[DENSITIES.index(density)]
    assert lloyd_max(density, 2**bits).entropy == pytest.approx(expected, abs=5e-5)


@both
@pytest.mark.parametrize("k", [2, 3, 7, 16, 33, 256])
def test_both_conditions_of_optimality_hold(density, k):
    q = lloyd_max(density, k).quantizer
    assert np.array_equal(q.thresholds, (q.levels[1:] + q.levels[:-1]) / 2)
    assert np.array_equal(q.levels, -q.levels[::-1])
    edges = np.concatenate([q.levels[:1] - 40, q.thresholds, q.levels[-1:] + 40])
    for level, low, high in zip(q.levels, edges[:-1], edges[1:], strict=True):
        assert cell_mean(density, low, high) == pytest.approx(level, abs=1e-11)


def cell_mean(density, low, high):
    """By Gauss-Legendre quadrature: nothing of the closed forms it judges."""
    ends = np.linspace(low, high, 81)[:, np.newaxis]
    nodes, weights = np.polynomial.legendre.leggauss(12)
    x = (ends[:-1] + ends[1:]) / 2 + np.diff(ends, axis=0) / 2 * nodes
    mass = density.pdf(x) * weights
    return np.sum(mass * x) / np.sum(mass)


@both
@given(k=st.integers(1, 300))
def test_more_levels_are_better_and_shannon_is_never_beaten(density, k):
    now, then = lloyd_max(density, k), lloyd_max(density, k + 1)
    assert then.mse < now.mse
    assert now.mse >= shannon_bound(density, np.log2(k)) * (1 - 1e-12)
    assert shannon_bound(density, now.entropy) <= now.mse * (1 + 1e-12)
    assert now.entropy <= np.log2(k) + 1e-9


def test_the_optimal_codebook_of_many_samples_tends_to_it():
    # 2**14 equal-mass points stand for the density; they miss the tail by O(1/n).
    x = gauss.cube_root_quantile((np.arange(2**14) + 0.5) / 2**14) / 3**0.5
    assert optimal_kmeans(x, 4).levels == pytest.approx(lloyd_max(gauss, 4).quantizer.levels,
                                                        abs=1e-3)


def test_golden_O4_and_O5_best_steps_of_uniform_quantizers():
    steps = [1.595769, 0.995687, 0.586019, 0.335201, 0.188139, 0.104063, 0.056868, 0.030762]
    errors = [0.3633802276, 0.1188460504, 0.03743965939, 0.01154288443, 0.003495211362,
              0.001040045409, 0.0003043327708, 8.768618578e-05]
    for bits, (step, error) in enumerate(zip(steps, errors, strict=True), 1):
        found = best_step(gauss, bits=bits)
        assert found[0] == pytest.approx(step, abs=2e-6)
        assert found[1] == pytest.approx(error, abs=1e-10)


def test_best_steps_for_laplace():
    found = [best_step(laplace, bits=bits) for bits in (1, 2, 4, 8)]
    assert [s for s, _ in found] == pytest.approx([1.414214, 1.087393, 0.460995, 0.054844],
                                                  abs=2e-6)
    assert [e for _, e in found] == pytest.approx([0.5, 0.19630226, 0.02535098, 3.014203e-4],
                                                  abs=1e-8)


def test_golden_M3_signal_to_noise_of_the_best_uniform_quantizers():
    decibels = [-10 * np.log10(best_step(gauss, bits=bits)[1]) for bits in (2, 4, 8)]
    assert decibels == pytest.approx([9.250152466, 19.37685653, 40.57068821], abs=1e-6)


@both
@given(bits=st.integers(1, 10))
def test_free_levels_are_no_worse_than_equal_steps(density, bits):
    assert lloyd_max(density, 2**bits).mse <= best_step(density, bits=bits)[1] * (1 + 1e-12)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="`k` must be at least 1; got 0"):
        lloyd_max(gauss, 0)
    with pytest.raises(ValueError, match="`k` must be at most 4096"):
        lloyd_max(gauss, 5000)
    with pytest.raises(ValueError, match="`bits` must be at most 12"):
        best_step(gauss, bits=13)
    # Two narrow humps are not log-concave: Newton wanders.
    humps = Density(lambda x: gauss.pdf(x) * (1 + np.sin(40 * x)), gauss.tail, gauss.tail_mean,
                    gauss.cube_root_quantile, 0.0)
    with pytest.raises(ValueError, match="log-concave"):
        lloyd_max(humps, 16)
