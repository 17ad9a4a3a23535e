r"""A character model: the next character of a text from the sixteen before it.

Each character is looked up in a table of 16 numbers, the sixteen rows are laid side by
side, and three linear layers with ReLU between them give one logit per character:

=========  ======================================  ============
layer      operation                               weights
=========  ======================================  ============
embed      rows of a table, side by side           (103, 16)
fc1, fc2   linear, ReLU                            (256, 256)
logits     linear                                  (103, 256)
=========  ======================================  ============

The text is Python's own documentation, which comes with the interpreter
(`pydoc_data.topics`); it changes a little from one Python to the next, and so do
measured bits per character. The network reads it in the order it was trained to know.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from refquant._types import Array
from refquant._validate import require_codes, require_int
from refquant.nn._weights import WEIGHTS, load_arrays
from refquant.nn.models import Model
from refquant.nn.network import Node, Pullback, Tap, run, untouched
from refquant.nn.operations import linear, relu

__all__ = [
    "CONTEXT",
    "TextData",
    "bits_per_character",
    "embedding",
    "initial_text_model",
    "text_data",
    "text_network",
    "trained_text_model",
]

#: Characters that the model sees.
CONTEXT = 16

_EMBED, _HIDDEN, _CHARACTERS = 16, 256, 103


class TextData(NamedTuple):
    """Contexts and the characters that follow them, as numbers.

    Attributes
    ----------
    x_train, x_test : ndarray of int64, shape (n, 16)
    y_train, y_test : ndarray of int64, shape (n,)

    References
    ----------
    Bengio et al., 2003, JMLR 3, section 2.
    """

    x_train: Array
    y_train: Array
    x_test: Array
    y_test: Array


@lru_cache(maxsize=1)
def text_data() -> TextData:
    """Python's documentation topics: the first nine tenths to train on, the rest to judge by.

    Characters that the shipped model does not know are left out of the text.

    Returns
    -------
    TextData
        Of about 419,000 and 46,500 contexts; they overlap. Read-only views.

    References
    ----------
    Python Software Foundation, "The Python Language Reference" (module `pydoc_data.topics`).

    Examples
    --------
    >>> data = text_data()
    >>> data.x_train.shape[1], bool((data.x_test[1:, :-1] == data.x_test[:-1, 1:]).all())
    (16, True)
    """
    from pydoc_data.topics import topics

    text = "".join(topics[name] for name in sorted(topics))
    points = np.array([ord(c) for c in text])
    known = _characters()
    index = np.minimum(np.searchsorted(known, points), len(known) - 1)
    numbers = index[known[index] == points].astype(np.int64)
    numbers.flags.writeable = False
    train, test = np.split(numbers, [len(numbers) * 9 // 10])
    windows = np.lib.stride_tricks.sliding_window_view
    return TextData(windows(train[:-1], CONTEXT), train[CONTEXT:],
                    windows(test[:-1], CONTEXT), test[CONTEXT:])


def embedding(index: Array, table: Array) -> tuple[Array, Pullback]:
    """Rows of a table, one per index, laid side by side.

    Parameters
    ----------
    index : ndarray of int, shape (n, m)
    table : ndarray of float, shape (rows, features)

    Returns
    -------
    value : ndarray, shape (n, m * features)
    pullback : callable
        No gradient for `index`; a row of the table collects from all its uses.

    Raises
    ------
    ValueError
        If an index names no row.
    TypeError
        If `index` is not of integers.

    References
    ----------
    Bengio et al., 2003, JMLR 3, section 2 (the matrix C).

    Examples
    --------
    >>> table = np.array([[1.0, 2.0], [3.0, 4.0]])
    >>> y, pullback = embedding(np.array([[1, 0, 1]]), table)
    >>> y, pullback(np.ones((1, 6)))[1]
    (array([[3., 4., 1., 2., 3., 4.]]), array([[1., 1.],
           [2., 2.]]))
    """
    index = require_codes("index", index, 0, len(table) - 1)
    features = table.shape[1]

    def pullback(g: Array) -> tuple[Array | None, ...]:
        rows, flat = g.reshape(-1, features), index.ravel()
        total = [np.bincount(flat, rows[:, j], len(table)) for j in range(features)]
        return None, np.stack(total, axis=1).astype(table.dtype)

    return table[index].reshape(len(index), -1), pullback


def text_network() -> list[Node]:
    """The nodes of the model, from ``x`` to ``logits``.

    Returns
    -------
    list of Node

    References
    ----------
    Bengio et al., 2003, JMLR 3, figure 1, without the direct connections.

    Examples
    --------
    >>> [node.name for node in text_network()]
    ['embed', 'fc1.sum', 'fc1', 'fc2.sum', 'fc2', 'logits']
    """
    return [
        Node("embed", embedding, ("x", "embed.weight")),
        Node("fc1.sum", linear, ("embed", "fc1.weight", "fc1.bias")),
        Node("fc1", relu, ("fc1.sum",)),
        Node("fc2.sum", linear, ("fc1", "fc2.weight", "fc2.bias")),
        Node("fc2", relu, ("fc2.sum",)),
        Node("logits", linear, ("fc2", "fc3.weight", "fc3.bias")),
    ]


def initial_text_model(
    *, rng: np.random.Generator, dtype: type[np.floating] = np.float32
) -> Model:
    """The model before training.

    Parameters
    ----------
    rng : numpy.random.Generator
        Standard normal draws: the table, then the weights in order.
    dtype : numpy.float32 or numpy.float64

    Returns
    -------
    Model
        Table N(0, 0.09), weights N(0, 2 / fan-in), biases 0; no statistics.

    References
    ----------
    He et al., 2015, arXiv:1502.01852, eq. (10).

    Examples
    --------
    >>> model = initial_text_model(rng=np.random.default_rng(0))
    >>> sum(v.size for v in model.parameters.values())
    159703
    """
    table = rng.standard_normal((_CHARACTERS, _EMBED)) * 0.3
    parameters = {"embed.weight": table.astype(dtype)}
    widths = [CONTEXT * _EMBED, _HIDDEN, _HIDDEN, _CHARACTERS]
    for i in range(3):
        weight = rng.standard_normal((widths[i + 1], widths[i])) * (2 / widths[i]) ** 0.5
        parameters[f"fc{i + 1}.weight"] = weight.astype(dtype)
        parameters[f"fc{i + 1}.bias"] = np.zeros(widths[i + 1], dtype)
    return Model(text_network(), parameters, {})


def trained_text_model() -> Model:
    """The character model that ships with the package.

    Returns
    -------
    Model
        Arrays are read-only, float32.

    Raises
    ------
    FileNotFoundError
        If the file of weights is not there.
    ValueError
        If it is not the file that was shipped.

    References
    ----------
    Bengio et al., 2003, JMLR 3; `refquant.nn._train_text` is the script.

    Examples
    --------
    >>> trained_text_model().parameters["fc3.weight"].shape
    (103, 256)
    """
    arrays = load_arrays(WEIGHTS / "text_model.npz", script="refquant.nn._train_text")
    return Model(text_network(), {k: v for k, v in arrays.items() if k != "characters"}, {})


def bits_per_character(
    model: Model, x: Array, y: Array, *, batch: int = 4096, tap: Tap = untouched
) -> float:
    r"""Mean surprise at the character that came, :math:`-\log_2 p`.

    Parameters
    ----------
    model : Model
    x : ndarray of int, shape (n, 16)
    y : ndarray of int, shape (n,)
    batch : int
        Contexts at a time; bounds the memory and changes nothing else.
    tap : callable, (name, value) -> value
        As in `refquant.nn.network.run`.

    Returns
    -------
    float
        In bits; a uniform guess among 103 costs 6.69.

    Raises
    ------
    ValueError
        If there is no context.

    References
    ----------
    Shannon, 1951, Bell Syst. Tech. J. 30(1) (prediction and entropy of English).

    Examples
    --------
    >>> data = text_data()
    >>> bits_per_character(trained_text_model(), data.x_test[:1000], data.y_test[:1000]) < 3
    True
    """
    require_int("batch", batch, 1)
    if not len(x):
        raise ValueError(f"`x` must hold at least one context; got shape {x.shape}")
    total = 0.0
    for start in range(0, len(x), batch):
        part = slice(start, start + batch)
        logits = run(model.nodes, {"x": x[part], **model.values}, tap=tap).values["logits"]
        logits = logits.astype(np.float64)
        logits -= logits.max(1, keepdims=True)
        chosen = np.take_along_axis(logits, y[part][:, None], 1)[:, 0]
        total += float((np.log(np.exp(logits).sum(1)) - chosen).sum())
    return total / len(x) / float(np.log(2))


def _characters() -> Array:
    """Code points that the shipped model knows, ascending."""
    return load_arrays(WEIGHTS / "text_model.npz", script="refquant.nn._train_text")["characters"]
