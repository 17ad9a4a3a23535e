r"""Rate and distortion: what a bit buys, and the same price for it everywhere.

A layer with n elements of variance :math:`\sigma^2`, coded ideally at R bits an element, keeps the
error :math:`n \sigma^2 2^{-2R}`. The best way to spend a number of bits gives every layer the same
error per element, the *water level*, and nothing to a layer that lies below it. Bits of real
quantizers are whole and their errors come from tables; what is left of the theorem is the *price*:
each layer by itself takes the choice for which loss + price * cost is least.

========================  ==================================================
function                  gives
========================  ==================================================
`reverse_water_filling`   real bits, optimal for the law
`whole_bits`              whole bits for the law, one bit after another
`at_price`                from tables: each layer's choice at a price
`by_price`                from tables: the price that meets a limit, and the rest spent greedily
========================  ==================================================
"""

import heapq

import numpy as np
import numpy.typing as npt

from refquant._types import Array, Codes
from refquant._validate import (
    as_reals,
    require_counts,
    require_int,
    require_nonempty,
    require_number,
    require_positive,
    require_same_shape,
)
from refquant.mixed_precision._tables import (
    as_cost,
    as_loss,
    best_uniform,
    require_limit,
    total,
    within,
)

__all__ = ["at_price", "by_price", "distortion", "reverse_water_filling", "whole_bits"]

#: Halvings of the interval of prices: more than a float64 has bits.
_HALVINGS = 200


def distortion(variances: Array, counts: Array, rates: npt.ArrayLike) -> float:
    r"""Total squared error at given rates.

    .. math:: D = \sum_i n_i \sigma_i^2 2^{-2 R_i}

    Parameters
    ----------
    variances : ndarray of float, shape (layers,)
        Above 0; times the importance of the layer, if it has one.
    counts : ndarray of int, shape (layers,)
        Elements of each layer.
    rates : ndarray, shape (layers,)
        Bits for each element.

    Returns
    -------
    float

    References
    ----------
    Cover and Thomas, 2006, "Elements of Information Theory", theorem 10.3.2.

    Examples
    --------
    >>> distortion(np.array([4.0, 1.0]), np.array([1, 2]), np.array([1, 0]))
    3.0
    """
    variances, counts = _layers(variances, counts)
    require_same_shape("rates", np.asarray(rates), variances.shape)
    return float((counts * variances * 4.0 ** -np.asarray(rates, np.float64)).sum())


def reverse_water_filling(variances: Array, counts: Array, bits: float) -> Array:
    r"""Bits for each element of each layer with the least distortion.

    .. math:: R_i = \max\bigl(0, \tfrac12 \log_2 (\sigma_i^2 / \lambda)\bigr),
              \qquad \sum_i n_i R_i = \text{bits}

    Parameters
    ----------
    variances : ndarray of float, shape (layers,)
        Above 0.
    counts : ndarray of int, shape (layers,)
        Elements of each layer, at least 1.
    bits : float
        To spend in all, at least 0.

    Returns
    -------
    ndarray of float64, shape (layers,)
        At least 0, real.

    Raises
    ------
    ValueError
        If a variance or count is not positive, the shapes differ, or `bits` is negative.

    Notes
    -----
    The level is found by sorting, not by bisection: the layers with bits are the m of largest
    variance, for the largest m that leaves all of them some.

    References
    ----------
    Cover and Thomas, 2006, "Elements of Information Theory", theorem 10.3.3.

    Examples
    --------
    >>> v = np.array([4.0, 1.0, 0.5, 0.05, 0.01])
    >>> reverse_water_filling(v, np.ones(5, int), 7.5).round(2)
    array([3.29, 2.29, 1.79, 0.13, 0.  ])
    """
    variances, counts = _layers(variances, counts)
    require_number("bits", bits)
    if not 0 <= bits < np.inf:
        raise ValueError(f"`bits` must be finite and not negative; got {bits}")
    logs = np.log2(variances) / 2
    order = np.argsort(-logs, kind="stable")
    n, height = counts[order].astype(np.float64), logs[order]
    levels = (np.cumsum(n * height) - bits) / np.cumsum(n)
    holds = height >= levels
    holds[0] = True                             # whatever rounding says: somebody gets the bits
    last = np.flatnonzero(holds)[-1]
    return np.maximum(logs - levels[last], 0)


