"""The mutation gate: what it costs, and how few vectors catch every slip."""

from refquant.oracle.mutants import gate
from refquant.oracle.vectors import load

from ..common import Benchmark, Quality

FILES = ["quantize_affine.float32.int8", "cast.float32.float8_e4m3fn"]


class Mutants(Benchmark):
    params = (FILES,)
    param_names = ("file",)

    def setup(self, file: str) -> None:
        self.file = load(file)

    def time_gate(self, file: str) -> None:
        gate(self.file)


class MutantsQuality(Quality):
    params = (FILES,)
    param_names = ("file",)

    def track_vectors_that_catch_every_mutant(self, file: str) -> float:
        return float(len(gate(load(file)).minimal))

    track_vectors_that_catch_every_mutant.unit = "vectors"
