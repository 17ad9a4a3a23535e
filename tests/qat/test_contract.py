"""The laws that all estimators of this folder share."""

from functools import partial

import numpy as np
import pytest

from refquant.qat.batchnorm import corrected, folded_bias, folded_weight
from refquant.qat.binary_connect import binary_connect, kept_within
from refquant.qat.blending import blend
from refquant.qat.dorefa import dorefa_activation, dorefa_binary, dorefa_weight, dorefa_weight_chain
from refquant.qat.fp8_training import fp8_forward, fp8_gradient
from refquant.qat.integer_training import integer_activation, integer_error, integer_weight
from refquant.qat.interval import fake_quantize_activation as qil
from refquant.qat.learned_range import min_max, min_max_clip_only, scale_zero_point, tqt
from refquant.qat.low_precision import gradient_cast
from refquant.qat.lsq import lsq, lsq_log2, lsq_plus
from refquant.qat.n2uq import fake_quantize_activation as n2uq
from refquant.qat.pact import pact, pact_full_chain
from refquant.qat.quant_noise import quant_noise
from refquant.qat.relaxed import gumbel_argmax, gumbel_softmax, level_logits, relaxed_quantize
from refquant.qat.stochastic_neuron import fire, round_stochastically, sloped, smooth_part
from refquant.qat.stochastic_neuron import straight_through as fired
from refquant.qat.straight_through import (
    fake_quantize,
    sign_bireal,
    sign_clipped,
    sign_hardtanh,
    sign_identity,
    sign_swish,
    sign_tanh,
    step_clipped_relu,
    step_relu,
    step_sigmoid,
)
from refquant.qat.target_propagation import soft_hinge
from refquant.qat.trained_ternary import trained_levels
from refquant.qat.xnor_net import binary_weight, printed_weight, window_scales
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
    partial(dorefa_activation, bits=16), partial(dorefa_weight, bits=16)],
    ids=lambda f: f.func.__name__)
def test_at_16_bits_nothing_happens_inside_the_range(f):
    x = np.linspace(0.01, 0.99, 50)
    parameters = {"lsq": (2.0**-14,), "pact": (1.0,), "tqt": (0.0,)}.get(f.func.__name__, ())
    y, pullback = f(x, *arrays(parameters, float))
    wanted = np.tanh(x) / np.tanh(0.99) if f.func is dorefa_weight else x
    np.testing.assert_allclose(y, wanted, atol=2.0**-14)
    if f.func is not dorefa_weight:
        assert (pullback(np.ones(50))[0] == 1).all()


def rng():
    return np.random.default_rng(0)


FOUR, IMAGE = np.array([[-1.3, 0.2], [0.1, 2.0]]), np.arange(32.0).reshape(1, 4, 4, 2)
ONES, HALF = np.ones(2), np.array(0.5)
#: Estimators of other modules, and arguments that they take.
OTHERS = {
    "binary_connect": (binary_connect, (FOUR,)),
    "kept_within": (kept_within, (FOUR,)),
    "blend": (partial(blend, project=np.rint), (FOUR, HALF)),
    "quant_noise": (partial(quant_noise, mask=FOUR > 0, project=np.rint), (FOUR,)),
    "gumbel_softmax": (lambda a, t, n: gumbel_softmax(a, t, noise=n), (FOUR, HALF, FOUR)),
    "gumbel_argmax": (lambda a, t, n: gumbel_argmax(a, t, noise=n), (FOUR, HALF, FOUR)),
    "level_logits": (partial(level_logits, codes=np.arange(3)), (FOUR, HALF, HALF)),
    "relaxed_quantize": (partial(relaxed_quantize, codes=np.arange(3), temperature=1.0,
                                 noise=np.zeros((2, 2, 3))), (FOUR, HALF, HALF)),
    "fire": (lambda a: fire(a, rng=rng()), (FOUR,)),
    "fired": (lambda a: fired(a, rng=rng()), (FOUR,)),
    "sloped": (lambda a: sloped(a, rng=rng()), (FOUR,)),
    "smooth_part": (lambda a: smooth_part(a, rng=rng()), (FOUR,)),
    "round_stochastically": (
        lambda x, s: round_stochastically(x, step=s, rng=rng()), (FOUR, HALF)),
    "folded_weight": (folded_weight, (FOUR, ONES, ONES)),
    "folded_bias": (folded_bias, (ONES,) * 4),
    "corrected": (corrected, (FOUR, *(ONES,) * 5)),
    "integer_weight": (integer_weight, (FOUR,)),
    "integer_activation": (integer_activation, (FOUR,)),
    "integer_error": (integer_error, (FOUR,)),
    "fp8_forward": (fp8_forward, (FOUR,)),
    "fp8_gradient": (fp8_gradient, (FOUR,)),
    "gradient_cast": (partial(gradient_cast, cast=np.rint), (FOUR,)),
    "binary_weight": (binary_weight, (FOUR,)),
    "printed_weight": (printed_weight, (FOUR,)),
    "window_scales": (partial(window_scales, size=2), (IMAGE,)),
    "trained_levels": (trained_levels, (FOUR, HALF, HALF)),
    "soft_hinge": (soft_hinge, (FOUR, np.sign(FOUR))),
    "qil": (partial(qil, bits=2), (FOUR, HALF, HALF)),
    "n2uq": (n2uq, (FOUR, np.ones(3), HALF)),
}
EVERY = {**{n: (f, (FOUR, *arrays(p, float))) for n, (f, p, _) in ALL.items()}, **OTHERS}


