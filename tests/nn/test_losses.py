"""Cross-entropy: value, gradient, extremes."""

import numpy as np
import pytest
from _oracles.derivatives import assert_dtypes, assert_pullback
from hypothesis import given
from hypothesis import strategies as st

from refquant.nn.losses import softmax_cross_entropy


@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 99))
def test_value_is_the_definition_and_pullback_the_derivative(n, classes, seed):
    rng = np.random.default_rng(seed)
    z, y = rng.standard_normal((n, classes)) * 3, rng.integers(0, classes, n)
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    value, pullback = softmax_cross_entropy(z, y)
    assert np.isclose(value, -np.log(p[np.arange(n), y]).mean())
    assert_pullback(softmax_cross_entropy, [z, y], differentiable={0}, rng=rng)
    assert_dtypes(softmax_cross_entropy, [z, y])
    gradient, none = pullback(np.array(1.0))
    assert none is None
    assert np.allclose(gradient.sum(1), 0)


@given(st.floats(-1e6, 1e6), st.integers(0, 2))
def test_adding_a_constant_to_all_logits_changes_nothing(shift, label):
    z = np.array([[1.0, 2.0, 3.0]])
    a, _ = softmax_cross_entropy(z, np.array([label]))
    b, _ = softmax_cross_entropy(z + shift, np.array([label]))
    assert np.isclose(a, b, atol=1e-9)                      # 1e6 costs ten digits


def test_huge_logits_do_not_overflow():
    value, pullback = softmax_cross_entropy(np.array([[1e4, 0.0], [0.0, 1e4]]), np.array([0, 0]))
    assert value == 5000.0
    assert np.isfinite(pullback(np.array(1.0))[0]).all()


def test_bad_labels_are_refused():
    z = np.zeros((2, 3))
    with pytest.raises(ValueError, match=r"`labels` must lie in \[0, 2\]; got 3"):
        softmax_cross_entropy(z, np.array([0, 3]))
    with pytest.raises(ValueError, match=r"`labels` must have shape \(2,\); got \(1,\)"):
        softmax_cross_entropy(z, np.array([0]))
    with pytest.raises(TypeError, match="`labels` must be integers; got float64"):
        softmax_cross_entropy(z, np.zeros(2))
    with pytest.raises(ValueError, match=r"n >= 1; got \(0, 3\)"):
        softmax_cross_entropy(np.zeros((0, 3)), np.zeros(0, int))


@pytest.mark.peer
def test_value_and_gradient_equal_torch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    z, y = rng.standard_normal((5, 4)), rng.integers(0, 4, 5)
    tensor = torch.tensor(z, requires_grad=True)
    theirs = torch.nn.functional.cross_entropy(tensor, torch.tensor(y))
    theirs.backward()
    value, pullback = softmax_cross_entropy(z, y)
    assert np.isclose(value, theirs.item(), rtol=1e-13)
    assert np.allclose(pullback(np.array(1.0))[0], tensor.grad.numpy(), rtol=1e-12)
