"""Five copies of the digits network: one prediction, and how often each errs."""

from benchmarks.common import QUICK, Benchmark, Quality
from refquant.nn.data import digits
from refquant.nn.models import accuracy, predict
from refquant.nn.replicas import REPLICAS, replica


class Replicas(Benchmark):
    params = (["refquant"],)
    param_names = ("impl",)

    def setup(self, impl):
        self.model, self.x = replica(0), digits(seed=0).x_test

    def time_predict(self, impl):
        predict(self.model, self.x[: 10 if QUICK else 500])


class ReplicasError(Quality):
    params = (list(range(REPLICAS)),)
    param_names = ("seed",)

    def track_error_rate(self, seed):
        """On the half of the digits that the copy was not trained on."""
        data = digits(seed=seed)
        return 100 * (1 - accuracy(replica(seed), data.x_test, data.y_test))

    track_error_rate.unit = "% of the test images"
