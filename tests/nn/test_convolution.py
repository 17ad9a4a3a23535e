"""Convolutions: the definition as a loop, finite differences, adjointness, torch."""

from functools import partial

import numpy as np
import pytest
from _oracles.derivatives import assert_dtypes, assert_pullback
from hypothesis import assume, example, given
from hypothesis import strategies as st

from refquant.nn.convolution import conv2d, depthwise_conv2d, patches

GEOMETRY = st.tuples(
    st.integers(1, 7),      # height
    st.integers(1, 7),      # width
    st.integers(1, 4),      # kernel height
    st.integers(1, 4),      # kernel width
    st.integers(1, 3),      # stride
    st.integers(0, 3),      # padding
)


def arrays_for(geometry, n, inner, out, *, depthwise, biased, rng):
    h, w, kh, kw, _, padding = geometry
    assume(kh <= h + 2 * padding and kw <= w + 2 * padding)
    x = rng.standard_normal((n, h, w, inner))
    shape = (inner, kh, kw, 1) if depthwise else (out, kh, kw, inner)
    arrays = [x, rng.standard_normal(shape)]
    return [*arrays, rng.standard_normal(shape[0])] if biased else arrays


def by_loops(x, weight, bias=None, *, stride, padding, depthwise):
    """The equation of the docstring, one output pixel at a time."""
    xp = np.pad(x, ((0, 0), (padding,) * 2, (padding,) * 2, (0, 0)))
    kh, kw = weight.shape[1:3]
    out_h = (xp.shape[1] - kh) // stride + 1
    out_w = (xp.shape[2] - kw) // stride + 1
    y = np.zeros((len(x), out_h, out_w, len(weight)))
    for i in range(out_h):
        for j in range(out_w):
            window = xp[:, i * stride : i * stride + kh, j * stride : j * stride + kw]
            if depthwise:
                y[:, i, j] = np.einsum("nklc,ckl->nc", window, weight[..., 0])
            else:
                y[:, i, j] = np.einsum("nklc,oklc->no", window, weight)
    return y if bias is None else y + bias


@pytest.mark.parametrize("depthwise", [False, True])
@given(GEOMETRY, st.integers(1, 2), st.integers(1, 3), st.integers(1, 3), st.booleans())
@example((8, 8, 3, 3, 2, 1), 2, 3, 2, False)
@example((7, 5, 2, 4, 1, 3), 1, 1, 2, True)
@example((4, 4, 1, 1, 2, 0), 2, 2, 3, False)
def test_convolution_is_its_definition_and_its_pullback_the_derivative(
    depthwise, geometry, n, inner, out, biased
):
    rng = np.random.default_rng(0)
    arrays = arrays_for(geometry, n, inner, out, depthwise=depthwise, biased=biased, rng=rng)
    settings = {"stride": geometry[4], "padding": geometry[5]}
    op = partial(depthwise_conv2d if depthwise else conv2d, **settings)
    expected = by_loops(*arrays, **settings, depthwise=depthwise)
    assert np.allclose(op(*arrays)[0], expected, rtol=1e-12, atol=1e-12)
    assert_pullback(op, arrays, rng=rng)
    assert_dtypes(op, arrays)


@pytest.mark.parametrize("depthwise", [False, True])
@given(GEOMETRY, st.integers(1, 3), st.integers(1, 3))
def test_convolution_is_bilinear_and_its_pullbacks_are_the_adjoints(
    depthwise, geometry, inner, out
):
    """<g, conv(x, w)> = <conv_dx(g, w), x> = <conv_dw(g, x), w>, exactly in real arithmetic."""
    rng = np.random.default_rng(1)
    x, w = arrays_for(geometry, 2, inner, out, depthwise=depthwise, biased=False, rng=rng)
    op = depthwise_conv2d if depthwise else conv2d
    y, pullback = op(x, w, stride=geometry[4], padding=geometry[5])
    g = rng.standard_normal(y.shape)
    dx, dw = pullback(g)
    scale = np.abs(g).sum() + 1
    assert abs((g * y).sum() - (dx * x).sum()) <= 1e-12 * scale
    assert abs((g * y).sum() - (dw * w).sum()) <= 1e-12 * scale
    doubled, _ = op(2 * x, w, stride=geometry[4], padding=geometry[5])
    assert np.array_equal(doubled, 2 * y)


