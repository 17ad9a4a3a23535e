r"""A codebook: any levels, anywhere; a code is the number of a level.

.. math:: Q(r) = X_i \quad\text{if}\quad r \in (\Delta_{i-1}, \Delta_i]

with levels :math:`X_0 \le \dots \le X_{k-1}` and k - 1 thresholds
:math:`\Delta_0 \le \dots \le \Delta_{k-2}` between them. Every quantizer of single
numbers has this form; the others of this package have a formula for it. The
modules that choose the levels:

=================  ==========================================================
`power_of_two`     powers of two and sums of them: multiplication by shifts
`normal_float`     quantiles of the normal density, one block scale (NF4)
`lloyd_max`        the best there are for a known density
`kmeans`           found from the data, a local optimum (Lloyd)
`optimal_kmeans`   found from the data, the global optimum
=================  ==========================================================
"""

from dataclasses import dataclass

import numpy as np

from refquant._types import Array, Codes
from refquant._validate import (
    as_reals,
    require_broadcastable,
    require_codes,
    require_finite,
    require_no_nan,
)

__all__ = ["Codebook", "nearest"]


@dataclass(frozen=True, eq=False)
class Codebook:
    """Code ``i`` stands for ``levels[i]`` and is given to a cell between two thresholds.

    Attributes
    ----------
    levels : ndarray of float, shape (k, ...), k >= 1, ascending along the first axis
        One codebook for all data is ``(k,)``. One for each channel has further
        axes: ``levels[i]``, like a scale, has the rank of the data and broadcasts
        to it. Repeated levels are allowed; codes are then left unused.
    thresholds : ndarray of float, shape (k - 1, ...), ascending along the first axis
        A value equal to ``thresholds[i]`` takes code i, the lower one.

    Raises
    ------
    ValueError
        If there is no level, one is not finite, the levels or thresholds do not
        ascend, or their shapes do not belong together.
    TypeError
        If levels or thresholds are not float.

    Notes
    -----
    The survey leaves the tie open (its cells are closed on both sides). Here it
    goes to the lower level, as in ``numpy.searchsorted`` from the left and in the
    comparison trees of bitsandbytes, LQ-Nets and N2UQ.

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, eq. (5).

    Examples
    --------
    >>> q = Codebook(np.array([-1.0, 0.0, 4.0]), np.array([-0.5, 1.0]))
    >>> q.encode(np.array([-9.0, -0.5, 0.9, 1.1]))
    array([0, 0, 1, 2], dtype=int32)
    >>> q.decode(np.array([0, 2]))
    array([-1.,  4.])
    """

    levels: Array
    thresholds: Array

    def __post_init__(self) -> None:
        for name in ("levels", "thresholds"):
            object.__setattr__(self, name, as_reals(name, getattr(self, name)))
        _require_levels(self.levels)
        require_finite("thresholds", self.thresholds)
        expected = (len(self.levels) - 1, *self.levels.shape[1:])
        if self.thresholds.shape != expected:
            raise ValueError(
                f"`thresholds` must have the shape {expected}, one fewer than the levels; "
                f"got {self.thresholds.shape}"
            )
        _require_ascending("thresholds", self.thresholds)

    def encode(self, x: Array) -> Codes:
        """Number of the cell that each element lies in: how many thresholds are below it.

        Parameters
        ----------
        x : ndarray of float, any shape that ``levels[0]`` broadcasts to

        Returns
        -------
        ndarray of int32, shape of `x`, from 0 to k - 1
        """
        x = as_reals("x", x)
        require_broadcastable("levels[0]", self.levels[0], x.shape)
        require_no_nan("x", x)
        if self.levels.ndim == 1:               # one codebook: a binary search
            return np.searchsorted(self.thresholds, x).astype(np.int32)
        codes = np.zeros(x.shape, np.int32)
        for threshold in self.thresholds:
            codes += x > threshold
        return codes

    def decode(self, codes: Array) -> Array:
        """Real value of each code.

        Parameters
        ----------
        codes : ndarray of int, from 0 to k - 1

        Returns
        -------
        ndarray of float, dtype of `levels`, shape of `codes`
        """
        codes = require_codes("codes", codes, 0, len(self.levels) - 1)
        require_broadcastable("levels[0]", self.levels[0], codes.shape)
        if self.levels.ndim == 1:
            return self.levels[codes]
        # Each channel looks into its own table; no table is copied.
        k, *channels = self.levels.shape
        tables = self.levels.reshape(k, *(1,) * (codes.ndim - len(channels)), *channels)
        tables = np.broadcast_to(tables, (k, *codes.shape))
        return np.take_along_axis(tables, codes[np.newaxis], axis=0)[0]

    @property
    def code_bits(self) -> int:
        """Bits that the number of a level takes: log2 k, rounded up."""
        return (len(self.levels) - 1).bit_length()

    def parameter_bits(self, *, float_bits: int = 32) -> int:
        """Bits of the levels; decoding needs no thresholds."""
        return self.levels.size * float_bits


def nearest(levels: Array) -> Codebook:
    r"""Codebook in which every value takes the nearest level, a tie the lower one.

    .. math:: \Delta_i = \frac{X_i + X_{i+1}}{2}

    Parameters
    ----------
    levels : ndarray of float, shape (k, ...), k >= 1, ascending along the first axis

    Returns
    -------
    Codebook
        With thresholds in float64, where the midpoints of float32 levels are
        exact (unless the two differ by a factor above 2**28).

    Raises
    ------
    ValueError
        If there is no level, one is not finite, or they do not ascend.
    TypeError
        If the levels are not float.

    References
    ----------
    Lloyd, "Least squares quantization in PCM", 1982, doi:10.1109/TIT.1982.1056489,
    eq. (4): the best cells for given levels.

    Examples
    --------
    >>> nearest(np.array([-1.0, 0.0, 4.0])).thresholds
    array([-0.5,  2. ])
    """
    levels = as_reals("levels", levels)
    _require_levels(levels)
    # Halves are added, so that the sum of two large levels cannot overflow; a
    # sum first is exact for subnormal levels, whose halves are not.
    wide = levels.astype(np.float64)
    below, above = wide[:-1], wide[1:]
    with np.errstate(over="ignore"):
        middle = (below + above) / 2
    return Codebook(levels, np.where(np.isfinite(middle), middle, below / 2 + above / 2))


def _require_levels(levels: Array) -> None:
    if levels.ndim == 0 or len(levels) == 0:
        raise ValueError(
            f"`levels` must have at least one level along its first axis; got shape {levels.shape}"
        )
    require_finite("levels", levels)
    _require_ascending("levels", levels)


def _require_ascending(name: str, values: Array) -> None:
    falls = values[1:] < values[:-1]
    if falls.any():
        at = np.argwhere(falls)[0]
        below, above = values[tuple(at)], values[(at[0] + 1, *at[1:])]
        raise ValueError(f"`{name}` must ascend; got {below} before {above}")
