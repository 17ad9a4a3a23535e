r"""QuIP: rotate the weight until no entry sticks out, round with feedback, rotate back.

Two ideas that need each other. *LDLQ* rounds column by column and feeds the errors of the
columns before into the next,

.. math:: \hat w_k = Q\bigl(w_k + (W - \hat W)_{:,<k}\, A_{<k,\,k}\bigr), \qquad
          H = (A + I)\, D\, (A + I)^T,

which is GPTQ in another dress, and optimal among all such feedbacks. *Incoherence*: its
guarantee is good when neither the weight nor the eigenvectors of H have large entries, and a
random rotation of both sides makes it so.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from refquant._types import Array
from refquant._validate import (
    as_reals,
    require_finite,
    require_int,
    require_kind,
    require_positive,
    require_quantizer,
    require_same_shape,
)
from refquant.ptq._curvature import damped, unit_upper
from refquant.ptq.rotation import kronecker
from refquant.quantizer import Fit, Quantizer

__all__ = ["Incoherent", "Rotation", "fixed_range", "ldlq", "polish", "quip"]

#: Size -> rotation of that size.
Rotation = Callable[[int], Array]


class Incoherent(NamedTuple):
    r"""A weight rounded in rotated coordinates: :math:`\hat W = U^T \hat W' V / d`.

    Attributes
    ----------
    rotated : ndarray of float64, shape (out, in)
        :math:`\hat W'`, the decoded codes.
    quantizer : Quantizer
        Of `rotated`: one for the whole matrix.
    left : ndarray of float64, shape (out, out)
        U.
    right : ndarray of float64, shape (in, in)
        V.
    column_scale : ndarray of float64, shape (in,)
        d.
    weight : ndarray, shape and dtype of the weight
        Back in the old coordinates.

    References
    ----------
    Chee et al., 2023, arXiv:2307.13304, algorithm 3.
    """

    rotated: Array
    quantizer: Quantizer
    left: Array
    right: Array
    column_scale: Array
    weight: Array


def ldlq(weight: Array, hessian: Array, quantizer: Quantizer, *, damping: float = 0.01) -> Array:
    r"""The weight rounded column by column, each fed with the errors of those before.

    Parameters
    ----------
    weight : ndarray of float, shape (out, in)
    hessian : ndarray of float, shape (in, in), positive semidefinite
        Second moment of the layer's inputs.
    quantizer : Quantizer
        For columns of shape (out, 1).
    damping : float, >= 0
        Added to the diagonal, relative to its mean.

    Returns
    -------
    ndarray of float64, shape (out, in)
        Decoded codes; the same as those of `gptq` with this quantizer.

    Raises
    ------
    ValueError
        If the shapes do not fit, a number is not finite, or `hessian` is not symmetric, or not
        positive definite even when damped.

    References
    ----------
    Chee et al., 2023, arXiv:2307.13304, eq. (2) and theorem 6 (equal to OPTQ).

    Examples
    --------
    >>> from refquant.quantizers.uniform import symmetric
    >>> hessian = np.array([[1.0, 0.9], [0.9, 1.0]])
    >>> ldlq(np.array([[0.6, 0.6]]), hessian, symmetric(np.array([[3.0]]), bits=3))
    array([[1., 0.]])
    """
    require_quantizer("quantizer", quantizer)
    work, h = damped(weight, hessian, damping)
    a, _ = unit_upper(h)
    rounded = np.zeros_like(work)
    for k in range(work.shape[1]):
        feedback = (work[:, :k] - rounded[:, :k]) @ a[:k, [k]]
        rounded[:, [k]] = quantizer.decode(quantizer.encode(work[:, [k]] + feedback))
    return rounded


def polish(
    weight: Array, rounded: Array, hessian: Array, quantizer: Quantizer, *, sweeps: int = 10
) -> Array:
    r"""A rounded weight, its columns rounded again, each for all others as they are.

    .. math:: \hat w_k \leftarrow Q\Bigl(\hat w_k
              - \frac{\bigl((\hat W - W) H\bigr)_k}{H_{kk}}\Bigr)

    The argument of Q is where the error :math:`\mathrm{tr}\,(\hat W - W) H (\hat W - W)^T` is least
    along this column, and the level nearest to it is the best: no step makes it worse.

    Parameters
    ----------
    weight, rounded : ndarray of float, shape (out, in)
        As it was, and as `ldlq` or nearest rounding has left it.
    hessian : ndarray of float, shape (in, in), positive semidefinite
        Second moment of the layer's inputs. A column whose input was always zero stays.
    quantizer : Quantizer
        For columns of shape (out, 1); takes each value to its nearest level.
    sweeps : int
        The most that are made, from the smallest diagonal entry up and back; ends when nothing
        moves any more.

    Returns
    -------
    ndarray of float64, shape (out, in)
        No change of a single code makes the error smaller, if `sweeps` was enough.

    Raises
    ------
    ValueError
        If the shapes do not fit, a number is not finite, or `hessian` is not symmetric.

    Notes
    -----
    The authors' code clips after each whole pass, and goes on with the error before the clip.

    References
    ----------
    Chee et al., 2023, arXiv:2307.13304, greedy updates (LDLQ-RG in the experiments).

    Examples
    --------
    >>> from refquant.quantizers.uniform import symmetric
    >>> hessian, q = np.array([[1.0, 0.9], [0.9, 1.0]]), symmetric(np.array([[3.0]]), bits=3)
    >>> polish(np.array([[0.4, 0.4]]), np.zeros((1, 2)), hessian, q)
    array([[1., 0.]])
    """
    require_int("sweeps", sweeps, 0)
    require_quantizer("quantizer", quantizer)
    work, h = damped(weight, hessian, 0.0)
    rounded = as_reals("rounded", rounded)
    require_same_shape("rounded", rounded, work.shape)
    require_finite("rounded", rounded)
    curvature = np.diag(as_reals("hessian", hessian))
    best, order = np.array(rounded, np.float64), np.argsort(curvature, kind="stable")
    order = order[curvature[order] > 0]
    for sweep in range(sweeps):
        before = best.copy()
        for k in order if sweep % 2 == 0 else order[::-1]:
            slope = (best - work) @ h[:, [k]]
            best[:, [k]] = quantizer.decode(quantizer.encode(best[:, [k]] - slope / h[k, k]))
        if np.array_equal(best, before):
            break
    return best


def fixed_range(weight: Array, *, bits: int, reach: float = 2.4) -> Quantizer:
    r"""Evenly spaced levels from -reach to +reach root mean squares, zero not among them.

    After a random rotation all entries look like draws from one normal distribution, so
    one range serves the whole matrix.

    Parameters
    ----------
    weight : ndarray of float
    bits : int
        1 to 16.
    reach : float
        In units of the root mean square.

    Returns
    -------
    Codebook
        :math:`2^b` levels.

    Raises
    ------
    ValueError
        If `weight` or `reach` is not finite, `reach` is not positive, or `bits` is out of range.

    References
    ----------
    Chee et al., 2023, arXiv:2307.13304, algorithm 1, line 6 and section 6 (rho = 2.4).

    Examples
    --------
    >>> fixed_range(np.array([[1.0, -1.0]]), bits=1).levels
    array([-2.4,  2.4])
    """
    from refquant.quantizers.codebook import nearest

    weight = as_reals("weight", weight)
    require_finite("weight", weight)
    bits = require_int("bits", bits, 1, 16)
    require_positive("reach", np.asarray(reach))
    size = float(np.sqrt(np.mean(np.square(weight, dtype=np.float64)))) if weight.size else 0.0
    return nearest(np.linspace(-1, 1, 2**bits) * reach * (size or 1.0))


def quip(
    weight: Array,
    hessian: Array,
    fit: Fit,
    *,
    rng: np.random.Generator,
    rotation: Callable[..., Array] = kronecker,
    damping: float = 0.01,
    sweeps: int = 0,
) -> Incoherent:
    r"""A weight rounded by `ldlq` after scaling its columns and rotating both sides.

    .. math:: d_j = \Bigl(\frac{H_{jj}}{(W^T W)_{jj}}\Bigr)^{1/4}, \qquad
              W' = U\,(W d)\,V^T, \qquad H' = V\,(H / d d^T)\,V^T

    Parameters
    ----------
    weight : ndarray of float, shape (out, in)
    hessian : ndarray of float, shape (in, in), positive semidefinite
        Second moment of the layer's inputs.
    fit : callable, ndarray (out, in) -> Quantizer
        Of the rotated weight, e.g. `fixed_range` with its bits set.
    rng : numpy.random.Generator
        The draws of ``rotation(out)``, then of ``rotation(in)``.
    rotation : callable, (n, rng) -> ndarray (n, n)
        `kronecker`, `orthogonal`, or a Hadamard matrix with random signs.
    damping : float, >= 0
        Added to the diagonal of the Hessian, relative to its mean.
    sweeps : int
        Of `polish`, after `ldlq`.

    Returns
    -------
    Incoherent

    Raises
    ------
    ValueError
        If the shapes do not fit, a number is not finite, or `hessian` is not symmetric, or not
        positive definite even when damped.

    Notes
    -----
    The authors' code damps twice, first by 0.01 of the mean and then once more as GPTQ
    does; here it is done once, as the paper says. A column of zeros, and an input that
    was always zero, take part with the floor 1e-8.

    References
    ----------
    Chee et al., 2023, arXiv:2307.13304, algorithms 1 to 3.

    Examples
    --------
    >>> from functools import partial
    >>> rng = np.random.default_rng(0)
    >>> w, x = rng.standard_normal((8, 6)), rng.standard_normal((50, 6))
    >>> r = quip(w, x.T @ x, partial(fixed_range, bits=4), rng=rng)
    >>> bool(np.allclose(r.left.T @ r.rotated @ r.right / r.column_scale, r.weight))
    True
    """
    weight = as_reals("weight", weight)
    require_kind("rng", rng, np.random.Generator)
    work, h = damped(weight, hessian, damping)
    curvature = np.maximum(np.diag(h) / max(np.abs(h).max(initial=0), 1e-300), 1e-8)
    column_scale = (curvature / np.maximum((work**2).sum(0), 1e-8)) ** 0.25
    # Transposed, so that rows meet them as in `rotate`: signs first, and only then a Hadamard
    # matrix. The other way round a mean that is not zero would end in one entry.
    left, right = rotation(len(work), rng=rng).T, rotation(work.shape[1], rng=rng).T
    there = left @ (work * column_scale) @ right.T
    h_there = right @ (h / np.outer(column_scale, column_scale)) @ right.T
    quantizer = fit(there)
    require_quantizer("fit", quantizer)
    rotated = ldlq(there, h_there, quantizer, damping=0.0)
    rotated = polish(there, rotated, h_there, quantizer, sweeps=sweeps)
    back = left.T @ rotated @ right / column_scale
    return Incoherent(rotated, quantizer, left, right, column_scale, back.astype(weight.dtype))
