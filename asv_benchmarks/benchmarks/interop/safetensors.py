"""Safetensors: read and write beside the library of the format, and the memory of one tensor."""

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.common import Benchmark, need, size
from refquant.interop import safetensors


class Safetensors(Benchmark):
    params = (["refquant", "safetensors"],)
    param_names = ("impl",)

    def setup(self, impl):
        theirs = None if impl == "refquant" else need("safetensors.numpy")
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "a.safetensors"
        x = np.random.default_rng(0).standard_normal((8, size(500_000)), np.float32)
        self.arrays = {f"w{i}": row for i, row in enumerate(x)}
        safetensors.write(self.path, self.arrays)
        if impl == "refquant":
            self.load, self.save = safetensors.read, safetensors.write
        else:
            self.load = theirs.load_file
            self.save = lambda path, arrays: theirs.save_file(arrays, path)

    def teardown(self, impl):
        if hasattr(self, "folder"):         # asv comes here after n/a too
            self.folder.cleanup()

    def time_read(self, impl):
        self.load(self.path)

    def time_write(self, impl):
        self.save(self.path, self.arrays)

    def peakmem_read(self, impl):
        self.load(self.path)
