r"""Batch normalization centres and scales each channel, then learns its own scale.

In training the mean and variance are those of the batch; the training loop keeps
their running averages, in the open, with `update_running`. In evaluation the
averages are constants and the operation is affine, so it can be folded into the
convolution before it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from refquant._types import Array
from refquant.nn._arrays import column_sums
from refquant.nn.network import Pullback, Trace

__all__ = [
    "Running",
    "batch_norm",
    "batch_norm_training",
    "update_running",
    "updated_statistics",
]


class Running(NamedTuple):
    """Averages of the batch statistics of one layer.

    Attributes
    ----------
    mean : ndarray of float, shape (channels,)
        Average of the batch means.
    variance : ndarray of float, shape (channels,)
        Average of the unbiased batch variances.

    References
    ----------
    Ioffe and Szegedy, 2015, arXiv:1502.03167, algorithm 2.
    """

    mean: Array
    variance: Array


def batch_norm_training(
    x: Array, gamma: Array, beta: Array, *, epsilon: float = 1e-5
) -> tuple[Array, Pullback]:
    r"""Each channel with mean beta and standard deviation gamma, over the batch.

    .. math:: y = \gamma \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta

    with :math:`\mu, \sigma^2` the mean and (biased) variance of `x` over all axes
    but the last. The gradient goes through both.

    Parameters
    ----------
    x : ndarray of float, shape (..., channels)
    gamma, beta : ndarray of float, shape (channels,)
    epsilon : float
        Keeps a constant channel finite. PyTorch's value; Keras has 1e-3.

    Returns
    -------
    value : ndarray, shape of `x`
    pullback : callable
        Gradients of `x`, `gamma`, `beta`.

    References
    ----------
    Ioffe and Szegedy, 2015, arXiv:1502.03167, algorithm 1 and section 3.

    Examples
    --------
    >>> y, _ = batch_norm_training(np.array([[1.0], [3.0]]), np.ones(1), np.zeros(1))
    >>> y.round(3).ravel()
    array([-1.,  1.])
    """
    size = x.size // x.shape[-1]
    mean = column_sums(x) / size
    centred = _per_channel(x, np.subtract, mean)
    squares = column_sums(centred * centred)
    inverse = 1 / np.sqrt(squares / size + epsilon)
    y = _per_channel(centred, np.multiply, gamma * inverse)
    _per_channel(y, np.add, beta, out=y)
    return y, _TrainingPullback(centred, gamma, inverse, mean, squares, size)


@dataclass(frozen=True, eq=False)
class _TrainingPullback:
    """The way back through `batch_norm_training`, and the moments that it found going forth."""

    centred: Array
    gamma: Array
    inverse: Array
    mean: Array
    squares: Array
    size: int

    def __call__(self, g: Array) -> tuple[Array | None, ...]:
        d_beta = column_sums(g)
        dx = g * self.centred
        d_gamma = column_sums(dx) * self.inverse
        # dx = gamma inverse (g - mean(g) - normalized mean(g normalized))
        _per_channel(self.centred, np.multiply, d_gamma * self.inverse / -self.size, out=dx)
        dx += g
        _per_channel(dx, np.subtract, d_beta / self.size, out=dx)
        _per_channel(dx, np.multiply, self.gamma * self.inverse, out=dx)
        return dx, d_gamma, d_beta


def batch_norm(
    x: Array, gamma: Array, beta: Array, mean: Array, variance: Array, *, epsilon: float = 1e-5
) -> tuple[Array, Pullback]:
    r"""The affine map that batch normalization is in evaluation.

    .. math:: y = r x + (\beta - r \mu), \qquad r = \gamma / \sqrt{\sigma^2 + \epsilon}

    Parameters
    ----------
    x : ndarray of float, shape (..., channels)
    gamma, beta : ndarray of float, shape (channels,)
    mean, variance : ndarray of float, shape (channels,)
        The running statistics.
    epsilon : float
        As in training.

    Returns
    -------
    value : ndarray, shape of `x`
    pullback : callable
        Gradients of all five arrays.

    References
    ----------
    Ioffe and Szegedy, 2015, arXiv:1502.03167, algorithm 2, step 11.

    Examples
    --------
    >>> one = np.ones(1)
    >>> batch_norm(np.array([[5.0]]), 2 * one, one, 3 * one, 4 * one, epsilon=0.0)[0]
    array([[3.]])
    """
    inverse = 1 / np.sqrt(variance + epsilon)
    slope = gamma * inverse
    centred = _per_channel(x, np.subtract, mean)
    y = _per_channel(_per_channel(centred, np.multiply, slope), np.add, beta)

    def pullback(g: Array) -> tuple[Array | None, ...]:
        d_beta, moment = column_sums(g), column_sums(g * centred)
        d_variance = moment * slope * inverse * inverse * -0.5
        dx = _per_channel(g, np.multiply, slope)
        return dx, moment * inverse, d_beta, d_beta * -slope, d_variance

    return y, pullback


def update_running(running: Running, x: Array, *, momentum: float = 0.1) -> Running:
    r"""Running statistics after one more batch.

    .. math:: \mu \leftarrow (1 - m)\,\mu + m\,\mu_B, \qquad
              \sigma^2 \leftarrow (1 - m)\,\sigma^2 + m\,\sigma_B^2 \frac{n}{n-1}

    Parameters
    ----------
    running : Running
    x : ndarray of float, shape (..., channels), at least two rows
        What the normalization reads: the value of its first input.
    momentum : float
        m, the weight of the new batch (PyTorch's sense of the word).

    Returns
    -------
    Running

    Raises
    ------
    ValueError
        If `momentum` is outside [0, 1], or one row leaves no variance to speak of.

    References
    ----------
    Ioffe and Szegedy, 2015, arXiv:1502.03167, algorithm 2, step 10 (unbiased).

    Examples
    --------
    >>> start = Running(np.zeros(1), np.ones(1))
    >>> after = update_running(start, np.array([[1.0], [3.0]]))
    >>> after.mean.round(3), after.variance.round(3)
    (array([0.2]), array([1.1]))
    """
    _require_momentum(momentum, x)
    size = x.size // x.shape[-1]
    mean = column_sums(x) / size
    centred = _per_channel(x, np.subtract, mean)
    return _moved(running, mean, column_sums(centred * centred), size, momentum)


def _moved(running: Running, mean: Array, squares: Array, size: int, momentum: float) -> Running:
    """`running` after a batch of `size` rows with this mean and this sum of squares about it."""
    variance = squares / (size - 1)
    return Running(
        (1 - momentum) * running.mean + momentum * mean,
        (1 - momentum) * running.variance + momentum * variance,
    )


def updated_statistics(
    trace: Trace, statistics: Mapping[str, Array], *, momentum: float = 0.1
) -> dict[str, Array]:
    """Running statistics of every normalization after the batch of `trace`.

    Parameters
    ----------
    trace : Trace
        Of a run. A node in training form, ``L.norm``, has the statistics ``L.mean`` and
        ``L.variance``; all other nodes have none.
    statistics : mapping of str to ndarray
        Before the batch.
    momentum : float
        As in `update_running`.

    Returns
    -------
    dict of str to ndarray
        A new one. Statistics that no node has stay as they are.

    Raises
    ------
    ValueError
        If `statistics` lacks those of a normalization.

    References
    ----------
    Ioffe and Szegedy, 2015, arXiv:1502.03167, algorithm 2, step 10.

    Examples
    --------
    >>> from refquant.nn.network import Node, run
    >>> nodes = [Node("a.norm", batch_norm_training, ("x", "g", "b"))]
    >>> one = np.ones(1)
    >>> trace = run(nodes, {"x": np.array([[1.0], [3.0]]), "g": one, "b": one})
    >>> updated_statistics(trace, {"a.mean": 0 * one, "a.variance": one})["a.mean"]
    array([0.2])
    """
    new = dict(statistics)
    for node, pullback in trace.pullbacks:
        if isinstance(pullback, _TrainingPullback):
            layer = node.name.rpartition(".")[0]
            names = f"{layer}.mean", f"{layer}.variance"
            if not {*names} <= statistics.keys():
                raise ValueError(f"`statistics` must hold {names[0]!r} and {names[1]!r}; got "
                                 f"{sorted(statistics)}")
            _require_momentum(momentum, trace.values[node.inputs[0]])
            before = Running(*(statistics[name] for name in names))
            found = pullback.mean, pullback.squares, pullback.size
            new.update(zip(names, _moved(before, *found, momentum), strict=True))
    return new


def _require_momentum(momentum: float, x: Array) -> None:
    """Raise unless `momentum` is a share, and the rows of `x` have a variance."""
    if not 0 <= momentum <= 1:
        raise ValueError(f"`momentum` must lie in [0, 1]; got {momentum}")
    if x.size // x.shape[-1] < 2:
        raise ValueError(f"`x` must have at least two rows; got shape {x.shape}")


def _per_channel(
    x: Array, operation: np.ufunc, channel: Array, *, out: Array | None = None
) -> Array:
    """``operation(x, channel)``, with `channel` repeated along one image.

    Broadcasting over a short last axis runs an inner loop of that length; over
    a whole image at a time the same numbers come out several times faster.
    """
    long = x.reshape(len(x), -1)
    repeated = np.tile(channel, long.shape[1] // x.shape[-1])
    into = None if out is None else out.reshape(long.shape)
    return operation(long, repeated, out=into).reshape(x.shape)
