"""An encoder layer of MiniLM's size, beside torch."""

import numpy as np

from benchmarks.common import QUICK, Benchmark, need, share_of_time
from refquant.nn.network import run
from refquant.nn.transformer import encoder

TEXTS, TOKENS, WIDTH, HEADS = (1, 4, 24, 12) if QUICK else (16, 48, 384, 12)


def parameters():
    rng = np.random.default_rng(0)
    maps = dict.fromkeys(("query", "key", "value", "output"), (WIDTH, WIDTH))
    maps |= {"wide": (4 * WIDTH, WIDTH), "narrow": (WIDTH, 4 * WIDTH)}
    p = {"words": rng.standard_normal((100, WIDTH)), "positions": np.zeros((TOKENS, WIDTH)),
         "kind": np.zeros((1, WIDTH)), "embed.gain": np.ones(WIDTH), "embed.bias": np.zeros(WIDTH)}
    for name, shape in maps.items():
        p[f"layer0.{name}.weight"] = rng.standard_normal(shape) * shape[1] ** -0.5
        p[f"layer0.{name}.bias"] = np.zeros(shape[0])
    for name in ("norm1", "norm2"):
        p |= {f"layer0.{name}.gain": np.ones(WIDTH), f"layer0.{name}.bias": np.zeros(WIDTH)}
    return {name: value.astype(np.float32) for name, value in p.items()}


def torch_layer(p, tokens):
    torch = need("torch")
    torch.set_num_threads(1)
    f, t = torch.nn.functional, {name: torch.from_numpy(value) for name, value in p.items()}
    ids = torch.from_numpy(tokens)

    def linear(x, name):
        return f.linear(x, t[f"layer0.{name}.weight"], t[f"layer0.{name}.bias"])

    def norm(x, gain):
        return f.layer_norm(x, (WIDTH,), t[f"{gain}.gain"], t[f"{gain}.bias"], 1e-12)

    def heads(x):
        return x.unflatten(-1, (HEADS, WIDTH // HEADS)).transpose(1, 2)

    def call():
        with torch.inference_mode():
            h = norm(t["words"][ids] + t["positions"], "embed")
            q, k, v = (heads(linear(h, part)) for part in ("query", "key", "value"))
            a = f.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            a = norm(h + linear(a, "output"), "layer0.norm1")
            h = norm(a + linear(f.gelu(linear(a, "wide")), "narrow"), "layer0.norm2")
            return f.normalize(h.mean(1))

    return call


class Transformer(Benchmark):
    params = (["refquant", "torch"],)
    param_names = ("impl",)

    def setup(self, impl):
        p = parameters()
        tokens = np.random.default_rng(1).integers(0, 100, (TEXTS, TOKENS))
        inputs = {"tokens": tokens, "mask": np.ones((TEXTS, TOKENS), np.int64), **p}
        nodes = encoder(layers=1, heads=HEADS)
        self.ours = lambda: run(nodes, inputs).values["embedding"]
        self.call = self.ours if impl == "refquant" else torch_layer(p, tokens)

    def time_layer(self, impl):
        self.call()

    def track_time_of_refquant_over_this(self, impl):
        """Time of our layer over that of `impl`, side by side."""
        return share_of_time(self.ours, self.call)

    track_time_of_refquant_over_this.unit = "ratio"
