"""What each method leaves of MiniLM: writes the table that the chapter on outliers prints.

``PYTHONPATH=tests python tests/ptq/_minilm_table.py`` takes a quarter of an hour on one core. A row
that is in the file already, from the same versions, is not measured again.
"""

import csv
import io
import platform
from functools import partial
from pathlib import Path

import numpy as np
from ptq._experiments import (
    by_awq,
    by_gptq,
    by_hqq,
    by_quip,
    decomposed,
    minilm_products,
    minilm_weights,
    nearest,
    per_tensor,
    per_token,
    quantized_product,
    rotated_product,
    signed_hadamard,
    smoothed_product,
)

import refquant
from refquant.apply.layerwise import parallel

FILE = Path(refquant.__file__).parent / "interop" / "minilm_methods.csv"
FIELDS = ["setting", "method", "cosine", "spearman"]


def products(product, weights, bits, activations):
    return lambda: minilm_products(partial(product, weights=partial(per_token, bits=weights),
                                           activations=partial(activations, bits=bits)))


def weights(method, loop, **settings):
    return lambda: minilm_weights(method, loop, **settings)


def rows():
    """(setting, method) -> how to measure it; the first method of a setting is its baseline."""
    found = {}
    for bits in (4, 3, 2):
        per_row, groups = f"W{bits}, per row", f"W{bits}, groups of 64"
        found[per_row, "nearest"] = weights(nearest, parallel, bits=bits)
        found[per_row, "GPTQ"] = weights(by_gptq, None, bits=bits)
        found[per_row, "QuIP, Kronecker"] = weights(by_quip, None, bits=bits)
        found[per_row, "QuIP, Hadamard"] = weights(by_quip, None, bits=bits,
                                                   rotation=signed_hadamard)
        found[groups, "nearest"] = weights(nearest, parallel, bits=bits, size=64)
        found[groups, "HQQ"] = weights(by_hqq, parallel, bits=bits, size=64)
        found[groups, "GPTQ by curvature"] = weights(by_gptq, None, bits=bits, size=64)
        if bits > 2:
            found[groups, "AWQ, scale"] = weights(by_awq, parallel, bits=bits, size=64, clip=False)
            found[groups, "AWQ, scale and clip"] = weights(by_awq, parallel, bits=bits, size=64)
    for bits, name in ((8, "W8A8, per tensor"),
                       (6, "W8A6, per tensor")):
        found[name, "nearest"] = products(quantized_product, 8, bits, per_tensor)
        found[name, "SmoothQuant"] = products(smoothed_product, 8, bits, per_tensor)
        found[name, "Hadamard"] = products(rotated_product, 8, bits, per_tensor)
    token = "W8A8, per token"
    found[token, "nearest"] = products(quantized_product, 8, 8, per_token)
    found[token, "SmoothQuant"] = products(smoothed_product, 8, 8, per_token)
    found[token, "LLM.int8()"] = lambda: minilm_products(partial(decomposed, threshold=6.0))
    found[token, "Hadamard"] = products(rotated_product, 8, 8, per_token)
    found["W4A4, per token", "nearest"] = products(quantized_product, 4, 4, per_token)
    found["W4A4, per token", "Hadamard"] = products(rotated_product, 4, 4, per_token)
    return found


def versions():
    return f"# Python {platform.python_version()} topics, NumPy {np.__version__}"


def stored(text):
    """Rows of a file: (setting, method) -> the two figures."""
    table = csv.DictReader(io.StringIO("\n".join(text.splitlines()[1:])))
    return {(r["setting"], r["method"]): (float(r["cosine"]), float(r["spearman"])) for r in table}


def main():
    text = FILE.read_text("utf-8") if FILE.exists() else ""
    known = stored(text) if text.startswith(versions() + "\n") else {}
    made = {}
    for key, measure in rows().items():
        made[key] = known.get(key) or tuple(round(float(v), 4) for v in measure())
        print(*key, *made[key], flush=True)
        lines = [versions(), ",".join(FIELDS)]
        lines += [f'"{s}","{m}",{c},{r}' for (s, m), (c, r) in (made | known).items()]
        FILE.write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
