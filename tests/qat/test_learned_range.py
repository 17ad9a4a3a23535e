"""Trained ends, steps and zero points: formulas, identities, and other libraries."""

from functools import partial
from math import log

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from qat._estimators import G, X, by_torch, close, straight

from refquant.qat.learned_range import (
    Ends,
    containing_zero,
    min_max,
    min_max_clip_only,
    scale_zero_point,
    tqt,
)
from refquant.qat.lsq import lsq_log2
from refquant.qat.straight_through import rounded
from refquant.quantizers.uniform import Uniform, asymmetric

VALUES = st.lists(st.integers(-80, 80).map(lambda n: n / 16), min_size=1, max_size=30)
ENDS = st.tuples(st.floats(-4, 0), st.floats(0, 4))
LEVELS = [-0.985714, -0.657143, -0.328571, 0, 0, 0, 0.328571, 0.985714, 1.314286]


@pytest.mark.parametrize(("f", "low", "high"), [
    (min_max, 0.163540, 0.836460), (min_max_clip_only, 0.1, 0.9)])
def test_the_published_vectors_of_a_range(f, low, high):
    y, pullback = f(X, np.array(-0.9), np.array(1.4), bits=3)
    close(y, LEVELS)
    g_x, g_low, g_high = pullback(G)
    close(g_x, [0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0])
    close([g_low, g_high], [low, high])


def test_the_published_vector_of_a_power_of_two():
    y, pullback = tqt(X, np.array(0.3), bits=3)
    close(y, [-1.5, -1, -0.5, 0, 0, 0, 0.5, 1, 1.5])
    g_x, g_t = pullback(G)
    close(g_x, G)
    close(g_t, -0.110210)


@given(VALUES, ENDS, st.integers(2, 6), st.sampled_from([min_max, min_max_clip_only]))
@example([0.0, -0.0, 9.0], (0.0, 1.0), 2, min_max)
@example([0.0, -9.0], (-1.0, 0.0), 3, min_max)
def test_data_and_ends_share_the_gradient(values, ends, bits, f):
    """A shift of data and both ends shifts the result."""
    assume(ends[1] - ends[0] > 0.01)
    x, g = np.array(values), np.arange(1.0, len(values) + 1)
    g_x, g_low, g_high = f(x, np.array(ends[0]), np.array(ends[1]), bits=bits)[1](g)
    np.testing.assert_allclose(g_low + g_high + g_x.sum(), g.sum(), rtol=1e-9)


@given(VALUES, ENDS, st.integers(2, 6))
def test_the_value_is_the_asymmetric_quantizer(values, ends, bits):
    assume(ends[1] - ends[0] > 0.01)
    x, low, high = np.array(values), np.array(ends[0]), np.array(ends[1])
    q = asymmetric(low, high, bits=bits)
    wanted = q.decode(q.encode(x))
    for f in (min_max, min_max_clip_only):
        np.testing.assert_allclose(f(x, low, high, bits=bits)[0], wanted, rtol=1e-12, atol=1e-12)


@given(VALUES, ENDS, st.integers(2, 5))
def test_moving_an_end_moves_what_it_clips(values, ends, bits):
    """Clip only: the formula, element by element."""
    assume(ends[1] - ends[0] > 0.01)
    x, g = np.array(values), np.arange(1.0, len(values) + 1)
    low, high = np.array(ends[0]), np.array(ends[1])
    q = asymmetric(low, high, bits=bits)
    nudged = q.decode(np.array(q.qmin)), q.decode(np.array(q.qmax))
    assume(np.abs(np.subtract.outer(x, nudged)).min() > 1e-9)
    g_x, g_low, g_high = min_max_clip_only(x, low, high, bits=bits)[1](g)
    assert g_low == g[x < nudged[0]].sum()
    assert g_high == g[x > nudged[1]].sum()
    assert (g_x == np.where((x < nudged[0]) | (x > nudged[1]), 0, g)).all()


def test_the_gradient_of_an_end_is_the_difference_quotient_where_all_is_clipped_and_z_is_0():
    """With low = 0 and everything above: the value is `high` itself."""
    g_x, g_low, g_high = min_max(np.array([9.0, 8.0]), np.array(0.0), np.array(1.0), bits=3)[1](
        np.array([1.0, 2.0]))
    assert (g_x == 0).all()
    np.testing.assert_allclose([g_low, g_high], [0, 3], atol=1e-12)


def test_clip_only_does_not_see_the_step_and_the_chain_does():
    """All inside: no reason to move the ends, or one of the size of the rounding errors."""
    x, low, high = np.array([0.3, -0.2, 0.6]), np.array(-1.0), np.array(1.0)
    assert min_max_clip_only(x, low, high, bits=2)[1](np.ones(3))[1:] == (0, 0)
    assert abs(min_max(x, low, high, bits=2)[1](np.ones(3))[2]) > 0.01


def test_a_narrow_range_leaves_out_the_lowest_code():
    y, _ = min_max_clip_only(np.linspace(-2, 2, 99), np.array(-1.0), np.array(1.0), bits=2,
                             narrow=True)
    assert sorted(set(y)) == [-1, 0, 1]


