"""Post-training quantization of the running example: time, errors made, distance to float."""

import numpy as np

from benchmarks.common import QUICK, Quality
from refquant.apply.calibrate import observe, plan
from refquant.apply.simulate import chain, dynamic, ends, input_names, static, weight_names
from refquant.calibration.minmax import absmax
from refquant.calibration.statistics import Range
from refquant.granularity import all_but
from refquant.nn.data import digits
from refquant.nn.models import predict, trained_digits_cnn
from refquant.quantizers.uniform import asymmetric, symmetric


def mode_of(mode, model, split, bits):
    """A tap; the first and the last layer stay at 8 bits."""
    names, inputs = weight_names(model.nodes), input_names(model.nodes)

    def weights(b):
        return lambda w: symmetric(absmax(w, axis=all_but(0, w.ndim)), bits=b)

    made = plan(model.values, weights(bits), names=names)
    made |= plan(model.values, weights(8), names=ends(names))
    if mode == "weights":
        return static(made)
    if mode == "dynamic":

        def fit(x):
            return asymmetric(x.min(keepdims=True), x.max(keepdims=True), bits=bits)

        return chain(static(made), dynamic(dict.fromkeys(inputs, fit)))
    batches = [{"x": split.x_train[:256]}]
    seen = observe(model.nodes, model.values, batches, Range.of, names=inputs)
    made |= plan(seen, lambda r: asymmetric(r.low, r.high, bits=bits))
    made |= plan(seen, lambda r: asymmetric(r.low, r.high, bits=8), names=ends(inputs))
    return static(made)


class Simulate(Quality):
    params = (["weights", "static", "dynamic"], [8, 4, 3, 2])
    param_names = ("mode", "bits")

    def setup(self, mode, bits):
        self.model, split = trained_digits_cnn(), digits(seed=0)
        images = 100 if QUICK else len(split.x_test)
        self.x, self.y = split.x_test[:images], split.y_test[:images]
        self.tap = mode_of(mode, self.model, split, bits)

    def time_predict(self, mode, bits):
        predict(self.model, self.x, tap=self.tap)

    def track_error_rate(self, mode, bits):
        logits = predict(self.model, self.x, tap=self.tap)
        return 100 * float((logits.argmax(1) != self.y).mean())

    def track_logit_noise(self, mode, bits):
        """Accuracy alone hides bugs: the noise of the logits over their power."""
        exact = predict(self.model, self.x).astype(np.float64)
        noise = predict(self.model, self.x, tap=self.tap) - exact
        return float(np.square(noise).mean() / np.square(exact).mean())

    track_error_rate.unit = "% of the test images"
    track_logit_noise.unit = "noise power / signal power"
