"""Small trained networks: one prediction, and how often each errs."""

from benchmarks.common import QUICK, Benchmark, Quality
from refquant.nn.models import accuracy, predict
from refquant.nn.small_models import PLAIN, SEPARABLE, SEPARABLE6, split, trained

NETWORKS = {a.name: a for a in (PLAIN, SEPARABLE, SEPARABLE6)}


class SmallModels(Benchmark):
    params = (["refquant"], list(NETWORKS))
    param_names = ("impl", "network")

    def setup(self, impl, network):
        self.model, self.data = trained(NETWORKS[network]), split()

    def time_predict(self, impl, network):
        predict(self.model, self.data.x_test[: 10 if QUICK else 500])


class SmallModelsError(Quality):
    params = (list(NETWORKS), [0, 1, 2, 3, 4])
    param_names = ("network", "seed")

    def track_error_rate(self, network, seed):
        """On the 500 digits that it was not trained on."""
        data = split()
        return 100 * (1 - accuracy(trained(NETWORKS[network], seed=seed), data.x_test, data.y_test))

    track_error_rate.unit = "% of the test images"
