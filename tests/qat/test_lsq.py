"""Learned steps: the paper's gradients, their identities, and where differences agree."""

from functools import partial
from math import log, sqrt

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from qat._estimators import G, X, by_torch, close, straight

from refquant.qat.lsq import (
    Affine,
    gradient_factor,
    initial_affine,
    initial_scale,
    initial_scale_plus,
    lsq,
    lsq_log2,
    lsq_plus,
)
from refquant.qat.straight_through import closed_range, everywhere, open_range, rounded
from refquant.quantizers.uniform import Uniform

RANGES = st.sampled_from([(-4, 3), (-3, 3), (0, 7), (-2, 1), (0, 1), (-128, 127)])
#: Steps are powers of two and values whole 1/16: all is exact, and every tie occurs.
STEPS = st.integers(-3, 3).map(lambda n: 2.0**n)
VALUES = st.lists(st.integers(-400, 400).map(lambda n: n / 16), min_size=1, max_size=30)


def test_the_published_vector():
    y, pullback = lsq(X, np.array(0.3), qmin=-4, qmax=3)
    close(y, [-1.2, -0.6, -0.3, 0, 0, 0, 0.3, 0.9, 0.9])
    g_x, g_s = pullback(G)
    close(g_x, [0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0, 0])
    close(g_s, 4.403333)


def test_the_published_vector_with_an_offset():
    y, pullback = lsq_plus(X, np.array(0.25), np.array(-0.4), qmin=0, qmax=7)
    close(y, [-0.4, -0.4, -0.4, -0.15, 0.1, 0.1, 0.35, 0.85, 1.35])
    g_x, g_s, g_b = pullback(G)
    close(g_x, [0, 0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0])
    close([g_s, g_b], [5.724, 1.2])


def by_the_paper(v, qmin, qmax):
    """Eqs. (3) and (5), one number at a time."""
    if v <= qmin:
        return 0.0, qmin
    if v >= qmax:
        return 0.0, qmax
    return 1.0, np.rint(v) - v


@given(VALUES, STEPS, RANGES)
@example([0.5, -0.5, 1.5, 0.0, -0.0], 1.0, (-1, 1))
def test_value_and_gradients_are_the_paper_element_by_element(values, s, ends):
    x = np.array(values)
    g = np.arange(1.0, len(x) + 1)
    y, pullback = lsq(x, np.array(s), qmin=ends[0], qmax=ends[1])
    assert (y == s * np.clip(np.rint(x / s), *ends)).all()
    parts = [by_the_paper(v, *ends) for v in x / s]
    g_x, g_s = pullback(g)
    assert g_x.tolist() == [k * p for k, (p, _) in zip(g, parts, strict=True)]
    assert g_s == sum(k * r for k, (_, r) in zip(g, parts, strict=True))


@given(VALUES, STEPS, RANGES)
def test_the_value_is_the_uniform_quantizer(values, s, ends):
    x = np.array(values)
    q = Uniform(np.array(s), np.array(0), *ends)
    assert (lsq(x, np.array(s), qmin=ends[0], qmax=ends[1])[0] == q.decode(q.encode(x))).all()


@given(VALUES, STEPS, RANGES, st.sampled_from([0.25, 2.0, 1024.0]))
def test_scaling_everything_scales_the_value_and_leaves_the_gradients(values, s, ends, c):
    """x_hat(cx; cs) = c x_hat(x; s), so both derivatives are homogeneous of degree zero."""
    f = partial(lsq, qmin=ends[0], qmax=ends[1])
    x, g = np.array(values), np.ones(len(values))
    y, pullback = f(x, np.array(s))
    scaled, back = f(c * x, np.array(c * s))
    assert (scaled == c * y).all()
    assert all((a == b).all() for a, b in zip(pullback(g), back(g), strict=True))


@given(VALUES, STEPS, st.integers(1, 20))
def test_on_a_symmetric_grid_the_gradient_of_the_step_is_odd_ties_included(values, s, top):
    f = partial(lsq, scale=np.array(s), qmin=-top, qmax=top)
    x, g = np.array(values), np.arange(1.0, len(values) + 1)
    assert f(x)[1](g)[1] == -f(-x)[1](g)[1]


