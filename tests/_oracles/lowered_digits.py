"""The digits network as integer programs, one for each rule: what several tests look at."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from refquant.apply.calibrate import observe, plan
from refquant.apply.lower import Program, lower, stored_names
from refquant.apply.rewrite import Rewritten, fold_batch_norms
from refquant.apply.simulate import weight_names
from refquant.calibration.minmax import Range, absmax
from refquant.granularity import all_but
from refquant.integer.requantize import RULES
from refquant.nn.data import digits
from refquant.nn.models import trained_digits_cnn
from refquant.quantizers.uniform import Uniform, asymmetric, symmetric


class Lowered(NamedTuple):
    net: Rewritten
    plan: dict[str, Uniform]
    programs: dict[str, Program]
    images: np.ndarray
    labels: np.ndarray


def per_channel(weight):
    return symmetric(absmax(weight, axis=all_but(0, weight.ndim)), bits=8)


def signed(r):
    """int8 codes of a range, as LiteRT has them."""
    q = asymmetric(r.low, r.high, bits=8)
    return Uniform(q.scale, q.zero_point - 128, -128, 127)


def planned(nodes, values, inputs):
    """int8 for every stored value over its range, and for every weight per channel."""
    seen = observe(nodes, values, [inputs], Range.of, names=stored_names(nodes))
    return plan(seen, signed) | plan(values, per_channel, names=weight_names(nodes))


@lru_cache(maxsize=1)
def lowered_digits() -> Lowered:
    model, split = trained_digits_cnn(), digits()
    net = fold_batch_norms(model.nodes, model.values)
    made = planned(net.nodes, net.values, {"x": split.x_train[:256]})
    images = split.x_test[:300].astype(np.float64)
    programs = {name: lower(net.nodes, net.values, made, {"x": images[:1]}, rule=rule)
                for name, rule in RULES.items()}
    return Lowered(net, made, programs, images, split.y_test[:300])
