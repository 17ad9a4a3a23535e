"""Rotations: orthogonal, harmless to every product, and deadly to outliers."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ptq._experiments import (
    minilm_products,
    need_minilm,
    per_tensor,
    per_token,
    quantized_product,
    rotated_product,
)

from refquant.ptq.rotation import (
    hadamard,
    hadamard_transform,
    incoherence,
    kronecker,
    orthogonal,
    random_signs,
    rotate,
)

SEEDS = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("n", [1, 2, 4, 12, 20, 24, 40, 44, 48, 64, 88, 384, 1536])
def test_hadamard_matrices_are_orthogonal_and_all_entries_are_alike(n):
    h = hadamard(n)
    assert np.allclose(h @ h.T, np.eye(n), atol=1e-12)
    assert np.allclose(np.abs(h), n**-0.5, atol=1e-15)


@pytest.mark.parametrize("n", [1, 2, 4, 8, 12, 20, 24, 40, 44, 48, 64, 88, 384, 1536])
def test_the_transform_is_the_product_with_the_matrix(n):
    x = np.random.default_rng(0).normal(size=(3, 2, n))
    assert np.allclose(hadamard_transform(x), rotate(x, hadamard(n)), rtol=1e-12, atol=1e-12)
    short = hadamard_transform(x.astype(np.float32))
    assert short.dtype == np.float32
    assert np.allclose(short, rotate(x, hadamard(n)), atol=1e-5)
    assert hadamard_transform(x[:0]).shape == (0, 2, n)
    with pytest.raises(ValueError, match="`n` must be a power of two"):
        hadamard_transform(np.ones((2, 7 * n)))


@pytest.mark.parametrize("n", [3, 6, 7, 9, 28, 100, 36])
def test_an_order_without_a_construction_is_refused(n):
    with pytest.raises(ValueError, match=f"`n` must be a power of two, alone or times 12.*got {n}"):
        hadamard(n)


@given(SEEDS, st.integers(1, 40))
@settings(max_examples=40)
def test_random_rotations_are_orthogonal(seed, n):
    for make in (orthogonal, kronecker):
        q = make(n, rng=np.random.default_rng(seed))
        assert q.shape == (n, n)
        assert np.allclose(q @ q.T, np.eye(n), atol=1e-10)
    signed = random_signs(q, rng=np.random.default_rng(seed))
    assert np.allclose(signed @ signed.T, np.eye(n), atol=1e-10)
    assert np.array_equal(np.abs(signed), np.abs(q))


@given(SEEDS)
@settings(max_examples=30)
def test_rotating_both_factors_changes_no_product_and_back_is_back(seed):
    rng = np.random.default_rng(seed)
    x, w, q = rng.standard_normal((5, 12)), rng.standard_normal((3, 12)), hadamard(12)
    assert np.allclose(rotate(x, q) @ rotate(w, q).T, x @ w.T)
    assert np.allclose(rotate(rotate(x, q), q.T), x)
    assert rotate(x.astype(np.float32), q).dtype == np.float32


def test_a_spike_among_1024_becomes_a_thirtysecond_everywhere():
    spike = np.zeros(1024)
    spike[700] = 1
    assert np.allclose(np.abs(rotate(spike, hadamard(1024))), 1 / 32)
    assert incoherence(spike) == 32
    assert np.isclose(incoherence(rotate(spike, hadamard(1024))), 1)


@given(SEEDS, st.floats(1e-300, 1e300))
def test_incoherence_lies_between_1_and_the_root_of_the_size_and_knows_no_scale(seed, factor):
    x = np.random.default_rng(seed).standard_normal((4, 5))
    mu = incoherence(x)
    assert 1 <= mu <= 20**0.5
    assert np.isclose(incoherence(factor * x), mu)


def test_rotations_drawn_evenly_have_no_favourite_sign():
    """Without the correction the diagonal of Q would be negative more often than not."""
    draws = [orthogonal(3, rng=np.random.default_rng(s))[0, 0] for s in range(4000)]
    assert abs(np.mean(draws)) < 4 * (1 / 3 / 4000) ** 0.5      # four standard errors


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="`x` must have an entry other than 0"):
        incoherence(np.zeros(3))
    with pytest.raises(ValueError, match=r"`q` must have shape \(3, 3\); got \(2, 2\)"):
        rotate(np.zeros(3), np.eye(2))
    with pytest.raises(TypeError, match="`x` must be float32 or float64"):
        rotate(np.arange(2), np.eye(2))


@pytest.mark.peer
@pytest.mark.slow
def test_on_a_transformer_rotated_products_bear_fewer_bits():
    """A18. MiniLM: W4A4 per token 0.750 -> 0.895; W8A6 with a scale per tensor 0.635 -> 0.994."""
    need_minilm()

    def cosine(product, weights, bits, activations):
        return minilm_products(partial(product, weights=partial(per_token, bits=weights),
                                       activations=partial(activations, bits=bits))).cosine

    four = [cosine(p, 4, 4, per_token) for p in (quantized_product, rotated_product)]
    assert four[1] > four[0] + 0.1
    assert cosine(rotated_product, 8, 6, per_tensor) >= 0.98


def test_signs_belong_to_rows():
    q = orthogonal(5, rng=np.random.default_rng(0))
    signs = np.diag(random_signs(q, rng=np.random.default_rng(1)) @ q.T)
    assert np.allclose(random_signs(q, rng=np.random.default_rng(1)), signs[:, None] * q)
    assert sorted(set(signs.round(12))) == [-1, 1]


def test_a_kronecker_rotation_is_two_near_factors_and_a_shuffle():
    rng = np.random.default_rng(0)
    parts = np.kron(orthogonal(3, rng=rng), orthogonal(4, rng=rng))
    expected = parts[:, rng.permutation(12)]
    assert np.array_equal(kronecker(12, rng=np.random.default_rng(0)), expected)


def test_signs_are_for_a_matrix_and_not_for_a_row():
    """A row would come back as a matrix: its outer product with the signs."""
    for wrong in (np.ones(3), np.ones((2, 3)), np.ones((1, 2, 2))):
        with pytest.raises(ValueError, match=r"^`q` must be square; got shape"):
            random_signs(wrong, rng=np.random.default_rng(0))