@given(VALUES, STEPS, st.sampled_from([open_range, closed_range, rounded, everywhere]))
def test_offset_and_data_share_the_gradient(values, s, mask):
    """A shift of both shifts the result: their gradients add up to that of the value."""
    x, g = np.array(values), np.arange(1.0, len(values) + 1)
    g_x, _, g_b = lsq_plus(x, np.array(s), np.array(0.5), qmin=0, qmax=5, mask=mask)[1](g)
    assert g_b + g_x.sum() == g.sum()


def test_offset_zero_is_lsq():
    f, h = partial(lsq, qmin=-4, qmax=3), partial(lsq_plus, qmin=-4, qmax=3)
    (y, a), (z, b) = f(X, np.array(0.3)), h(X, np.array(0.3), np.array(0.0))
    assert (y == z).all()
    assert all((p == q).all() for p, q in zip(a(G), b(G)[:2], strict=True))


def test_the_gradient_of_the_step_is_the_difference_quotient_where_all_is_clipped():
    """There the value is s qmin or s qmax, which really is linear in s."""
    x = np.array([-9.0, 8.0, 7.5])
    f = partial(lsq, qmin=-4, qmax=3)
    g = np.array([1.0, 2.0, 3.0])
    difference = (g @ f(x, np.array(0.51))[0] - g @ f(x, np.array(0.49))[0]) / 0.02
    assert abs(f(x, np.array(0.5))[1](g)[1] - difference) < 1e-12


def test_off_the_jumps_the_value_moves_by_the_code_and_the_estimator_says_otherwise():
    """d/ds of s round(x/s) is the code; LSQ subtracts the ratio, for x "moves along"."""
    x = np.array([0.7])
    f = partial(lsq, qmin=-4, qmax=3)
    difference = (f(x, np.array(0.5001))[0] - f(x, np.array(0.4999))[0]) / 2e-4
    assert abs(difference[0] - 1) < 1e-9
    assert abs(f(x, np.array(0.5))[1](np.ones(1))[1] - (1 - 1.4)) < 1e-12


def test_one_step_per_channel_is_a_loop_over_channels():
    rng = np.random.default_rng(0)
    x, g = rng.standard_normal((2, 3, 4, 5))
    s = np.array([0.1, 0.5, 0.9]).reshape(3, 1, 1)
    b = np.array([0.0, -0.3, 0.2]).reshape(3, 1, 1)
    y, pullback = lsq_plus(x, s, b, qmin=-2, qmax=3)
    g_x, g_s, g_b = pullback(g)
    assert (g_s.shape, g_b.shape) == (s.shape, b.shape)
    for c in range(3):
        alone, back = lsq_plus(x[c], s[c, 0, 0], b[c, 0, 0], qmin=-2, qmax=3)
        assert (alone == y[c]).all()
        a_x, a_s, a_b = back(g[c])
        assert (a_x == g_x[c]).all()
        np.testing.assert_allclose([a_s, a_b], [g_s[c, 0, 0], g_b[c, 0, 0]], rtol=1e-13)


def test_the_logarithm_multiplies_by_s_ln_2():
    s, ell = 0.3, np.log2(0.3)
    y, pullback = lsq_log2(X, np.array(ell), qmin=-4, qmax=3)
    plain, back = lsq(X, np.exp2(np.array(ell)), qmin=-4, qmax=3)
    assert (y == plain).all()
    np.testing.assert_allclose(pullback(G)[1], back(G)[1] * s * log(2), rtol=1e-14)


def test_the_factor_multiplies_the_gradient_of_the_parameters_alone():
    for f, p in ((lsq, (0.3,)), (lsq_log2, (-1.7,)), (lsq_plus, (0.3, 0.1))):
        arrays = [np.array(v) for v in p]
        one = f(X, *arrays, qmin=-4, qmax=3)[1](G)
        half = f(X, *arrays, qmin=-4, qmax=3, factor=0.5)[1](G)
        assert (one[0] == half[0]).all()
        assert all(0.5 * a == b for a, b in zip(one[1:], half[1:], strict=True))
    assert gradient_factor(25, 4) == 1 / sqrt(100)


