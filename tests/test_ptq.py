"""What the methods of `ptq` have in common: what they refuse, and what they make of too little."""

import inspect
from functools import partial
from importlib import import_module

import numpy as np
import pytest

from refquant.calibration.minmax import absmax
from refquant.granularity import group
from refquant.ptq import (
    adaquant,
    adaround,
    awq,
    batchnorm_folding,
    bias_correction,
    cayley,
    cross_layer_equalization,
    gptq,
    hqq,
    obq,
    outlier_channel_splitting,
    outlier_decomposition,
    quip,
    rotation,
    smoothquant,
)
from refquant.quantizer import fake_quantize
from refquant.quantizers.uniform import symmetric

W = np.random.default_rng(0).normal(size=(3, 4))
X = np.random.default_rng(1).normal(size=(20, 4))
H = X.T @ X / 20
Y = X @ W.T
OUT, IN = np.array([0.5, 1.0, 2.0]), np.array([0.5, 1.0, 2.0, 4.0])


def fit(w):
    return symmetric(absmax(w, axis=-1), bits=4)


def coarse(w):
    return symmetric(absmax(w, axis=-1), bits=2)


def round_trip(w):
    return fake_quantize(w, fit(w))


def rng():
    return np.random.default_rng(7)


#: Every public function that takes numbers, with arguments that it accepts.
CALLS = [
    (adaquant.adaquant, {"weight": W, "x": X, "target": Y, "quantizer": fit(W), "rng": rng(),
                         "bias": OUT, "steps": 2, "rate": 0.1, "scale_rate": 0.1,
                         "bias_rate": 0.1}),
    (adaround.adaround, {"weight": W, "x": X, "target": Y, "quantizer": fit(W), "rng": rng(),
                         "bias": OUT, "steps": 2, "rate": 0.1, "penalty": 0.1}),
    (awq.activation_scale, {"activation": IN, "power": 0.5}),
    (awq.search_scale, {"weights": [W], "hessian": H, "activation": IN, "round_trip": round_trip}),
    (awq.clip_groups, {"weight": W, "hessian": H, "round_trip": round_trip, "group_size": 2,
                       "shrink": 0.5}),
    (batchnorm_folding.channel_factors, {"gamma": OUT, "variance": OUT, "epsilon": 1e-5}),
    (batchnorm_folding.fold, {"weight": W, "bias": OUT, "gamma": OUT, "beta": OUT, "mean": OUT,
                              "variance": OUT, "epsilon": 1e-5}),
    (batchnorm_folding.fold_forward, {"weight": W, "bias": OUT, "gamma": IN, "beta": IN,
                                      "mean": IN, "variance": IN, "epsilon": 1e-5}),
    (bias_correction.empirical, {"bias": OUT, "exact": Y, "quantized": Y}),
    (bias_correction.analytic, {"bias": OUT, "weight": W, "quantized": W, "input_mean": IN}),
    (bias_correction.analytic, {"bias": OUT, "weight": W[:, None, None, :],
                                "quantized": W[:, None, None, :], "input_mean": IN,
                                "share": np.ones((1, 1))}),
    (bias_correction.clipped_normal, {"mean": OUT, "deviation": OUT, "low": 0.0, "high": 6.0}),
    (bias_correction.restore_moments, {"weight": W, "quantized": W, "spread": True}),
    (cayley.cayley_step, {"rotation": np.eye(4), "gradient": H, "rate": 0.1}),
    (cayley.learned_rotation, {"start": np.eye(4), "gradient": lambda r: X[:4],
                               "steps": 2, "rate": 0.1}),
    (cayley.squared_peaks, {"x": X}),
    (cross_layer_equalization.equalize_pair, {"first": W, "bias": OUT, "second": W.T}),
    (cross_layer_equalization.triple_scales, {"first": W, "middle": np.ones((3, 1, 1, 1)),
                                              "last": W.T}),
    (cross_layer_equalization.equalize_chain, {"weights": [W, W.T], "biases": [OUT, IN],
                                               "tolerance": 0.1}),
    (cross_layer_equalization.absorb_bias, {"first": OUT, "second": W.T, "second_bias": IN,
                                            "mean": OUT, "deviation": OUT, "reach": 3.0}),
    (gptq.gptq, {"weight": W, "hessian": H, "fit": fit, "damping": 0.01}),
    (gptq.column_by_column, {"weight": W, "hessian": H, "fit": fit, "damping": 0.01}),
    (hqq.shrink, {"x": W, "beta": 10.0, "p": 0.7}),
    (hqq.hqq, {"weight": W, "bits": 4, "beta": 10.0, "p": 0.7, "growth": 1.01}),
    (obq.obq, {"weight": W, "hessian": H, "fit": fit, "damping": 0.01}),
    (outlier_channel_splitting.split_channels, {"weight": W, "count": 1, "step": 0.1}),
    (outlier_channel_splitting.split_for, {"weight": W, "count": 1,
                                           "fit": lambda w: symmetric(absmax(w), bits=4)}),
    (outlier_decomposition.outlier_columns, {"x": X, "threshold": 2.0}),
    (outlier_decomposition.decomposed_product, {"x": X, "weight": W, "threshold": 2.0}),
    (quip.ldlq, {"weight": W, "hessian": H, "quantizer": fit(W), "damping": 0.01}),
    (quip.polish, {"weight": W, "rounded": np.rint(W), "hessian": H, "quantizer": fit(W)}),
    (quip.fixed_range, {"weight": W, "bits": 4, "reach": 2.4}),
    (quip.quip, {"weight": W, "hessian": H, "fit": partial(quip.fixed_range, bits=4),
                 "rng": rng(), "damping": 0.01}),
    (rotation.hadamard_transform, {"x": X}),
    (rotation.random_signs, {"q": np.eye(4), "rng": rng()}),
    (rotation.rotate, {"x": X, "q": np.eye(4)}),
    (rotation.incoherence, {"x": X}),
    (smoothquant.smoothing_scale, {"inputs": IN, "weights": IN, "alpha": 0.5}),
    (smoothquant.smooth, {"weight": W, "scale": IN}),
    (smoothquant.fold_into_rows, {"parameter": W, "scale": OUT}),
]

