"""Losses against their formulas, their gradients against differences, torch, and two limits."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from refquant.qat.distillation import (
    apprentice,
    attention_transfer,
    co_study,
    divergence,
    hint,
    hinton,
    soft_cross_entropy,
)

RNG = np.random.default_rng(0)
Z_S, Z_T = RNG.normal(0, 2, (2, 5, 4))
Y = np.array([0, 3, 1, 1, 2])
A_S, A_T = RNG.normal(size=(3, 2, 2, 3)), RNG.normal(size=(3, 2, 2, 5))
R = RNG.normal(size=(5, 3))
SEED = np.array(0.7)                    # a gradient of the loss that is not 1


def softmax(z, t=1.0):
    e = np.exp(z / t)
    return e / e.sum(1, keepdims=True)


def differences(loss, inputs, which, *, step=1e-6):
    """Central differences of a scalar of one of its arrays."""
    found = np.zeros_like(inputs[which])
    for place in np.ndindex(found.shape):
        for sign in (1, -1):
            moved = [a.copy() for a in inputs]
            moved[which][place] += sign * step
            found[place] += sign * float(loss(*moved)) / (2 * step)
    return found


# What moves, and the value of which the gradient is taken: a constant's part is left out of it.
CASES = {
    "soft": (partial(soft_cross_entropy, temperature=3.0), (Z_S, Z_T), (0,)),
    "soft, no square": (partial(soft_cross_entropy, temperature=3.0, squared=False),
                        (Z_S, Z_T), (0,)),
    "divergence": (partial(divergence, temperature=0.5), (Z_S, Z_T), (0,)),
    "hinton": (partial(hinton, alpha=0.3, beta=0.8, temperature=2.0), (Z_S, Y, Z_T), (0,)),
    "hint": (hint, (A_S, A_T, R), (0, 2)),
    "attention": (partial(attention_transfer, beta=3.0), (A_S, A_T), (0,)),
    "attention, cubes": (partial(attention_transfer, beta=1.0, power=3), (A_S, A_T), (0,)),
    "apprentice": (apprentice, (Z_S, Y, Z_T), (0,)),
    "apprentice, teacher": (partial(apprentice, gamma=0.0), (Z_S, Y, Z_T), (2,)),
}


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_differences(case):
    loss, inputs, moving = CASES[case]
    _, pullback = loss(*inputs)
    found = pullback(SEED)
    assert len(found) == len(inputs)
    for i in moving:
        expected = 0.7 * differences(lambda *a: loss(*a)[0], inputs, i)
        assert np.allclose(found[i], expected, atol=1e-8)


def test_in_co_study_each_learns_from_constants_of_the_other():
    """The gradient of the student is that of its own loss alone, and likewise the teacher's."""
    t = 2.0
    s, nothing, other = co_study(Z_S, Y, Z_T, temperature=t)[1](SEED)
    assert nothing is None
    for found, own, const in ((s, Z_S, Z_T), (other, Z_T, Z_S)):
        def own_loss(z, const=const):
            hard = -np.log(softmax(z))[np.arange(5), Y].mean()
            p, q = softmax(const, t), softmax(z, t)
            return hard + t * t * (p * np.log(p / q)).sum(1).mean()

        assert np.allclose(found, 0.7 * differences(own_loss, (own,), 0), atol=1e-8)
    both = float(co_study(Z_S, Y, Z_T, temperature=t)[0])
    parts = [float(hinton(a, Y, b, alpha=1, beta=0)[0] + divergence(a, b, temperature=t)[0])
             for a, b in ((Z_S, Z_T), (Z_T, Z_S))]
    assert np.isclose(both, sum(parts))


def test_the_third_part_of_apprentice_does_not_move_the_teacher():
    for gamma in (0.0, 5.0):
        _, _, g = apprentice(Z_S, Y, Z_T, gamma=gamma)[1](SEED)
        assert np.allclose(g, hinton(Z_T, Y, Z_S, alpha=1.0, beta=0.0)[1](SEED)[0])


def test_golden_vectors():
    """Of the reference sheet, computed with torch in float64."""
    z_s, z_t = np.array([[1, -0.5, 0.3]]), np.array([[0.2, 0.9, -1]])
    value, pullback = soft_cross_entropy(z_s, z_t, squared=False)
    assert round(float(value), 6) == 1.123504
    assert pullback(np.array(1.0))[0].round(6).tolist() == [[0.013677, -0.033569, 0.019892]]
    _, pullback = soft_cross_entropy(z_s, z_t)
    assert pullback(np.array(1.0))[0].round(6).tolist() == [[0.218837, -0.537107, 0.31827]]


LOGITS = arrays(np.float64, (3, 4), elements=st.floats(-30, 30))
TEMPERATURE = st.floats(0.2, 50)


@given(LOGITS, LOGITS, TEMPERATURE)
def test_divergence_is_never_negative_and_zero_where_they_agree(a, b, t):
    assert divergence(a, b, temperature=t)[0] >= -1e-9
    assert divergence(a, a, temperature=t)[0] == 0


