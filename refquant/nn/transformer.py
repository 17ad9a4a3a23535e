r"""A transformer encoder: every token looks at every other, six times over.

One layer, as in BERT (normalization *after* each sum):

===================  ==========================================  ==================
value                operation                                   shape
===================  ==========================================  ==================
query, key, value    three linear maps of h                      (n, tokens, width)
weights              softmax of query against key, per head      (n, heads, tokens, tokens)
context              weights times value                         (n, tokens, width)
attended             layer norm of h + linear(context)           (n, tokens, width)
wide                 GELU of linear(attended)                    (n, tokens, 4 width)
h of the next layer  layer norm of attended + linear(wide)       (n, tokens, width)
===================  ==========================================  ==================

The inputs of the six linear maps are named values, so calibration, simulation and
methods that need layer inputs work on it as on any other network. ``mask`` is 1 for
tokens and 0 for padding.
"""

from functools import partial

import numpy as np
from scipy.special import erf

from refquant._types import Array
from refquant._validate import require_codes, require_int
from refquant.nn.network import Node, Pullback
from refquant.nn.operations import add, linear

__all__ = [
    "attend",
    "attention_weights",
    "embed_tokens",
    "encoder",
    "gelu",
    "layer_norm",
    "linear_layers",
    "sentence_embedding",
]


def gelu(x: Array) -> tuple[Array, Pullback]:
    r"""Each number times the chance that a standard normal number lies below it.

    .. math:: y = x \, \Phi(x), \qquad y' = \Phi(x) + x \, \varphi(x)

    Parameters
    ----------
    x : ndarray of float, any shape

    Returns
    -------
    value : ndarray, shape of `x`
        Never below -0.17.
    pullback : callable

    References
    ----------
    Hendrycks and Gimpel, 2016, arXiv:1606.08415, section 2.

    Examples
    --------
    >>> gelu(np.array([-1.0, 0.0, 1.0]))[0].round(4)
    array([-0.1587,  0.    ,  0.8413])
    """
    below = (0.5 * (1 + erf(x * 0.5**0.5))).astype(x.dtype)

    def pullback(g: Array) -> tuple[Array | None, ...]:
        density = np.exp(-0.5 * x * x) * (2 * np.pi) ** -0.5
        return ((g * (below + x * density)).astype(x.dtype),)

    return x * below, pullback


def layer_norm(
    x: Array, gain: Array, bias: Array, *, epsilon: float = 1e-12
) -> tuple[Array, Pullback]:
    r"""Each token centred and scaled by its own mean and standard deviation.

    .. math:: y = g \, \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + b

    Parameters
    ----------
    x : ndarray of float, shape (..., width)
    gain, bias : ndarray of float, shape (width,)
    epsilon : float
        BERT's value; PyTorch's default is 1e-5.

    Returns
    -------
    value : ndarray, shape of `x`
    pullback : callable
        Gradients of `x`, `gain`, `bias`.

    References
    ----------
    Ba et al., 2016, arXiv:1607.06450, eq. (3).

    Examples
    --------
    >>> layer_norm(np.array([[1.0, 3.0]]), np.ones(2), np.zeros(2))[0]
    array([[-1.,  1.]])
    """
    centred = x - x.mean(-1, keepdims=True)
    inverse = 1 / np.sqrt((centred * centred).mean(-1, keepdims=True) + epsilon)
    unit = centred * inverse

    def pullback(g: Array) -> tuple[Array | None, ...]:
        d = g * gain
        mean = d.mean(-1, keepdims=True)
        along = (d * unit).mean(-1, keepdims=True)
        others = tuple(range(x.ndim - 1))
        return (d - mean - unit * along) * inverse, (g * unit).sum(others), g.sum(others)

    return unit * gain + bias, pullback