#: Functions of counts and shapes, and the inside of AdaRound's loop.
WITHOUT_NUMBERS = {
    "as_given", "by_curvature", "cheapest_first", "hadamard", "identity", "kronecker",
    "left_to_right", "orthogonal", "rectified_sigmoid", "sharpness", "start_at", "window_share"}

#: Where infinity says something: no end, one sweep, no outliers.
MAY_BE_INFINITE = {("clipped_normal", "high"), ("equalize_chain", "tolerance"),
                   ("outlier_columns", "threshold"), ("decomposed_product", "threshold")}


def with_one(value, number):
    """An argument of which one number has become another."""
    if isinstance(value, list):
        return [*value[:-1], with_one(value[-1], number)]
    if isinstance(value, np.ndarray):
        value = value.copy()
        value.flat[-1] = number
        return value
    return number


NUMBERS = [
    pytest.param(function, arguments, name, id=f"{function.__name__}-{name}")
    for function, arguments in CALLS for name, value in arguments.items()
    if isinstance(value, (np.ndarray, list)) or type(value) is float]


@pytest.mark.parametrize(("function", "arguments", "name"), NUMBERS)
def test_what_is_no_number_is_refused_by_name_wherever_it_stands(function, arguments, name):
    function(**arguments)
    for number in (np.nan, np.inf):
        if number == np.inf and (function.__name__, name) in MAY_BE_INFINITE:
            continue
        with pytest.raises(ValueError, match=rf"^`{name}` must|^`low` must be at most `high`"):
            function(**arguments | {name: with_one(arguments[name], number)})


def test_no_public_function_is_left_out():
    known = {function.__name__ for function, _ in CALLS} | WITHOUT_NUMBERS
    modules = {import_module(function.__module__) for function, _ in CALLS}
    public = {name for module in modules for name in module.__all__
              if inspect.isfunction(getattr(module, name))}
    assert known == public


CURVED = [pytest.param(f, a, id=f.__name__) for f, a in CALLS if "hessian" in a]


@pytest.mark.parametrize(("function", "arguments"), CURVED)
def test_half_a_hessian_is_refused(function, arguments):
    """A factorization reads one triangle: with the other at zero it would run, and be wrong."""
    for half in (np.triu(H), np.tril(H)):
        with pytest.raises(ValueError, match=r"^`hessian` must be symmetric; got entries"):
            function(**arguments | {"hessian": half})


@pytest.mark.parametrize(("function", "arguments"), CURVED)
def test_a_negative_mean_square_is_refused_even_where_damping_would_hide_it(function, arguments):
    """Of errors that are negative the least is the worst: a search would choose it."""
    negative = H.copy()
    negative[1, 1] = -1e-3
    more = {"damping": 10.0} if "damping" in arguments else {}
    for hessian in (negative, -H):
        with pytest.raises(ValueError, match=r"^`hessian` must not be negative on its diagonal"):
            function(**arguments | more | {"hessian": hessian})