@pytest.mark.parametrize("name", EVERY)
def test_what_is_no_array_of_reals_is_refused_in_one_line(name):
    """Codes for values, float16, masks that would be dropped: better no answer than a wrong one."""
    f, given = EVERY[name]
    for i, right in enumerate(given):
        for wrong in (right.astype(np.int32), right.astype(np.float16), right.astype(complex),
                      right.astype(bool), np.ma.masked_array(right, right > 0), None, "a"):
            with pytest.raises(TypeError, match=r"^`\w+` must (be float32 or|not be masked)"):
                f(*given[:i], wrong, *given[i + 1 :])
        as_lists, as_arrays = f(*given[:i], right.tolist(), *given[i + 1 :]), f(*given)
        a, b = (v[0] if isinstance(v, tuple) else v for v in (as_lists, as_arrays))
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", [*SIGNS, "sign_clipped", "binary_connect", "fire", "sloped",
                                  "smooth_part", "fired", "gumbel_argmax", "qil", "n2uq"])
def test_nan_never_becomes_a_level(name):
    """Each of these compares, and a comparison with NaN is false: a level like any other."""
    f, given = ({**EVERY, "sign_clipped": (partial(sign_clipped, limit=1.0), (FOUR,))})[name]
    broken = given[0].copy()
    broken[0, 0] = np.nan
    with pytest.raises(ValueError, match=r"^`\w+` must (not contain NaN|be finite)"):
        f(broken, *given[1:])


@pytest.mark.parametrize("name", [
    n for n, (_, given) in EVERY.items() if len(given) > 1 and n != "n2uq"])
def test_a_parameter_that_does_not_fit_the_data_is_named(name):
    f, given = EVERY[name]
    said = r"^`\w+` must (broadcast|have (the )?shape|be one number)"
    with pytest.raises(ValueError, match=said):
        f(given[0], np.ones((5, 7)), *given[2:])


@pytest.mark.parametrize(("f", "given"), [
    (folded_bias, (ONES, ONES, ONES, -ONES)), (folded_weight, (FOUR, ONES, -ONES)),
    (corrected, (FOUR, ONES, ONES, ONES, ONES, -ONES))], ids=["bias", "weight", "corrected"])
def test_a_variance_below_zero_is_refused(f, given):
    with pytest.raises(ValueError, match=r"`(variance|running)` must be at least 0; got -1.0"):
        f(*given)


@pytest.mark.parametrize(("f", "given"), [
    (partial(min_max, bits=2), (FOUR, -HALF, np.array(np.inf))),
    (partial(min_max, bits=2), (FOUR, np.array(-np.inf), HALF)),
    (partial(lsq_plus, qmin=0, qmax=3), (FOUR, HALF, np.array(np.inf))),
    (partial(qil, bits=2), (FOUR, np.array(np.inf), HALF)),
    (n2uq, (FOUR, np.ones(3), np.array(np.nan)))], ids=["high", "low", "offset", "center", "start"])
def test_parameters_that_have_diverged_are_named(f, given):
    with pytest.raises(ValueError, match=r"^`\w+` must be finite; got"):
        f(*given)
