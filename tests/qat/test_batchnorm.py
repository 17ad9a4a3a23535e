"""Batch norm folded in training: with nothing quantized it is batch norm, gradients and all."""

from itertools import pairwise

import numpy as np
import pytest

from refquant.nn.normalization import batch_norm, batch_norm_training
from refquant.nn.operations import linear
from refquant.qat.batchnorm import (
    batch_mean,
    batch_variance,
    corrected,
    folded_bias,
    folded_weight,
)
from refquant.quantizers.uniform import Uniform


def layer(seed=0):
    """Inputs, weight, gamma, beta, running mean and variance, and an upstream gradient."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((40, 6)), rng.standard_normal((5, 6)),
            rng.uniform(-2, 2, 5), rng.standard_normal(5), rng.standard_normal(5),
            rng.uniform(0.1, 3, 5), rng.standard_normal((40, 5)))


def ordinary(x, w, gamma, beta, g):
    """Value and gradients of a layer with batch norm."""
    y, through_layer = linear(x, w)
    z, through_norm = batch_norm_training(y, gamma, beta)
    g_y, g_gamma, g_beta = through_norm(g)
    return z, (*through_layer(g_y)[:2], g_gamma, g_beta)


def in_corrected_form(x, w, gamma, beta, running, g):
    y, through_first = linear(x, w)
    mean, of_mean = batch_mean(y)
    variance, of_variance = batch_variance(y)
    folded, of_folded = folded_weight(w, gamma, running)
    product, through_second = linear(x, folded)
    z, of_z = corrected(product, gamma, beta, mean, variance, running)
    g_product, g_gamma, g_beta, g_mean, g_variance, _ = of_z(g)
    g_x, g_folded = through_second(g_product)[:2]
    g_w, more_gamma, _ = of_folded(g_folded)
    more_x, more_w = through_first(of_mean(g_mean)[0] + of_variance(g_variance)[0])[:2]
    return z, (g_x + more_x, g_w + more_w, g_gamma + more_gamma, g_beta)


def in_plain_form(x, w, gamma, beta, g):
    y, through_first = linear(x, w)
    mean, of_mean = batch_mean(y)
    variance, of_variance = batch_variance(y)
    folded, of_folded = folded_weight(w, gamma, variance)
    bias, of_bias = folded_bias(gamma, beta, mean, variance)
    z, through_second = linear(x, folded, bias)
    g_x, g_folded, g_bias = through_second(g)
    g_w, g_gamma, g_variance = of_folded(g_folded)
    more_gamma, g_beta, g_mean, more_variance = of_bias(g_bias)
    more_x, more_w = through_first(
        of_mean(g_mean)[0] + of_variance(g_variance + more_variance)[0])[:2]
    return z, (g_x + more_x, g_w + more_w, g_gamma + more_gamma, g_beta)


@pytest.mark.parametrize("form", ["plain", "corrected"])
def test_without_a_quantizer_value_and_gradients_are_those_of_batch_norm(form):
    x, w, gamma, beta, _, running, g = layer()
    wanted, gradients = ordinary(x, w, gamma, beta, g)
    found, ours = (in_plain_form(x, w, gamma, beta, g) if form == "plain"
                   else in_corrected_form(x, w, gamma, beta, running, g))
    np.testing.assert_allclose(found, wanted, rtol=1e-11, atol=1e-12)
    for a, b in zip(ours, gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-11)


def test_the_frozen_form_is_the_norm_of_evaluation():
    x, w, gamma, beta, mean, running, _ = layer()
    bias = folded_bias(gamma, beta, mean, running)[0]
    deployed = linear(x, folded_weight(w, gamma, running)[0], bias)[0]
    wanted = batch_norm(linear(x, w)[0], gamma, beta, mean, running)[0]
    np.testing.assert_allclose(deployed, wanted, rtol=1e-12, atol=1e-12)


def test_every_pullback_is_the_difference_quotient():
    x, w, gamma, beta, mean, variance, g = layer()
    y = linear(x, w)[0]
    cases = [
        (batch_mean, (y,), g[0]),
        (batch_variance, (y,), g[0]),
        (folded_weight, (w, gamma, variance), w[::-1]),
        (folded_bias, (gamma, beta, mean, variance), g[0]),
        (corrected, (y, gamma, beta, mean, variance, variance[::-1].copy()), g),
    ]
    for f, arrays, upstream in cases:
        _, pullback = f(*arrays)
        for i, gradient in enumerate(pullback(upstream)):
            direction = np.random.default_rng(i).standard_normal(arrays[i].shape)
            moved = [
                (upstream * f(*arrays[:i], arrays[i] + e * direction, *arrays[i + 1:])[0]).sum()
                for e in (1e-6, -1e-6)
            ]
            slope = (moved[0] - moved[1]) / 2e-6
            assert abs(slope - (gradient * direction).sum()) < 1e-6 * max(1, abs(slope))


def test_the_corrected_weight_does_not_move_with_the_batch_and_the_plain_one_does():
    x, w, gamma, _, _, running, _ = layer()
    batches = [x[:20], x[20:]]
    plain = [folded_weight(w, gamma, batch_variance(linear(b, w)[0])[0])[0] for b in batches]
    assert np.abs(plain[0] - plain[1]).max() > 0.1
    assert (folded_weight(w, gamma, running)[0] == folded_weight(w, gamma, running)[0]).all()


def test_a_step_per_channel_absorbs_the_norm():
    """Q(c W; |c| s) = c Q(W; s) for factors that are powers of two, on a symmetric grid."""
    w = np.random.default_rng(0).standard_normal((4, 30))
    factor = np.array([2.0, -0.5, 1.0, -4.0])[:, None]
    scale = np.array([0.1, 0.2, 0.3, 0.4])[:, None]

    def levels(values, scale, qmin):
        q = Uniform(scale, np.zeros(scale.shape, int), qmin, 3)
        return q.decode(q.encode(values))

    both = levels(factor * w, np.abs(factor) * scale, -3), factor * levels(w, scale, -3)
    assert (both[0] == both[1]).all()
    lopsided = levels(factor * w, np.abs(factor) * scale, -4), factor * levels(w, scale, -4)
    assert (lopsided[0] != lopsided[1]).any(1).tolist() == [False, True, False, True]


def test_dtype_is_kept_and_an_empty_batch_refused():
    arrays = [a.astype(np.float32) for a in layer()]
    x, w, gamma, beta, mean, running, g = arrays
    y = linear(x, w)[0]
    for f, inputs, upstream in ((batch_mean, (y,), mean), (batch_variance, (y,), mean),
                                (folded_weight, (w, gamma, running), w),
                                (folded_bias, (gamma, beta, mean, running), mean),
                                (corrected, (y, gamma, beta, mean, running, running), g)):
        value, pullback = f(*inputs)
        assert value.dtype == np.float32
        assert {p.dtype for p in pullback(upstream)} == {np.dtype(np.float32)}
        assert [p.shape for p in pullback(upstream)] == [a.shape for a in inputs]
    for f in (batch_mean, batch_variance):
        with pytest.raises(ValueError, match="must have a row"):
            f(np.zeros((0, 3)))
    assert all(a.dtype == b.dtype for a, b in pairwise(arrays))
