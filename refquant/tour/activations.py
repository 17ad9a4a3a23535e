"""Rows on activations: ranges fixed beforehand, or taken from the data at hand."""

from collections.abc import Callable
from functools import partial

from refquant._types import Array
from refquant.apply.calibrate import observe, plan
from refquant.apply.simulate import chain, dynamic, input_names, static, weight_names
from refquant.calibration.dynamic import per_tensor, per_token
from refquant.calibration.minmax import Range, absmax
from refquant.granularity import all_but
from refquant.metrics import sqnr
from refquant.nn.models import predict
from refquant.nn.network import Tap
from refquant.quantizer import bits_per_element
from refquant.quantizers.uniform import Uniform, asymmetric, symmetric
from refquant.tour.subject import Row, RowFunction, Subject

__all__ = ["ROWS"]


def static_row(subject: Subject, *, bits: int) -> Row:
    """Ranges learned from 256 images of the other half."""
    nodes, images = subject.model.nodes, subject.data.x_train
    batches = ({"x": images[start : start + 64]} for start in range(0, 256, 64))
    seen = observe(nodes, subject.model.values, batches, Range.of, names=input_names(nodes))
    ranges = plan(seen, lambda r: asymmetric(r.low, r.high, bits=bits))
    return simulated(subject, f"W{bits}A{bits} static", bits, static(ranges))


def dynamic_row(subject: Subject, *, name: str, fit: Callable[..., Uniform], bits: int) -> Row:
    """Ranges of each call."""
    fits = dict.fromkeys(input_names(subject.model.nodes), partial(fit, bits=bits))
    return simulated(subject, f"W{bits}A{bits} dynamic, {name}", bits, dynamic(fits))


def simulated(subject: Subject, name: str, bits: int, activations: Tap) -> Row:
    """The network with weights per channel, and the inputs of layers as `activations` has them."""

    def per_channel(weight: Array) -> Uniform:
        return symmetric(absmax(weight, axis=all_but(0, weight.ndim)), bits=bits)

    model, images = subject.model, subject.data.x_test
    names = weight_names(model.nodes)
    weights = plan(model.parameters, per_channel, names=names)
    sizes = {name: model.parameters[name].size for name in names}
    stored = sum(
        sizes[name] * bits_per_element(weights[name], model.parameters[name].shape)
        for name in names
    )
    exact = predict(model, images)
    logits = predict(model, images, tap=chain(static(weights), activations))
    row = Row(
        name,
        bits=stored / sum(sizes.values()),
        sqnr=sqnr(exact, logits),
        source="(of the logits)",
        accuracy=float((logits.argmax(1) == subject.data.y_test).mean()),
    )
    if bits < 8:
        return row
    lost = subject.accuracy() - row.accuracy
    return row.claim(f"loses {100 * lost:.2f} points, at most 1", lost <= 0.01)


ROWS: list[RowFunction] = [
    row
    for bits in (8, 4)
    for row in (
        partial(static_row, bits=bits),
        partial(dynamic_row, name="per tensor", fit=per_tensor, bits=bits),
        partial(dynamic_row, name="per token", fit=per_token, bits=bits),
    )
]
