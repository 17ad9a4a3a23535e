"""BinaryConnect: signs right on average, and a latent weight that stays where it matters."""

from functools import partial

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from refquant.qat.binary_connect import binary_connect, kept_within
from refquant.quantizers.binary import Binary
from refquant.rounding import stochastic_sign

FLOATS = st.lists(st.floats(-3, 3), min_size=1, max_size=20).map(np.array)


@given(FLOATS)
@example(np.array([-1.0, -0.0, 0.0, 1.0, np.nextafter(1, 2), -np.nextafter(1, 2)]))
def test_the_value_is_the_sign_and_the_gradient_passes_within_one(w):
    y, pullback = binary_connect(w)
    assert y.tolist() == [1.0 if v >= 0 else -1.0 for v in w]
    g = np.arange(1.0, w.size + 1)
    assert pullback(g)[0].tolist() == [b if abs(v) <= 1 else 0 for v, b in zip(w, g, strict=True)]


@given(FLOATS, st.floats(0.1, 2))
def test_a_kept_weight_is_within_the_bound_and_no_gradient_of_it_is_masked(w, bound):
    kept = kept_within(w, bound=bound)
    assert (np.abs(kept) <= bound).all()
    assert np.array_equal(kept, np.maximum(np.minimum(w, bound), -bound))
    assert (binary_connect(kept_within(w))[1](np.ones_like(w))[0] == 1).all()


@pytest.mark.parametrize(("hard", "mean"), [(True, lambda w: np.clip(w, -1, 1)),
                                            (False, lambda w: np.tanh(w / 2))])
def test_drawn_signs_have_the_mean_of_their_probability(hard, mean):
    """40,000 draws each: the standard error is at most 1/200."""
    w = np.repeat([-1.5, -0.5, 0.0, 0.3, 0.9], 40_000)
    draw = partial(stochastic_sign, rng=np.random.default_rng(0), hard=hard)
    y, pullback = binary_connect(w, sign=draw)
    assert set(np.unique(y)) == {-1.0, 1.0}
    assert (np.abs(y.reshape(5, -1).mean(1) - mean(w).reshape(5, -1)[:, 0]) < 5 / 200).all()
    assert pullback(np.ones_like(w))[0].sum() == 160_000            # those beyond one are masked


def test_the_value_is_what_the_binary_quantizer_of_scale_one_decodes():
    w = np.random.default_rng(0).normal(size=(3, 50)).astype(np.float32)
    w[0, :2] = 0.0, -0.0
    q = Binary(np.ones((), np.float32))
    assert np.array_equal(binary_connect(w)[0], q.decode(q.encode(w)))


def test_steps_far_too_small_to_flip_a_sign_add_up_in_the_latent_weight():
    w, flips = np.array([0.05]), []
    for _ in range(10):
        y, pullback = binary_connect(w)
        flips.append(float(y[0]))
        w = kept_within(w - 0.01 * pullback(np.array([1.0]))[0])
    assert flips == [1.0] * 6 + [-1.0] * 4 or flips == [1.0] * 5 + [-1.0] * 5


def test_dtype_and_shape_stay_and_bad_weights_are_refused():
    w = np.zeros((2, 0, 3), np.float32)
    y, pullback = binary_connect(w)
    assert y.dtype == pullback(w)[0].dtype == np.float32
    assert y.shape == w.shape
    with pytest.raises(ValueError, match="`weight` must be finite"):
        binary_connect(np.array([np.inf]))
    with pytest.raises(ValueError, match="`bound` must be positive"):
        kept_within(w, bound=0)


@pytest.mark.peer
def test_equals_the_estimator_written_with_autograd():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    w, g = rng.normal(size=(2, 50))
    t = torch.tensor(w, requires_grad=True)
    clamped = torch.clamp(t, -1, 1)
    y = clamped + (torch.where(t >= 0, 1.0, -1.0) - clamped).detach()
    y.backward(torch.tensor(g))
    ours, pullback = binary_connect(w)
    assert np.allclose(ours, y.detach().numpy())
    assert np.array_equal(pullback(g)[0], t.grad.numpy())
