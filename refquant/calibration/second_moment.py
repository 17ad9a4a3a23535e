r"""The second moment of a layer's inputs: all that a linear layer's error depends on.

If a weight W is replaced by W - D, the outputs :math:`y = W x` change by D x, and

.. math:: \mathbb{E}\,\lVert D x \rVert^2 = \mathrm{tr}(D\, H D^T), \qquad
          H = \mathbb{E}[x x^T] .

So H, one number for each pair of inputs, replaces the data: it merges from batch to
batch, and methods that repair a rounding (OBQ, GPTQ, QuIP) or judge one (AWQ) need
nothing else. In papers it is called the Hessian; it is that of the squared error, up
to a factor that changes no method.
"""

from typing import NamedTuple, Self

import numpy as np

from refquant._types import Array
from refquant._validate import (
    as_reals,
    as_unmasked,
    require_finite,
    require_nonempty,
    require_same_shape,
)

__all__ = ["SecondMoment", "output_error"]


class SecondMoment(NamedTuple):
    r"""Sum of the outer products of input rows, and how many there were.

    Attributes
    ----------
    total : ndarray of float64, shape (in, in)
        :math:`\sum_i x_i x_i^T`.
    size : int
        Rows seen.

    References
    ----------
    Frantar et al., 2023, arXiv:2210.17323, section 3.1.

    Examples
    --------
    >>> x = np.array([[1.0, 2.0], [3.0, 4.0]])
    >>> SecondMoment.of(x[:1]).merge(SecondMoment.of(x[1:])).hessian
    array([[ 5.,  7.],
           [ 7., 10.]])
    """

    total: Array
    size: int

    @classmethod
    def of(cls, x: Array) -> Self:
        """Second moment of one batch.

        Parameters
        ----------
        x : ndarray of float, shape (..., in)
            Inputs of a linear layer; of a convolution, its `patches`.

        Returns
        -------
        SecondMoment
            Summed in float64.

        Raises
        ------
        ValueError
            If `x` is empty or not finite.
        """
        x = as_reals("x", x)
        if not x.ndim:
            raise ValueError("`x` must have rows; got a number")
        require_nonempty("x", x)
        rows = x.reshape(-1, x.shape[-1]).astype(np.float64, copy=False)
        with np.errstate(all="ignore"):
            total = rows.T @ rows
        require_finite("x", total)              # a NaN or an infinity ends in its own diagonal
        return cls(total, len(rows))

    def merge(self, other: Self) -> Self:
        """Second moment of the data of both.

        Parameters
        ----------
        other : SecondMoment
            Of as many inputs.

        Returns
        -------
        SecondMoment

        Raises
        ------
        ValueError
            If the shapes differ.
        """
        require_same_shape("other", other.total, self.total.shape)
        return type(self)(self.total + other.total, self.size + other.size)

    @property
    def hessian(self) -> Array:
        """Mean of the outer products, shape (in, in)."""
        return self.total / self.size


def output_error(difference: Array, hessian: Array) -> float:
    r"""Mean squared error of a layer's output, from the error of its weight.

    .. math:: \frac{1}{\mathrm{out}} \mathrm{tr}(D H D^T)

    Parameters
    ----------
    difference : ndarray of float, shape (out, in)
        D, the weight minus what replaces it.
    hessian : ndarray of float, shape (in, in)
        H, the mean of the inputs' outer products.

    Returns
    -------
    float
        In squared units of the output: over the inputs that H was taken from, and exact.

    Raises
    ------
    ValueError
        If the shapes do not fit, or there is no output.

    References
    ----------
    Nagel et al., 2020, arXiv:2004.10568, eq. (13); Chee et al., 2023, arXiv:2307.13304,
    eq. (1) (the proxy loss).

    Examples
    --------
    >>> x = np.array([[1.0, 2.0], [3.0, 4.0]])
    >>> d = np.array([[0.1, -0.2]])
    >>> round(output_error(d, SecondMoment.of(x).hessian), 6), round(((x @ d.T)**2).mean(), 6)
    (0.17, np.float64(0.17))
    """
    difference, hessian = as_unmasked("difference", difference), as_unmasked("hessian", hessian)
    if difference.ndim != 2 or not len(difference):
        raise ValueError("`difference` must have shape (out, in), out at least 1; "
                         f"got {difference.shape}")
    n = difference.shape[-1]
    require_same_shape("hessian", hessian, (n, n))
    return float(np.einsum("oi,ij,oj->", difference, hessian, difference, optimize=True)
                 / len(difference))
