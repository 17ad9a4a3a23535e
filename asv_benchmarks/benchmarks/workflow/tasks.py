"""What the same bits cost different tasks: time of a sweep, and the share that is lost."""

import numpy as np

from benchmarks.common import QUICK, Quality
from refquant.apply.rewrite import fold_batch_norms
from refquant.apply.simulate import weight_names
from refquant.calibration.minmax import absmax
from refquant.granularity import all_but
from refquant.nn.models import Model
from refquant.nn.network import run
from refquant.nn.small_models import PLAIN, split, trained
from refquant.nn.text import bits_per_character, text_data, trained_text_model
from refquant.quantizers.uniform import symmetric
from refquant.workflow import tasks


class Tasks(Quality):
    params = (["classification", "language"], [8, 4, 3])
    param_names = ("impl", "bits")

    def setup(self, impl, bits):
        self.fits = {bits: lambda w: symmetric(absmax(w, axis=all_but(0, w.ndim)), bits=bits)}
        n = 50 if QUICK else 2000
        if impl == "language":
            model, text = trained_text_model(), text_data()
            self.network, x, y = (model.nodes, model.values), text.x_test[:n], text.y_test[:n]
            self.score = lambda v: bits_per_character(Model(model.nodes, v, {}), x, y)
            self.chance = float(np.log2(len(np.unique(text.y_train))))
        else:
            model, data = trained(PLAIN, seed=0), split()
            self.network = fold_batch_norms(model.nodes, model.values)
            inputs, labels = {"x": data.x_test[:n]}, data.y_test[:n]
            self.score = lambda v: float((run(
                self.network[0], {**inputs, **v}).values["logits"].argmax(1) == labels).mean())
            self.chance = 0.1

    def sweep(self):
        nodes, values = self.network
        return tasks.degradation(values, weight_names(nodes), self.fits, self.score)

    def time_sweep(self, impl, bits):
        self.sweep()

    def track_lost(self, impl, bits):
        left = tasks.kept(self.sweep()[bits], self.score(self.network[1]), self.chance)
        return max(1 - left, 0.0)

    track_lost.unit = "of what was above chance"
