"""The forecast of the character model's loss: time, and how far it is off."""

import numpy as np

from benchmarks.common import QUICK, Benchmark, Quality
from refquant.apply.forecast import added, forecast
from refquant.apply.simulate import weight_names
from refquant.calibration.minmax import absmax
from refquant.nn.models import with_loss
from refquant.nn.text import text_data, trained_text_model
from refquant.quantizer import fake_quantize
from refquant.quantizers.uniform import symmetric

CONTEXTS = 50 if QUICK else 2000


class _Character:
    """The model, contexts that it was trained on, and its weights in few bits."""

    def __init__(self, bits):
        model, data = trained_text_model(), text_data()
        some = np.random.default_rng(0).integers(0, len(data.x_train), CONTEXTS)
        self.nodes = with_loss(model.nodes)
        self.values = {**model.values, "x": data.x_train[some], "labels": data.y_train[some]}
        self.changed = {name: fake_quantize(w, symmetric(absmax(w), bits=bits))
                        for name in weight_names(model.nodes) for w in [model.values[name]]}


class Forecast(Benchmark):
    params = (["forecast", "added"],)
    param_names = ("what",)

    def setup(self, what):
        self.at = _Character(8)

    def time_of_all_weights(self, what):
        (forecast if what == "forecast" else added)(
            self.at.nodes, self.at.values, self.at.changed)


class ForecastError(Quality):
    params = ([8, 6, 4, 3],)
    param_names = ("bits",)

    def track_share_of_the_second_term(self, bits):
        at = _Character(bits)
        made = forecast(at.nodes, at.values, at.changed)
        return abs(made.total - added(at.nodes, at.values, at.changed)) / made.second

    track_share_of_the_second_term.unit = "off / second term"
