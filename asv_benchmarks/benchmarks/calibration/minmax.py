"""Min-max, per tensor and per channel."""

from benchmarks.common import Benchmark, need, size, weights
from refquant.calibration.minmax import minmax


class Minmax(Benchmark):
    params = (["refquant", "naive", "torch"], ["tensor", "channel"])
    param_names = ("impl", "granularity")

    def setup(self, impl, granularity):
        self.x = weights("gauss", size(4_000_000)).reshape(-1, 400).copy()
        self.axis = None if granularity == "tensor" else 1
        if impl == "torch":
            torch = need("torch")
            torch.set_num_threads(1)
            observer = torch.ao.quantization.MinMaxObserver
            if granularity == "channel":
                observer = torch.ao.quantization.PerChannelMinMaxObserver
            self.observer, self.tensor = observer(), torch.from_numpy(self.x)

    def time_minmax(self, impl, granularity):
        if impl == "refquant":
            minmax(self.x, axis=self.axis)
        elif impl == "naive":
            self.x.min(axis=self.axis), self.x.max(axis=self.axis)
        else:
            self.observer(self.tensor)
