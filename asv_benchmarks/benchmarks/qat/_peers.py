"""One call forward and backward, ours and the same formula in torch, on equal arrays."""

import numpy as np

from benchmarks.common import need, size

N = size(2**18)


def data():
    """Values and an upstream gradient, as a layer of the digits network has them."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((2, 64, N // 64)).astype(np.float32)


def ours(estimator, *parameters):
    """A call that runs the estimator and its pullback."""
    x, g = data()
    arrays = [np.array(p, np.float32) for p in parameters]
    return lambda: estimator(x, *arrays)[1](g)


def torchs(reference, *parameters):
    """The same in torch, one thread: leaves, value, gradients."""
    torch = need("torch")
    torch.set_num_threads(1)
    x, g = (torch.tensor(a) for a in data())
    leaves = [torch.tensor(p, requires_grad=True) for p in parameters]
    x.requires_grad_(True)

    def run():
        for leaf in (x, *leaves):
            leaf.grad = None
        reference(x, *leaves).backward(g)

    return run


def straight(exact, smooth):
    """The value of the first, the gradient of the second."""
    return smooth + (exact - smooth).detach()
