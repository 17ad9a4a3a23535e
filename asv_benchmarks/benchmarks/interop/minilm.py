"""MiniLM: sixteen short texts through six layers of 384."""

from benchmarks.common import QUICK, Benchmark
from refquant.interop.minilm import minilm, tokenize
from refquant.nn.network import run

TEXT = "The quantizer maps each number to the nearest level of a short list. "


class Minilm(Benchmark):
    params = (["refquant"],)
    param_names = ("impl",)

    def setup(self, impl):
        try:
            self.model, tokens = minilm(), tokenize([TEXT] * (1 if QUICK else 16))
        except ModuleNotFoundError as err:
            raise NotImplementedError(str(err)) from err
        self.inputs = {"tokens": tokens.tokens, "mask": tokens.mask, **self.model.parameters}

    def time_embed(self, impl):
        run(self.model.nodes, self.inputs)

    def peakmem_embed(self, impl):
        run(self.model.nodes, self.inputs)
