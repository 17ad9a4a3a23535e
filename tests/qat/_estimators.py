"""The vectors of the specification, and what is tried on every estimator."""

import numpy as np

#: Inputs and gradients of the published vectors. -0.75 is a tie for a step of 0.3 or 0.5.
X = np.array([-1.3, -0.75, -0.31, -0.05, 0.0, 0.12, 0.4, 0.95, 1.6])
G = np.arange(1, 10) / 10


def close(actual, wanted):
    """Equal to the digits that are printed."""
    np.testing.assert_allclose(actual, wanted, rtol=0, atol=6e-7)


def slopes(f, x, *, step=1e-6):
    """Central differences of a smooth function of one number, at each element of `x`."""
    return (f(x + step) - f(x - step)) / (2 * step)


def by_torch(reference, g, *arrays):
    """Value and gradients of the same estimator, written with ``detach`` for torch.autograd."""
    import torch

    leaves = [torch.tensor(a, requires_grad=True) for a in arrays]
    y = reference(*leaves)
    y.backward(torch.tensor(g))
    return y.detach().numpy(), [leaf.grad.numpy() for leaf in leaves]


def straight(exact, smooth):
    """A torch tensor with the value of the first and the gradient of the second."""
    return smooth + (exact - smooth).detach()