@given(GEOMETRY, st.integers(1, 3), st.integers(1, 3))
def test_convolution_is_linear_on_patches(geometry, inner, out):
    kh, kw, stride, padding = geometry[2:]
    x, weight = arrays_for(
        geometry, 2, inner, out, depthwise=False, biased=False, rng=np.random.default_rng(2)
    )
    rows = patches(x, (kh, kw), stride=stride, padding=padding)
    assert rows.flags.c_contiguous
    product = rows @ weight.reshape(out, -1).T
    assert np.allclose(product, conv2d(x, weight, stride=stride, padding=padding)[0], rtol=1e-12)


def test_depthwise_is_a_convolution_with_a_diagonal_weight():
    rng = np.random.default_rng(3)
    x, w = rng.standard_normal((2, 5, 6, 3)), rng.standard_normal((3, 3, 3, 1))
    full = np.zeros((3, 3, 3, 3))
    full[range(3), :, :, range(3)] = w[..., 0]
    for stride in (1, 2):
        narrow, _ = depthwise_conv2d(x, w, stride=stride, padding=1)
        assert np.allclose(narrow, conv2d(x, full, stride=stride, padding=1)[0])


def test_arguments_are_left_alone():
    rng = np.random.default_rng(4)
    x, w, b = rng.standard_normal((1, 4, 4, 2)), rng.standard_normal((2, 3, 3, 2)), np.ones(2)
    copies = x.copy(), w.copy(), b.copy()
    y, pullback = conv2d(x, w, b, padding=1)
    pullback(np.ones_like(y))
    y, pullback = depthwise_conv2d(x, w[..., :1], b, padding=1)
    pullback(np.ones_like(y))
    for array, copy in zip((x, w, b), copies, strict=True):
        assert np.array_equal(array, copy)


def test_shapes_that_do_not_fit_are_refused():
    x = np.zeros((1, 4, 4, 2))
    with pytest.raises(ValueError, match=r"\(out, height, width, 2\); got \(3, 3, 3, 1\)"):
        conv2d(x, np.zeros((3, 3, 3, 1)))
    with pytest.raises(ValueError, match=r"`kernel` must fit .* 4 by 4 pixels; got \(5, 5\)"):
        conv2d(x, np.zeros((1, 5, 5, 2)))
    with pytest.raises(ValueError, match=r"\(2, height, width, 1\); got \(2, 3, 3, 2\)"):
        depthwise_conv2d(x, np.zeros((2, 3, 3, 2)))
    with pytest.raises(ValueError, match=r"fit the padded image; got kernel \(5, 5\)"):
        depthwise_conv2d(x, np.zeros((2, 5, 5, 1)))
    with pytest.raises(ValueError, match="`stride` must be at least 1; got 0"):
        conv2d(x, np.zeros((1, 1, 1, 2)), stride=0)
    with pytest.raises(ValueError, match="`padding` must be at least 0; got -1"):
        depthwise_conv2d(x, np.zeros((2, 1, 1, 1)), padding=-1)


@pytest.mark.peer
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("depthwise", [False, True])
def test_values_and_gradients_equal_torch(stride, padding, depthwise):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(5)
    x = rng.standard_normal((2, 6, 7, 4))
    w = rng.standard_normal((4, 3, 3, 1) if depthwise else (5, 3, 3, 4))
    b = rng.standard_normal(len(w))
    op = depthwise_conv2d if depthwise else conv2d
    y, pullback = op(x, w, b, stride=stride, padding=padding)
    g = rng.standard_normal(y.shape)
    tensors = [torch.tensor(a, requires_grad=True) for a in (_nchw(x), _nchw(w), b)]
    theirs = torch.nn.functional.conv2d(
        *tensors, stride=stride, padding=padding, groups=4 if depthwise else 1
    )
    theirs.backward(torch.tensor(_nchw(g)))
    assert np.allclose(_nchw(y), theirs.detach().numpy(), rtol=1e-12, atol=1e-12)
    dx, dw, db = pullback(g)
    for part, tensor in zip((_nchw(dx), _nchw(dw), db), tensors, strict=True):
        assert np.allclose(part, tensor.grad.numpy(), rtol=1e-12, atol=1e-12)


def _nchw(a):
    return np.ascontiguousarray(a.transpose(0, 3, 1, 2))
