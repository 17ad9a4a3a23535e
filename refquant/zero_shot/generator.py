r"""A generator (GDFQ): learn to draw images of a wanted class from the network alone.

Noise and a label go in, an image comes out, and the quantity that is trained is the generator.
Its judge is the trained network, in two ways at once:

.. math:: L = \underbrace{\mathrm{CE}\bigl(f(G(z, y)),\, y\bigr)}_{\text{what the network says}}
          + \alpha \, \underbrace{\frac1L \sum_l \overline{(\mu_l - \mu_l^G)^2}
          + \overline{(v_l - v_l^G)^2}}_{\text{what it sees inside}}

The first term alone is what a classifier as the discriminator of a GAN can say: it is content with
any image on the right side of its boundaries, of which nearly all look like nothing it was ever
shown. The second term holds the inside of the network to what its batch norms remember.
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from refquant._types import Array
from refquant._validate import require_codes, require_int, require_same_shape

__all__ = ["class_spread", "generate", "generator_loss", "initial_generator", "moment_distance"]

_Pullback: TypeAlias = Callable[[Array], tuple[Array | None, ...]]

_LEAK = 0.2                                     # slope of the rectifier below zero


def initial_generator(
    classes: int, pixels: int, *, noise: int = 32, hidden: int = 128, rng: np.random.Generator,
    dtype: type[np.floating] = np.float32,
) -> dict[str, Array]:
    """Parameters of `generate` before training.

    Parameters
    ----------
    classes : int
    pixels : int
        Elements of an image.
    noise : int
        Length of the noise.
    hidden : int
        Units of the one hidden layer.
    rng : numpy.random.Generator
        Standard normal draws: embedding, hidden weight, output weight, each in C order.
    dtype : numpy.float32 or numpy.float64

    Returns
    -------
    dict of str to ndarray
        In the order in which `generate` takes them.

    References
    ----------
    Xu et al., 2020, arXiv:2003.03603, section 3.1 (a label embedding times noise).

    Examples
    --------
    >>> made = initial_generator(10, 64, rng=np.random.default_rng(0))
    >>> [(name, array.shape) for name, array in made.items()][:2]
    [('generator.embedding', (10, 32)), ('generator.hidden.weight', (128, 32))]
    """
    for name, size in (("classes", classes), ("pixels", pixels), ("noise", noise),
                       ("hidden", hidden)):
        require_int(name, size, 1)
    embedding = rng.standard_normal((classes, noise))
    first = rng.standard_normal((hidden, noise)) * (2 / noise) ** 0.5
    second = rng.standard_normal((pixels, hidden)) * (1 / hidden) ** 0.5
    arrays = {"embedding": embedding, "hidden.weight": first, "hidden.bias": np.zeros(hidden),
              "out.weight": second, "out.bias": np.zeros(pixels)}
    return {f"generator.{name}": array.astype(dtype) for name, array in arrays.items()}


def generate(
    noise: Array, labels: Array, embedding: Array, hidden: Array, hidden_bias: Array, out: Array,
    out_bias: Array, *, shape: tuple[int, ...],
) -> tuple[Array, _Pullback]:
    r"""Images of the wanted classes: two linear layers on noise times the embedding of a label.

    .. math:: G(z, y) = W_2\, \mathrm{leaky}\bigl(W_1 (z \odot E_y) + b_1\bigr) + b_2

    Parameters
    ----------
    noise : ndarray of float, shape (n, noise)
        Standard normal.
    labels : ndarray of int, shape (n,)
        In ``[0, classes)``.
    embedding : ndarray of float, shape (classes, noise)
    hidden : ndarray of float, shape (hidden, noise)
    hidden_bias : ndarray of float, shape (hidden,)
    out : ndarray of float, shape (pixels, hidden)
    out_bias : ndarray of float, shape (pixels,)
    shape : tuple of int
        Of an image, e.g. ``(8, 8, 1)``.

    Returns
    -------
    value : ndarray of float, shape `(n, *shape)`
    pullback : callable
        Gradients of all but `labels`.

    Raises
    ------
    ValueError
        If a label is out of range or there is not one for each row of noise.

    References
    ----------
    Xu et al., 2020, arXiv:2003.03603, eq. (1).

    Examples
    --------
    >>> parameters = initial_generator(3, 4, rng=np.random.default_rng(0))
    >>> noise = np.zeros((2, 32), np.float32)
    >>> generate(noise, np.array([0, 2]), *parameters.values(), shape=(2, 2, 1))[0].shape
    (2, 2, 2, 1)
    """
    labels = require_codes("labels", labels, 0, len(embedding) - 1)
    require_same_shape("labels", labels, noise.shape[:1])
    chosen = embedding[labels]
    mixed = noise * chosen
    before = mixed @ hidden.T + hidden_bias
    slope = np.where(before > 0, 1, _LEAK).astype(before.dtype)
    units = before * slope

    def pullback(g: Array) -> tuple[Array | None, ...]:
        g_out = g.reshape(len(noise), -1)
        g_before = (g_out @ out) * slope
        g_mixed = g_before @ hidden
        g_embedding = np.zeros_like(embedding)
        np.add.at(g_embedding, labels, g_mixed * noise)
        return (g_mixed * chosen, None, g_embedding, g_before.T @ mixed, g_before.sum(0),
                g_out.T @ units, g_out.sum(0))

    return (units @ out.T + out_bias).reshape(len(noise), *shape), pullback


def moment_distance(x: Array, mean: Array, variance: Array) -> tuple[Array, _Pullback]:
    r"""Mean squared difference of a batch's means, and of its variances, from those to keep.

    .. math:: D = \frac1C \sum_c (\mu_c(x) - \mu_c)^2 + (v_c(x) - v_c)^2

    Parameters
    ----------
    x : ndarray of float, shape (..., channels)
    mean, variance : ndarray of float, shape (channels,)
        Running statistics of the norm.

    Returns
    -------
    value : ndarray, shape ()
        In the dtype of `x`.
    pullback : callable
        Gradient of `x`; None for the statistics.

    Raises
    ------
    ValueError
        If there is no row, or the shapes do not fit.

    Notes
    -----
    As in the authors' code: variances, where ZeroQ has deviations; biased ones, against running
    variances that are unbiased; means over the channels, where ZeroQ sums.

    References
    ----------
    Xu et al., 2020, arXiv:2003.03603, eq. (3).

    Examples
    --------
    >>> x = np.array([[1.0], [3.0]])                    # mean 2, biased variance 1
    >>> moment_distance(x, np.array([2.0]), np.array([4.0]))[0]
    array(9.)
    """
    for name, statistic in (("mean", mean), ("variance", variance)):
        require_same_shape(name, statistic, x.shape[-1:])
    channels = x.shape[-1]
    rows = x.size // channels
    if rows == 0:
        raise ValueError(f"`x` must not be empty; got shape {x.shape}")
    axes = tuple(range(x.ndim - 1))
    centre = x.mean(axes, dtype=np.float64)
    centred = x - centre
    off = centre - mean
    wide = (centred**2).mean(axes) - variance

    def pullback(g: Array) -> tuple[Array | None, ...]:
        dx = (2 * off + 4 * wide * centred) / (rows * channels)
        return (g * dx).astype(x.dtype), None, None

    return np.asarray((off**2 + wide**2).mean(), x.dtype), pullback


def generator_loss(
    cross_entropy: Array, *distances: Array, weight: float = 0.1
) -> tuple[Array, _Pullback]:
    r"""What the generator is trained to make small.

    .. math:: L = \mathrm{CE} + \frac{\alpha}{L} \sum_l D_l

    Parameters
    ----------
    cross_entropy : ndarray, shape ()
        Of the network's logits against the wanted labels.
    *distances : ndarray, shape ()
        `moment_distance` of each layer.
    weight : float
        :math:`\alpha`; 0 is the classifier alone.

    Returns
    -------
    value : ndarray, shape ()
    pullback : callable
        Gradients of all.

    References
    ----------
    Xu et al., 2020, arXiv:2003.03603, eqs. (2), (3) and (7).

    Examples
    --------
    >>> one, three = np.array(1.0), np.array(3.0)
    >>> generator_loss(one, one, three)[0]
    np.float64(1.2)
    """
    share = weight / max(len(distances), 1)

    def pullback(g: Array) -> tuple[Array | None, ...]:
        return (g, *(np.asarray(g * share, d.dtype) for d in distances))

    return cross_entropy + share * sum(distances, np.zeros((), cross_entropy.dtype)), pullback


def class_spread(images: Array, labels: Array, classes: int) -> Array:
    """Variance of the images of each class, on average over the pixels.

    A generator that has collapsed draws one image per class: the spread is 0, to rounding.

    Parameters
    ----------
    images : ndarray of float, shape (n, ...)
    labels : ndarray of int, shape (n,)
    classes : int

    Returns
    -------
    ndarray of float64, shape (classes,)
        NaN for a class with no image.

    Raises
    ------
    ValueError
        If a label is out of range or there is not one per image.

    References
    ----------
    Goodfellow et al., 2014, arXiv:1406.2661, section 6 (collapse to one image).

    Examples
    --------
    >>> class_spread(np.array([[0.0], [2.0], [5.0]]), np.array([0, 0, 1]), 3)
    array([ 1.,  0., nan])
    """
    labels = require_codes("labels", labels, 0, require_int("classes", classes, 1) - 1)
    require_same_shape("labels", labels, images.shape[:1])
    spread = np.full(classes, np.nan)
    for label in np.unique(labels):
        spread[label] = images[labels == label].var(0, dtype=np.float64).mean()
    return spread