def attention_weights(
    query: Array, key: Array, mask: Array, *, heads: int
) -> tuple[Array, Pullback]:
    r"""How much each token looks at each other: the softmax of scaled inner products.

    .. math:: A = \mathrm{softmax}\Big(\frac{Q K^T}{\sqrt{d}} + M\Big)

    Parameters
    ----------
    query, key : ndarray of float, shape (n, tokens, width)
    mask : ndarray, shape (n, tokens)
        Nonzero for tokens; nobody looks at the rest.
    heads : int
        Must divide the width; d is the width of one.

    Returns
    -------
    value : ndarray, shape (n, heads, tokens, tokens)
        Each row sums to 1.
    pullback : callable
        Gradients of `query` and `key`; none for `mask`.

    Raises
    ------
    ValueError
        If `heads` does not divide the width.

    References
    ----------
    Vaswani et al., 2017, arXiv:1706.03762, eq. (1).

    Examples
    --------
    >>> x = np.zeros((1, 3, 4))
    >>> attention_weights(x, x, np.array([[1, 1, 0]]), heads=2)[0][0, 0, 0]
    array([0.5, 0.5, 0. ])
    """
    q, k = _heads(query, heads), _heads(key, heads)
    factor = q.shape[-1] ** -0.5
    scores = (q @ k.swapaxes(-1, -2)) * factor
    scores = np.where(mask[:, None, None, :] != 0, scores, np.finfo(scores.dtype).min)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)

    def pullback(g: Array) -> tuple[Array | None, ...]:
        d = weights * (g - (g * weights).sum(-1, keepdims=True)) * factor
        return _joined(d @ k), _joined(d.swapaxes(-1, -2) @ q), None

    return weights, pullback


def attend(weights: Array, value: Array) -> tuple[Array, Pullback]:
    """What each token gathers: the values of the others, weighted.

    Parameters
    ----------
    weights : ndarray of float, shape (n, heads, tokens, tokens)
    value : ndarray of float, shape (n, tokens, width)

    Returns
    -------
    value : ndarray, shape (n, tokens, width)
    pullback : callable

    References
    ----------
    Vaswani et al., 2017, arXiv:1706.03762, eq. (1).

    Examples
    --------
    >>> attend(np.full((1, 1, 2, 2), 0.5), np.array([[[1.0], [3.0]]]))[0].ravel()
    array([2., 2.])
    """
    v = _heads(value, weights.shape[1])

    def pullback(g: Array) -> tuple[Array | None, ...]:
        d = _heads(g, weights.shape[1])
        return d @ v.swapaxes(-1, -2), _joined(weights.swapaxes(-1, -2) @ d)

    return _joined(weights @ v), pullback


def embed_tokens(tokens: Array, words: Array, positions: Array, kind: Array) -> tuple[
        Array, Pullback]:
    """The row of each token, plus that of its place, plus one shared by all.

    Parameters
    ----------
    tokens : ndarray of int, shape (n, tokens)
    words : ndarray of float, shape (vocabulary, width)
    positions : ndarray of float, shape (longest, width)
    kind : ndarray of float, shape (kinds, width)
        Only row 0 is read: every token is of the first sentence.

    Returns
    -------
    value : ndarray, shape (n, tokens, width)
    pullback : callable
        None for anything: this network is run, not trained.

    Raises
    ------
    ValueError
        If there are more tokens than positions, a token names no row, or the shape does not fit.
    TypeError
        If the tokens are no integers.

    References
    ----------
    Devlin et al., 2019, arXiv:1810.04805, figure 2.

    Examples
    --------
    >>> embed_tokens(np.array([[1]]), np.array([[0.0], [5.0]]), np.ones((2, 1)),
    ...              np.zeros((1, 1)))[0]
    array([[[6.]]])
    """
    tokens = require_codes("tokens", tokens, 0, len(words) - 1)
    if tokens.ndim != 2:
        raise ValueError(f"`tokens` must have shape (n, tokens); got {tokens.shape}")
    length = tokens.shape[1]
    if length > len(positions):
        raise ValueError(f"`tokens` must be at most {len(positions)} in a row; got {length}")
    return words[tokens] + positions[:length] + kind[0], lambda g: (None, None, None, None)


def sentence_embedding(hidden: Array, mask: Array) -> tuple[Array, Pullback]:
    r"""One direction for a sentence: the mean of its tokens, of length 1.

    .. math:: m = \frac{\sum_t \mathrm{mask}_t h_t}{\sum_t \mathrm{mask}_t}, \qquad
              y = \frac{m}{\lVert m \rVert}

    Parameters
    ----------
    hidden : ndarray of float, shape (n, tokens, width)
    mask : ndarray, shape (n, tokens)
        1 for tokens, 0 for padding; at least one token in each row.

    Returns
    -------
    value : ndarray, shape (n, width)
    pullback : callable
        Gradient of `hidden`; none for `mask`.

    Raises
    ------
    ValueError
        If a row of `mask` has no token.

    References
    ----------
    Reimers and Gurevych, 2019, arXiv:1908.10084, section 3 (mean pooling).

    Examples
    --------
    >>> h = np.array([[[3.0, 4.0], [9.0, 9.0]]])
    >>> sentence_embedding(h, np.array([[1, 0]]))[0]
    array([[0.6, 0.8]])
    """
    tokens = mask.sum(1, keepdims=True)
    if not (tokens > 0).all():                  # also for NaN
        raise ValueError(f"`mask` must hold a token in each row; got {tokens.min()}")
    share = (mask / tokens).astype(hidden.dtype)[:, :, None]
    mean = (hidden * share).sum(1)
    norm = np.linalg.norm(mean, axis=1, keepdims=True)
    unit = mean / norm

    def pullback(g: Array) -> tuple[Array | None, ...]:
        d = (g - unit * (g * unit).sum(1, keepdims=True)) / norm
        return d[:, None, :] * share, None

    return unit, pullback


