"""The laws that all estimators of this folder share."""

from functools import partial

import numpy as np
import pytest

from refquant.qat.dorefa import dorefa_activation, dorefa_binary, dorefa_weight, dorefa_weight_chain
from refquant.qat.learned_range import min_max, min_max_clip_only, scale_zero_point, tqt
from refquant.qat.lsq import lsq, lsq_log2, lsq_plus
from refquant.qat.pact import pact, pact_full_chain
from refquant.qat.straight_through import (
    fake_quantize,
    sign_bireal,
    sign_hardtanh,
    sign_identity,
    sign_swish,
    sign_tanh,
    step_clipped_relu,
    step_relu,
    step_sigmoid,
)
from refquant.quantizers.uniform import Uniform

GRID = Uniform(np.array(0.3), np.array(2), 0, 7)
#: Name -> estimator, its parameters, how many levels it may have.
ESTIMATORS = {
    "fake_quantize": (partial(fake_quantize, quantizer=GRID), (), 8),
    "lsq": (partial(lsq, qmin=-4, qmax=3), (0.3,), 8),
    "lsq unsigned": (partial(lsq, qmin=0, qmax=7), (0.3,), 8),
    "lsq log2": (partial(lsq_log2, qmin=-4, qmax=3), (-1.5,), 8),
    "lsq+": (partial(lsq_plus, qmin=0, qmax=7), (0.3, -0.4), 8),
    "pact": (partial(pact, bits=3), (1.2,), 8),
    "pact full": (partial(pact_full_chain, bits=3), (1.2,), 8),
    "min-max": (partial(min_max, bits=3), (-0.9, 1.4), 8),
    "clip only": (partial(min_max_clip_only, bits=3), (-0.9, 1.4), 8),
    "scale and zero point": (partial(scale_zero_point, qmin=0, qmax=7), (0.3, 2.2), 8),
    "tqt": (partial(tqt, bits=3), (0.3,), 8),
    "dorefa activation": (partial(dorefa_activation, bits=3), (), 8),
}
WEIGHTS = {
    "dorefa": (partial(dorefa_weight, bits=3), (), 8),
    "dorefa chain": (partial(dorefa_weight_chain, bits=3), (), 8),
    "dorefa binary": (dorefa_binary, (), 2),
}
SIGNS = {f.__name__: (f, (), 2) for f in (
    sign_identity, sign_hardtanh, sign_tanh, sign_bireal, sign_swish,
    step_relu, step_clipped_relu, step_sigmoid)}
ALL = {**ESTIMATORS, **WEIGHTS, **SIGNS}
SIDES = np.sort(np.concatenate(
    [np.random.default_rng(0).standard_normal(300) * 2, np.arange(-12, 13) * 0.15, [-0.0, 0.0]]))


def arrays(parameters, dtype):
    return [np.array(p, dtype) for p in parameters]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (7,), (2, 3, 4)])
def test_shape_and_dtype_are_kept_both_ways(name, dtype, shape):
    f, parameters, _ = ALL[name]
    x = np.asarray(np.random.default_rng(0).standard_normal(shape), dtype)
    given, kept = [x, *arrays(parameters, dtype)], x.copy()
    y, pullback = f(*given)
    gradients = pullback(np.ones_like(y))
    assert (y.shape, y.dtype) == (shape, dtype)
    assert [(g.shape, g.dtype) for g in gradients] == [(a.shape, a.dtype) for a in given]
    assert (x == kept).all()


@pytest.mark.parametrize("name", ALL)
def test_constants_zeros_and_huge_values_stay_finite(name):
    f, parameters, _ = ALL[name]
    for value in (0.0, -0.0, 1.0, -0.15, 1e30, -1e30):
        x = np.full((2, 3), value, np.float32)
        y, pullback = f(x, *arrays(parameters, np.float32))
        assert np.isfinite(y).all()
        assert all(np.isfinite(g).all() for g in pullback(np.ones_like(x)))


@pytest.mark.parametrize("name", ALL)
def test_values_are_monotone_and_few(name):
    f, parameters, levels = ALL[name]
    y, _ = f(SIDES, *arrays(parameters, float))
    assert (np.diff(y) >= 0).all()
    assert len(np.unique(y)) <= levels


@pytest.mark.parametrize("name", ESTIMATORS)
def test_what_is_on_a_level_stays(name):
    f, parameters, _ = ESTIMATORS[name]
    y, _ = f(SIDES, *arrays(parameters, float))
    again, _ = f(y, *arrays(parameters, float))
    np.testing.assert_allclose(again, y, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", ALL)
def test_the_pullback_is_linear_and_can_be_called_again(name):
    f, parameters, _ = ALL[name]
    _, pullback = f(SIDES, *arrays(parameters, float))
    a, b = np.random.default_rng(1).standard_normal((2, len(SIDES)))
    for one, two, sum_ in zip(pullback(a), pullback(b), pullback(a + 2 * b), strict=True):
        np.testing.assert_allclose(one + 2 * two, sum_, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("f", [
    partial(lsq, qmin=-(2**15), qmax=2**15 - 1), partial(pact, bits=16), partial(tqt, bits=16),
    partial(dorefa_activation, bits=16), partial(dorefa_weight, bits=16)], ids=str)
def test_at_16_bits_nothing_happens_inside_the_range(f):
    x = np.linspace(0.01, 0.99, 50)
    parameters = {"lsq": (2.0**-14,), "pact": (1.0,), "tqt": (0.0,)}.get(f.func.__name__, ())
    y, pullback = f(x, *arrays(parameters, float))
    wanted = np.tanh(x) / np.tanh(0.99) if f.func is dorefa_weight else x
    np.testing.assert_allclose(y, wanted, atol=2.0**-14)
    if f.func is not dorefa_weight:
        assert (pullback(np.ones(50))[0] == 1).all()
