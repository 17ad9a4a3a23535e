r"""Vector quantization: one code for several neighbouring weights.

The last axis is cut into sub-vectors of d neighbours; a code names one of k
codewords, so a weight costs :math:`\log_2(k)/d` bits beside the codebook. What
a single codebook cannot hold, several can:

===============  ==================================================================
fit              codebooks
===============  ==================================================================
``kmeans``       one for all sub-vectors
``product``      one for each place of a sub-vector in its row
``residual``     one after the other, each for what the ones before left
``additive``     the same sum, codes and codebooks improved together
===============  ==================================================================

`nearest_e8` needs no codebook: the points of a lattice are found by rounding.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import lstsq
from scipy.spatial.distance import cdist

from refquant._types import Array, Codes
from refquant._validate import (
    as_reals,
    require_codes,
    require_finite,
    require_int,
    require_no_nan,
    require_nonempty,
)
from refquant.granularity import group, ungroup
from refquant.quantizers._points import to_unit

__all__ = [
    "Product",
    "Residual",
    "Vector",
    "additive",
    "kmeans",
    "nearest_d8",
    "nearest_e8",
    "product",
    "residual",
]

#: Sub-vectors whose distances to all codewords are held at a time.
TILE = 2**12

#: Sums of codewords that are searched one by one; beyond, codes improve stage by stage.
EXACT_SUMS = 2**12


@dataclass(frozen=True, eq=False)
class Vector:
    """Code j of a sub-vector stands for ``codebook[j]``.

    Attributes
    ----------
    codebook : ndarray of float, shape (k, d)
        The codewords.

    Raises
    ------
    ValueError
        If the codebook is empty, not a matrix or not finite.

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, section IV-F; Gray, "Vector Quantization",
    1984, doi:10.1109/MASSP.1984.1162229.

    Examples
    --------
    >>> q = Vector(np.array([[0.0, 0.0], [1.0, 2.0]]))
    >>> q.encode(np.array([[0.9, 1.5, 0.1, 0.2]]))
    array([[1, 0]], dtype=int32)
    >>> q.decode(np.array([[1, 0]]))
    array([[1., 2., 0., 0.]])
    """

    codebook: Array

    def __post_init__(self) -> None:
        object.__setattr__(self, "codebook", _codebooks("codebook", self.codebook, 2))

    def encode(self, x: Array) -> Codes:
        """Code of the nearest codeword; a tie takes the lower code.

        Parameters
        ----------
        x : ndarray of float, shape (..., n)
            d must divide n. Infinities have no nearest codeword.

        Returns
        -------
        ndarray of int32, shape (..., n / d)
        """
        parts = _sub_vectors(x, self.codebook.shape[1])
        flat = parts.reshape(-1, self.codebook.shape[1])
        return _nearest(flat, self.codebook).reshape(parts.shape[:-1])

    def decode(self, codes: Array) -> Array:
        """Sub-vectors that the codes stand for, joined again.

        Parameters
        ----------
        codes : ndarray of int, shape (..., n / d), from 0 to k - 1

        Returns
        -------
        ndarray of float, shape (..., n)
        """
        return ungroup(self.codebook[require_codes("codes", codes, 0, len(self.codebook) - 1)])

    @property
    def code_bits(self) -> float:
        """Bits that one element takes: those of a whole code over d."""
        k, d = self.codebook.shape
        return float(np.ceil(np.log2(k)) / d)

    def parameter_bits(self, *, float_bits: int = 32) -> int:
        """Bits of the codebook."""
        return self.codebook.size * float_bits


@dataclass(frozen=True, eq=False)
class Product:
    """Sub-vector i of a row has a codebook of its own, ``codebooks[i]``.

    Attributes
    ----------
    codebooks : ndarray of float, shape (n / d, k, d)

    Raises
    ------
    ValueError
        If it is empty, has not three axes or is not finite.

    References
    ----------
    Jegou et al., "Product quantization for nearest neighbor search", 2011,
    doi:10.1109/TPAMI.2010.57, eq. (8).

    Examples
    --------
    >>> q = Product(np.array([[[0.0], [1.0]], [[0.0], [10.0]]]))
    >>> q.decode(q.encode(np.array([[0.9, 9.0], [0.2, 4.0]])))
    array([[ 1., 10.],
           [ 0.,  0.]])
    """

    codebooks: Array

    def __post_init__(self) -> None:
        object.__setattr__(self, "codebooks", _codebooks("codebooks", self.codebooks, 3))

    def encode(self, x: Array) -> Codes:
        """Code of the nearest codeword of each place; a tie takes the lower code.

        Parameters
        ----------
        x : ndarray of float, shape (..., n)

        Returns
        -------
        ndarray of int32, shape (..., n / d)
        """
        places, _, d = self.codebooks.shape
        parts = _sub_vectors(x, d)
        if parts.shape[-2] != places:
            raise ValueError(f"`x` must have {places * d} columns; got {x.shape[-1]}")
        codes = np.empty(parts.shape[:-1], np.int32)
        for i, codebook in enumerate(self.codebooks):
            part = parts[..., i, :]
            codes[..., i] = _nearest(part.reshape(-1, d), codebook).reshape(part.shape[:-1])
        return codes

    def decode(self, codes: Array) -> Array:
        """Sub-vectors that the codes stand for, joined again.

        Parameters
        ----------
        codes : ndarray of int, shape (..., n / d), from 0 to k - 1

        Returns
        -------
        ndarray of float, shape (..., n)
        """
        codes = require_codes("codes", codes, 0, self.codebooks.shape[1] - 1)
        places = len(self.codebooks)
        if codes.ndim == 0 or codes.shape[-1] != places:
            raise ValueError(f"`codes` must have {places} columns; got shape {codes.shape}")
        return ungroup(self.codebooks[np.arange(places), codes])

    @property
    def code_bits(self) -> float:
        """Bits that one element takes: those of a whole code over d."""
        _, k, d = self.codebooks.shape
        return float(np.ceil(np.log2(k)) / d)

    def parameter_bits(self, *, float_bits: int = 32) -> int:
        """Bits of all codebooks."""
        return self.codebooks.size * float_bits


@dataclass(frozen=True, eq=False)
class Residual:
    r"""A sub-vector is the sum of one codeword from each codebook.

    .. math:: \hat v = \sum_{m} C_m[q_m]

    Attributes
    ----------
    codebooks : ndarray of float, shape (stages, k, d)

    Raises
    ------
    ValueError
        If it is empty, has not three axes or is not finite.

    References
    ----------
    Juang and Gray, 1982, "Multiple stage vector quantization for speech coding";
    Babenko and Lempitsky, "Additive Quantization", 2014, doi:10.1109/CVPR.2014.124.

    Examples
    --------
    >>> q = Residual(np.array([[[0.0], [4.0]], [[-1.0], [1.0]]]))
    >>> codes = q.encode(np.array([3.2, 0.5]))
    >>> codes
    array([[1, 0],
           [0, 1]], dtype=int32)
    >>> q.decode(codes)
    array([3., 1.])
    """

    codebooks: Array

    def __post_init__(self) -> None:
        object.__setattr__(self, "codebooks", _codebooks("codebooks", self.codebooks, 3))

    def encode(self, x: Array) -> Codes:
        """Codes whose codewords have the nearest sum.

        Exact while there are at most 4096 sums. Beyond, stage by stage for what the
        stages before left, and then changed one at a time while that helps: no
        single change lowers the error, though another sum may be nearer.

        Parameters
        ----------
        x : ndarray of float, shape (..., n)

        Returns
        -------
        ndarray of int32, shape (stages, ..., n / d)
        """
        parts = _sub_vectors(x, self.codebooks.shape[2])
        codebooks, exponent = to_unit(self.codebooks)
        flat = _in_unit(parts.reshape(-1, codebooks.shape[2]), exponent)
        codes = _nearest_sum(flat, codebooks)
        return codes.reshape(len(self.codebooks), *parts.shape[:-1])

    def decode(self, codes: Array) -> Array:
        """Sums of codewords that the codes stand for, joined again.

        Parameters
        ----------
        codes : ndarray of int, shape (stages, ..., n / d), from 0 to k - 1

        Returns
        -------
        ndarray of float, shape (..., n)
        """
        codes = require_codes("codes", codes, 0, self.codebooks.shape[1] - 1)
        stages = len(self.codebooks)
        if codes.ndim < 2 or len(codes) != stages:
            raise ValueError(f"`codes` must have {stages} stages of rows; got shape {codes.shape}")
        return ungroup(_sum(self.codebooks, codes))

    @property
    def code_bits(self) -> float:
        """Bits that one element takes: those of one whole code per stage over d."""
        stages, k, d = self.codebooks.shape
        return float(stages * np.ceil(np.log2(k)) / d)

    def parameter_bits(self, *, float_bits: int = 32) -> int:
        """Bits of all codebooks."""
        return self.codebooks.size * float_bits


def kmeans(x: Array, k: int, *, sub_vector: int, rng: np.random.Generator) -> Vector:
    r"""One codebook for all sub-vectors, at a local minimum of the squared error.

    .. math:: \min_C \sum_i \min_j \|v_i - c_j\|^2

    Parameters
    ----------
    x : ndarray of float, shape (..., n), not empty
    k : int
        Codewords, at most the number of distinct sub-vectors.
    sub_vector : int
        d, neighbours that share a code; must divide n.
    rng : numpy.random.Generator
        One integer draw, the seed of scikit-learn's k-means++.

    Returns
    -------
    Vector

    Raises
    ------
    ValueError
        If `k` exceeds the number of distinct sub-vectors, d does not divide n, or
        `x` is empty or not finite.

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, section IV-F, whose objective lacks the
    inner minimum; Arthur and Vassilvitskii, "k-means++", 2007.

    Examples
    --------
    >>> x = np.array([0.0, 0.0, 1.0, 1.0, 0.0, 0.0])
    >>> q = kmeans(x, 2, sub_vector=2, rng=np.random.default_rng(0))
    >>> np.array_equal(q.decode(q.encode(x)), x)
    True
    """
    x = as_reals("x", x)
    parts = _training_vectors(x, sub_vector)
    return Vector(_cluster(parts.reshape(-1, sub_vector), k, rng).astype(x.dtype))


def product(x: Array, k: int, *, sub_vector: int, rng: np.random.Generator) -> Product:
    """One codebook for each place of a sub-vector in its row.

    Parameters
    ----------
    x : ndarray of float, shape (..., n), not empty
    k : int
        Codewords of a codebook, at most the distinct sub-vectors of each place.
    sub_vector : int
        d; must divide n.
    rng : numpy.random.Generator
        One integer draw a place, from left to right.

    Returns
    -------
    Product

    Raises
    ------
    ValueError
        As `kmeans`.

    References
    ----------
    Jegou et al., 2011, doi:10.1109/TPAMI.2010.57, section III.

    Examples
    --------
    >>> x = np.array([[0.0, 5.0], [1.0, 5.0], [1.0, 7.0]])
    >>> q = product(x, 2, sub_vector=1, rng=np.random.default_rng(0))
    >>> np.array_equal(q.decode(q.encode(x)), x)
    True
    """
    x = as_reals("x", x)
    parts = _training_vectors(x, sub_vector)
    places = [parts[..., i, :].reshape(-1, sub_vector) for i in range(parts.shape[-2])]
    return Product(np.stack([_cluster(place, k, rng) for place in places]).astype(x.dtype))


def residual(
    x: Array, k: int, *, sub_vector: int, stages: int, rng: np.random.Generator
) -> Residual:
    """Codebooks one after the other, each fitted to what the ones before left.

    Parameters
    ----------
    x : ndarray of float, shape (..., n), not empty
    k : int
        Codewords of a codebook; fewer are used where the residual has fewer
        distinct values, and the codebook is filled up with its last codeword.
    sub_vector : int
        d; must divide n.
    stages : int
    rng : numpy.random.Generator
        One integer draw a stage.

    Returns
    -------
    Residual
        The squared error never rises from stage to stage.

    Raises
    ------
    ValueError
        As `kmeans`.

    References
    ----------
    Juang and Gray, 1982, "Multiple stage vector quantization for speech coding".

    Examples
    --------
    >>> x = np.array([-5.0, -3.0, 3.0, 5.0])
    >>> q = residual(x, 2, sub_vector=1, stages=2, rng=np.random.default_rng(0))
    >>> q.decode(q.encode(x))
    array([-5., -3.,  3.,  5.])
    """
    require_int("stages", stages, 1)
    x = as_reals("x", x)
    left, exponent = to_unit(_training_vectors(x, sub_vector).reshape(-1, sub_vector))
    codebooks = []
    for stage in range(stages):
        distinct = len(np.unique(left, axis=0))
        codebook = _cluster(left, k if stage == 0 else min(k, distinct), rng)
        codebook = np.concatenate([codebook, np.repeat(codebook[-1:], k - len(codebook), axis=0)])
        left = left - codebook[_nearest(left, codebook)]
        codebooks.append(codebook)
    return Residual(np.ldexp(np.stack(codebooks), exponent).astype(x.dtype))


def additive(
    x: Array,
    k: int,
    *,
    sub_vector: int,
    stages: int,
    rng: np.random.Generator,
    max_sweeps: int = 20,
) -> Residual:
    r"""The sum of `residual`, with codes and codebooks improved in turn.

    For given codes the codebooks are a linear least-squares problem; for given
    codebooks each stage's code is chosen again with the others fixed. Neither
    step can raise the squared error of these codes. (Where there are more than 4096
    sums `encode` looks for codes of its own, whose error may be a little different.)

    Parameters
    ----------
    x : ndarray of float, shape (..., n), not empty
    k : int
    sub_vector : int
        d; must divide n.
    stages : int
    rng : numpy.random.Generator
        One integer draw a stage.
    max_sweeps : int

    Returns
    -------
    Residual

    Raises
    ------
    ValueError
        As `kmeans`.

    References
    ----------
    Babenko and Lempitsky, "Additive Quantization", 2014, doi:10.1109/CVPR.2014.124,
    with coordinate descent instead of beam search.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(64, 4))
    >>> shape = dict(sub_vector=2, stages=2)
    >>> greedy = residual(x, 4, rng=np.random.default_rng(0), **shape)
    >>> joint = additive(x, 4, rng=np.random.default_rng(0), **shape)
    >>> error = lambda q: np.mean((x - q.decode(q.encode(x)))**2)
    >>> bool(error(joint) < error(greedy))
    True
    """
    require_int("max_sweeps", max_sweeps, 0)
    x = as_reals("x", x)
    start = residual(x, k, sub_vector=sub_vector, stages=stages, rng=rng)
    parts = _training_vectors(x, sub_vector).reshape(-1, sub_vector).astype(np.float64)
    parts, exponent = to_unit(parts)            # whose squares neither overflow nor vanish
    codebooks = np.ldexp(start.codebooks.astype(np.float64), -exponent)
    codes = _nearest_sum(parts, codebooks)
    for _ in range(max_sweeps):
        previous = codes
        # One column for each codeword of each stage, 1 where it is used.
        used = (codes[:, :, np.newaxis] == np.arange(k)).transpose(1, 0, 2)
        design = used.reshape(len(parts), stages * k).astype(np.float64)
        # Only sums of codewords matter, so the design is singular: take the change of
        # least norm, and codewords that nobody uses stay where they are.
        # The default cutoff takes roundings of 0 for singular values: codewords of 1e13.
        left = parts - _sum(codebooks, codes)
        change = lstsq(design, left, cond=1e-9, lapack_driver="gelsd")[0]
        codebooks = codebooks + change.reshape(codebooks.shape)
        codes = _improve(parts, codebooks, codes)        # from where they are: never worse
        if np.array_equal(codes, previous):
            break
    return Residual(np.ldexp(codebooks, exponent).astype(x.dtype))


def nearest_d8(x: Array) -> Array:
    r"""Nearest point of D8, the whole vectors of eight with an even sum.

    Round everything; if the sum is odd, round the worst coordinate the other way.

    Parameters
    ----------
    x : ndarray of float, shape (..., 8), finite

    Returns
    -------
    ndarray
        Shape and dtype of `x`. Of equally bad coordinates the first is changed.

    Raises
    ------
    ValueError
        If the last axis has not 8 elements, or `x` is not finite.

    References
    ----------
    Conway and Sloane, 1982, "Fast quantizing and decoding algorithms for lattice
    quantizers and codes", doi:10.1109/TIT.1982.1056484, section III.

    Examples
    --------
    >>> nearest_d8(np.array([0.6, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]))
    array([0., 0., 0., 0., 0., 0., 0., 0.])
    """
    x = _eights(x)
    whole = np.rint(x)
    error = x - whole
    # Not where a step is above 1: there is nothing to round, and adding 1 changes nothing.
    wrong = np.where(np.abs(x) < 2 / np.finfo(x.dtype).eps, np.abs(error), -1)
    worst = np.argmax(wrong, axis=-1)[..., np.newaxis]
    other_way = np.where(np.take_along_axis(error, worst, axis=-1) < 0, -1, 1).astype(x.dtype)
    odd = np.sum(whole % 2, axis=-1, keepdims=True) % 2 != 0    # the sum itself might round
    flip = np.where(np.arange(8) == worst, other_way, np.zeros_like(other_way))
    return np.where(odd, whole + flip, whole)


def nearest_e8(x: Array) -> Array:
    r"""Nearest point of E8: D8, or D8 moved by one half in every coordinate.

    The densest lattice in eight dimensions; its cell has a normalised second
    moment of 929/12960 against 1/12 for the cube, a gain of 0.654 dB.

    Parameters
    ----------
    x : ndarray of float, shape (..., 8), finite

    Returns
    -------
    ndarray
        Shape and dtype of `x`. A tie takes the point of D8.

    Raises
    ------
    ValueError
        If the last axis has not 8 elements, or `x` is not finite.

    References
    ----------
    Conway and Sloane, 1982, doi:10.1109/TIT.1982.1056484, section III; used by
    QuIP#, Tseng et al., 2024, arXiv:2402.04396.

    Examples
    --------
    >>> nearest_e8(np.full(8, 0.4))
    array([0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5])
    """
    x = _eights(x)
    whole = nearest_d8(x)
    half = nearest_d8(x - 0.5) + 0.5
    to_whole = np.sum((x - whole) ** 2, axis=-1, keepdims=True)
    to_half = np.sum((x - half) ** 2, axis=-1, keepdims=True)
    return np.where(to_half < to_whole, half, whole).astype(x.dtype)


def _codebooks(name: str, codebooks: Array, ndim: int) -> Array:
    codebooks = as_reals(name, codebooks)
    if codebooks.ndim != ndim:
        raise ValueError(f"`{name}` must have {ndim} axes; got shape {codebooks.shape}")
    require_nonempty(name, codebooks)
    require_finite(name, codebooks)
    return codebooks


def _sub_vectors(x: Array, d: int) -> Array:
    x = as_reals("x", x)
    require_no_nan("x", x)
    require_finite("x", x)
    return group(x, d)


def _training_vectors(x: Array, d: int) -> Array:
    parts = _sub_vectors(x, d)
    require_nonempty("x", parts)
    return parts


def _cluster(vectors: Array, k: int, rng: np.random.Generator) -> Array:
    """Codewords of scikit-learn's k-means."""
    distinct = len(np.unique(vectors, axis=0))
    require_int("k", k, 1)
    if k > distinct:
        raise ValueError(f"`k` must not exceed the {distinct} distinct sub-vectors; got {k}")
    seed = int(rng.integers(2**31))
    # Here, not above: a codebook that is only read should not load scikit-learn.
    from sklearn.cluster import KMeans

    unit, exponent = to_unit(vectors)           # whose squares neither overflow nor vanish
    return np.ldexp(KMeans(k, n_init=1, random_state=seed).fit(unit).cluster_centers_, exponent)