@given(LOGITS, LOGITS, TEMPERATURE)
def test_divergence_is_cross_entropy_less_that_of_the_teacher_with_itself(a, b, t):
    d, back = divergence(a, b, temperature=t)
    h, back_h = soft_cross_entropy(a, b, temperature=t)
    itself, _ = soft_cross_entropy(b, b, temperature=t)
    assert np.isclose(d, h - itself, rtol=1e-9, atol=1e-9 * max(1.0, t * t))
    assert np.array_equal(back(SEED)[0], back_h(SEED)[0])


@given(LOGITS, LOGITS, TEMPERATURE)
def test_the_gradient_of_a_sample_sums_to_zero_and_is_the_difference_of_answers(a, b, t):
    (g, none) = soft_cross_entropy(a, b, temperature=t, squared=False)[1](np.array(1.0))
    assert none is None
    assert np.allclose(g, (softmax(a, t) - softmax(b, t)) / (t * 3), atol=1e-12)
    assert np.allclose(g.sum(1), 0, atol=1e-12)


@given(LOGITS, LOGITS, TEMPERATURE, st.floats(-5, 5))
def test_a_constant_added_to_all_logits_changes_nothing(a, b, t, c):
    assert np.isclose(divergence(a + c, b - c, temperature=t)[0],
                      divergence(a, b, temperature=t)[0], rtol=1e-6, atol=1e-9 * t * t)


def test_at_a_high_temperature_the_gradient_matches_centred_logits():
    """T**2 grad -> ((z_s - mean) - (z_t - mean)) / (C n); off by 1/T."""
    def centred(z):
        return z - z.mean(1, keepdims=True)

    limit = (centred(Z_S) - centred(Z_T)) / (4 * 5)
    off = {t: np.abs(soft_cross_entropy(Z_S, Z_T, temperature=t)[1](np.array(1.0))[0]
                     - limit).max() / np.abs(limit).max() for t in (1.0, 4.0, 20.0, 100.0)}
    assert off[1.0] > off[4.0] > off[20.0] > off[100.0]
    assert off[100.0] < 0.03
    assert 3 < off[20.0] / off[100.0] < 7                   # 5 times the temperature


def test_without_the_square_the_weight_of_the_loss_falls_with_the_temperature():
    def size(t, squared):
        g = soft_cross_entropy(Z_S, Z_T, temperature=t, squared=squared)[1](np.array(1.0))[0]
        return np.abs(g).max()

    assert size(20.0, False) / size(100.0, False) == pytest.approx(25, rel=0.1)
    assert size(20.0, True) / size(100.0, True) == pytest.approx(1, rel=0.1)


def test_hinton_of_labels_alone_is_cross_entropy_and_its_limits_are_its_parts():
    hard, back = hinton(Z_S, Y, Z_T, alpha=1.0, beta=0.0)
    assert np.isclose(hard, -np.log(softmax(Z_S))[np.arange(5), Y].mean())
    assert np.allclose(back(np.array(1.0))[0], (softmax(Z_S) - np.eye(4)[Y]) / 5)
    soft = soft_cross_entropy(Z_S, Z_T, temperature=3.0, squared=False)
    value, back = hinton(Z_S, Y, Z_T, alpha=0.0, beta=2.0, temperature=3.0, squared=False)
    assert np.isclose(value, 2 * soft[0])
    assert np.allclose(back(SEED)[0], 2 * soft[1](SEED)[0])
    assert back(SEED)[1:] == (None, None)


@given(arrays(np.float64, (2, 2, 3, 2), elements=st.floats(-3, 3).filter(lambda v: abs(v) > 0.01)),
       st.floats(0.1, 10), st.integers(1, 3))
def test_attention_does_not_see_scale_or_the_order_of_channels(a, scale, power):
    other = np.concatenate([scale * a[..., ::-1]] * 2, axis=-1)
    assert np.isclose(attention_transfer(a, other, beta=1.0, power=power)[0], 0, atol=1e-12)
    value, pullback = attention_transfer(a, a[:, ::-1], beta=1.0, power=power)
    assert 0 <= value <= 1                                  # maps are never negative
    # A step along the layer itself changes its scale alone.
    assert np.isclose((pullback(np.array(1.0))[0] * a).sum(), 0, atol=1e-9)


def test_a_dead_map_has_no_direction_and_gets_no_gradient():
    value, pullback = attention_transfer(np.zeros((1, 2, 2, 1)), np.ones((1, 2, 2, 1)), beta=2.0)
    assert np.isclose(value, 1.0)
    assert not pullback(np.array(1.0))[0].any()


def test_a_hint_of_the_own_architecture_is_half_the_squared_distance():
    value, pullback = hint(A_S, A_T[..., :3], np.eye(3))
    assert np.isclose(value, ((A_S - A_T[..., :3]) ** 2).sum() / 6)
    g, none, _ = pullback(np.array(1.0))
    assert np.allclose(g, (A_S - A_T[..., :3]) / 3)
    assert none is None


