"""Generating vectors: every answer twice, in fractions and in float32."""

from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from refquant.oracle import _codebooks, _packing, _stochastic
from refquant.oracle.generate import export

from ..common import Benchmark

GROUPS = {"packing": _packing, "nf4": _codebooks, "stochastic": _stochastic}


class Generate(Benchmark):
    params = (list(GROUPS),)
    param_names = ("group",)

    def track_seconds_per_thousand_vectors(self, group: str) -> float:
        start = perf_counter()
        cases = sum(document["numberOfCases"] for document in GROUPS[group].documents())
        return (perf_counter() - start) / cases * 1000

    track_seconds_per_thousand_vectors.unit = "seconds"


class GenerateExport(Benchmark):
    def time_export(self) -> None:
        with TemporaryDirectory() as folder:
            export(Path(folder) / "vectors")
