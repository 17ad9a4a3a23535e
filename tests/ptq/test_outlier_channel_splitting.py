"""Splitting: the function is kept, the largest weight halves, and two roundings are one."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ptq._experiments import embed, minilm_model, minilm_names, need_minilm, score

from refquant.calibration.minmax import absmax
from refquant.calibration.mse import omse
from refquant.kernels.elementwise import fake_quantize
from refquant.ptq.outlier_channel_splitting import split_channels, split_for
from refquant.quantizers.codebook import Codebook
from refquant.quantizers.uniform import symmetric


def heavy(rng, shape):
    return rng.standard_t(2, shape)


@given(st.integers(0, 999), st.integers(0, 12), st.sampled_from([None, 0.125, 1.0]))
def test_the_function_is_kept_in_exact_numbers(seed, count, step):
    """Small whole numbers and powers of two: no sum is rounded."""
    rng = np.random.default_rng(seed)
    weight = rng.integers(-64, 65, (3, 5)).astype(float)
    x = rng.integers(-64, 65, (4, 5)).astype(float)
    made = split_channels(weight, count, step=step)
    assert np.array_equal(x[:, made.source] @ made.weight.T, x @ weight.T)
    assert made.weight.shape == (3, 5 + count)
    assert np.array_equal(made.source[:5], np.arange(5))


@given(st.integers(0, 999))
def test_the_largest_weight_never_grows_with_more_splits(seed):
    weight = heavy(np.random.default_rng(seed), (4, 8))
    largest = [np.abs(split_channels(weight, n).weight).max() for n in range(12)]
    assert (np.diff(largest) <= 0).all()
    assert largest[-1] <= largest[0] / 2


def test_no_split_changes_nothing():
    weight = heavy(np.random.default_rng(0), (4, 8)).astype(np.float32)
    made = split_channels(weight, 0)
    assert np.array_equal(made.weight, weight)
    assert made.weight.dtype == np.float32


@given(st.floats(-1000, 1000))
def test_two_roundings_of_a_split_in_steps_are_one_rounding(v):
    """Except at ties of v, where they may differ by one step."""
    made = split_channels(np.array([[v]]), 1, step=1.0).weight
    total = np.rint(made).sum()
    distance = abs(abs(v - np.floor(v)) - 0.5)
    assert total == np.rint(v) or (distance < 1e-9 and abs(total - v) <= 0.5 + 1e-9)


def test_equal_halves_err_four_times_as_much():
    """Error variance 1/12 of a step squared for a split in steps, 1/3 for equal halves."""
    v = np.random.default_rng(0).uniform(-100, 100, (1, 20_000))
    errors = []
    for step in (1.0, None):
        parts = np.stack([split_channels(v[:, [i]], 1, step=step).weight[0] for i in range(2000)])
        errors.append(np.square(np.rint(parts).sum(1) - v[0, :2000]).mean())
    assert abs(errors[0] - 1 / 12) < 0.01
    assert abs(errors[1] - 1 / 3) < 0.03


@given(st.integers(0, 99), st.integers(1, 4))
def test_codes_of_unsplit_channels_are_those_of_plain_rounding_and_halves_add_up(seed, count):
    weight = heavy(np.random.default_rng(seed), (6, 16))
    made, grid = split_for(weight, count, lambda w: symmetric(absmax(w), bits=6))
    codes = np.clip(np.rint(made.weight / grid.scale), -31, 31)
    total = np.zeros_like(weight)
    np.add.at(total.T, made.source, codes.T)
    whole = np.rint(weight / grid.scale)
    inside = (np.abs(made.weight / grid.scale) <= 31).all(0)    # a split in steps sticks out by 1/4
    kept = ~np.isin(np.arange(16), made.source[~inside])
    assert np.array_equal(total[:, kept], whole[:, kept])


def test_two_channels_of_a_hundred_halve_the_error_of_a_layer_with_two_outliers():
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((64, 100))
    weight[3, 10], weight[40, 77] = 12.0, -11.0
    x = rng.standard_normal((500, 100))
    fit = lambda w: symmetric(absmax(w), bits=5)                            # noqa: E731
    errors = []
    for count in (0, 2):
        made, grid = split_for(weight, count, fit)
        out = x[:, made.source] @ grid.decode(grid.encode(made.weight)).T
        errors.append(np.square(out - x @ weight.T).mean())
    assert errors[1] < 0.5 * errors[0]


def test_convolutions_split_along_their_last_axis():
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 5))
    made = split_channels(weight, 2)
    back = np.zeros_like(weight)
    for i, s in enumerate(made.source):
        back[..., s] += made.weight[..., i]
    assert np.allclose(back, weight, atol=1e-15)


def test_mistakes_are_refused():
    weight = np.ones((2, 3))
    with pytest.raises(ValueError, match="`count` must be at least 0; got -1"):
        split_channels(weight, -1)
    with pytest.raises(ValueError, match="`step` must be positive and finite; got 0"):
        split_channels(weight, 1, step=0.0)
    with pytest.raises(ValueError, match=r"have input channels; got shape \(3,\)"):
        split_channels(np.ones(3), 1)
    with pytest.raises(ValueError, match="`weight` must be finite"):
        split_channels(np.array([[np.nan]]), 1)
    with pytest.raises(ValueError, match=r"`fit` must give one scale; got \(2, 1\)"):
        split_for(weight, 1, lambda w: symmetric(absmax(w, axis=1), bits=4))
    with pytest.raises(TypeError, match="`fit` must return a Uniform; got a Codebook"):
        split_for(weight, 1, lambda w: Codebook(np.array([0.0, 1.0]), np.array([0.5])))


def clipped_to(w, fit, least):
    """The range, in hundredths from its whole down to `least`, of the least squared error."""
    top = absmax(w)
    grids = [fit(top * (share / 100)) for share in range(100, least - 1, -1)]
    return min(grids, key=lambda q: np.square(w - fake_quantize(w, q), dtype=np.float64).sum())


@pytest.mark.peer
@pytest.mark.slow
def test_minilm_in_six_bits_with_one_scale_per_weight():
    """A9. Cosine to the float embedding, all 36 weights: 0.69 as they are; 0.966 and 0.984 with
    1 and 5 % more channels.

    The baseline of that experiment is the best clip of at least 0.3 of the range: 0.936 (it has
    0.933; 0.765 and 0.764 at 5 bits, both 0.993 at 8), and 1 % of channels is 0.03 better.
    It is the floor that makes it so. The heaviest weights want 4 % of their range, and a clip that
    may take it has 0.977: better than 1 % more channels, and than 0.969 of the clip in the authors'
    code, which looks at a histogram of 201 bins. The two together have 0.988 with 1 %, better
    than either; 5 % alone has 0.984.
    """
    need_minilm()
    model = minilm_model()

    def cosine(share, fit):
        values = dict(model.values)
        for name in minilm_names():
            weight = values[name]
            split, grid = split_for(weight, int(np.ceil(share * weight.shape[1])), fit)
            # Halves of a channel meet the same input, so their sum does what they do.
            values[name] = np.zeros_like(weight)
            np.add.at(values[name].T, split.source, fake_quantize(split.weight, grid).T)
        return score(embed(values)).cosine

    six_bits = partial(symmetric, bits=6)
    plain, one, five = (cosine(share, lambda w: six_bits(absmax(w))) for share in (0, 0.01, 0.05))
    bounded = cosine(0, lambda w: clipped_to(w, six_bits, 30))
    clipped, both = (cosine(share, lambda w: omse(w, six_bits)) for share in (0, 0.01))
    assert 0.92 <= bounded <= 0.945
    assert one >= bounded + 0.02
    assert one >= plain + 0.2
    assert five >= bounded + 0.04
    assert one < clipped < five
    assert both > max(clipped, one) + 0.005