def test_dtypes_are_kept_and_huge_logits_stay_finite():
    small = [np.float32(a) for a in (Z_S, Z_T)]
    for loss in (soft_cross_entropy, divergence):
        value, pullback = loss(*small)
        assert value.dtype == pullback(np.float32(1))[0].dtype == np.float32
        assert np.isfinite(loss(1e4 * Z_S, -1e4 * Z_T)[0])
    for loss in (hinton, apprentice, co_study):
        value, pullback = loss(small[0], Y, small[1])
        assert {value.dtype, *(g.dtype for g in pullback(np.float32(1)) if g is not None)} == {
            np.dtype(np.float32)}
    value, pullback = attention_transfer(np.float32(A_S), np.float32(A_T), beta=1.0)
    assert value.dtype == pullback(np.float32(1))[0].dtype == np.float32
    value, pullback = hint(np.float32(A_S), np.float32(A_T), np.float32(R))
    assert value.dtype == pullback(np.float32(1))[2].dtype == np.float32


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda: soft_cross_entropy(Z_S, Z_T[:4]), ValueError, r"`teacher` must have shape \(5, 4\)"),
    (lambda: soft_cross_entropy(Z_S[:0], Z_T[:0]), ValueError, r"`student` must have shape \(n, c"),
    (lambda: soft_cross_entropy(Z_S, Z_T, temperature=0), ValueError, "`temperature` must be pos"),
    (lambda: divergence(Z_S, Z_T, temperature="warm"), TypeError, "`temperature` must be a real"),
    (lambda: divergence(Y[:, None], Z_T), TypeError, "`student` must be float32 or float64"),
    (lambda: hinton(Z_S, Y + 1, Z_T), ValueError, r"`labels` must lie in \[0, 3\]; got 4"),
    (lambda: hinton(Z_S, Y[:2], Z_T), ValueError, r"`labels` must have shape \(5,\)"),
    (lambda: hinton(Z_S, Y, Z_T, alpha="much"), TypeError, "`alpha` must be a real number"),
    (lambda: hint(A_S, A_T, R.T), ValueError, r"`regressor` must have shape \(5, 3\)"),
    (lambda: hint(A_S, A_T[:, :1], R), ValueError, r"`teacher` must have shape \(3, 2, 2, 5\)"),
    (lambda: attention_transfer(A_S, A_T[:2], beta=1.0), ValueError, "`teacher` must have shape"),
    (lambda: attention_transfer(A_S, A_T, beta=1.0, power=0), ValueError, "`power` must be at l"),
])
def test_bad_arguments_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.peer
def test_torch_finds_the_same_values_and_gradients():
    torch = pytest.importorskip("torch")
    f = torch.nn.functional
    t = 3.0
    z_s, z_t, a_s, a_t, r = (torch.tensor(a, requires_grad=True) for a in (Z_S, Z_T, A_S, A_T, R))
    y = torch.tensor(Y)

    def kl(own, other):
        return t * t * f.kl_div(f.log_softmax(own / t, 1), f.log_softmax(other.detach() / t, 1),
                                reduction="batchmean", log_target=True)

    def direction(a):
        return f.normalize((a ** 2).sum(-1).flatten(1))

    mutual = sum(f.cross_entropy(o, y) + kl(o, c) for o, c in ((z_s, z_t), (z_t, z_s)))
    own = f.cross_entropy(z_t, y) + 0.5 * f.cross_entropy(z_s, y)
    cases = [
        (divergence(Z_S, Z_T, temperature=t), kl(z_s, z_t), (z_s, None)),
        (co_study(Z_S, Y, Z_T, temperature=t), mutual, (z_s, None, z_t)),
        (hinton(Z_S, Y, Z_T, alpha=0.2, beta=0.7, temperature=t), 0.2 * f.cross_entropy(z_s, y)
         + 0.7 * t * t * f.cross_entropy(z_s / t, f.softmax(z_t.detach() / t, 1)),
         (z_s, None, None)),
        (apprentice(Z_S, Y, Z_T), own + 0.5 * f.cross_entropy(z_s, f.softmax(z_t.detach(), 1)),
         (z_s, None, z_t)),
        (hint(A_S, A_T, R), ((a_s @ r.T - a_t.detach()) ** 2).sum() / 6, (a_s, None, r)),
        (attention_transfer(A_S, A_T, beta=2.5),
         2.5 / 6 * ((direction(a_s) - direction(a_t.detach())) ** 2).sum(), (a_s, None)),
    ]
    for (value, pullback), expected, leaves in cases:
        assert np.isclose(value, expected.item(), rtol=1e-12)
        wanted = torch.autograd.grad(expected, [leaf for leaf in leaves if leaf is not None])
        found = [g for g in pullback(np.array(1.0)) if g is not None]
        assert len(found) == len(wanted)
        for g, w in zip(found, wanted, strict=True):
            assert np.allclose(g, w, rtol=1e-9, atol=1e-12)
