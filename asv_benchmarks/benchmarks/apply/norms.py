"""Folded norms in training: two products for each layer instead of one."""

from benchmarks.common import QUICK, Benchmark, share_of_time
from refquant.apply.norms import evaluation, fold_norms, freeze_norms
from refquant.nn.data import digits
from refquant.nn.models import digits_cnn, with_loss
from refquant.nn.network import backward, run
from refquant.nn.replicas import replica

BATCH = 8 if QUICK else 64


class Norms(Benchmark):
    params = (["refquant"], ["folded", "frozen"])
    param_names = ("impl", "form")

    def setup(self, impl, form):
        plain = with_loss(digits_cnn(training=True))
        nodes = fold_norms(plain) if form == "folded" else freeze_norms(fold_norms(plain))
        data = digits()
        values = {"x": data.x_train[:BATCH], "labels": data.y_train[:BATCH], **replica(0).values}
        self.form = lambda: backward(run(nodes, values), {"loss": 1.0})
        self.plain = lambda: backward(run(plain, values), {"loss": 1.0})
        self.nodes = nodes

    def time_training_step(self, impl, form):
        self.form()

    def track_time_over_plain_norms(self, impl, form):
        return share_of_time(self.form, self.plain)

    track_time_over_plain_norms.unit = "ratio"

    def time_evaluation_form(self, impl, form):
        evaluation(self.nodes)
