"""Curvature by products: against the whole Hessian of a small network, and exact variances."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refquant.mixed_precision.hessian import (
    TraceSamples,
    gaussian,
    hessian_product,
    hutchinson,
    rademacher,
    top_eigenvalue,
)

SEEDS = st.integers(0, 2**32 - 1)


def rng():
    return np.random.default_rng(3)


def symmetric_matrix(seed, n):
    a = np.random.default_rng(seed).normal(size=(n, n))
    return a + a.T


class Small:
    """Softmax regression behind one hidden layer, in formulas: 30 weights, 40 inputs.

    With its ReLUs fixed, each logit is linear in the first layer's weights, so the Hessian is
    the mean of J^T (diag(p) - p p^T) J.
    """

    def __init__(self, seed):
        r = np.random.default_rng(seed)
        self.x, self.w = r.normal(size=(40, 6)), r.normal(size=(5, 6))
        self.v, self.labels = r.normal(size=(3, 5)), r.integers(0, 3, 40)

    def predictions(self, w):
        z = np.maximum(self.x @ w.T, 0) @ self.v.T
        e = np.exp(z - z.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    def gradient(self, w):
        error = (self.predictions(w) - np.eye(3)[self.labels]) / 40
        return ((error @ self.v) * (self.x @ w.T > 0)).T @ self.x

    def hessian(self):
        total = np.zeros((30, 30))
        for x, p in zip(self.x, self.predictions(self.w), strict=True):
            jacobian = np.kron(self.v * (self.w @ x > 0), x[None, :])     # (3, 30)
            total += jacobian.T @ (np.diag(p) - np.outer(p, p)) @ jacobian
        return total / 40


@pytest.mark.parametrize("seed", range(5))
def test_on_a_small_network_products_eigenvalue_and_trace_are_those_of_the_whole_hessian(seed):
    net = Small(seed)
    exact = net.hessian()
    product = hessian_product(net.gradient, net.w)
    v = np.random.default_rng(9).normal(size=net.w.shape)
    # 1e-7: rounding of gradients over a step of 1e-7.
    assert np.allclose(product(v).ravel(), exact @ v.ravel(), atol=1e-7)
    found = top_eigenvalue(product, net.w.shape, rng=rng(), tolerance=1e-5)
    assert found.converged
    assert found.value == pytest.approx(np.linalg.eigvalsh(exact)[-1], rel=1e-3)
    estimate = hutchinson(product, net.w.shape, rng=rng(), samples=100)
    assert abs(estimate.trace - np.trace(exact)) <= 3 * estimate.standard_error
    # and the error is one that says something
    assert estimate.standard_error < 0.2 * np.trace(exact)


@given(SEEDS, st.floats(1e-3, 1e3))
def test_products_are_linear_and_symmetric_whatever_the_length_of_v(seed, length):
    h = symmetric_matrix(seed, 4)
    product = hessian_product(lambda w: h @ w, np.ones(4))
    u, v = np.random.default_rng(seed).normal(size=(2, 4))
    assert np.allclose(product(length * v), length * (h @ v), rtol=1e-5, atol=1e-5 * length)
    assert u @ product(v) == pytest.approx(v @ product(u), rel=1e-4, abs=1e-5)


def test_a_kink_within_the_step_counts_and_one_beyond_does_not():
    """The gradient of max(w, 0) jumps by 1 at 0, a ten-thousandth away."""
    def jump(w):
        return (w > 0).astype(float)

    at, v = np.array([1e-4]), np.ones(1)
    assert hessian_product(jump, at, step=1e-5)(v) == 0
    assert hessian_product(jump, at, step=1e-3)(v) == pytest.approx(1 / 2e-3)


@given(SEEDS)
@settings(max_examples=20)
def test_over_all_signs_the_mean_is_the_trace_and_the_variance_leaves_out_the_diagonal(seed):
    h = symmetric_matrix(seed, 6)
    signs = itertools.cycle(itertools.product([-1.0, 1.0], repeat=6))
    every = hutchinson(lambda v: h @ v, (6,), rng=rng(), samples=64,
                       draw=lambda shape, rng: np.array(next(signs)))
    assert every.trace == pytest.approx(np.trace(h), abs=1e-12)
    off_diagonal = (h**2).sum() - (np.diag(h) ** 2).sum()
    assert every.samples.var() == pytest.approx(2 * off_diagonal, rel=1e-9)


def test_gaussian_draws_have_the_variance_of_the_whole_matrix():
    h = symmetric_matrix(1, 6)
    found = hutchinson(lambda v: h @ v, (6,), rng=rng(), samples=20_000, draw=gaussian)
    assert abs(found.trace - np.trace(h)) <= 3 * found.standard_error
    # The variance of 20,000 such samples has a standard error of 3 %.
    assert found.samples.var() == pytest.approx(2 * (h**2).sum(), rel=0.09)


def test_a_diagonal_needs_one_sample_of_signs():
    d = np.array([1.0, -4.0, 2.5])
    found = hutchinson(lambda v: d * v, (3,), rng=rng(), samples=1)
    assert found.trace == -0.5
    assert found.standard_error == np.inf


@given(SEEDS)
def test_the_mean_over_directions_is_the_trace_over_n(seed):
    """HAWQ-V2's formula, exact: along the axes, half of them in each sense."""
    h = symmetric_matrix(seed, 5)
    axes = np.concatenate([np.eye(5), -np.eye(5)]) * 0.3
    mean = np.mean([d @ h @ d for d in axes])
    assert mean == pytest.approx(np.trace(h) / 5 * 0.3**2, abs=1e-12)


