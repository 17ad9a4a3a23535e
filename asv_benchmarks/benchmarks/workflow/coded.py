"""Codes in a file of tensors: written, read and decoded, beside the floats they stand for."""

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.common import Benchmark, Quality, size, weights
from refquant.workflow.coded import CodedTensor, dequantized, write_coded
from refquant.workflow.weights import nearest


def tensors():
    w = weights("gauss", size(2_000_000)).reshape(-1, 50)
    return w, [("w", CodedTensor(nearest(w, 4, 50), w.shape, (0, 1)))]


class Coded(Benchmark):
    params = (["safetensors", "npz"],)
    param_names = ("impl",)

    def setup(self, impl):
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / f"a.{impl}"
        _, self.tensors = tensors()
        write_coded(self.path, self.tensors)

    def teardown(self, impl):
        self.folder.cleanup()

    def time_write(self, impl):
        write_coded(self.path, self.tensors)

    def time_dequantized(self, impl):
        for _ in dequantized(self.path):
            pass

    def peakmem_dequantized(self, impl):
        self.time_dequantized(impl)


class CodedQuality(Quality):
    """Bytes of a 4-bit file over those of the floats in float32."""

    params = (["safetensors", "npz"],)
    param_names = ("impl",)

    def track_bytes_over_floats(self, impl):
        w, coded = tensors()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"a.{impl}"
            write_coded(path, coded)
            return path.stat().st_size / np.asarray(w).nbytes

    track_bytes_over_floats.unit = "ratio"
