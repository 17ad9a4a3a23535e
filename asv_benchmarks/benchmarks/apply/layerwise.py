"""A method on every layer of the character model: time, and the bits per character it costs."""

from functools import partial

import numpy as np

from benchmarks.common import QUICK, Quality
from benchmarks.ptq._problems import fit
from refquant.apply import layerwise
from refquant.apply.simulate import weight_names
from refquant.calibration.second_moment import SecondMoment
from refquant.nn.models import Model
from refquant.nn.text import bits_per_character, text_data, trained_text_model
from refquant.ptq.gptq import gptq


def three_bits(weight, inputs, *, repair):
    """GPTQ; with the identity for a Hessian it is nearest rounding."""
    hessian = inputs.hessian if repair else np.eye(weight.shape[1])
    return gptq(weight, hessian, partial(fit, bits=3), group_size=32)


class Layerwise(Quality):
    params = (["nearest", "parallel", "sequential"],)
    param_names = ("loop",)

    def setup(self, loop):
        self.model, data = trained_text_model(), text_data()
        some = np.random.default_rng(0).choice(len(data.x_train), 256 if QUICK else 4096)
        self.batches = [{"x": data.x_train[some]}]
        held_out = 256 if QUICK else 20000
        self.test = data.x_test[:held_out], data.y_test[:held_out]

    def run(self, loop):
        run = layerwise.parallel if loop == "parallel" else layerwise.sequential
        return run(self.model.nodes, self.model.values, self.batches, SecondMoment.of,
                   partial(three_bits, repair=loop != "nearest"),
                   names=weight_names(self.model.nodes)[1:])

    def time_run(self, loop):
        self.run(loop)

    def track_loss(self, loop):
        made = Model(self.model.nodes, self.run(loop).values, {})
        return max(0.0, bits_per_character(made, *self.test)
                   - bits_per_character(self.model, *self.test))

    track_loss.unit = "bits per character above float"
