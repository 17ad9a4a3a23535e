"""LQ-Nets: nearest levels by brute force, least squares by its normal equations, descent."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from refquant.qat.lq_nets import (
    SIGNS,
    ZERO_ONE,
    fake_quantize_activation,
    fake_quantize_weight,
    initial_activation_basis,
    initial_weight_basis,
    qem_step,
)
from refquant.quantizers.binary_code import BinaryCode

BASES = st.integers(1, 4).flatmap(lambda k: arrays(np.float64, k, elements=st.floats(-2, 2)))
DATA = arrays(np.float64, st.integers(1, 30), elements=st.floats(-5, 5))
KINDS = st.sampled_from([SIGNS, ZERO_ONE])


def levels(basis, multipliers):
    return sorted(float(np.dot(e, basis)) for e in product(multipliers, repeat=len(basis)))


def error(x, basis, multipliers):
    table = np.array(levels(basis, multipliers))
    return np.square(x[:, np.newaxis] - table).min(1).sum()


@given(DATA, BASES, KINDS)
def test_each_number_gets_its_nearest_level(x, basis, kind):
    f = fake_quantize_weight if kind == SIGNS else fake_quantize_activation
    value, pullback = f(x, basis)
    table = np.array(levels(basis, kind))
    nearest = np.abs(x[:, np.newaxis] - table).min(1)
    assert np.allclose(np.abs(x - value), nearest, atol=1e-12)
    assert np.isclose(value[:, np.newaxis], table, atol=1e-12).any(1).all()
    again, _ = f(value, basis)
    assert np.allclose(again, value, atol=1e-12)
    passed = pullback(np.ones_like(x))[0]
    assert np.array_equal(passed, np.ones_like(x) if kind == SIGNS else x < table[-1])


@given(DATA, arrays(np.float64, 3, elements=st.floats(0.01, 2)))
def test_weights_are_a_binary_code(x, basis):
    q = BinaryCode(basis)
    value, _ = fake_quantize_weight(x, basis)
    assert np.allclose(value, q.decode(q.encode(x)), atol=1e-12)


@given(DATA, BASES, KINDS)
def test_a_round_never_increases_the_error(x, basis, kind):
    after = qem_step(x, basis, kind)
    assert error(x, after, kind) <= error(x, basis, kind) * (1 + 1e-9) + 1e-9


@given(DATA, BASES, KINDS)
def test_the_basis_is_the_least_squares_fit_to_its_codes(x, basis, kind):
    f = fake_quantize_weight if kind == SIGNS else fake_quantize_activation
    value, _ = f(x, basis)
    table = {round(float(np.dot(e, basis)), 9): e for e in product(kind, repeat=len(basis))}
    if len(table) < 2 ** len(basis):
        return                                      # two codes of one value: either may be taken
    b = np.array([table[round(float(v), 9)] for v in value]).T
    after = qem_step(x, basis, kind)
    assert np.allclose(b @ (x - after @ b), 0, atol=1e-8 * (1 + np.abs(x).sum()))


def test_repeated_rounds_find_the_levels_that_made_the_data():
    rng = np.random.default_rng(0)
    true = np.array([0.3, 1.1])
    x = rng.choice(np.array(levels(true, SIGNS)), 200)
    basis = np.array([0.4, 0.9])
    for _ in range(20):
        basis = qem_step(x, basis, SIGNS)
    assert np.allclose(sorted(np.abs(basis)), true, atol=1e-12)


def test_uniform_data_get_powers_of_two():
    x = (np.arange(20_000) + 0.5) / 10_000 - 1
    basis = np.array([0.2, 0.5])
    for _ in range(200):
        basis = qem_step(x, basis, SIGNS)
    assert np.allclose(sorted(basis), [0.25, 0.5], atol=1e-3)


def test_ridge_and_momentum_are_those_of_the_released_code():
    rng = np.random.default_rng(1)
    x, basis = rng.standard_normal(50), np.array([0.5, 1.0])
    value, _ = fake_quantize_weight(x, basis)
    table = {float(np.dot(e, basis)): e for e in product(SIGNS, repeat=2)}
    b = np.array([table[v] for v in value]).T
    direct = np.linalg.solve(b @ b.T + 1e-4 * np.eye(2), b @ x + 1e-4 * basis)
    assert np.allclose(qem_step(x, basis, SIGNS, ridge=1e-4), direct, rtol=1e-12)
    mixed = qem_step(x, basis, SIGNS, ridge=1e-4, momentum=0.9)
    assert np.allclose(mixed, 0.9 * basis + 0.1 * direct, rtol=1e-12)
    assert np.array_equal(qem_step(x, basis, SIGNS, momentum=1.0), basis)


def test_per_channel_is_a_loop_and_dtypes_stay():
    rng = np.random.default_rng(2)
    w = rng.standard_normal((5, 3, 3, 4)).astype(np.float32)
    basis = rng.uniform(0.2, 1, (2, 5, 1, 1, 1)).astype(np.float32)
    value, pullback = fake_quantize_weight(w, basis)
    after = qem_step(w, basis, SIGNS)
    assert value.dtype == after.dtype == pullback(w)[0].dtype == np.float32
    for k in range(5):
        one, _ = fake_quantize_weight(w[k], basis[:, k])
        assert np.array_equal(one, value[k])
        assert np.allclose(qem_step(w[k], basis[:, k], SIGNS), after[:, k], rtol=1e-5)


def test_the_first_bases_are_equal_steps():
    for planes in (1, 2, 3):
        step = np.diff(levels(initial_activation_basis(planes), ZERO_ONE))
        assert np.allclose(step, step[0])
        assert np.isclose(levels(initial_activation_basis(planes), ZERO_ONE)[-1], 2 * 0.6745)
        top = levels(initial_weight_basis(planes, 36), SIGNS)[-1]
        assert np.isclose(top, 0.6745 * np.sqrt(2 / 36) * (2**planes - 1) / 2 ** (planes - 1))


def test_no_data_and_one_code_change_nothing_that_is_not_determined():
    assert np.array_equal(qem_step(np.zeros(0), np.array([1.0, 2.0]), SIGNS), [1, 2])
    after = qem_step(np.array([3.0, 3.0]), np.array([1.0, 2.0]), SIGNS)
    assert np.isclose(after.sum(), 3)
    constant, _ = fake_quantize_weight(np.zeros(2), np.zeros(1))
    assert np.array_equal(constant, [0, 0])


@pytest.mark.parametrize(("call", "message"), [
    (lambda: fake_quantize_weight(np.array([np.nan]), np.ones(1)), "`w` must not contain NaN"),
    (lambda: fake_quantize_weight(np.ones(2), np.array(1.0)), "`basis` must have the planes"),
    (lambda: fake_quantize_weight(np.ones(2), np.ones(9)), "`planes of `basis`` must be at most 8"),
    (lambda: fake_quantize_weight(np.ones(2), np.ones((1, 3))), r"`basis\[0\]` must broadcast"),
    (lambda: qem_step(np.array([np.inf]), np.ones(1), SIGNS), "`x` must be finite; got inf"),
    (lambda: qem_step(np.ones(1), np.ones(1), SIGNS, ridge=-1), "`ridge` must be finite"),
    (lambda: qem_step(np.ones(1), np.ones(1), SIGNS, momentum=2), r"`momentum` must lie in \[0, 1"),
    (lambda: initial_weight_basis(0, 3), "`planes` must be at least 1; got 0"),
    (lambda: initial_weight_basis(1, 0), "`fan_out` must be at least 1; got 0"),
])
def test_wrong_values_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
