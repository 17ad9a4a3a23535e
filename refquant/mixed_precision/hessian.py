r"""Curvature: the loss bends more for some layers than for others (HAWQ, HAWQ-V2).

A small change d of a weight changes a loss at its minimum by :math:`\tfrac12 d^T H d`. The
Hessian H of a layer with n weights has :math:`n^2` elements, but its *products* with a vector cost
two gradients, and products are all that is needed:

==================  ====================  =======================================
quantity            from products by      used as the sensitivity of a layer
==================  ====================  =======================================
top eigenvalue      `top_eigenvalue`      HAWQ: largest eigenvalue over n
trace               `hutchinson`          HAWQ-V2: trace over n, the mean eigenvalue
==================  ====================  =======================================

For a change of given norm and random direction the mean of :math:`d^T H d` is exactly
:math:`\mathrm{tr}(H)/n \cdot \lVert d \rVert^2`; the eigenvalue bounds it. Nothing here knows what
the array is that the gradient belongs to: weights or activations.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, Self, TypeAlias

import numpy as np

from refquant._types import Array
from refquant._validate import require_int, require_positive, require_same_shape
from refquant.mixed_precision._progress import silent

__all__ = ["Draw", "Eigenpair", "Product", "TraceSamples", "gaussian", "hessian_product",
           "hutchinson", "rademacher", "top_eigenvalue"]

#: v -> H v, of the shape of v.
Product: TypeAlias = Callable[[Array], Array]

#: A random array of mean 0 and variance 1: ``draw(shape, rng=rng)``.
Draw: TypeAlias = Callable[..., Array]


class Eigenpair(NamedTuple):
    """What power iteration found.

    Attributes
    ----------
    value : float
        The eigenvalue of largest magnitude, with its sign.
    vector : ndarray of float64
        Of length 1.
    iterations : int
    converged : bool
        Whether the last two values agreed.

    References
    ----------
    Dong et al., 2019, arXiv:1905.03696, algorithm 1.
    """

    value: float
    vector: Array
    iterations: int
    converged: bool


class TraceSamples(NamedTuple):
    """Quadratic forms whose mean estimates a trace.

    Attributes
    ----------
    samples : ndarray of float64, shape (m,)
        One :math:`v^T H v` for each random v.

    References
    ----------
    Hutchinson, 1990, Communications in Statistics 19, pp. 433-450.

    Examples
    --------
    >>> first, second = TraceSamples(np.array([1.0, 3.0])), TraceSamples(np.array([2.0]))
    >>> first.merge(second).trace
    2.0
    """

    samples: Array

    @property
    def trace(self) -> float:
        """Their mean."""
        return float(self.samples.mean())

    @property
    def standard_error(self) -> float:
        """Of the mean; infinite for a single sample."""
        m = len(self.samples)
        return float(self.samples.std(ddof=1)) / math.sqrt(m) if m > 1 else math.inf

    def merge(self, other: Self) -> "TraceSamples":
        """Both together: goes on where an estimate stopped, with the same generator."""
        return TraceSamples(np.concatenate([self.samples, other.samples]))


def rademacher(shape: tuple[int, ...], *, rng: np.random.Generator) -> Array:
    r"""Signs, each +1 or -1 with equal probability: the draw of least variance.

    Parameters
    ----------
    shape : tuple of int
    rng : numpy.random.Generator
        One draw of ``integers(0, 2)`` per element, in C order.

    Returns
    -------
    ndarray of float64

    References
    ----------
    Hutchinson, 1990, Communications in Statistics 19, pp. 433-450: the variance of the estimate
    is :math:`2 (\lVert H \rVert_F^2 - \sum_i H_{ii}^2)`.

    Examples
    --------
    >>> rademacher((4,), rng=np.random.default_rng(0))
    array([ 1.,  1.,  1., -1.])
    """
    return 2.0 * rng.integers(0, 2, shape) - 1


def gaussian(shape: tuple[int, ...], *, rng: np.random.Generator) -> Array:
    r"""Unit normal numbers.

    Parameters
    ----------
    shape : tuple of int
    rng : numpy.random.Generator
        One draw of ``standard_normal`` per element, in C order.

    Returns
    -------
    ndarray of float64

    References
    ----------
    Avron and Toledo, 2011, Journal of the ACM 58(2), article 8: the variance of the estimate is
    :math:`2 \lVert H \rVert_F^2`.

    Examples
    --------
    >>> gaussian((2,), rng=np.random.default_rng(0)).round(2)
    array([ 0.13, -0.13])
    """
    return rng.standard_normal(shape)


def hessian_product(
    gradient: Callable[[Array], Array], at: Array, *, step: float = 1e-7
) -> Product:
    r"""Products with the Hessian, as the slope of the gradient in a direction.

    .. math:: H v \approx \frac{\nabla L(w + \epsilon v) - \nabla L(w - \epsilon v)}{2 \epsilon},
              \qquad \epsilon = \frac{\text{step}}{\max |v|}

    Parameters
    ----------
    gradient : callable, ndarray -> ndarray
        Of the loss, in float64.
    at : ndarray of float64
        The w.
    step : float
        Largest change of an element. In float64 the error is about ``1e-16 / step`` by rounding
        and ``step**2`` by curvature.

    Returns
    -------
    callable, ndarray -> ndarray

    Raises
    ------
    TypeError
        If `at`, or a gradient, is not float64: in float32 the difference is noise.
    ValueError
        If `step` is not positive, or v is zero or of another shape.

    Notes
    -----
    *The kink trap.* The gradient of a network with ReLUs jumps wherever an input of a ReLU changes
    sign. The Hessian between the jumps does not contain them; a difference over a `step` contains
    those that lie within it, and counts a jump by ``1 / step``. With a step of 1e-3 the curvature
    of a network comes out several times as large as with 1e-7, and both are right: the first about
    changes of that size, the second about infinitesimal ones. `refquant.apply.mixed.smooth_at`
    holds the ReLUs fixed, so that no step can reach a jump.

    References
    ----------
    Pearlmutter, 1994, Neural Computation 6, pp. 147-160, section 2 (and for the exact product).

    Examples
    --------
    >>> cubic = lambda w: 3 * w**2                          # gradient of the sum of w**3
    >>> hessian_product(cubic, np.array([1.0, 2.0]))(np.array([1.0, 1.0])).round(6)
    array([ 6., 12.])
    """
    _require_float64("at", at)
    require_positive("step", np.asarray(step))

    def product(v: Array) -> Array:
        require_same_shape("v", v, at.shape)
        largest = np.abs(v).max(initial=0)
        if not largest > 0:
            raise ValueError(f"`v` must not be zero and must be finite; got largest {largest}")
        move = v * (step / largest)
        up, down = gradient(at + move), gradient(at - move)
        _require_float64("gradient", up)
        return (up - down) * (largest / (2 * step))

    return product


def top_eigenvalue(
    product: Product,
    shape: tuple[int, ...],
    *,
    rng: np.random.Generator,
    tolerance: float = 1e-3,
    max_iterations: int = 100,
    progress: Callable[[int, int], None] = silent,
) -> Eigenpair:
    r"""Eigenvalue of largest magnitude of a symmetric matrix, by power iteration.

    .. math:: v \leftarrow \frac{H v}{\lVert H v \rVert}, \qquad \lambda = v^T H v

    Parameters
    ----------
    product : callable, v -> H v
    shape : tuple of int
        Of v.
    rng : numpy.random.Generator
        One draw of `gaussian` per element, for the first v.
    tolerance : float
        Stops when the eigenvalue changes by less than this share of itself.
    max_iterations : int
        At least 1.
    progress : callable, (done, total)

    Returns
    -------
    Eigenpair

    Raises
    ------
    ValueError
        If a number is out of range, or a product is not finite.

    Notes
    -----
    The largest *magnitude*: away from a minimum it can be negative. The value of the last step is
    the Rayleigh quotient, whose error is the square of that of the vector.

    References
    ----------
    Dong et al., 2019, arXiv:1905.03696 (HAWQ), algorithm 1; Yao et al., 2020, arXiv:1912.07145
    (PyHessian), whose defaults these are.

    Examples
    --------
    >>> h = np.diag([1.0, -5.0, 2.0])
    >>> found = top_eigenvalue(lambda v: h @ v, (3,), rng=np.random.default_rng(0))
    >>> round(found.value, 3), found.converged
    (-5.0, True)
    """
    require_positive("tolerance", np.asarray(tolerance))
    require_int("max_iterations", max_iterations, 1)
    v = gaussian(shape, rng=rng)
    v /= np.linalg.norm(v)
    value, converged = 0.0, False
    for done in range(1, max_iterations + 1):
        image = product(v)
        previous, value = value, float(np.vdot(v, image))
        length = float(np.linalg.norm(image))
        if not np.isfinite(length):
            raise ValueError(f"`product` must be finite; got length {length}")
        progress(done, max_iterations)
        converged = length == 0 or (done > 1 and abs(value - previous) <= tolerance * abs(value))
        if converged:
            break
        v = image / length
    return Eigenpair(value, v, done, converged)


def hutchinson(
    product: Product,
    shape: tuple[int, ...],
    *,
    rng: np.random.Generator,
    samples: int = 50,
    draw: Draw = rademacher,
    progress: Callable[[int, int], None] = silent,
) -> TraceSamples:
    r"""Estimate of a trace from products with random vectors.

    .. math:: \mathbb{E}\, v^T H v = \sum_{ij} H_{ij}\, \mathbb{E}\, v_i v_j = \mathrm{tr}(H)

    Parameters
    ----------
    product : callable, v -> H v
    shape : tuple of int
        Of v.
    rng : numpy.random.Generator
        `samples` draws of `draw`.
    samples : int
        At least 1.
    draw : callable, (shape, rng=) -> ndarray
        `rademacher`, whose variance leaves out the diagonal of H, or `gaussian`.
    progress : callable, (done, total)

    Returns
    -------
    TraceSamples
        Its `standard_error` says how far to trust its `trace`.

    Notes
    -----
    The authors stop when the running mean changes by less than a thousandth: that happens long
    before it is within a thousandth of the trace.

    References
    ----------
    Dong et al., 2020, arXiv:1911.03852 (HAWQ-V2), algorithm 1; Hutchinson, 1990, Communications in
    Statistics 19, pp. 433-450.

    Examples
    --------
    >>> h = np.diag([1.0, 5.0])                     # of a diagonal matrix one sample is exact
    >>> hutchinson(lambda v: h @ v, (2,), rng=np.random.default_rng(0), samples=1).trace
    6.0
    """
    require_int("samples", samples, 1)
    found = np.empty(samples)
    for i in range(samples):
        v = draw(shape, rng=rng)
        found[i] = np.vdot(v, product(v))
        progress(i + 1, samples)
    return TraceSamples(found)


def _require_float64(name: str, x: Array) -> None:
    if getattr(x, "dtype", None) != np.float64:
        got = getattr(x, "dtype", type(x).__name__)
        raise TypeError(f"`{name}` must be float64; got {got}")
