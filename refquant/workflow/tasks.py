r"""Which task pays: the same bits cost one task nothing and another everything.

Scores of different tasks are made comparable by what there was to lose. With s for the score, of
the quantized network, of the float one and of whoever knows nothing about the input,

.. math:: \text{kept} = \frac{s_{quantized} - s_{chance}}{s_{float} - s_{chance}} ,

1 if nothing was lost, 0 if nothing is left; it does not matter whether high or low scores are good.

A classifier only asks which of ten numbers is the largest, and forgives errors smaller than the
margin. A regression (where in the image?) has no margin, and a sampler feeds its errors to itself.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from refquant._types import Array
from refquant._validate import as_reals, require_finite, require_int, require_number
from refquant.nn.network import Pullback
from refquant.quantizer import Fit, fake_quantize

__all__ = ["Placed", "degradation", "kept", "overlap", "placed", "squared_error"]


class Placed(NamedTuple):
    """Images with something in them, and where.

    Attributes
    ----------
    images : ndarray of float32, shape (n, side, side, 1)
    boxes : ndarray of float32, shape (n, 4)
        Top, left, bottom, right of the ink, in units of the side.

    References
    ----------
    Everingham et al., 2010, doi:10.1007/s11263-009-0275-4, section 3.
    """

    images: Array
    boxes: Array


def placed(digits: Array, side: int, *, rng: np.random.Generator) -> Placed:
    """Small images, each somewhere on an empty canvas.

    Parameters
    ----------
    digits : ndarray of float, shape (n, height, width, 1)
        In [0, 1]; what exceeds a quarter is ink.
    side : int
        Of the canvas, at least that of the images.
    rng : numpy.random.Generator
        Two draws of ``integers``: the rows and the columns.

    Returns
    -------
    Placed

    Raises
    ------
    ValueError
        If the canvas is too small, or an image has no ink.

    References
    ----------
    Everingham et al., 2010, doi:10.1007/s11263-009-0275-4, section 3.

    Examples
    --------
    >>> made = placed(np.ones((1, 2, 2, 1)), 4, rng=np.random.default_rng(0))
    >>> made.images[0, :, :, 0].sum(), made.boxes
    (np.float32(4.0), array([[0.5 , 0.25, 1.  , 0.75]], dtype=float32))
    """
    digits = as_reals("digits", digits)
    n, height, width = digits.shape[:3]
    require_int("side", side, max(height, width))
    down, right = rng.integers(0, side - height + 1, n), rng.integers(0, side - width + 1, n)
    images, boxes = np.zeros((n, side, side, 1), np.float32), np.empty((n, 4), np.float32)
    for i, (digit, r, c) in enumerate(zip(digits, down, right, strict=True)):
        images[i, r : r + height, c : c + width] = digit
        rows, columns = (np.flatnonzero((digit[:, :, 0] > 0.25).any(axis)) for axis in (1, 0))
        if not rows.size:
            raise ValueError(f"`digits` must have ink each; got none in image {i}")
        boxes[i] = (r + rows[0], c + columns[0], r + rows[-1] + 1, c + columns[-1] + 1)
    return Placed(images, boxes / side)


def overlap(boxes: Array, others: Array) -> Array:
    """Area of the intersection of two boxes over that of their union.

    Parameters
    ----------
    boxes, others : ndarray of float, shape (n, 4)
        Top, left, bottom, right. A box turned inside out has no area.

    Returns
    -------
    ndarray of float64, shape (n,)
        From 0 to 1, and 0 where neither has an area.

    Raises
    ------
    ValueError
        If the shapes differ.

    References
    ----------
    Everingham et al., 2010, doi:10.1007/s11263-009-0275-4, eq. (3).

    Examples
    --------
    >>> overlap(np.array([[0.0, 0.0, 2.0, 2.0]]), np.array([[1.0, 0.0, 3.0, 2.0]])).round(4)
    array([0.3333])
    """
    a, b = (as_reals(name, x).astype(np.float64) for name, x in
            (("boxes", boxes), ("others", others)))
    if a.shape != b.shape or a.ndim != 2 or a.shape[1] != 4:
        raise ValueError(f"`others` must have the shape (n, 4) of `boxes`, {a.shape}; "
                         f"got {b.shape}")

    def area(box: Array) -> Array:
        return np.asarray(np.prod(np.maximum(box[:, 2:] - box[:, :2], 0), axis=1))

    common = area(np.hstack([np.maximum(a, b)[:, :2], np.minimum(a, b)[:, 2:]]))
    union = area(a) + area(b) - common
    return np.divide(common, union, out=np.zeros_like(union), where=union > 0)


def squared_error(prediction: Array, target: Array) -> tuple[Array, Pullback]:
    r"""Mean over examples of :math:`\frac12 \sum_j (y_j - t_j)^2`: the ``loss`` of a regression.

    Parameters
    ----------
    prediction, target : ndarray of float, shape (n, m)

    Returns
    -------
    value : ndarray, shape ()
    pullback : callable
        The gradient of the prediction; the target has none.

    Raises
    ------
    ValueError
        If the shapes differ.

    References
    ----------
    Gauss, 1809, "Theoria motus corporum coelestium", section 179.

    Examples
    --------
    >>> squared_error(np.array([[1.0, 2.0]]), np.array([[0.0, 2.0]]))[0]
    array(0.5)
    """
    if prediction.shape != target.shape:
        raise ValueError(f"`target` must have shape {prediction.shape}; got {target.shape}")
    off = prediction - target

    def pullback(g: Array) -> tuple[Array, None]:
        return np.asarray(g * off / len(off), off.dtype), None

    return np.asarray((off * off).sum() / (2 * len(off)), off.dtype), pullback


def kept(score: float, exact: float, chance: float) -> float:
    """Share of what a network has learned that is left.

    Parameters
    ----------
    score : float
        Of the quantized network: accuracy, overlap, bits per character, distance.
    exact : float
        Of the float network.
    chance : float
        Of an answer that does not look at its input.

    Returns
    -------
    float
        1 if nothing was lost, 0 for chance, below 0 for worse than that.

    Raises
    ------
    ValueError
        If the float network is no better than chance, or a number is not finite.

    References
    ----------
    Cohen, 1960, doi:10.1177/001316446002000104 (agreement beyond chance).

    Examples
    --------
    >>> kept(0.75, 1.0, 0.5), kept(3.0, 2.0, 4.0)
    (0.5, 0.5)
    """
    for name, number in (("score", score), ("exact", exact), ("chance", chance)):
        require_number(name, number)
        require_finite(name, np.asarray(number))
    if exact == chance:
        raise ValueError(f"`exact` must differ from chance; got {exact} for both")
    return float((score - chance) / (exact - chance))


def degradation(
    values: Mapping[str, Array],
    names: Iterable[str],
    fits: Mapping[int, Fit],
    score: Callable[[dict[str, Array]], float],
) -> dict[int, float]:
    """Score of a network with its weights in each of several widths.

    Parameters
    ----------
    values : mapping of str to ndarray
        Parameters of the float network.
    names : iterable of str
        The weights to round.
    fits : mapping of int to callable, ndarray -> Quantizer
        By the number of bits.
    score : callable, parameters -> float

    Returns
    -------
    dict of int to float
        In the order of `fits`.

    References
    ----------
    Krishnamoorthi, 2018, arXiv:1806.08342, table 2.

    Examples
    --------
    >>> from refquant.quantizers.uniform import symmetric
    >>> fits = {b: lambda w, b=b: symmetric(np.array(1.0), bits=b) for b in (8, 2)}
    >>> made = degradation({"w": np.array([0.4])}, ["w"], fits, lambda v: v["w"].item())
    >>> {bits: round(score, 3) for bits, score in made.items()}
    {8: 0.402, 2: 0.0}
    """
    names = list(names)
    return {bits: float(score({**values, **{n: fake_quantize(values[n], fit(values[n]))
                                            for n in names}}))
            for bits, fit in fits.items()}
