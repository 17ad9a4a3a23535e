"""NF4: where the table comes from, the two that are shipped, blocks and their scales."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from quantizers.contract import LAWS, check, nearest
from scipy.stats import norm

from refquant.granularity import group
from refquant.metrics import mse
from refquant.quantizer import bits_per_element, fake_quantize
from refquant.quantizers.codebook import nearest as nearest_codebook
from refquant.quantizers.normal_float import (
    NormalFloat,
    bitsandbytes_nf4,
    block_absmax,
    double_quantized,
    normal_float_levels,
    quantile,
    torchao_nf4,
)

X = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
reals = st.floats(-100, 100, width=32)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("codebook", [bitsandbytes_nf4(), torchao_nf4(),
                                      nearest_codebook(normal_float_levels(3))],
                         ids=["bitsandbytes", "torchao", "three bits"])
def test_contract_of_blocks(law, codebook):
    check(law, block_absmax(X, codebook=codebook), X)


@pytest.mark.parametrize("law", [law for law in LAWS if law is not nearest])
def test_contract_of_quantiles_but_for_nearest(law):
    check(law, quantile(X, 7, axis=1), X)


def test_golden_N5_levels():
    expected = [-1, -0.6961928056, -0.5250729594, -0.3949174259, -0.2844413089, -0.1847734028,
                -0.09104997599, 0, 0.07958031496, 0.1609301444, 0.2461122513, 0.3379151367,
                0.4407097319, 0.562616888, 0.7229566442, 1]
    assert normal_float_levels() == pytest.approx(expected, abs=1e-10)
    assert bitsandbytes_nf4().levels == pytest.approx(expected, abs=2e-7)
    assert torchao_nf4().levels == pytest.approx(expected, abs=5.1e-5)


def test_the_tables_are_those_that_are_shipped():
    # Bit patterns of the second and the third entry.
    for codebook, patterns in ((bitsandbytes_nf4(), [0xBF3239B1, 0xBF066B30]),
                               (torchao_nf4(), [0xBF323A2A, 0xBF066CF4])):
        assert [int(bits) for bits in codebook.levels.view(np.uint32)[[1, 2]]] == patterns
    differ = bitsandbytes_nf4().levels != torchao_nf4().levels
    assert differ.sum() == 13


def test_bitsandbytes_thresholds_are_midpoints_but_for_rounding():
    q = bitsandbytes_nf4()
    exact = nearest_codebook(q.levels).thresholds
    assert q.thresholds == pytest.approx(exact, abs=3e-8)
    x = np.concatenate([q.thresholds, exact.astype(np.float32)])
    assert np.array_equal(q.encode(q.thresholds), np.arange(15))            # equal goes down
    assert (q.encode(x) != nearest_codebook(q.levels).encode(x)).any()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_minus_one_zero_and_one_are_levels_and_there_is_one_more_above_zero(bits):
    levels = normal_float_levels(bits)
    assert levels.size == 2**bits
    assert (np.diff(levels) > 0).all()
    assert {-1.0, 0.0, 1.0} <= set(levels)
    assert np.sum(levels > 0) == np.sum(levels < 0) + 1


def test_cells_do_not_have_quite_the_same_mass():
    q = nearest_codebook(normal_float_levels())
    end = 1 - (1 / 32 + 1 / 30) / 2
    cdf = norm.cdf(np.concatenate([[-np.inf], q.thresholds, [np.inf]]) * norm.ppf(end))
    mass = np.diff(cdf)
    assert 16 * mass.min() == pytest.approx(0.89, abs=0.01)
    assert 16 * mass.max() == pytest.approx(1.14, abs=0.01)
    assert -mass @ np.log2(mass) == pytest.approx(3.9962, abs=5e-5)


def test_error_of_blocks_of_64_normal_values():
    # Seeded: 2**20 values, a standard error of about 1e-5 for each number.
    x = group(np.random.default_rng(0).normal(size=(64, 2**14)), 64)
    q = block_absmax(x, codebook=nearest_codebook(normal_float_levels()))
    assert mse(x, fake_quantize(x, q)) == pytest.approx(0.008452, abs=5e-5)


@given(x=hnp.arrays(np.float32, (3, 8), elements=reals))
def test_the_extreme_of_a_block_is_exact_and_zero_blocks_stay_zero(x):
    q = block_absmax(x)
    value = fake_quantize(x, q)
    extreme = np.abs(x).argmax(axis=1)[:, np.newaxis]
    normal = np.abs(x).max(axis=1) >= np.finfo(np.float32).smallest_normal
    kept = np.take_along_axis(value, extreme, 1) == np.take_along_axis(x, extreme, 1)
    assert kept[normal].all()
    assert (value[~x.any(axis=1)] == 0).all()
    assert (q.scale > 0).all()


def test_a_block_of_subnormal_numbers_gets_scale_one():
    for dtype in (np.float32, np.float64):
        tiny = np.finfo(dtype).smallest_normal
        x = np.array([[tiny / 2, 0], [tiny, 0]], dtype)
        assert np.array_equal(block_absmax(x).scale, np.array([[1], [tiny]], dtype))


@given(x=hnp.arrays(np.float64, (8, 4), elements=st.floats(-100, 100)))
def test_doubly_quantized_scales_are_larger_by_at_most_a_step(x):
    before = block_absmax(x)
    after = double_quantized(before, group_size=8)
    step = before.scale.max() / 255
    assert (after.scale >= before.scale * (1 - 1e-12)).all()
    assert (after.scale <= before.scale + step * (1 + 1e-9)).all()


def test_bits_per_weight_with_one_and_two_quantizations():
    x = np.random.default_rng(0).normal(size=(512, 64))
    q = block_absmax(x)
    assert bits_per_element(q, x.shape) == 4.5
    assert bits_per_element(double_quantized(q), x.shape) == 4.126953125


@given(x=hnp.arrays(np.float64, st.integers(1, 60), elements=st.floats(-9, 9), unique=True),
       k=st.integers(1, 9))
def test_quantile_codes_are_equally_frequent(x, k):
    counts = np.bincount(quantile(x, k).encode(x), minlength=k)
    assert counts.max() - counts.min() <= 2


def test_quantiles_of_channels_are_their_own():
    q = quantile(X, 4, axis=1)
    assert q.levels.shape == (4, 4, 1)
    for row, levels in zip(X, q.levels[:, :, 0].T, strict=True):
        assert np.array_equal(levels, quantile(row, 4).levels)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="`scale` must be positive"):
        NormalFloat(np.array(0.0), torchao_nf4())
    with pytest.raises(ValueError, match="`codebook` must be one for all data"):
        NormalFloat(np.array(1.0), nearest_codebook(np.zeros((2, 3))))
    with pytest.raises(ValueError, match="`x` must not be empty"):
        block_absmax(X[:, :0])
    with pytest.raises(ValueError, match="must be finite"):
        block_absmax(np.array([np.inf]))
    with pytest.raises(ValueError, match="`group_size` must divide 4 scales; got 3"):
        double_quantized(block_absmax(X), group_size=3)
    with pytest.raises(ValueError, match="`bits` must be at least 2"):
        normal_float_levels(1)
    with pytest.raises(ValueError, match="`k` must be at least 1"):
        quantile(X, 0)
    with pytest.raises(ValueError, match="`scale` must broadcast"):
        block_absmax(X).encode(X[:, :1].T)


def test_quantiles_of_the_largest_floats_are_those_of_smaller_ones():
    x = np.array([-1.7, 1.7, 0.3])
    q, far = quantile(x, 3), quantile(np.ldexp(x, 1023), 3)
    assert np.array_equal(far.levels, np.ldexp(q.levels, 1023))


def test_the_axis_of_a_block_is_one_of_the_data():
    with pytest.raises(ValueError, match="`axis` must name axes of data of rank 2; got 4"):
        block_absmax(np.ones((2, 3)), axis=4)


def test_levels_beyond_one_may_leave_the_dtype():
    q = NormalFloat(np.array(3e38, np.float32), nearest_codebook(np.array([-2.0, 0.0, 2.0])))
    assert q.decode(np.array([0, 1, 2])).tolist() == [-np.inf, 0, np.inf]