def whole_bits(variances: Array, counts: Array, bits: int, *, largest: int = 8) -> Codes:
    r"""Whole bits for each element of each layer, given one by one to where the error is largest.

    One more bit for layer i takes three quarters of its error :math:`n_i \sigma_i^2 4^{-b_i}` away
    and costs :math:`n_i` bits: so the next bit goes where :math:`\sigma_i^2 4^{-b_i}` is largest,
    if it still fits.

    Parameters
    ----------
    variances : ndarray of float, shape (layers,)
        Above 0.
    counts : ndarray of int, shape (layers,)
        Elements of each layer, at least 1.
    bits : int
        To spend in all, at least 0.
    largest : int
        Most bits for one layer.

    Returns
    -------
    ndarray of int32, shape (layers,)
        Optimal if all counts are equal, since the gains fall. Never worse than the same bits for
        all.

    References
    ----------
    Fox, 1966, Management Science 13, pp. 210-216 (marginal analysis); Gersho and Gray, 1992,
    "Vector Quantization and Signal Compression", section 8.4.

    Examples
    --------
    >>> whole_bits(np.array([4.0, 1.0, 0.5, 0.05, 0.01]), np.ones(5, int), 7)
    array([3, 2, 2, 0, 0], dtype=int32)
    """
    variances, counts = _layers(variances, counts)
    left, largest = require_int("bits", bits, 0), require_int("largest", largest, 0)
    given = np.zeros(len(variances), np.int32)
    queue = [(-float(v), i) for i, v in enumerate(variances)]
    heapq.heapify(queue)
    while queue:
        error, i = heapq.heappop(queue)
        if given[i] < largest and counts[i] <= left:
            left -= int(counts[i])
            given[i] += 1
            heapq.heappush(queue, (error / 4, i))
    same = np.full_like(given, min(bits // int(counts.sum()), largest))
    return min(given, same, key=lambda rates: distortion(variances, counts, rates))


def at_price(loss: npt.ArrayLike, cost: npt.ArrayLike, price: float) -> Codes:
    r"""Choice of each layer by itself when a unit of cost has a price.

    .. math:: k_i = \arg\min_k \; \Omega_{ik} + \mu C_{ik}

    Whatever this allocation costs, no other that costs as much or less has a smaller loss.

    Parameters
    ----------
    loss, cost : ndarray, shape (layers, choices)
    price : float
        :math:`\mu \ge 0`, loss for a unit of cost.

    Returns
    -------
    ndarray of int32, shape (layers,)
        The cheaper one of equals.

    References
    ----------
    Everett, 1963, Operations Research 11, pp. 399-417, theorem 1; Shoham and Gersho, 1988, IEEE
    Transactions on Acoustics, Speech and Signal Processing 36, pp. 1445-1453.

    Examples
    --------
    >>> at_price([[9.0, 1.0], [2.0, 1.5]], [[2, 4], [20, 40]], 1.0)
    array([1, 0], dtype=int32)
    """
    loss = as_loss("loss", loss)
    cost = as_cost("cost", cost, loss.shape)
    require_number("price", price)
    if not price >= 0:
        raise ValueError(f"`price` must not be negative; got {price}")
    paid = loss + price * cost
    paid_least = paid == paid.min(1, keepdims=True)
    return np.where(paid_least, cost, np.inf).argmin(1).astype(np.int32)


def by_price(loss: npt.ArrayLike, cost: npt.ArrayLike, limit: float) -> Codes:
    """Choices near the least loss within a limit, by the lowest price that meets it.

    What the price leaves over is spent greedily: the change of one layer that saves most loss for
    each unit of cost, as long as one fits.

    Parameters
    ----------
    loss, cost : ndarray, shape (layers, choices)
    limit : float

    Returns
    -------
    ndarray of int32, shape (layers,)
        Within the limit. On the hull of the frontier it is optimal (`lower_hull` of
        `refquant.mixed_precision.pareto`), and nowhere worse than the best uniform allocation.

    Raises
    ------
    ValueError
        If no allocation meets the limit; the message says what the least is.

    References
    ----------
    Shoham and Gersho, 1988, IEEE Transactions on Acoustics, Speech and Signal Processing 36,
    pp. 1445-1453.

    Examples
    --------
    >>> by_price([[9.0, 1.0], [2.0, 1.5]], [[2, 4], [20, 40]], 30)
    array([1, 0], dtype=int32)
    """
    loss = as_loss("loss", loss)
    cost = as_cost("cost", cost, loss.shape)
    require_limit("limit", limit)
    cheapest = _cheapest(loss, cost)
    if not within(total(cost, cheapest), limit):
        raise ValueError(f"`limit` must be within reach; got {limit}, but the least possible is "
                         f"{total(cost, cheapest)}")
    choice = _spend_rest(loss, cost, limit, _lowest_price(loss, cost, limit, cheapest))
    same = best_uniform(loss, cost, limit)
    return choice if same is None or total(loss, choice) <= total(loss, same) else same


def _lowest_price(loss: Array, cost: Array, limit: float, cheapest: Codes) -> Codes:
    """The choice at the lowest price whose cost is within the limit."""
    free = at_price(loss, cost, 0.0)
    if within(total(cost, free), limit):
        return free
    low, high, best = 0.0, float(np.ptp(loss)) + 1.0, cheapest
    while not within(total(cost, at_price(loss, cost, high)), limit) and high < 1e200:
        high *= 2
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        choice = at_price(loss, cost, middle)
        if within(total(cost, choice), limit):
            high, best = middle, choice
        else:
            low = middle
    return best


def _spend_rest(loss: Array, cost: Array, limit: float, choice: Codes) -> Codes:
    """Changes of one layer that still fit, the most saving for each unit of cost first."""
    choice = choice.copy()
    rows = np.arange(len(loss))
    while True:
        saved = loss[rows, choice][:, None] - loss
        extra = cost - cost[rows, choice][:, None]
        spent = total(cost, choice)
        fits = np.array([[within(spent + e, limit) for e in row] for row in extra.tolist()])
        per_unit = np.where(extra > 0, saved / np.where(extra > 0, extra, 1), np.inf)
        rate = np.where(fits & (saved > 0), per_unit, -np.inf)
        i, k = np.unravel_index(rate.argmax(), rate.shape)
        if not rate[i, k] > 0:
            return choice
        choice[i] = k


def _cheapest(loss: Array, cost: Array) -> Codes:
    """The least cost of each layer; of equals the one of least loss."""
    return np.where(cost == cost.min(1, keepdims=True), loss, np.inf).argmin(1).astype(np.int32)


def _layers(variances: Array, counts: Array) -> tuple[Array, Array]:
    variances, counts = as_reals("variances", variances), require_counts("counts", counts)
    require_nonempty("variances", variances)
    require_same_shape("variances", variances, counts.shape)
    require_positive("variances", variances)
    require_positive("counts", counts)
    return variances.astype(np.float64), counts.astype(np.int64)
