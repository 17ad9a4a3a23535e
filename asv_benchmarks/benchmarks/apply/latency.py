"""A measured table: how far its sum is from the layers called one after the other."""

import numpy as np

from benchmarks.common import QUICK, Quality
from refquant.apply.costs import layer_shapes
from refquant.apply.latency import measure, measure_in_a_row
from refquant.nn.data import digits
from refquant.nn.models import trained_digits_cnn


class Latency(Quality):
    params = (["refquant"], [8, 32])
    param_names = ("impl", "bits")

    def setup(self, impl, bits):
        model = trained_digits_cnn()
        self.shapes = list(layer_shapes(
            model.nodes, {"x": digits().x_test[:1], **model.values}).values())

    def track_error_of_the_sum(self, impl, bits):
        """Of the digits network, one image, in percent of the whole."""
        seconds, rng = 0 if QUICK else 0.2, np.random.default_rng(0)
        widths = [bits] * len(self.shapes)
        table = measure(self.shapes, rng=rng, seconds=seconds)
        whole = measure_in_a_row(self.shapes, widths, widths, rng=rng, seconds=seconds)
        return 100 * abs(table.total(self.shapes, widths, widths) / whole - 1)

    track_error_of_the_sum.unit = "% of the whole"