def encoder(*, layers: int, heads: int) -> list[Node]:
    """The nodes of an encoder, from ``tokens`` and ``mask`` to ``embedding``.

    The parameters of layer i are ``layer{i}.query.weight`` and so on, for query, key,
    value, output, wide and narrow, each with a bias, and ``layer{i}.norm1.gain``,
    ``.bias`` and ``norm2``; before them ``words``, ``positions``, ``kind``,
    ``embed.gain``, ``embed.bias``.

    Parameters
    ----------
    layers : int
        At least 1.
    heads : int

    Returns
    -------
    list of Node

    References
    ----------
    Devlin et al., 2019, arXiv:1810.04805, section 3; Vaswani et al., 2017,
    arXiv:1706.03762, figure 1, left.

    Examples
    --------
    >>> [n.name for n in encoder(layers=1, heads=2)][2:6]
    ['layer0.query', 'layer0.key', 'layer0.value', 'layer0.weights']
    """
    require_int("layers", layers, 1)
    require_int("heads", heads, 1)
    weights = partial(attention_weights, heads=heads)
    nodes = [
        Node("embed.sum", embed_tokens, ("tokens", "words", "positions", "kind")),
        Node("embed", layer_norm, ("embed.sum", "embed.gain", "embed.bias")),
    ]
    h = "embed"
    for i in range(layers):
        at = f"layer{i}"

        def map_(name: str, source: str, at: str = at) -> Node:
            return Node(f"{at}.{name}", linear,
                        (source, f"{at}.{name}.weight", f"{at}.{name}.bias"))

        def norm(name: str, source: str, at: str = at) -> Node:
            return Node(f"{at}.{name}", layer_norm, (source, f"{at}.{name}.gain",
                                                     f"{at}.{name}.bias"))

        nodes += [
            map_("query", h), map_("key", h), map_("value", h),
            Node(f"{at}.weights", weights, (f"{at}.query", f"{at}.key", "mask")),
            Node(f"{at}.context", attend, (f"{at}.weights", f"{at}.value")),
            map_("output", f"{at}.context"),
            Node(f"{at}.sum1", add, (f"{at}.output", h)),
            norm("norm1", f"{at}.sum1"),
            map_("wide", f"{at}.norm1"),
            Node(f"{at}.gelu", gelu, (f"{at}.wide",)),
            map_("narrow", f"{at}.gelu"),
            Node(f"{at}.sum2", add, (f"{at}.narrow", f"{at}.norm1")),
            norm("norm2", f"{at}.sum2"),
        ]
        h = f"{at}.norm2"
    return [*nodes, Node("embedding", sentence_embedding, (h, "mask"))]


def linear_layers(nodes: list[Node]) -> dict[str, str]:
    """The linear maps of a network: name of each, and of the value it reads.

    Parameters
    ----------
    nodes : list of Node

    Returns
    -------
    dict of str to str
        In the order of the run; the weight of ``"a"`` is ``"a.weight"`` in `encoder`.

    References
    ----------
    Frantar et al., 2023, arXiv:2210.17323, section 4 (the layers that are quantized).

    Examples
    --------
    >>> linear_layers(encoder(layers=1, heads=1))["layer0.narrow"]
    'layer0.gelu'
    """
    return {node.name: node.inputs[0] for node in nodes if node.op is linear}


def _heads(x: Array, heads: int) -> Array:
    """``(n, tokens, width)`` as ``(n, heads, tokens, width / heads)``."""
    n, tokens, width = x.shape
    if width % heads:
        raise ValueError(f"`heads` must divide a width of {width}; got {heads}")
    return x.reshape(n, tokens, heads, width // heads).swapaxes(1, 2)


def _joined(x: Array) -> Array:
    """The way back from `_heads`."""
    n, heads, tokens, width = x.shape
    return x.swapaxes(1, 2).reshape(n, tokens, heads * width)
