"""Challenge: fresh questions, each answered twice by every dialect; and reading answers back."""

from refquant.oracle.challenge import challenge, prompts, verified
from refquant.oracle.vectors import load

from ..common import QUICK, Benchmark


class Challenge(Benchmark):
    def setup(self) -> None:
        self.file = load("quantize_affine.float32.int8")
        self.lines = [f"{case.id} {int(case.base['q']):02x}" for case in self.file if case.base]

    def time_challenge(self) -> None:
        challenge(1, groups=1 if QUICK else 8, each=4 if QUICK else 16)

    def time_prompts(self) -> None:
        list(prompts(self.file))

    def time_verified(self) -> None:
        list(verified(self.lines, self.file, "onnx"))