@pytest.mark.parametrize(("function", "arguments"), CURVED)
def test_sums_in_another_order_are_symmetric_enough(function, arguments):
    noise = np.triu(np.full((4, 4), 1e-6), 1)
    function(**arguments | {"hessian": H + noise})
    function(**arguments | {"hessian": (H + noise).astype(np.float32)})


def test_a_hessian_of_many_tiles_is_read_to_its_last_corner():
    w, h = np.ones((1, 600)), np.eye(600)
    for corner in ((599, 0), (0, 599), (300, 299), (599, 598)):
        with pytest.raises(ValueError, match=r"symmetric; got entries that are 0\.5 apart"):
            gptq.gptq(w, h + 0.5 * (np.arange(360000).reshape(600, 600)
                                    == corner[0] * 600 + corner[1]), fit)


ARRAYS = [pytest.param(f, a, name, id=f"{f.__name__}-{name}") for f, a in CALLS
          for name, value in a.items() if isinstance(value, (np.ndarray, list))]
#: Functions that take a lone number for an array.
OF_ANY_RANK = {"activation_scale", "fixed_range", "incoherence", "outlier_columns", "shrink"}


@pytest.mark.parametrize(("function", "arguments", "name"), ARRAYS)
def test_numbers_words_masks_and_ragged_rows_are_refused_in_one_line(function, arguments, name):
    def instead(value):
        listed = isinstance(arguments[name], list)
        return {name: [value, *arguments[name][1:]] if listed else value}

    masked = np.ma.masked_less(np.asarray(arguments[name][0]), 0)
    wrong = ["words", masked, [[1.0], [2.0, 3.0]], np.ones((2, 2), complex)]
    if function.__name__ not in OF_ANY_RANK and name != "share":
        wrong.append(np.array(1.0))
    for value in wrong:
        with pytest.raises((TypeError, ValueError), match=r"^`\w+` must [^\n]*; got [^\n]*$"):
            function(**arguments | instead(value))


@pytest.mark.parametrize(("function", "arguments", "name"), [
    pytest.param(f, a, name, id=f.__name__) for f, a in CALLS for name in ("fit", "quantizer")
    if name in a])
def test_what_cannot_encode_is_no_quantizer(function, arguments, name):
    for wrong in (None, W, "nf4"):
        with pytest.raises(TypeError, match=rf"^`{name}` must .*; got"):
            function(**arguments | {name: wrong if name == "quantizer" else lambda w, r=wrong: r})


@pytest.mark.parametrize(("function", "arguments"), [
    pytest.param(rotation.orthogonal, {"n": 4}, id="orthogonal"),
    pytest.param(rotation.kronecker, {"n": 4}, id="kronecker"),
    *(pytest.param(f, a, id=f.__name__) for f, a in CALLS if "rng" in a)])
def test_a_seed_is_no_generator(function, arguments):
    """Nor is the module of NumPy, which would run, with a state that belongs to everybody."""
    for wrong in (0, None, np.random, np.random.RandomState(0)):
        with pytest.raises(TypeError, match=r"^`rng` must be `Generator`; got"):
            function(**arguments | {"rng": wrong})


# Too little to learn from. A method: (weight, inputs) -> decoded weight.

def by_hessian(function):
    return lambda w, x: function(w, x.T @ x / len(x), coarse).weight


def by_ldlq(w, x):
    return quip.ldlq(w, x.T @ x / len(x), coarse(w))


def by_polish(w, x):
    return quip.polish(w, fake_quantize(w, coarse(w)), x.T @ x / len(x), coarse(w))


def by_quip(w, x):
    return quip.quip(w, x.T @ x / len(x), partial(quip.fixed_range, bits=2), rng=rng()).weight


def by_awq(w, x):
    found = awq.search_scale([w], x.T @ x / len(x), np.abs(x).mean(0),
                             lambda v: fake_quantize(v, coarse(v)))
    return fake_quantize(w * found.scale, coarse(w * found.scale)) / found.scale


def by_clip(w, x):
    def coarsely(v):
        return fake_quantize(v, coarse(v))

    return coarsely(awq.clip_groups(w, x.T @ x / len(x), coarsely, group_size=w.shape[1]))


def by_adaround(w, x):
    return adaround.adaround(w, x, x @ w.T, coarse(w), rng=rng(), steps=200, rate=0.05,
                             penalty=0.1).weight


def by_adaquant(w, x):
    made = adaquant.adaquant(w, x, x @ w.T, coarse(w), rng=rng(), steps=200, rate=0.05,
                             bias_rate=0.0)
    return made.weight


