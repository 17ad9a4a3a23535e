"""Certify: a block of the 2**32 inputs of a table; 4096 of them (full) are a proof."""

from refquant.oracle.adapters import Missing, Refquant, load_adapter
from refquant.oracle.certify import certify

from ..common import Benchmark, size


class Certify(Benchmark):
    params = (["refquant", "ml_dtypes", "onnxruntime"],)
    param_names = ("impl",)

    def setup(self, impl: str) -> None:
        try:
            self.adapter = Refquant() if impl == "refquant" else load_adapter(impl)
        except Missing as err:
            raise NotImplementedError(str(err)) from err
        self.last = 0x3F800000 + size(2**20)

    def time_certify(self, impl: str) -> None:
        certify(self.adapter, "float8_e5m2.ieee", first=0x3F800000, last=self.last)
