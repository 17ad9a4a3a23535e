"""QuantNoise: its mean, its ends, whole blocks, and a gradient for the weights left alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.qat.blending import blend
from refquant.qat.quant_noise import noise_mask, quant_noise

SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS, st.floats(0, 1), st.sampled_from([1, 2, 4]))
def test_blocks_share_their_fate_and_the_ends_are_certain(seed, rate, block):
    rng = np.random.default_rng(seed)
    mask = noise_mask((5, 8), rate=rate, block=block, rng=rng)
    blocks = mask.reshape(5, -1, block)
    assert (blocks == blocks[..., :1]).all()
    assert not noise_mask((5, 8), rate=0.0, rng=rng).any()
    assert noise_mask((5, 8), rate=1.0, rng=rng).all()


@given(SEEDS, st.sampled_from([np.float32, np.float64]))
def test_the_ends_are_plain_training_and_plain_quantization(seed, dtype):
    w = np.random.default_rng(seed).normal(size=(3, 4)).astype(dtype)
    off, on = np.zeros((3, 4), bool), np.ones((3, 4), bool)
    assert np.array_equal(quant_noise(w, off, project=np.rint)[0], w)
    assert np.array_equal(quant_noise(w, on, project=np.rint)[0], np.rint(w))
    assert quant_noise(w, on, project=np.rint)[0].dtype == dtype


def test_the_mean_over_masks_is_the_blend():
    """All sixteen masks of four weights, each with its probability."""
    w, p = np.array([0.3, -1.2, 0.9, 2.4]), 0.3
    mean = np.zeros(4)
    for i in range(16):
        mask = np.array([i >> k & 1 for k in range(4)], bool)
        chance = np.prod(np.where(mask, p, 1 - p))
        mean += chance * quant_noise(w, mask, project=np.rint)[0]
    assert np.allclose(mean, blend(w, np.array(p), project=np.rint)[0])


def test_masks_are_drawn_at_their_rate():
    """20,000 blocks; five standard errors."""
    share = noise_mask((20_000, 8), rate=0.1, block=8, rng=np.random.default_rng(0)).mean()
    assert abs(share - 0.1) < 5 * np.sqrt(0.09 / 20_000)


@given(SEEDS)
def test_the_gradient_of_the_weights_left_alone_is_the_derivative(seed):
    """Of a smooth loss, by finite differences: exact outside the mask, wrong inside."""
    rng = np.random.default_rng(seed)
    w = rng.integers(-2, 3, 6) + rng.uniform(-0.3, 0.3, 6)
    mask, a = np.array([0, 1, 0, 1, 0, 0], bool), rng.normal(size=(6, 6))

    def loss(w):
        y, pullback = quant_noise(w, mask, project=np.rint)
        return (np.tanh(a @ y) ** 2).sum(), pullback(
            a.T @ (2 * np.tanh(a @ y) * (1 - np.tanh(a @ y) ** 2)))[0]

    _, g = loss(w)
    for i in range(6):
        d = 1e-6 * (np.arange(6) == i)
        slope = (loss(w + d)[0] - loss(w - d)[0]) / 2e-6
        assert np.isclose(slope, 0 if mask[i] else g[i], atol=1e-5)


def test_zeros_stand_in_for_an_expensive_code():
    w, mask = np.array([1.5, 2.5]), np.array([True, False])
    assert quant_noise(w, mask, project=np.zeros_like)[0].tolist() == [0, 2.5]
    assert quant_noise(w, mask, project=np.zeros_like)[1](w) == (w, None)


def test_bad_input_is_refused():
    rng = np.random.default_rng(0)
    for rate in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match=r"`rate` must lie in \[0, 1\]"):
            noise_mask((2, 2), rate=rate, rng=rng)
    with pytest.raises(ValueError, match="`block` must divide 9 columns; got 2"):
        noise_mask((2, 9), rate=0.5, block=2, rng=rng)
    with pytest.raises(TypeError, match="`mask` must be of bools; got int64"):
        quant_noise(np.zeros(2), np.zeros(2, np.int64), project=np.rint)
    with pytest.raises(ValueError, match="`mask` must broadcast"):
        quant_noise(np.zeros(2), np.zeros(3, bool), project=np.rint)
