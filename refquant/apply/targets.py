"""A network and its plan, as a chip sees them: what `mixed_precision.targets.check` takes."""

from collections.abc import Mapping, Sequence

from refquant._types import Array
from refquant.mixed_precision.targets import Format, LayerFormat, format_of
from refquant.nn._nodes import function_of
from refquant.nn.convolution import conv2d, depthwise_conv2d
from refquant.nn.network import Node
from refquant.nn.operations import linear
from refquant.quantizer import Quantizer
from refquant.quantizers.uniform import Uniform

__all__ = ["layer_formats"]

_OPERATION = {conv2d: "convolution", depthwise_conv2d: "depthwise", linear: "linear"}
#: A value that no quantizer is planned for.
FLOAT = Format("float32")


def layer_formats(
    nodes: Sequence[Node], parameters: Mapping[str, Array], plan: Mapping[str, Quantizer]
) -> list[LayerFormat]:
    """Formats of every layer with a weight, under a plan by name.

    Parameters
    ----------
    nodes : sequence of Node
    parameters : mapping of str to ndarray
    plan : mapping of str to Quantizer
        As of `refquant.apply.simulate.static`; what has none is float32.

    Returns
    -------
    list of LayerFormat
        Named by their weights.

    Raises
    ------
    TypeError
        If a quantizer is not `Uniform`: no target of ours multiplies other codes.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, section 2.1.

    Examples
    --------
    >>> from refquant.nn.models import trained_digits_cnn
    >>> model = trained_digits_cnn()
    >>> layer_formats(model.nodes, model.parameters, {})[0].weight.name
    'float32'
    """
    return [
        LayerFormat(
            node.inputs[1], _OPERATION[function_of(node.op)],
            _format(plan, node.inputs[1], parameters[node.inputs[1]].shape, channel=0),
            _format(plan, node.inputs[0], None, channel=None))
        for node in nodes if function_of(node.op) in _OPERATION
    ]


def _format(
    plan: Mapping[str, Quantizer], name: str, shape: tuple[int, ...] | None, channel: int | None
) -> Format:
    if name not in plan:
        return FLOAT
    quantizer = plan[name]
    if not isinstance(quantizer, Uniform):
        raise TypeError(f"`plan` must hold `Uniform` for `{name}`; "
                        f"got {type(quantizer).__name__}")
    own = quantizer.scale.shape if shape is None else shape
    return format_of(quantizer, own, channel=channel)
