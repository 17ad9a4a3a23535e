"""Explaining a difference: its cost beside two plain runs, and how well rates are predicted."""

import numpy as np

from refquant.integer.engines import ENGINES
from refquant.interop.tflite import Model, read_tflite
from refquant.interop.tflite_difference import explain_difference

from ..common import QUICK, Benchmark, Quality
from .tflite_program import content


def loaded(model: str) -> tuple[Model, list[list[np.ndarray]]]:
    found, rng = read_tflite(content(model)), np.random.default_rng(0)
    shape = found.tensors[found.inputs[0]].shape
    return found, [[rng.integers(-128, 128, shape, np.int8)] for _ in range(1 if QUICK else 4)]


class TfliteDifference(Benchmark):
    params = (["refquant"], ["resnet8_int8", "kws_ref_model_int8"])
    param_names = ("impl", "model")

    def setup(self, impl: str, model: str) -> None:
        self.model, self.inputs = loaded(model)

    def time_explain(self, impl: str, model: str) -> None:
        explain_difference(self.model, self.inputs, ENGINES["tflm"], ENGINES["xnnpack"])


class TfliteDifferenceQuality(Quality):
    """Distance of the counted differences from the predicted ones, over all layers with a law."""

    params = (["resnet8_int8", "kws_ref_model_int8"], ["litert_x86", "xnnpack"])
    param_names = ("model", "engine")

    def track_error_of_the_prediction(self, model: str, engine: str) -> float:
        found = explain_difference(*loaded(model), ENGINES["tflm"], ENGINES[engine])
        known = [d for d in found if d.expected]
        expected = sum(d.expected or 0.0 for d in known)
        return abs(sum(d.apart for d in known) / expected - 1)

    track_error_of_the_prediction.unit = "relative error"