def _nearest(vectors: Array, codebook: Array) -> Codes:
    """Index of the nearest codeword, the lowest at a tie, for each row."""
    codes = np.empty(len(vectors), np.int32)
    codebook, exponent = to_unit(codebook)      # whose squares neither overflow nor vanish
    vectors = _in_unit(vectors, exponent)
    for start in range(0, len(vectors), TILE):
        # cdist takes differences before it squares: no cancellation, exact ties stay ties.
        distance = cdist(vectors[start : start + TILE], codebook, "sqeuclidean")
        codes[start : start + TILE] = np.argmin(distance, axis=1)
    return codes


def _in_unit(vectors: Array, exponent: int) -> Array:
    """`vectors` over the power of two of a codebook; farther ones are as far from all codewords."""
    with np.errstate(over="ignore"):
        return np.clip(np.ldexp(vectors.astype(np.float64), -exponent), -(2.0**500), 2.0**500)


def _sum(codebooks: Array, codes: Array) -> Array:
    """Sum over stages of the codeword each code names."""
    total = codebooks[0][codes[0]]
    for codebook, code in zip(codebooks[1:], codes[1:], strict=True):
        total = total + codebook[code]
    return total


def _nearest_sum(vectors: Array, codebooks: Array) -> Codes:
    """Codes (stages, vectors) of the nearest sum, or of a good one where sums are many."""
    stages, k, _ = codebooks.shape
    if k**stages > EXACT_SUMS:
        return _improve(vectors, codebooks, _stagewise(vectors, codebooks))
    every = np.stack(np.unravel_index(np.arange(k**stages), (k,) * stages))
    return every[:, _nearest(vectors, _sum(codebooks, every))].astype(np.int32)