@given(VALUES, st.integers(-3, 3), st.floats(-2, 9))
def test_a_step_and_a_zero_point_are_one_link_before_the_ends(values, log_step, z):
    x, g, s = np.array(values), np.arange(1.0, len(values) + 1), 2.0**log_step
    y, pullback = scale_zero_point(x, np.array(s), np.array(z), qmin=0, qmax=7)
    zero = int(np.clip(np.rint(z), 0, 7))
    q = Uniform(np.array(s), np.array(zero), 0, 7)
    assert (y == q.decode(q.encode(x))).all()
    code = np.rint(x / s) + zero
    inside = (code >= 0) & (code <= 7)
    g_x, g_s, g_z = pullback(g)
    assert (g_x == g * inside).all()
    assert g_z == -s * g[~inside].sum()
    assert g_s == (g * np.where(inside, np.rint(x / s) - x / s, np.clip(code, 0, 7) - zero)).sum()


@given(VALUES, st.floats(-3, 3), st.integers(2, 6), st.booleans())
@example([0.75, -0.75], 0.0, 3, True)
def test_tqt_is_lsq_in_the_log_domain_at_a_power_of_two(values, t, bits, signed):
    x, g = np.array(values), np.arange(1.0, len(values) + 1)
    y, pullback = tqt(x, np.array(t), bits=bits, signed=signed)
    exponent = np.ceil(t) - bits + signed
    ends = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    other, back = lsq_log2(x, np.array(exponent), qmin=ends[0], qmax=ends[1], mask=rounded)
    assert (y == other).all()
    assert all((a == b).all() for a, b in zip(pullback(g), back(g), strict=True))
    codes = np.rint(x / 2.0**exponent)
    rho = np.where((codes >= ends[0]) & (codes <= ends[1]), codes - x / 2.0**exponent,
                   np.clip(codes, *ends))
    assert abs(pullback(g)[1] - 2.0**exponent * log(2) * (g @ rho)) < 1e-9


def test_the_levels_change_only_where_the_threshold_crosses_a_power_of_two():
    f = partial(tqt, bits=4)
    assert all((f(X, np.array(t))[0] == f(X, np.array(1.0))[0]).all() for t in (0.001, 0.5, 1.0))
    assert (f(X, np.array(1.001))[0] != f(X, np.array(1.0))[0]).any()


def test_one_range_per_channel_is_a_loop():
    rng = np.random.default_rng(0)
    x, g = rng.standard_normal((2, 3, 50))
    low, high = -rng.uniform(0.1, 2, (3, 1)), rng.uniform(0.1, 2, (3, 1))
    for f in (min_max, min_max_clip_only):
        y, pullback = f(x, low, high, bits=3)
        parts = pullback(g)
        for c in range(3):
            alone, back = f(x[c], low[c, 0], high[c, 0], bits=3)
            assert (alone == y[c]).all()
            for one, all_ in zip(back(g[c]), parts, strict=True):
                np.testing.assert_allclose(one, np.squeeze(all_[c]), rtol=1e-12, atol=1e-13)


def test_ends_are_brought_back_around_zero():
    found = containing_zero(np.array([0.2, -1.0]), np.array([1.0, -0.1]))
    assert isinstance(found, Ends)
    assert found.low.tolist() == [0, -1]
    assert found.high.tolist() == [1, 0]


@pytest.mark.parametrize(("low", "high"), [(0.1, 1.0), (-1.0, -0.1), (0.0, 0.0), (np.nan, 1.0)])
def test_a_range_without_zero_is_refused(low, high):
    with pytest.raises(ValueError, match="must hold 0 between them"):
        min_max(X, np.array(low), np.array(high), bits=3)


@pytest.mark.peer
def test_torch_differentiates_the_full_chain_alike():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, g = rng.standard_normal((2, 4, 50))

    def reference(x, low, high, top=7):
        s = (high - low) / top
        z = straight((-low / s).round(), -low / s)
        v = x / s
        code = straight(v.round(), v) + z
        return s * (code.clamp(0, top) - z)

    # The mask after rounding is what the clamp of the rounded code gives.
    for low, high in ((np.array(-0.9), np.array(1.4)), (-rng.uniform(0.1, 2, (4, 1)),
                                                        rng.uniform(0.1, 2, (4, 1)))):
        y, pullback = min_max(x, low, high, bits=3)
        value, gradients = by_torch(reference, g, x, low, high)
        np.testing.assert_allclose(y, value, atol=1e-14)
        for ours, theirs in zip(pullback(g), gradients, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)
    assert torch is not None


@pytest.mark.peer
@pytest.mark.parametrize("zero", [0.0, 2.6, 3.5, 40.0])
def test_the_learnable_kernel_of_torch_gives_the_same_gradients(zero):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal(200).astype(np.float32)
    g = np.random.default_rng(1).standard_normal(200).astype(np.float32)
    s, z = np.array(0.25, np.float32), np.array(zero, np.float32)
    y, pullback = scale_zero_point(x, s, z, qmin=0, qmax=7, factor=0.5)
    value, gradients = by_torch(
        lambda x, s, z: torch._fake_quantize_learnable_per_tensor_affine(x, s, z, 0, 7, 0.5),
        g, x, s[None], z[None])
    np.testing.assert_allclose(y, value, atol=1e-6)
    for ours, theirs in zip(pullback(g), gradients, strict=True):
        np.testing.assert_allclose(np.ravel(ours), np.ravel(theirs), rtol=1e-4, atol=1e-5)


def test_an_element_exactly_on_a_nudged_end_passes_and_moves_no_end():
    """Ends -0.5 and 1 are levels of the grid of step 0.5; FakeQuantWithMinMaxVars is closed."""
    x, g = np.array([-0.5, 1.0, -0.75, 1.25]), np.array([1.0, 2.0, 4.0, 8.0])
    _, pullback = min_max_clip_only(x, np.array(-0.5), np.array(1.0), bits=2)
    gx, low, high = pullback(g)
    assert (gx.tolist(), low, high) == ([1, 2, 0, 0], 4, 8)