def test_samples_taken_in_two_parts_are_those_taken_at_once():
    h = symmetric_matrix(0, 5)
    r = rng()
    parts = [hutchinson(lambda v: h @ v, (5,), rng=r, samples=m) for m in (3, 4)]
    whole = hutchinson(lambda v: h @ v, (5,), rng=rng(), samples=7)
    both = parts[0].merge(parts[1])
    assert isinstance(both, TraceSamples)
    assert np.array_equal(both.samples, whole.samples)


@given(SEEDS)
@settings(max_examples=25)
def test_power_iteration_finds_the_largest_magnitude_with_its_sign(seed):
    r = np.random.default_rng(seed)
    basis = np.linalg.qr(r.normal(size=(6, 6)))[0]
    values = r.permutation([-3.0, 2.0, 1.0, 0.5, -0.1, 0.0])
    h = basis * values @ basis.T
    found = top_eigenvalue(lambda v: h @ v, (6,), rng=r, tolerance=1e-9, max_iterations=1000)
    assert found.converged
    assert found.value == pytest.approx(-3.0, rel=1e-6)
    assert np.linalg.norm(found.vector) == pytest.approx(1)
    assert np.allclose(h @ found.vector, -3 * found.vector, atol=1e-3)


def test_few_iterations_say_that_they_were_too_few():
    h = np.diag([1.0, 0.999])
    found = top_eigenvalue(lambda v: h @ v, (2,), rng=rng(), tolerance=1e-12, max_iterations=2)
    assert (found.iterations, found.converged) == (2, False)


def test_a_flat_loss_has_eigenvalue_0():
    found = top_eigenvalue(lambda v: 0 * v, (3,), rng=rng())
    assert (found.value, found.converged) == (0, True)


def test_progress_counts_and_the_generator_decides():
    h, heard = symmetric_matrix(2, 4), []

    def tell(done, total):
        heard.append((done, total))

    first = hutchinson(lambda v: h @ v, (4,), rng=rng(), samples=3, progress=tell)
    assert heard == [(1, 3), (2, 3), (3, 3)]
    again = hutchinson(lambda v: h @ v, (4,), rng=rng(), samples=3)
    assert np.array_equal(first.samples, again.samples)
    heard.clear()
    top = top_eigenvalue(lambda v: h @ v, (4,), rng=rng(), progress=tell)
    assert heard == [(i + 1, 100) for i in range(top.iterations)]


def test_signs_are_signs():
    draw = rademacher((50, 20), rng=rng())
    assert set(np.unique(draw)) == {-1.0, 1.0}
    assert abs(draw.mean()) < 3 / np.sqrt(1000)


def test_float32_is_refused_and_so_is_a_direction_of_length_0():
    with pytest.raises(TypeError, match="`at` must be float64; got float32"):
        hessian_product(lambda w: w, np.ones(2, np.float32))
    product = hessian_product(lambda w: w.astype(np.float32), np.ones(2))
    with pytest.raises(TypeError, match="`gradient` must be float64"):
        product(np.ones(2))
    product = hessian_product(lambda w: w, np.ones(2))
    with pytest.raises(ValueError, match="`v` must not be zero"):
        product(np.zeros(2))
    with pytest.raises(ValueError, match="`v` must have shape"):
        product(np.ones(3))
    with pytest.raises(ValueError, match="`step` must be positive"):
        hessian_product(lambda w: w, np.ones(2), step=0.0)
    with pytest.raises(ValueError, match="`product` must be finite"):
        top_eigenvalue(lambda v: v * np.inf, (2,), rng=rng())