def test_a_random_walk_gets_a_step_in_balance_with_its_weights():
    """Section 2.2: with the factor, |g_s| / s is of the order of |g_w| / |w|; without, not."""
    ratios = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        w, g = rng.standard_normal((2, 40, 50))
        s = initial_scale(w, qmax=1)
        factor = gradient_factor(w.size, 1)
        g_w, g_s = lsq(w, s.reshape(()), qmin=-2, qmax=1, factor=factor)[1](g)
        ratios.append(abs(float(g_s)) / s.item() * np.linalg.norm(w) / np.linalg.norm(g_w))
    typical = float(np.sqrt(np.mean(np.square(ratios))))
    assert 0.2 < typical < 5                            # measured 0.6
    assert typical / gradient_factor(w.size, 1) > 10    # without the factor


def test_starting_points():
    x = np.array([[-1.0, 0.5, 0.0, 0.5], [0, 0, 0, 0]])
    assert initial_scale(x, qmax=4, axis=1).tolist() == [[0.5], [1.0]]
    w = np.array([1.0, 2.0, 3.0])
    wanted = max(abs(2 - 3 * w.std()), abs(2 + 3 * w.std())) / 4
    np.testing.assert_allclose(initial_scale_plus(w, bits=3), [wanted], rtol=1e-15)
    assert initial_scale(x.astype(np.float32), qmax=4).dtype == np.float32


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=40))
def test_the_fitted_range_is_never_worse_than_the_full_one(values):
    x = np.array(values)
    found = initial_affine(x, qmin=-2, qmax=1)
    assert isinstance(found, Affine)
    error = np.square(lsq_plus(x, *found, qmin=-2, qmax=1)[0] - x).sum()
    if np.ptp(x) > 1e-3:
        s = np.ptp(x) / 3
        full = lsq_plus(x, np.array(s), np.array(x.min() + 2 * s), qmin=-2, qmax=1)[0]
        assert error <= np.square(full - x).sum() * (1 + 1e-9) + 1e-12


def test_a_negative_step_is_an_error_that_says_so():
    with pytest.raises(ValueError, match=r"`scale` must be positive and finite; got -0\.1"):
        lsq(X, np.array(-0.1), qmin=-4, qmax=3)
    with pytest.raises(ValueError, match="`offset` must broadcast"):
        lsq_plus(X, np.array(0.1), np.ones(2), qmin=0, qmax=3)
    with pytest.raises(ValueError, match="`qmin` must be at most 0"):
        lsq(X, np.array(0.1), qmin=1, qmax=3)


@pytest.mark.peer
@pytest.mark.parametrize("ends", [(-4, 3), (0, 7)])
@pytest.mark.parametrize("shape", [(), (1, 6), (5, 1)])
def test_torch_with_detach_gives_the_same_gradients(ends, shape):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, g = rng.standard_normal((2, 5, 6))
    s, b = rng.uniform(0.1, 0.5, shape), rng.uniform(-0.3, 0.3, shape)

    def reference(x, s):
        v = (x / s).clamp(*ends)
        return s * straight(v.round(), v)

    def with_offset(x, s, b):
        return reference(x - b, s) + b

    for f, h, arrays in ((lsq, reference, (x, s)), (lsq_plus, with_offset, (x, s, b)),
                         (lsq_log2, lambda x, e: reference(x, torch.exp2(e)), (x, np.log2(s)))):
        y, pullback = f(*arrays, qmin=ends[0], qmax=ends[1])
        value, gradients = by_torch(h, g, *arrays)
        np.testing.assert_allclose(y, value, rtol=1e-14, atol=1e-15)
        for ours, theirs in zip(pullback(g), gradients, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-13)


def test_the_start_of_lsq_plus_halves_with_each_bit():
    w = np.random.default_rng(0).normal(0.1, 1, 50)
    bound = abs(w.mean()) + 3 * w.std()
    for bits in (2, 3, 4, 8):
        assert np.isclose(initial_scale_plus(w, bits=bits)[0], bound / 2 ** (bits - 1))