def _stagewise(vectors: Array, codebooks: Array) -> Codes:
    """Codes of each stage for what the stages before left."""
    codes = []
    for codebook in codebooks:
        codes.append(_nearest(vectors, codebook))
        vectors = vectors - codebook[codes[-1]]
    return np.stack(codes)


def _improve(vectors: Array, codebooks: Array, codes: Codes) -> Codes:
    """Codes from which no change of one stage lowers the error."""
    codes = codes.copy()
    while True:
        before = codes.copy()
        error = np.sum((vectors - _sum(codebooks, codes)) ** 2, axis=1)
        for m, codebook in enumerate(codebooks):
            others = _sum(codebooks, codes) - codebook[codes[m]]
            choice = _nearest(vectors - others, codebook)
            gain = error - np.sum((vectors - others - codebook[choice]) ** 2, axis=1)
            # Only a real gain: equal sums in another order must not go round for ever.
            better = gain > 1e-12 * error
            codes[m] = np.where(better, choice, codes[m])
            error = np.where(better, error - gain, error)
        if np.array_equal(codes, before):
            return codes


def _eights(x: Array) -> Array:
    x = as_reals("x", x)
    if x.ndim == 0 or x.shape[-1] != 8:
        raise ValueError(f"`x` must have 8 columns; got shape {x.shape}")
    require_finite("x", x)
    return x
