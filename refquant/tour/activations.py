"""Rows on activations: ranges fixed beforehand, or taken from the data at hand."""

from collections.abc import Callable, Mapping
from functools import partial

from refquant._types import Array
from refquant.calibration.dynamic import per_tensor, per_token, static
from refquant.calibration.minmax import absmax
from refquant.metrics import sqnr
from refquant.nn.models import predict
from refquant.nn.network import run
from refquant.quantizer import Fit, bits_per_element, fake_quantize
from refquant.quantizers.uniform import Uniform, symmetric
from refquant.tour.subject import Row, RowFunction, Subject, whole

__all__ = ["ROWS"]


def static_row(subject: Subject, *, bits: int) -> Row:
    """Ranges learned from 256 images of the other half."""
    names = layer_inputs(subject)
    seen: dict[str, list[Array]] = {name: [] for name in names}
    for start in range(0, 256, 64):
        batch = subject.data.x_train[start : start + 64]
        values = run(subject.model.nodes, {"x": batch, **subject.model.values}).values
        for name in names:
            seen[name].append(values[name])
    fits = {name: fixed(static(batches, bits=bits)) for name, batches in seen.items()}
    return simulated(subject, f"W{bits}A{bits} static", bits, fits)


def dynamic_row(subject: Subject, *, name: str, fit: Callable[..., Uniform], bits: int) -> Row:
    """Ranges of each call."""
    fits = dict.fromkeys(layer_inputs(subject), partial(fit, bits=bits))
    return simulated(subject, f"W{bits}A{bits} dynamic, {name}", bits, fits)


def simulated(subject: Subject, name: str, bits: int, fits: Mapping[str, Fit]) -> Row:
    """The network with weights per channel, and every input of a layer under its fit."""
    model, stored, weights = subject.model, 0.0, {}
    for weight in subject.weight_names:
        rows = whole(model.parameters[weight])
        quantizer = symmetric(absmax(rows, axis=1), bits=bits)
        weights[weight] = fake_quantize(rows, quantizer).reshape(model.parameters[weight].shape)
        stored += rows.size * bits_per_element(quantizer, rows.shape)

    def tap(name: str, value: Array) -> Array:
        if name in weights:
            return weights[name]
        return fake_quantize(value, fits[name](value)) if name in fits else value

    images = subject.data.x_test
    exact, logits = predict(model, images), predict(model, images, tap=tap)
    row = Row(
        name,
        bits=stored / sum(weight.size for weight in weights.values()),
        sqnr=sqnr(exact, logits),
        source="(of the logits)",
        accuracy=float((logits.argmax(1) == subject.data.y_test).mean()),
    )
    if bits < 8:
        return row
    lost = subject.accuracy() - row.accuracy
    return row.claim(f"loses {100 * lost:.2f} points, at most 1", lost <= 0.01)


def layer_inputs(subject: Subject) -> list[str]:
    """Names of the values that meet a weight."""
    weighted = [n for n in subject.model.nodes if any(i.endswith(".weight") for i in n.inputs)]
    return list(dict.fromkeys(node.inputs[0] for node in weighted))


def fixed(quantizer: Uniform) -> Fit:
    """The fit that always answers the same."""
    return lambda x: quantizer


ROWS: list[RowFunction] = [
    row
    for bits in (8, 4)
    for row in (
        partial(static_row, bits=bits),
        partial(dynamic_row, name="per tensor", fit=per_tensor, bits=bits),
        partial(dynamic_row, name="per token", fit=per_token, bits=bits),
    )
]
