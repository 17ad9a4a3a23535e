"""Vectors for pytest: collecting the parameters of a test."""

from refquant.testing.cases import assert_bits, vectors

from ..common import Benchmark, need


class Cases(Benchmark):
    params = (["quantize_affine.float32.int8", "cast.float32.float8_e4m3fn"],)
    param_names = ("file",)

    def setup(self, name: str) -> None:
        need("pytest")
        self.questions = [p.values[0] for p in vectors(name, dialect="exact").args[1]]
        self.answers = [question.case.answer("exact") for question in self.questions]

    def time_vectors(self, name: str) -> None:
        vectors(name, dialect="exact")

    def time_assert_bits(self, name: str) -> None:
        for question, answer in zip(self.questions, self.answers, strict=True):
            assert_bits(question, answer, dialect="exact")
