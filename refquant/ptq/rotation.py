r"""Rotations: the same product in other coordinates, in which nothing sticks out.

For an orthogonal Q, :math:`x W^T = (x Q)(W Q)^T`. An outlier in one coordinate of x, or in
one column of W, is spread over all of them: a single spike of 1 among n becomes n entries
of :math:`1/\sqrt n`. The Hadamard matrix does it with signs alone, and fast.

================  ============================  ==========================
rotation          exists for                    multiplications by x
================  ============================  ==========================
`hadamard`        n = 1, 2, and 4k for the      n (p + q), n = p q, by
                  factors listed there          `hadamard_transform`
`kronecker`       every n = p q                 n (p + q)
`orthogonal`      every n                       n squared
================  ============================  ==========================
"""

import math

import numpy as np

from refquant._types import Array
from refquant._validate import (
    as_reals,
    require_finite,
    require_int,
    require_kind,
    require_same_shape,
)

__all__ = ["hadamard", "hadamard_transform", "incoherence", "kronecker", "orthogonal",
           "random_signs", "rotate"]

#: Orders from which doubling starts.
_BASES = (1, 12, 20, 44)


def hadamard(n: int) -> Array:
    r"""Matrix of signs whose rows are orthogonal, divided by their length.

    .. math:: H_{2n} = \frac{1}{\sqrt 2}\begin{pmatrix} H_n & H_n \\ H_n & -H_n \end{pmatrix}

    starting from order 1, 12, 20 or 44 (Paley).

    Parameters
    ----------
    n : int
        A power of two, alone or times 12, 20 or 44.

    Returns
    -------
    ndarray of float64, shape (n, n)
        Orthogonal; all entries are :math:`\pm 1/\sqrt n`.

    Raises
    ------
    ValueError
        If no construction here has this order.

    References
    ----------
    Sylvester, 1867, Phil. Mag. 34; Paley, 1933, J. Math. Phys. 12, "On orthogonal matrices".

    Examples
    --------
    >>> hadamard(2).round(4)
    array([[ 0.7071,  0.7071],
           [ 0.7071, -0.7071]])
    """
    require_int("n", n, 1)
    for base in _BASES:
        doublings = n // base
        if n % base == 0 and doublings & (doublings - 1) == 0:
            matrix = np.ones((1, 1)) if base == 1 else _paley(base - 1)
            for _ in range(doublings.bit_length() - 1):
                matrix = np.block([[matrix, matrix], [matrix, -matrix]])
            return matrix / math.sqrt(n)
    raise ValueError(f"`n` must be a power of two, alone or times 12, 20 or 44; got {n}")


