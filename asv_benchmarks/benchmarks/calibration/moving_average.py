"""Moving average of the ranges of ten batches, and the share of a later batch it clips."""

import numpy as np

from benchmarks.common import Benchmark, need, size, weights
from refquant.calibration.minmax import minmax
from refquant.calibration.moving_average import moving_average


class MovingAverage(Benchmark):
    params = (["refquant", "torch"],)
    param_names = ("impl",)

    def setup(self, impl):
        self.batches = weights("gauss", size(1_000_000)).reshape(10, -1).copy()
        if impl == "torch":
            torch = need("torch")
            torch.set_num_threads(1)
            self.observer = torch.ao.quantization.MovingAverageMinMaxObserver()
            self.tensors = [torch.from_numpy(batch) for batch in self.batches]

    def time_ten_batches(self, impl):
        if impl == "refquant":
            moving_average(map(minmax, self.batches))
        else:
            for tensor in self.tensors:
                self.observer(tensor)

    def track_clipped(self, impl):
        if impl == "refquant":
            low, high = moving_average(map(minmax, self.batches))
        else:
            self.time_ten_batches(impl)
            low, high = self.observer.min_val.numpy(), self.observer.max_val.numpy()
        return float(np.mean((self.batches < low) | (self.batches > high)))

    track_clipped.unit = "share of values"
