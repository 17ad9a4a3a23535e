"""The running example in integers: time against its simulation, codes that differ, mistakes."""

import numpy as np

from benchmarks.common import QUICK, Quality, share_of_time
from refquant.apply.calibrate import observe, plan
from refquant.apply.lower import as_deployed, execute, lower, stored_names
from refquant.apply.rewrite import fold_batch_norms
from refquant.apply.simulate import static, weight_names
from refquant.calibration.minmax import Range, absmax
from refquant.granularity import all_but
from refquant.integer.requantize import RULES
from refquant.nn.data import digits
from refquant.nn.models import trained_digits_cnn
from refquant.nn.network import run
from refquant.quantizers.uniform import Uniform, asymmetric, symmetric


def int8(r):
    q = asymmetric(r.low, r.high, bits=8)
    return Uniform(q.scale, q.zero_point - 128, -128, 127)


def per_channel(weight):
    return symmetric(absmax(weight, axis=all_but(0, weight.ndim)), bits=8)


def digits_program(rule):
    """Program, network, plan and the digits to judge it by."""
    model, split = trained_digits_cnn(), digits()
    net = fold_batch_norms(model.nodes, model.values)
    batches = [{"x": split.x_train[:256]}]
    seen = observe(net.nodes, net.values, batches, Range.of, names=stored_names(net.nodes))
    made = plan(seen, int8) | plan(net.values, per_channel, names=weight_names(net.nodes))
    images = split.x_test[: 100 if QUICK else None]
    program = lower(net.nodes, net.values, made, {"x": images[:1]}, rule=RULES[rule])
    return program, net, as_deployed(made), images, split.y_test[: len(images)]


class Lower(Quality):
    params = (list(RULES),)
    param_names = ("rule",)

    def setup(self, rule):
        self.program, self.net, self.plan, images, self.labels = digits_program(rule)
        self.images = images.astype(np.float64)
        self.codes = {"x": self.plan["x"].encode(self.images)}

    def simulate(self, dtype=np.float64):
        inputs = {"x": self.images, **self.program.values}
        narrow = {name: value.astype(dtype) for name, value in inputs.items()}
        return run(self.net.nodes, narrow, tap=static(self.plan)).values["logits"]

    def integers(self):
        return execute(self.program, self.codes)["logits"]

    def time_execute(self, rule):
        self.integers()

    def track_share_of_time(self, rule):
        return share_of_time(self.integers, self.simulate)

    def track_differing_logits(self, rule):
        simulated = self.plan["logits"].encode(self.simulate())
        return 100 * float((self.integers() != simulated).mean())

    def track_error_rate(self, rule):
        return 100 * float((self.integers().argmax(1) != self.labels).mean())

    track_share_of_time.unit = "of the time of the simulation"
    track_differing_logits.unit = "% of the codes"
    track_error_rate.unit = "% of the test images"
