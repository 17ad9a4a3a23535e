"""AlphaBlend: a true derivative, both ends exact, and its difference from BinaryRelax."""

import numpy as np
import pytest
from _oracles.derivatives import assert_dtypes, assert_pullback
from _oracles.estimators import G, X
from hypothesis import given
from hypothesis import strategies as st

from refquant.qat.blending import blend, blend_schedule
from refquant.qat.proximal import binary_relax
from refquant.quantizers.binary import sign

SEEDS = st.integers(0, 2**32 - 1)


def binary(w):
    return sign(w) * np.abs(w).mean()


@given(SEEDS, st.floats(0.01, 0.99))
def test_the_gradients_are_derivatives_away_from_the_jumps(seed, alpha):
    """The projection is constant between jumps; `rint` of values near whole numbers."""
    rng = np.random.default_rng(seed)
    w = rng.integers(-3, 4, 8) + rng.uniform(-0.3, 0.3, 8)

    def op(w, alpha):
        return blend(w, alpha, project=np.rint)

    assert_pullback(op, (w, np.array(alpha)))
    assert_dtypes(op, (w, np.array(alpha)))


@given(st.lists(st.floats(-9, 9), min_size=1, max_size=6), st.sampled_from([np.float32, float]))
def test_the_ends_are_the_weight_and_its_rounding_exactly(values, dtype):
    w = np.array(values, dtype)
    g = np.ones_like(w)
    start, pull_start = blend(w, np.zeros((), dtype), project=np.rint)
    end, pull_end = blend(w, np.ones((), dtype), project=np.rint)
    assert np.array_equal(start, w)
    assert np.array_equal(end, np.rint(w))
    assert np.array_equal(pull_start(g)[0], g)
    assert not pull_end(g)[0].any()             # training of the weight has stopped


def test_golden_vector():
    value, pullback = blend(X, np.array(0.25), project=binary)
    assert np.allclose(value, [-1.127222, -0.714722, -0.384722, -0.189722, 0.152222, 0.242222,
                               0.452222, 0.864722, 1.352222], atol=1e-6)
    assert np.allclose(pullback(G)[0], 0.75 * G)


@given(SEEDS, st.floats(0, 20))
def test_binary_relax_is_the_same_blend_with_a_gradient_without_the_factor(seed, strength):
    rng = np.random.default_rng(seed)
    w, g = rng.normal(size=(2, 9))
    alpha = strength / (1 + strength)
    ours, pull = blend(w, np.array(alpha), project=binary)
    theirs, untouched = binary_relax(w, np.array(strength), project=binary)
    assert np.allclose(ours, theirs)
    assert np.allclose(pull(g)[0], (1 - alpha) * untouched(g)[0])


@given(st.integers(0, 50), st.integers(1, 50), st.sampled_from([1.0, 3.0]))
def test_the_schedule_rises_from_0_to_1_and_stays(begin, length, power):
    alphas = [blend_schedule(t, begin=begin, end=begin + length, power=power)
              for t in range(begin + length + 5)]
    assert (np.diff(alphas) >= 0).all()
    assert alphas[: begin + 1] == [0] * (begin + 1)
    assert alphas[begin + length :] == [1] * 5


def test_bad_input_is_refused():
    w = np.ones(3)
    for alpha in (1.5, -0.1, np.nan, [0.5]):
        with pytest.raises(ValueError, match=r"`alpha` must be one number in \[0, 1\]"):
            blend(w, np.array(alpha), project=np.rint)
    with pytest.raises(ValueError, match="`end` must be at least 11; got 10"):
        blend_schedule(0, begin=10, end=10)
