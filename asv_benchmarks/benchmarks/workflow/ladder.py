"""Rungs of the ladder on a small network: time to make each, and the accuracy that it loses."""

from benchmarks.common import QUICK, Quality
from refquant.apply.rewrite import fold_batch_norms
from refquant.apply.simulate import static
from refquant.nn.network import run, untouched
from refquant.nn.small_models import PLAIN, split, trained
from refquant.workflow import ladder


class Ladder(Quality):
    params = (["nearest", "per channel", "repaired", "moments", "GPTQ", "mixed", "trained"],)
    param_names = ("impl",)

    def setup(self, impl):
        model, data = trained(PLAIN, seed=0), split()
        self.network, n = fold_batch_norms(model.nodes, model.values), 64 if QUICK else 512
        self.rungs = ladder.rungs_for(
            *self.network, {"x": data.x_train[:n]}, bits=3, labels=data.y_train[:n],
            steps=3 if QUICK else 100)

    def right(self, nodes, values, tap):
        data = split()
        logits = run(nodes, {"x": data.x_test, **values}, tap=tap).values["logits"]
        return float((logits.argmax(1) == data.y_test).mean())

    def time_rung(self, impl):
        self.rungs[impl]()

    def track_drop(self, impl):
        made = self.rungs[impl]()
        drop = self.right(*self.network, untouched) - self.right(
            made.nodes, made.values, static(made.plan))
        return max(100 * drop, 0.0)

    track_drop.unit = "points of accuracy below float, weights in 3 bits"
