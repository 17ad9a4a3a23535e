"""Rows on networks that are born in few bits, a few dozen steps old."""

import numpy as np

from refquant.apply.low_precision import (
    drawn,
    initial_integers,
    integer_network,
    integer_sgd,
    stored_sgd,
)
from refquant.apply.train import Optimizer, shuffled, start, train
from refquant.nn.models import (
    Model,
    accuracy,
    digits_cnn,
    initial_parameters,
    initial_statistics,
    with_loss,
)
from refquant.nn.optimizers import cosine
from refquant.quantizers.fixed_point import FixedPoint
from refquant.rounding import half_even
from refquant.tour.subject import Row, RowFunction, Subject

__all__ = ["ROWS"]


def stored_row(subject: Subject) -> Row:
    """Weights stored in 8 bits without a second copy: random updates learn, nearest stop."""
    grid, parameters = FixedPoint(8, 7), initial_parameters(rng=np.random.default_rng(0))
    parameters = {k: grid.decode(grid.encode(v)) if k.endswith(".weight") else v
                  for k, v in parameters.items()}
    optimizers = (stored_sgd(grid, seed=0, rounding=drawn),
                  stored_sgd(grid, seed=0, rounding=lambda rng: half_even))
    learned, stopped = (
        _accuracy(subject, Model(digits_cnn(training=True), parameters, initial_statistics()),
                  Model(digits_cnn(), {}, {}), optimizer, steps=42, rate=0.05)
        for optimizer in optimizers)
    row = Row("stored in 8 bits, 42 steps", bits=8.0, accuracy=learned)
    told = f"random updates reach {learned:.2f}, nearest {stopped:.2f}: at least 0.3 between"
    return row.claim(told, learned - stopped >= 0.3)


def integers_row(subject: Subject) -> Row:
    """WAGE: weights, activations, gradients and errors are integers, updates random."""
    net = Model(integer_network(), initial_integers(rng=np.random.default_rng(0)), {})
    share = _accuracy(subject, net, net, integer_sgd(seed=0), steps=70, rate=8.0)
    row = Row("integers alone, 70 steps", bits=2.0, accuracy=share)
    return row.claim(f"learns to read {share:.2f}, at least 0.6", share >= 0.6)


def _accuracy(subject: Subject, net: Model, judged: Model, optimizer: Optimizer, *, steps: int,
              rate: float) -> float:
    """Accuracy on the held-out digits after `steps` from the parameters of `net`."""
    data = subject.data
    batch = shuffled({"x": data.x_train, "labels": data.y_train}, 64,
                     rng=np.random.default_rng(0))
    state = train(
        with_loss(net.nodes), start(net.parameters, net.statistics, optimizer), batch,
        steps=steps, rate=cosine(rate, steps), optimizer=optimizer,
        frozen=[k for k in net.parameters if not k.endswith(".weight")])
    return accuracy(Model(judged.nodes, state.parameters, state.statistics),
                    data.x_test, data.y_test)


ROWS: list[RowFunction] = [stored_row, integers_row]
