"""LLM.int8(): time by threshold, and output error relative to no outliers in float."""

import numpy as np

from benchmarks.common import Quality
from benchmarks.ptq._problems import layer
from refquant.ptq import outlier_decomposition


class OutlierDecomposition(Quality):
    params = ([float("inf"), 12.0, 6.0],)
    param_names = ("threshold",)

    def setup(self, threshold):
        self.weight, self.x, _ = layer(dtype="float32")

    def time_product(self, threshold):
        outlier_decomposition.decomposed_product(self.x, self.weight, threshold=threshold)

    def track_error(self, threshold):
        exact = self.x.astype(float) @ self.weight.T.astype(float)
        noise = [np.square(outlier_decomposition.decomposed_product(
            self.x, self.weight, threshold=t).value - exact).mean()
            for t in (threshold, float("inf"))]
        return float(noise[0] / noise[1])

    track_error.unit = "of the output error with int8 alone"

    def track_columns_in_float(self, threshold):
        return float(outlier_decomposition.outlier_columns(self.x, threshold=threshold).mean())

    track_columns_in_float.unit = "of all columns"
