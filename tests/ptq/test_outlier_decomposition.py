"""LLM.int8(): both ends of the threshold are known products, and outliers leave the codes."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ptq._experiments import decomposed, float_inputs, minilm_products, need_minilm

from refquant.ptq.outlier_decomposition import Decomposed, decomposed_product, outlier_columns

SEEDS = st.integers(0, 2**32 - 1)


def layer(seed, tokens=9, n=24, out=5):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((tokens, n)), rng.standard_normal((out, n))


def vectorwise(x, w):
    """Codes, sums and scales in exact integers, one entry at a time."""
    value = np.zeros((len(x), len(w)))
    for t, row in enumerate(x):
        for o, column in enumerate(w):
            a, b = np.abs(row).max() / 127, np.abs(column).max() / 127
            codes = [int(np.rint(u / a)) * int(np.rint(v / b))
                     for u, v in zip(row, column, strict=True)]
            value[t, o] = sum(codes) * a * b
    return value


@given(SEEDS)
@settings(max_examples=25)
def test_a_threshold_of_zero_is_the_float_product_and_infinity_all_codes(seed):
    x, w = layer(seed)
    whole = decomposed_product(x, w, threshold=0.0)
    assert np.allclose(whole.value, x @ w.T)
    assert whole.outliers.all()
    none = decomposed_product(x, w, threshold=np.inf)
    assert isinstance(none, Decomposed)
    assert not none.outliers.any()
    assert np.allclose(none.value, vectorwise(x, w))


@given(SEEDS)
@settings(max_examples=25)
def test_the_two_parts_are_the_product(seed):
    x, w = layer(seed)
    x[:, [3, 17]] *= 30
    r = decomposed_product(x, w, threshold=6.0)
    o = np.abs(x).max(0) >= 6
    assert np.array_equal(r.outliers, o)
    assert np.allclose(r.value, x[:, o] @ w[:, o].T + vectorwise(x[:, ~o], w[:, ~o]))


def test_one_outlier_channel_costs_all_others_their_codes_unless_it_is_taken_out():
    x, w = layer(0, tokens=100, n=64, out=32)
    x[:, 9] *= 60
    exact = x @ w.T
    together = decomposed_product(x, w, threshold=np.inf).value
    apart = decomposed_product(x, w).value
    assert np.mean((apart - exact) ** 2) < np.mean((together - exact) ** 2) / 100


def test_a_channel_is_an_outlier_from_the_threshold_on_by_its_size_in_any_token():
    x = np.array([[5.999, -6.0, 0.0], [0.0, 0.0, 6.001]])
    assert outlier_columns(x).tolist() == [False, True, True]
    assert outlier_columns(x, threshold=7.0).tolist() == [False] * 3
    assert outlier_columns(np.zeros((0, 3))).tolist() == [False] * 3


@pytest.mark.parametrize("shape", [(0, 4), (3, 0)])
def test_empty_products(shape):
    r = decomposed_product(np.zeros(shape), np.zeros((2, shape[1])))
    assert r.value.shape == (shape[0], 2)
    assert not r.value.any()


def test_zeros_and_the_dtype():
    x, w = layer(1)
    x[2] = 0
    w[1] = 0
    r = decomposed_product(x.astype(np.float32), w.astype(np.float32))
    assert r.value.dtype == np.float32
    assert not r.value[2].any()
    assert not r.value[:, 1].any()


def test_bad_input_is_refused():
    x, w = layer(0)
    with pytest.raises(ValueError, match=r"`weight` must have shape \(out, 24\); got \(5, 23\)"):
        decomposed_product(x, w[:, :-1])
    with pytest.raises(ValueError, match="`x` must be finite"):
        decomposed_product(x * np.inf, w)
    with pytest.raises(TypeError, match="`x` must be float32 or float64"):
        decomposed_product(x.astype(int), w)
    with pytest.raises(ValueError, match="`bits` must be at least 2"):
        decomposed_product(x, w, bits=1)


@pytest.mark.parametrize("threshold", [0.0, 1.5, np.inf])
def test_the_value_has_the_dtype_of_the_activations_wherever_the_channels_go(threshold):
    x, w = layer(0)
    for dtype, other in ((np.float32, np.float64), (np.float64, np.float32)):
        made = decomposed_product(x.astype(dtype), w.astype(other), threshold=threshold)
        assert made.value.dtype == dtype


def test_codes_have_at_most_eight_bits():
    with pytest.raises(ValueError, match="`bits` must be at most 8; got 9"):
        decomposed_product(*layer(0), bits=9)
    with pytest.raises(ValueError, match=r"`x` must have shape \(tokens, in\); got \(\)"):
        decomposed_product(np.float64(1), np.ones((2, 3)))


@pytest.mark.peer
@pytest.mark.slow
def test_on_a_transformer_less_than_a_hundredth_of_the_columns_halve_what_is_lost():
    """A17. MiniLM, 8 bits: cosine 0.9978 with codes alone, 0.9995 with outliers from 6 in float."""
    need_minilm()
    lost = [1 - minilm_products(partial(decomposed, threshold=t)).cosine for t in (np.inf, 6.0)]
    assert lost[1] < lost[0] / 2
    inside = [seen.largest >= 6 for seen in float_inputs().values()]
    assert 0 < np.concatenate(inside).mean() < 0.01
