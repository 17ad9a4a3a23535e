"""OBQ: every step is the constrained optimum, and what it paid adds up."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refquant.calibration.minmax import absmax
from refquant.calibration.second_moment import SecondMoment
from refquant.ptq._curvature import damped
from refquant.ptq.obq import GreedilyRounded, cheapest_first, left_to_right, obq
from refquant.ptq.quip import fixed_range
from refquant.quantizers.uniform import symmetric

SEEDS = st.integers(0, 2**32 - 1)


def fit(w):
    return symmetric(absmax(w, axis=1), bits=3)


def problem(seed, out=3, n=8):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(60, n)) @ (rng.normal(size=(n, n)) / 2 + np.eye(n))
    return rng.normal(size=(out, n)), SecondMoment.of(x).hessian


@given(SEEDS, st.sampled_from([cheapest_first, left_to_right]))
@settings(max_examples=30)
def test_what_each_row_paid_is_half_of_its_error(seed, choose):
    w, h = problem(seed)
    r = obq(w, h, fit, choose=choose)
    assert isinstance(r, GreedilyRounded)
    _, h = damped(w, h, 0.01)
    d = w - r.weight
    assert np.allclose(r.cost, 0.5 * np.einsum("oi,ij,oj->o", d, h, d))
    assert (np.sort(r.order, axis=1) == np.arange(8)).all()


@given(SEEDS)
@settings(max_examples=30)
def test_each_step_is_the_least_squares_solution_under_its_constraints(seed):
    """Fix the weights rounded so far, solve for the rest: the same weight is rounded next."""
    w, h = problem(seed, out=1, n=6)
    r = obq(w, h, fit, damping=0)
    q, done = fit(w), []
    for j in r.order[0]:
        free = [k for k in range(6) if k not in done]
        # Stationary in the free weights: H_ff d_f = -H_fd d_d.
        d = np.zeros(6)
        d[done] = w[0, done] - r.weight[0, done]
        d[free] = np.linalg.solve(h[np.ix_(free, free)], -h[np.ix_(free, done)] @ d[done])
        now = (w[0] - d)[free]
        error = now - q.decode(q.encode(now[None]))[0]
        cost = error**2 / np.diag(np.linalg.inv(h[np.ix_(free, free)]))
        outside = np.abs(error) > q.scale[0, 0] / 2 + 1e-9
        chosen = np.argmax(np.abs(error)) if outside.any() else np.argmin(cost)
        assert free[chosen] == j
        assert r.codes[0, j] == q.encode(now[None, [chosen]])[0, 0]
        done.append(int(j))


def test_a_diagonal_hessian_is_nearest_rounding():
    w, _ = problem(3)
    assert np.array_equal(obq(w, np.diag(np.arange(1.0, 9.0)), fit).codes, fit(w).encode(w))


def test_codes_decode_row_by_row():
    w, h = problem(4)
    r = obq(w.astype(np.float32), h, fit)
    assert r.weight.dtype == np.float32
    for i, quantizer in enumerate(r.quantizer):
        decoded = quantizer.decode(r.codes[[i]])[0]
        assert np.array_equal(decoded.astype(np.float32), r.weight[i])


def test_weights_beyond_the_grid_go_first():
    w = np.array([[0.01, 4.0, 0.02]])
    clipped = obq(w, np.eye(3) + 0.5, lambda w: symmetric(np.array([[1.0]]), bits=3))
    assert clipped.order[0, 0] == 1
    assert cheapest_first(np.array([1.0, 2.0]), np.array([0.4, 0.6]), 1.0) == 1
    assert cheapest_first(np.ones(3), np.array([0.6, -0.9, 0.7]), 1.0) == 1
    assert left_to_right(np.array([2.0, 1.0]), np.array([0.4, 0.6]), 1.0) == 0


def test_dead_inputs_and_singular_hessians():
    w, h = problem(5)
    h[:, 2] = h[2] = 0
    assert (obq(w, h, fit).weight[:, 2] == 0).all()
    with pytest.raises(ValueError, match="`hessian` must be positive definite once damped"):
        obq(w, 2 * np.ones((8, 8)) - np.eye(8), fit, damping=0)
    with pytest.raises(TypeError, match=r"^`fit` must return a Uniform; got a Codebook"):
        obq(w, np.eye(8), lambda row: fixed_range(row, bits=3))
