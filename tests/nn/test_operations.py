"""Every plain operation: its value by definition, its pullback by finite differences."""

from functools import partial

import numpy as np
import pytest
from _oracles.derivatives import assert_dtypes, assert_pullback
from hypothesis import given
from hypothesis import strategies as st

from refquant.nn import operations
from refquant.nn.operations import (
    add,
    average_pool,
    flatten,
    global_average_pool,
    linear,
    max_pool,
    relu,
    relu6,
)

SIDES = st.integers(1, 7)


def image(n, h, w, c, seed=0):
    """Distinct values, none near a kink: a shuffled ladder around zero."""
    rng = np.random.default_rng(seed)
    ladder = np.arange(n * h * w * c) - n * h * w * c / 2 + 0.25
    return rng.permutation(ladder).reshape(n, h, w, c) / 8


@given(st.integers(1, 5), SIDES, SIDES, st.booleans(), st.booleans(), st.integers(0, 99))
def test_linear_pullback_is_the_derivative(n, inner, out, biased, stacked, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2, n, inner) if stacked else (n, inner))
    arrays = [x, rng.standard_normal((out, inner))]
    if biased:
        arrays.append(rng.standard_normal(out))
    assert_pullback(linear, arrays, rng=rng)
    assert_dtypes(linear, arrays)


def test_linear_is_x_times_weight_transposed():
    rng = np.random.default_rng(0)
    x, w, b = rng.standard_normal((3, 4, 5)), rng.standard_normal((2, 5)), rng.standard_normal(2)
    assert np.allclose(linear(x, w, b)[0], np.einsum("nti,oi->nto", x, w) + b)


@given(st.integers(1, 3), SIDES, SIDES, st.integers(1, 3), st.integers(0, 99))
def test_elementwise_pullbacks_are_derivatives(n, h, w, c, seed):
    x = image(n, h, w, c, seed)
    for op in (relu, relu6, flatten, global_average_pool):
        assert_pullback(op, [x])
        assert_dtypes(op, [x])
    assert_pullback(add, [x, x[::-1].copy()])


@given(st.integers(1, 2), SIDES, SIDES, st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))
def test_pooling_is_the_loop_over_windows_and_its_derivative(n, h, w, c, size, stride):
    size = min(size, h, w)
    x = image(n, h, w, c)
    for op, reduce in ((max_pool, np.max), (average_pool, np.mean)):
        value, _ = op(x, size=size, stride=stride)
        for i in range(value.shape[1]):
            for j in range(value.shape[2]):
                top, left = i * stride, j * stride
                window = x[:, top : top + size, left : left + size]
                assert np.allclose(value[:, i, j], reduce(window, axis=(1, 2)))
        assert (value.shape[1] - 1) * stride + size <= h < value.shape[1] * stride + size
        assert_pullback(partial(op, size=size, stride=stride), [x])
        assert_dtypes(partial(op, size=size, stride=stride), [x])


def test_pooling_steps_by_its_size_unless_told():
    x = image(1, 4, 4, 1)
    assert np.array_equal(max_pool(x, size=2)[0], max_pool(x, size=2, stride=2)[0])


def test_ties_of_max_pool_go_to_the_first_winner():
    y, pullback = max_pool(np.ones((1, 2, 2, 1)), size=2)
    assert pullback(np.ones_like(y))[0].ravel().tolist() == [1, 0, 0, 0]


def test_gradients_at_the_corners_are_zero():
    assert relu(np.zeros(1))[1](np.ones(1))[0] == 0
    assert relu6(np.array([0.0, 6.0]))[1](np.ones(2))[0].tolist() == [0, 0]


def test_shapes_that_do_not_fit_are_refused():
    x = np.zeros((2, 3))
    with pytest.raises(ValueError, match=r"`weight` must have shape \(out, 3\); got \(3, 4\)"):
        linear(x, np.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"`other` must have shape \(2, 3\); got \(3,\)"):
        add(x, np.zeros(3))
    with pytest.raises(ValueError, match="`size` must be at most 2; got 3"):
        max_pool(np.zeros((1, 2, 5, 1)), size=3)
    with pytest.raises(ValueError, match="`stride` must be at least 1; got 0"):
        average_pool(np.zeros((1, 2, 5, 1)), size=1, stride=0)


@pytest.mark.peer
@pytest.mark.parametrize("name", ["relu", "relu6", "max_pool", "average_pool", "linear"])
def test_values_and_gradients_equal_torch(name):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    x = image(2, 6, 5, 3)
    x[0, 0, 0, :] = [0.0, 6.0, -0.0]                        # the corners count too
    peers = {
        "relu": (relu, functional.relu),
        "relu6": (relu6, functional.relu6),
        "max_pool": (partial(max_pool, size=2), partial(functional.max_pool2d, kernel_size=2)),
        "average_pool": (
            partial(average_pool, size=3, stride=2),
            partial(functional.avg_pool2d, kernel_size=3, stride=2),
        ),
    }
    if name == "linear":
        rng = np.random.default_rng(0)
        arrays = [rng.standard_normal(s) for s in [(4, 3), (2, 3), (2,)]]
        tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
        y, pullback = linear(*arrays)
        theirs = functional.linear(*tensors)
        theirs.backward(torch.ones_like(theirs))
        assert np.allclose(y, theirs.detach().numpy(), rtol=1e-13)
        for part, tensor in zip(pullback(np.ones_like(y)), tensors, strict=True):
            assert np.allclose(part, tensor.grad.numpy(), rtol=1e-13)
        return
    ours, peer = peers[name]
    y, pullback = ours(x)
    tensor = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    theirs = peer(tensor)
    theirs.backward(torch.ones_like(theirs))
    assert np.allclose(y, theirs.detach().numpy().transpose(0, 2, 3, 1))
    grad = tensor.grad.numpy().transpose(0, 2, 3, 1)
    assert np.allclose(pullback(np.ones_like(y))[0], grad)


def test_everything_public_is_tested_here():
    assert set(operations.__all__) <= set(globals())
