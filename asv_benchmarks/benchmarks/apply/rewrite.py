"""Rewriting the running example: time, and the time that the network then takes."""

import numpy as np

from benchmarks.common import Quality, share_of_time
from refquant.apply.rewrite import fold_batch_norms
from refquant.nn.data import digits
from refquant.nn.models import trained_digits_cnn
from refquant.nn.network import run


class Rewrite(Quality):
    def setup(self):
        self.model, self.x = trained_digits_cnn(), digits().x_test[:64]
        self.folded = fold_batch_norms(self.model.nodes, self.model.values)

    def whole(self):
        return run(self.model.nodes, {"x": self.x, **self.model.values}).values["logits"]

    def without_norms(self):
        return run(self.folded.nodes, {"x": self.x, **self.folded.values}).values["logits"]

    def time_fold(self):
        fold_batch_norms(self.model.nodes, self.model.values)

    def track_error(self):
        exact = self.whole()
        return float(np.abs(self.without_norms() - exact).max() / np.abs(exact).max())

    def track_share_of_time(self):
        return share_of_time(self.without_norms, self.whole)

    track_error.unit = "of the largest logit"
    track_share_of_time.unit = "of the time with norms"
