"""Codebooks: the survey's cells, ties, one table for each channel, what is refused."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from quantizers.contract import LAWS, check

from refquant.quantizer import bits_per_element
from refquant.quantizers.codebook import Codebook, nearest

floats = st.floats(-1e6, 1e6, width=32)
level_lists = st.lists(floats, min_size=1, max_size=9, unique=True).map(sorted)
X = np.linspace(-3, 3, 60).reshape(4, 15)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_contract_of_one_codebook(law, dtype):
    check(law, nearest(np.array([-2.5, -0.1, 0.0, 0.7, 2.0], dtype)), X.astype(dtype))


@pytest.mark.parametrize("law", LAWS)
def test_contract_of_a_codebook_for_each_channel(law):
    levels = np.sort(np.random.default_rng(0).normal(size=(8, 4, 1)), axis=0)
    check(law, nearest(levels), X)


@given(levels=level_lists, x=st.lists(floats, max_size=20))
def test_code_is_the_nearest_level_in_exact_arithmetic_and_a_tie_is_lower(levels, x):
    codes = nearest(np.array(levels)).encode(np.array(x, np.float64))
    for value, code in zip(x, codes, strict=True):
        distances = [abs(Fraction(value) - Fraction(level)) for level in levels]
        assert code == distances.index(min(distances))


@given(levels=level_lists, x=st.lists(floats, max_size=20), cut=st.lists(floats, min_size=8,
                                                                         max_size=8).map(sorted))
def test_cells_are_open_below_and_closed_above(levels, x, cut):
    cut = cut[: len(levels) - 1]
    codes = Codebook(np.array(levels), np.array(cut, np.float64)).encode(np.array(x, np.float64))
    for value, code in zip(x, codes, strict=True):
        assert code == 0 or cut[code - 1] < value
        assert code == len(cut) or value <= cut[code]


@given(x=hnp.arrays(np.float64, (2, 3, 5), elements=floats))
def test_channels_are_independent(x):
    levels = np.sort(np.random.default_rng(0).normal(size=(6, 3, 1)) * 1e5, axis=0)
    together = nearest(levels)
    codes = together.encode(x)
    for c in range(3):
        alone = nearest(levels[:, c, 0])
        assert np.array_equal(codes[:, c], alone.encode(x[:, c]))
        assert np.array_equal(together.decode(codes)[:, c], alone.decode(codes[:, c]))


def test_a_tie_is_lower_in_every_channel():
    q = nearest(np.array([[0.0, 1.0], [2.0, 5.0]])[:, :, np.newaxis])
    assert np.array_equal(q.encode(np.array([[1.0, 1.5], [3.0, 3.5]])), [[0, 1], [0, 1]])


def test_codes_of_float32_data_compare_exactly_with_float64_thresholds():
    x = np.array([0.1], np.float32)                     # a little above 0.1
    assert Codebook(np.array([0.0, 1.0]), np.array([0.1])).encode(x) == [1]


def test_golden_N6_the_figure_of_deep_compression_compresses_3_2_times():
    assert 32 / bits_per_element(nearest(np.array([-1.0, 0, 1.5, 2])), (4, 4)) == pytest.approx(3.2)


def test_golden_N12_the_interval_of_qil_is_a_codebook():
    # c = 0.5, d = 0.3, gamma = 1: |w| from 0.2 to 0.8 becomes 0 to 1, in thirds; each
    # threshold is where the transformed weight lies halfway between two of them.
    cuts = 0.2 + 0.6 * np.array([1, 3, 5]) / 6
    q = Codebook(np.arange(-3, 4) / 3, np.concatenate([-cuts[::-1], cuts]))
    codes = q.encode(np.array([0.1, 0.25, 0.35, 0.45, 0.75, 0.9, -0.6]))
    assert np.array_equal(codes - 3, [0, 0, 1, 1, 3, 3, -2])


def test_golden_N13_the_thresholds_of_n2uq_are_a_codebook():
    # Learned widths 0.5, 0.7, 0.9 from 0 on; even levels, as 2 bits on [0, 2].
    widths = np.array([0.5, 0.7, 0.9])
    q = Codebook(np.linspace(0, 2, 4), np.cumsum(widths) - widths / 2)
    assert q.thresholds == pytest.approx([0.25, 0.85, 1.65], abs=1e-12)
    assert np.diff(q.levels) == pytest.approx(0.6666666666666666, abs=1e-12)
    x = np.array([0.24, 0.26, 0.84, 0.86, 1.64, 1.66])
    assert np.array_equal(q.encode(x), [0, 1, 1, 2, 2, 3])


def test_infinities_take_the_end_levels_and_repeated_levels_are_never_used():
    q = nearest(np.array([-1.0, 2.0, 2.0]))
    assert np.array_equal(q.encode(np.array([-np.inf, np.inf, 2.0])), [0, 2, 1])
    assert q.code_bits == 2
    assert nearest(np.array([0.5])).code_bits == 0


def test_thresholds_of_huge_and_tiny_levels_neither_overflow_nor_vanish():
    assert np.isfinite(nearest(np.array([1.5e308, 1.7e308])).thresholds).all()
    tiny = np.finfo(np.float64).smallest_subnormal
    assert nearest(np.array([tiny, 5 * tiny])).thresholds == [3 * tiny]


@pytest.mark.parametrize(
    ("levels", "thresholds", "message"),
    [
        ([1.0, 0.0], [0.5], "`levels` must ascend; got 1.0 before 0.0"),
        ([], [], "at least one level"),
        (0.5, [], "at least one level"),
        ([0.0, np.inf], [0.5], "`levels` must be finite"),
        ([0.0, 1.0], [np.nan], "`thresholds` must be finite"),
        ([0.0, 1.0], [0.5, 0.7], "one fewer than the levels"),
        ([0.0, 1.0, 2.0], [0.7, 0.5], "`thresholds` must ascend; got 0.7 before 0.5"),
    ],
)
def test_what_is_no_codebook_is_refused(levels, thresholds, message):
    with pytest.raises(ValueError, match=message):
        Codebook(np.array(levels), np.array(thresholds, np.float64))


def test_wrong_kinds_are_refused():
    with pytest.raises(TypeError, match="`levels` must be float"):
        nearest(np.array([0, 1]))
    q = nearest(np.array([0.0, 1.0]))
    with pytest.raises(ValueError, match="NaN"):
        q.encode(np.array([np.nan]))
    with pytest.raises(ValueError, match=r"`codes` must lie in \[0, 1\]; got 2"):
        q.decode(np.array([2]))
    with pytest.raises(ValueError, match=r"`levels\[0\]` must broadcast"):
        nearest(np.zeros((2, 3, 1))).encode(np.zeros((4, 5)))
