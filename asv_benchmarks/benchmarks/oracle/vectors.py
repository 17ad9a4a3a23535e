"""Vector files: how long a consumer waits for its questions, and what they weigh."""

from refquant.oracle import vectors

from ..common import Benchmark, Quality


class Vectors(Benchmark):
    params = (["quantize_affine.float32.int8", "requantize.int32.int8"],)
    param_names = ("file",)

    def setup(self, file: str) -> None:
        self.path = vectors.DATA / "normative" / f"{file}.json"
        vectors.schema()

    def time_read_and_check(self, file: str) -> None:
        vectors.read(self.path)


class VectorsQuality(Quality):
    def track_bytes_of_the_corpus(self) -> float:
        return float(sum(entry["bytes"] for entry in vectors.manifest()["files"].values()))

    track_bytes_of_the_corpus.unit = "bytes"

    def track_bytes_per_case(self) -> float:
        return self.track_bytes_of_the_corpus() / len(vectors.cases())

    track_bytes_per_case.unit = "bytes"
