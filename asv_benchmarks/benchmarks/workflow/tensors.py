"""Reading a file tensor by tensor, beside `numpy.load`."""

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.common import Benchmark, size, weights
from refquant.workflow.tensors import tensors_of


class Tensors(Benchmark):
    params = (["refquant", "numpy"],)
    param_names = ("impl",)

    def setup(self, impl):
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "w.npz"
        np.savez(self.path, **{f"w{i}": weights("gauss", size(200_000)) for i in range(5)})

    def teardown(self, impl):
        self.folder.cleanup()

    def time_read_all(self, impl):
        self.read_all(impl)

    def peakmem_read_all(self, impl):
        self.read_all(impl)

    def read_all(self, impl):
        if impl == "refquant":
            for tensor in tensors_of(self.path):
                tensor.read()
        else:
            with np.load(self.path) as file:
                for name in file.files:
                    file[name]