METHODS = {
    "gptq": by_hessian(gptq.gptq), "column_by_column": by_hessian(gptq.column_by_column),
    "obq": by_hessian(obq.obq), "ldlq": by_ldlq, "polish": by_polish, "quip": by_quip,
    "awq": by_awq, "clip": by_clip, "adaround": by_adaround, "adaquant": by_adaquant}


def problem(seed):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(3, 6)), generator.normal(size=(30, 6)) @ generator.normal(
        size=(6, 6))


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"quip"}))
def test_an_input_that_was_always_zero_changes_nothing_for_the_others(name):
    """All but QuIP, whose rotation mixes every column with every other."""
    w, x = problem(0)
    x = 0.01 * x            # so that a one on the diagonal, for the dead, would not go unnoticed
    dead_w, dead_x = (np.insert(a, 2, value, axis=1) for a, value in ((w, 0.01), (x, 0.0)))
    made = METHODS[name](dead_w, dead_x)
    assert np.allclose(np.delete(made, 2, 1), METHODS[name](w, x), atol=1e-12)
    assert np.isfinite(made).all()


@pytest.mark.parametrize("inputs", [
    pytest.param(lambda x: x[:1], id="one sample"),
    pytest.param(lambda x: np.ones_like(x), id="constant"),
    pytest.param(lambda x: x[:, :1] * np.arange(1.0, 7.0), id="rank one")])
@pytest.mark.parametrize("name", METHODS)
def test_a_singular_second_moment_is_enough_for_less_error_than_nearest(name, inputs):
    """On the mean of eight problems: of these inputs one direction matters, and it is seen."""
    ours, nearest = 0.0, 0.0
    for seed in range(8):
        w, x = problem(seed)
        x = inputs(x)
        made = METHODS[name](w, x)
        assert np.isfinite(made).all()
        ours += np.square(x @ (made - w).T).mean()
        nearest += np.square(x @ (fake_quantize(w, coarse(w)) - w).T).mean()
    # Channels that are equally loud have no scale of their own: AWQ is nearest rounding then.
    assert ours < nearest or (name == "awq" and ours == nearest)


@pytest.mark.parametrize("name", METHODS)
def test_inputs_that_were_all_zero_leave_something_finite(name):
    w, x = problem(1)
    assert np.isfinite(METHODS[name](w, 0 * x)).all()
    assert np.isfinite(METHODS[name](0 * w, x)).all()


@pytest.mark.parametrize("function", [gptq.gptq, gptq.column_by_column, obq.obq])
def test_without_damping_a_singular_hessian_is_refused(function):
    x = X[:1]
    with pytest.raises(ValueError, match="`hessian` must be positive definite once damped"):
        function(W, x.T @ x, fit, damping=0.0)


@pytest.mark.parametrize("function", [gptq.gptq, gptq.column_by_column])
def test_a_group_that_does_not_divide_is_refused(function):
    with pytest.raises(ValueError, match="`group_size` must divide 4 columns; got 3"):
        function(W, H, fit, group_size=3)
    with pytest.raises(ValueError, match="must divide"):
        awq.clip_groups(W, H, round_trip, group_size=3)
    with pytest.raises(ValueError, match="must divide"):
        hqq.hqq(group(W, 3), bits=4)


def test_one_sample_and_constant_outputs_correct_the_bias_by_their_difference():
    assert np.array_equal(bias_correction.empirical(OUT, Y[:1], Y[:1] + 0.25), OUT - 0.25)
    assert np.allclose(bias_correction.empirical(OUT, 0 * Y, 0 * Y + 1), OUT - 1)


def test_a_row_of_equal_codes_has_a_mean_to_restore_and_no_spread():
    made = bias_correction.restore_moments(W, np.ones_like(W), spread=True)
    assert np.array_equal(made.gain, np.ones((3, 1)))
    assert np.allclose(made.weight, W.mean(1, keepdims=True))
    with pytest.raises(ValueError, match="`weight` must not be empty"):
        bias_correction.restore_moments(W[:, :0], W[:, :0])


def test_a_weight_of_zeros_is_split_into_zeros():
    made = outlier_channel_splitting.split_channels(0 * W, 2)
    assert made.weight.shape == (3, 6)
    assert not made.weight.any()


def test_a_chain_wants_a_tolerance_and_absorption_a_reach():
    with pytest.raises(ValueError, match="`tolerance` must not be negative; got -1"):
        cross_layer_equalization.equalize_chain([W, W.T], [OUT, IN], tolerance=-1)
    with pytest.raises(ValueError, match="`reach` must not be negative; got -3"):
        cross_layer_equalization.absorb_bias(OUT, W.T, IN, OUT, OUT, reach=-3)