def hadamard_transform(x: Array) -> Array:
    r"""Rows times the Hadamard matrix, without the matrix.

    Doubling is a Kronecker product, so :math:`H_{pq} = H_p \otimes H_q`, and with x as p by q

    .. math:: x\,H_{pq} = H_p^T\, X\, H_q .

    Down to p = 2 throughout these would be the butterflies of the fast transform,
    :math:`n \log_2 n` additions in as many passes over memory. Two products with matrices of
    about :math:`\sqrt n` do more arithmetic in two passes, and that BLAS does faster.

    Parameters
    ----------
    x : ndarray of float, shape (..., n)
        n as for `hadamard`.

    Returns
    -------
    ndarray, shape and dtype of `x`
        ``rotate(x, hadamard(n))`` but for rounding errors.

    Raises
    ------
    ValueError
        If no construction of `hadamard` has this order, or a number is not finite.

    References
    ----------
    Fino and Algazi, 1976, IEEE Trans. Comput. C-25(11) (the fast transform as a factorization);
    Ashkboos et al., 2024, arXiv:2404.00456, section 3.

    Examples
    --------
    >>> hadamard_transform(np.array([1.0, 0.0, 0.0, 0.0]))
    array([0.5, 0.5, 0.5, 0.5])
    """
    x = as_reals("x", x)
    if not x.ndim:
        raise ValueError("`x` must have rows; got a number")
    require_finite("x", x)
    n = x.shape[-1]
    p = max((2**j for j in range(n.bit_length()) if n % 2**j == 0 and 4**j <= n), default=1)
    while p > 1 and not _exists(n // p):
        p //= 2
    left, right = (hadamard(size).astype(x.dtype) for size in (p, n // p))
    return np.asarray(left.T @ (x.reshape(-1, p, n // p) @ right)).reshape(x.shape)


def random_signs(q: Array, *, rng: np.random.Generator) -> Array:
    """A rotation whose rows have random signs: no fixed vector is its enemy.

    Parameters
    ----------
    q : ndarray of float, shape (n, n)
        Orthogonal.
    rng : numpy.random.Generator
        One draw of ``integers(0, 2, n)``.

    Returns
    -------
    ndarray, shape (n, n)
        Orthogonal again.

    Raises
    ------
    ValueError
        If `q` is not square, or an entry is not finite.

    References
    ----------
    Ashkboos et al., 2024, arXiv:2404.00456, section 3 (randomized Hadamard).

    Examples
    --------
    >>> np.abs(random_signs(np.eye(2), rng=np.random.default_rng(0)))
    array([[1., 0.],
           [0., 1.]])
    """
    q = as_reals("q", q)
    if q.ndim != 2 or q.shape[0] != q.shape[1]:
        raise ValueError(f"`q` must be square; got shape {q.shape}")
    require_finite("q", q)
    require_kind("rng", rng, np.random.Generator)
    return (1 - 2 * rng.integers(0, 2, len(q)))[:, None] * q


def orthogonal(n: int, *, rng: np.random.Generator) -> Array:
    """A rotation drawn evenly from all of them.

    Parameters
    ----------
    n : int
    rng : numpy.random.Generator
        n by n standard normal draws.

    Returns
    -------
    ndarray of float64, shape (n, n)

    References
    ----------
    Mezzadri, 2007, Notices AMS 54(5), "How to generate random matrices from the
    classical compact groups", section 5.

    Examples
    --------
    >>> q = orthogonal(5, rng=np.random.default_rng(0))
    >>> bool(np.allclose(q @ q.T, np.eye(5)))
    True
    """
    require_int("n", n, 1)
    require_kind("rng", rng, np.random.Generator)
    q, r = np.linalg.qr(rng.standard_normal((n, n)))
    return q * np.sign(np.diag(r))          # without the signs some rotations are likelier


def kronecker(n: int, *, rng: np.random.Generator) -> Array:
    r"""A rotation made of two small ones and a shuffle: cheap to store and to apply.

    .. math:: Q = (A \otimes B)\, P, \qquad A \in O(p),\ B \in O(q),\ pq = n

    with p and q as near to each other as the factors of n allow, and P a permutation.

    Parameters
    ----------
    n : int
        For a prime, p = 1: a dense rotation.
    rng : numpy.random.Generator
        The draws of two `orthogonal`, then one permutation of n.

    Returns
    -------
    ndarray of float64, shape (n, n)

    References
    ----------
    Chee et al., 2023, arXiv:2307.13304, section 4.1.

    Examples
    --------
    >>> kronecker(6, rng=np.random.default_rng(0)).shape
    (6, 6)
    """
    require_int("n", n, 1)
    p = next(d for d in range(math.isqrt(n), 0, -1) if n % d == 0)
    a, b = orthogonal(p, rng=rng), orthogonal(n // p, rng=rng)
    return np.kron(a, b)[:, rng.permutation(n)]


def rotate(x: Array, q: Array) -> Array:
    """Rows in the coordinates of a rotation, x Q.

    Rotating activations and weight alike leaves every output as it was.

    Parameters
    ----------
    x : ndarray of float, shape (..., n)
    q : ndarray of float, shape (n, n)
        Orthogonal; its transpose rotates back.

    Returns
    -------
    ndarray, shape and dtype of `x`

    Raises
    ------
    ValueError
        If the shapes do not fit.

    References
    ----------
    Ashkboos et al., 2024, arXiv:2404.00456, section 3.

    Examples
    --------
    >>> rotate(np.array([1.0, 0.0, 0.0, 0.0]), hadamard(4))
    array([0.5, 0.5, 0.5, 0.5])
    """
    x, q = as_reals("x", x), as_reals("q", q)
    if not x.ndim:
        raise ValueError("`x` must have rows; got a number")
    require_same_shape("q", q, (x.shape[-1],) * 2)
    require_finite("x", x)
    require_finite("q", q)
    return (x @ q).astype(x.dtype, copy=False)


def incoherence(x: Array) -> float:
    r"""How far the largest entry sticks out of the rest, at least 1.

    .. math:: \mu = \frac{\max |x_{ij}| \sqrt{mn}}{\lVert x \rVert_F}

    Parameters
    ----------
    x : ndarray of float, not all zero

    Returns
    -------
    float
        1 if all magnitudes are equal; the square root of the size if one alone is not 0.

    Raises
    ------
    ValueError
        If `x` is zero throughout, or a number is not finite.

    References
    ----------
    Chee et al., 2023, arXiv:2307.13304, definition 1.

    Examples
    --------
    >>> incoherence(np.array([1.0, 0.0, 0.0, 0.0])), incoherence(np.ones(4))
    (2.0, 1.0)
    """
    x = as_reals("x", x).astype(np.float64)
    require_finite("x", x)
    largest = np.abs(x).max(initial=0)
    if largest == 0:
        raise ValueError("`x` must have an entry other than 0; got zeros alone")
    return float(math.sqrt(x.size) / np.linalg.norm(x / largest))


def _exists(n: int) -> bool:
    """Whether doubling reaches this order."""
    return any(n % base == 0 and n // base & (n // base - 1) == 0 for base in _BASES)


def _paley(q: int) -> Array:
    """Hadamard matrix of order q + 1, of ones and minus ones, for a prime q = 4k + 3."""
    squares = {i * i % q for i in range(1, q)}
    residue = np.array([0] + [1 if i in squares else -1 for i in range(1, q)])
    jacobsthal = residue[(np.arange(q)[:, None] - np.arange(q)) % q]
    matrix = np.ones((q + 1, q + 1))
    matrix[1:, 1:] = jacobsthal + np.eye(q)
    matrix[1:, 0] = -1
    return matrix
