"""Writing a checkpoint after each evaluation, beside a search without."""

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.common import Benchmark
from benchmarks.mixed_precision._problem import EVALUATIONS, environment, loss
from refquant.mixed_precision.cross_entropy import cross_entropy
from refquant.mixed_precision.search import search


class Search(Benchmark):
    params = (["none", "each evaluation"],)
    param_names = ("checkpoints",)

    def setup(self, checkpoints):
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name, "state.npz") if checkpoints != "none" else None

    def teardown(self, checkpoints):
        if hasattr(self, "folder"):
            self.folder.cleanup()

    def time_search(self, checkpoints):
        if self.path:
            self.path.unlink(missing_ok=True)
        search(cross_entropy(environment()), lambda bits: -loss(bits), checkpoint=self.path,
               evaluations=EVALUATIONS, rng=np.random.default_rng(0))
