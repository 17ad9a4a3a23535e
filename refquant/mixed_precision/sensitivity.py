r"""Sensitivity: measure what the network loses when one layer alone gets fewer bits.

A table with a row for each layer and a column for each choice (such as a bit-width). Three ways to
fill it, from cheap to dear:

=======================  ============================================  =========================
entry                    function                                      needs
=======================  ============================================  =========================
error of the weights     `weighted_error`                              nothing
the same, weighted by    `weighted_error` with an importance: of the   gradients, or products
curvature                Hessian (HAWQ) or `fisher_diagonal`           with the Hessian
change of the output     `one_at_a_time` with `prediction_divergence`  a run for each entry
loss that is added       `one_at_a_time`, then `added_loss`            the same, and labels
=======================  ============================================  =========================

Whatever is made of such a table supposes that entries *add*: that two layers hurt together lose
what each loses alone.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import starmap
from typing import TypeAlias

import numpy as np

from refquant._types import Array
from refquant._validate import (
    as_reals,
    require_finite,
    require_int,
    require_nonempty,
    require_same_shape,
)
from refquant.mixed_precision._progress import silent

__all__ = ["Progress", "added_loss", "fisher_diagonal", "one_at_a_time", "prediction_divergence",
           "weighted_error"]

#: Entries done, entries in all, the table so far (a copy; NaN where nothing is known yet).
Progress: TypeAlias = Callable[[int, int, Array], None]


def one_at_a_time(
    measure: Callable[[int, int], float],
    shape: tuple[int, int],
    *,
    known: Array | None = None,
    each: Callable[[Callable[[int, int], float], Iterable[tuple[int, int]]],
                   Iterable[float]] = starmap,
    progress: Progress = silent,
) -> Array:
    """Table of what a measure finds with one layer changed and all others in float.

    Parameters
    ----------
    measure : callable, (layer, choice) -> float
        Runs the network with that layer alone in that choice.
    shape : tuple of int
        Layers and choices, at least one of each.
    known : ndarray of float, shape (layers, choices), optional
        Entries measured before; NaN where they were not. A search that was interrupted goes on
        from the last table its `progress` saw.
    each : callable, (measure, entries) -> iterable of float
        Applies the measure to all entries and gives the values in their order: one after the
        other, or several at once.
    progress : callable, (done, total, table)

    Returns
    -------
    ndarray of float64, shape (layers, choices)

    Raises
    ------
    ValueError
        If `shape` is not positive, or `known` does not have it, or a measured value is not finite.

    References
    ----------
    Cai et al., 2020, arXiv:2001.00281 (ZeroQ): the sensitivity of layer i in k bits.

    Examples
    --------
    >>> one_at_a_time(lambda layer, choice: layer + 0.5 * choice, (2, 3))
    array([[0. , 0.5, 1. ],
           [1. , 1.5, 2. ]])
    """
    layers, choices = (require_int("shape", size, 1) for size in shape)
    table = np.full((layers, choices), np.nan)
    if known is not None:
        table[...] = as_reals("known", known)
        require_same_shape("known", known, table.shape)
    entries = [(int(layer), int(choice)) for layer, choice in np.argwhere(np.isnan(table))]
    for (layer, choice), value in zip(entries, map(float, each(measure, entries)), strict=True):
        if not np.isfinite(value):
            raise ValueError(f"`measure` must be finite; got {value} at ({layer}, {choice})")
        table[layer, choice] = value
        progress(table.size - int(np.isnan(table).sum()), table.size, table.copy())
    return table


def prediction_divergence(logits: Array, other: Array) -> float:
    r"""How much the predictions change: mean Kullback-Leibler divergence over the inputs, in nats.

    .. math:: \Omega = \frac1n \sum_i \sum_c p_{ic} (\log p_{ic} - \log q_{ic}),
              \qquad p = \mathrm{softmax}(\text{logits}),\; q = \mathrm{softmax}(\text{other})

    Parameters
    ----------
    logits : ndarray of float, shape (n, classes)
        Of the float network. Its predictions p are the weights: classes that it rules out do not
        count.
    other : ndarray of float, shape (n, classes)
        Of the network with one layer changed.

    Returns
    -------
    float
        At least 0; 0 if each row differs by a constant.

    Raises
    ------
    ValueError
        If the shapes differ, there is no row, or a logit is not finite.

    Notes
    -----
    No small number is added inside the logarithms, as ZeroQ's code does: the logarithm of a softmax
    is finite without it.

    References
    ----------
    Cai et al., 2020, arXiv:2001.00281 (ZeroQ), the sensitivity of a layer.

    Examples
    --------
    >>> prediction_divergence(np.array([[0.0, 0.0]]), np.array([[5.0, 5.0]]))
    0.0
    >>> round(prediction_divergence(np.array([[0.0, 0.0]]), np.array([[0.0, np.log(3)]])), 4)
    0.1438
    """
    log_p, log_q = _log_softmax("logits", logits), _log_softmax("other", other)
    require_same_shape("other", other, logits.shape)
    # Rounding can leave a divergence of equal predictions a little below 0.
    return max(0.0, float((np.exp(log_p) * (log_p - log_q)).sum(1).mean()))


def added_loss(losses: Array, base: float, *, least: float = 1e-6) -> Array:
    """Loss that each entry adds to that of the float network.

    Parameters
    ----------
    losses : ndarray of float, shape (layers, choices)
        With one layer changed.
    base : float
        Of the float network on the same inputs.
    least : float
        What an entry counts for whose loss is no larger. A loss that falls is a gift of chance:
        taken at its word, it would pay for damage elsewhere.

    Returns
    -------
    ndarray of float64, shape (layers, choices)

    References
    ----------
    Hubara et al., 2020, arXiv:2006.10518 (integer programming), and the authors' code for the
    floor.

    Examples
    --------
    >>> added_loss(np.array([[0.5, 0.25]]), 0.25)
    array([[2.5e-01, 1.0e-06]])
    """
    losses = as_reals("losses", losses)
    require_finite("losses", losses)
    return np.maximum(losses.astype(np.float64) - base, least)


def weighted_error(
    weights: Sequence[Array],
    candidates: Sequence[Sequence[Array]],
    importance: Sequence[Array | float] | None = None,
) -> Array:
    r"""Squared error of each candidate weight, each element counted by its importance.

    .. math:: \Omega_{ik} = \sum_j h_{ij}\,\bigl(Q_k(W_i) - W_i\bigr)_j^2

    ================================  ===========================================
    :math:`h_i`                       gives
    ================================  ===========================================
    1                                 the squared norm of the change
    top eigenvalue of the Hessian     HAWQ: a bound of the change of the loss
    its trace over the elements       HAWQ-V2: the mean over all directions
    `fisher_diagonal`                 the elements apart, off-diagonals left out
    ================================  ===========================================

    With one half before it, and a Hessian, it is the second-order term of the loss.

    Parameters
    ----------
    weights : sequence of ndarray of float
        One for each layer.
    candidates : sequence of sequences of ndarray of float
        ``candidates[i][k]`` is layer i in choice k.
    importance : sequence of float or ndarray, optional
        For each layer one number, or an array that broadcasts to its weight. Default 1.

    Returns
    -------
    ndarray of float64, shape (layers, choices)

    Raises
    ------
    ValueError
        If there is not one row of candidates, all of one length, and one importance for each layer,
        or a candidate has not the shape of its weight.

    References
    ----------
    Dong et al., 2020, arXiv:1911.03852 (HAWQ-V2), the perturbation Omega; Dong et al., 2019,
    arXiv:1905.03696.

    Examples
    --------
    >>> w = np.array([0.5, 2.0])
    >>> weighted_error([w], [[np.round(w), np.zeros(2)]])
    array([[0.25, 4.25]])
    >>> weighted_error([w], [[np.round(w), np.zeros(2)]], [np.array([4.0, 1.0])])
    array([[1., 5.]])
    """
    importance = [1.0] * len(weights) if importance is None else importance
    if not len(weights) == len(candidates) == len(importance) > 0:
        raise ValueError(f"`weights`, `candidates` and `importance` must be of one length; got "
                         f"{len(weights)}, {len(candidates)} and {len(importance)}")
    if len({len(row) for row in candidates}) > 1:
        raise ValueError(f"`candidates` must have rows of one length; got "
                         f"{[len(row) for row in candidates]}")
    table = np.empty((len(weights), len(candidates[0])))
    for i, (weight, row) in enumerate(zip(weights, candidates, strict=True)):
        for k, candidate in enumerate(row):
            require_same_shape(f"candidates[{i}][{k}]", candidate, weight.shape)
            change = candidate.astype(np.float64) - weight
            table[i, k] = np.sum(importance[i] * change**2)
    require_finite("weighted error", table)
    return table


def fisher_diagonal(gradients: Iterable[Array]) -> Array:
    r"""Mean square of the gradients of single inputs: the diagonal of the Fisher information.

    .. math:: F_j = \frac1n \sum_i \Bigl(\frac{\partial \ell_i}{\partial w_j}\Bigr)^2

    For labels drawn from the network's own predictions it is, on average, the diagonal of the
    Gauss-Newton part of the Hessian; for the true labels it is the "empirical" one.

    Parameters
    ----------
    gradients : iterable of ndarray of float, all of one shape
        One for each *single* input. The square of a batch's mean gradient is not this: at a minimum
        it is 0.

    Returns
    -------
    ndarray of float64, shape of a gradient

    Raises
    ------
    ValueError
        If there is none, or the shapes differ.

    References
    ----------
    Kunstner et al., 2019, arXiv:1905.12558; Li et al., 2021, arXiv:2102.05426 (BRECQ), for its use
    in quantization.

    Examples
    --------
    >>> fisher_diagonal([np.array([1.0, -2.0]), np.array([-1.0, 0.0])])
    array([1., 2.])
    """
    total, count = np.zeros(()), 0
    for gradient in gradients:
        square = np.square(as_reals("gradients", gradient), dtype=np.float64)
        if count:
            require_same_shape("gradients", square, total.shape)
        total, count = total + square, count + 1
    if not count:
        raise ValueError("`gradients` must hold at least one gradient; got none")
    return total / count


def _log_softmax(name: str, logits: Array) -> Array:
    """Logarithm of the softmax of each row, in float64."""
    logits = as_reals(name, logits).astype(np.float64)
    if logits.ndim != 2:
        raise ValueError(f"`{name}` must have shape (n, classes); got {logits.shape}")
    require_nonempty(name, logits)
    require_finite(name, logits)
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
