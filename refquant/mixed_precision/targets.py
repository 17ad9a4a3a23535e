"""Check a quantized network against what a chip accepts, and name every violation.

A target is a list of pairs (weight, activation) that it can multiply; a layer is fine
if it fits one of them whole. Where it fits none, the violations of the pair that it
comes closest to are what has to change. The targets themselves are data with their
sources: ``targets.toml`` beside this module.

=================  =====================================================================
target             what catches people out
=================  =====================================================================
``cmsis-nn``       activations of 16 bits are symmetric, of 8 bits not; no -128 in weights;
                   linear layers with 16-bit activations or 4-bit weights have one scale
``cmsis-nn-q7``    every scale is a power of two
``gap8``           activations are unsigned with zero point 0: they must follow a ReLU
``edge-tpu``       8 bits, nothing else
``x86-avx2``       two products are added in 16 bits: weights of 8 bits saturate
``turing``         weights and activations of the same width
``hopper``         no products of int4 any more
``tensorrt``       activations are symmetric; int4 is for weights of products alone, in groups
=================  =====================================================================
"""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from refquant._types import Array
from refquant._validate import require_broadcastable
from refquant.quantizers.uniform import Uniform

__all__ = ["OPERATIONS", "Format", "LayerFormat", "Pair", "Target", "TensorRule", "Violation",
           "check", "format_of", "target", "targets"]

#: Operations of layers with a weight.
OPERATIONS = ("convolution", "depthwise", "linear")


class Format(NamedTuple):
    """How one tensor is stored.

    Attributes
    ----------
    name : str
        ``int8``, ``uint4``, ``float16``, ...
    symmetric : bool
        All zero points are 0.
    per_channel : bool
        There is more than one scale, one for each output channel.
    block : int
        Length of the groups along the inputs that have a scale; 0: none.
    power_of_two : bool
        All scales are powers of two.
    narrow : bool
        The most negative code of two's complement is not used.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, section 2.1.
    """

    name: str
    symmetric: bool = True
    per_channel: bool = False
    block: int = 0
    power_of_two: bool = False
    narrow: bool = False


class LayerFormat(NamedTuple):
    """One layer with a weight.

    Attributes
    ----------
    name : str
    operation : str
        One of `OPERATIONS`.
    weight, activation : Format

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, section 2.1.
    """

    name: str
    operation: str
    weight: Format
    activation: Format


@dataclass(frozen=True)
class TensorRule:
    """What a target accepts of one tensor; see ``targets.toml`` for the fields.

    References
    ----------
    The `source` of each `Target`.

    Examples
    --------
    >>> rule = TensorRule(("int8",), symmetric=True, per_channel=False)
    >>> rule.broken_by(Format("int8", symmetric=False))
    ['must be symmetric; got a zero point']
    """

    formats: tuple[str, ...]
    symmetric: bool
    per_channel: bool
    block: tuple[int, ...] = ()
    power_of_two: bool = False
    narrow: bool = False
    grouped: bool = False

    def broken_by(self, found: Format) -> list[str]:
        """What is wrong with a tensor, each in one line; empty if it is accepted."""
        wrong = []
        if found.name not in self.formats:
            wrong.append(f"must be {' or '.join(self.formats)}; got {found.name}")
        if self.symmetric and not found.symmetric:
            wrong.append("must be symmetric; got a zero point")
        if found.per_channel and not self.per_channel:
            wrong.append("must have one scale; got one per channel")
        sizes = " or ".join(map(str, self.block))
        if self.grouped and not found.block:
            wrong.append(f"must have groups of {sizes}; got none")
        if found.block and found.block not in self.block:
            wrong.append((f"must have groups of {sizes}" if sizes else "must have no groups")
                         + f"; got groups of {found.block}")
        if self.power_of_two and not found.power_of_two:
            wrong.append("must have scales that are powers of two; got others")
        if self.narrow and found.name.startswith("int") and not found.narrow:
            wrong.append("must not use its most negative code; got the full range")
        return wrong


class Pair(NamedTuple):
    """One way in which a target multiplies.

    Attributes
    ----------
    weight, activation : TensorRule
    operations : tuple of str

    References
    ----------
    The `source` of each `Target`.
    """

    weight: TensorRule
    activation: TensorRule
    operations: tuple[str, ...]


class Target(NamedTuple):
    """A chip with the kernels that were read up.

    Attributes
    ----------
    name, title : str
    pairs : tuple of Pair
    source : str
        Where it stands.

    References
    ----------
    Its `source`.
    """

    name: str
    title: str
    pairs: tuple[Pair, ...]
    source: str


class Violation(NamedTuple):
    """Something a target does not accept.

    Attributes
    ----------
    layer : str
    tensor : str
        ``weight``, ``activation`` or ``operation``.
    rule : str
        What must be, and what is.

    References
    ----------
    The `source` of the `Target`.
    """

    layer: str
    tensor: str
    rule: str

    def __str__(self) -> str:
        return f"`{self.layer}`: {self.tensor} {self.rule}"


@lru_cache(maxsize=1)
def targets() -> Mapping[str, Target]:
    """Every target by name.

    Returns
    -------
    mapping of str to Target

    References
    ----------
    The `source` of each.

    Examples
    --------
    >>> sorted(targets())[:3]
    ['cmsis-nn', 'cmsis-nn-q7', 'edge-tpu']
    """
    text = (Path(__file__).parent / "targets.toml").read_text("utf-8")
    return {row["name"]: _target(row) for row in tomllib.loads(text)["target"]}


def target(name: str) -> Target:
    """The target of this name.

    Parameters
    ----------
    name : str

    Returns
    -------
    Target

    Raises
    ------
    ValueError
        If there is none; the message lists all.

    References
    ----------
    Its `source`.

    Examples
    --------
    >>> target("edge-tpu").title
    'Coral Edge TPU'
    """
    if name not in targets():
        raise ValueError(f"`name` must be one of {', '.join(targets())}; got {name}")
    return targets()[name]


def check(network: Iterable[LayerFormat], chip: Target) -> list[Violation]:
    """Everything about these layers that a target does not accept.

    Parameters
    ----------
    network : iterable of LayerFormat
    chip : Target

    Returns
    -------
    list of Violation
        Empty if it runs. For a layer that fits no pair: the violations of the nearest,
        the one with the fewest wrong formats, then the fewest violations, then the first.

    Raises
    ------
    ValueError
        If an operation has no such name.

    References
    ----------
    The `source` of `chip`.

    Examples
    --------
    >>> a = Format("uint8", symmetric=False)
    >>> layer = LayerFormat("fc", "linear", Format("int4", per_channel=True), a)
    >>> for violation in check([layer], target("edge-tpu")):
    ...     print(violation)
    `fc`: weight must be uint8; got int4
    `fc`: weight must have one scale; got one per channel
    """
    found: list[Violation] = []
    for layer in network:
        if layer.operation not in OPERATIONS:
            raise ValueError(
                f"`operation` must be one of {', '.join(OPERATIONS)}; got {layer.operation}")
        found += _broken(layer, min(chip.pairs, key=partial(_distance, layer)))
    return found


def format_of(
    quantizer: Uniform, shape: tuple[int, ...], *, channel: int | None = 0
) -> Format:
    """What a quantizer asks of a chip.

    Parameters
    ----------
    quantizer : Uniform
    shape : tuple of int
        Of the tensor.
    channel : int or None
        The axis of the output channels; None if the tensor has none, as activations.

    Returns
    -------
    Format

    Raises
    ------
    ValueError
        If the scales do not broadcast to `shape`, or run along more than the channel
        and one axis of groups.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, eq. (1).

    Examples
    --------
    >>> q = Uniform(np.full((4, 1), 0.5), np.zeros((4, 1), int), qmin=-127, qmax=127)
    >>> format_of(q, (4, 9))
    Format(name='int8', symmetric=True, per_channel=True, block=0, power_of_two=True, narrow=True)
    """
    require_broadcastable("quantizer.scale", quantizer.scale, shape)
    signed = quantizer.qmin < 0
    bits = max(quantizer.qmax, -quantizer.qmin - 1).bit_length() + signed
    padded = (1,) * (len(shape) - quantizer.scale.ndim) + quantizer.scale.shape
    axes = [i for i, n in enumerate(padded) if n > 1]
    own = None if channel is None else channel % max(len(shape), 1)
    others = [i for i in axes if i != own]
    if len(others) > 1:
        raise ValueError(
            f"`quantizer` must have scales along the channel and one more axis; got {padded}")
    block = int(np.prod(shape[others[0] + 1:], dtype=int)) if others else 0
    return Format(
        f"{'int' if signed else 'uint'}{bits}",
        symmetric=not quantizer.zero_point.any(),
        per_channel=own in axes,
        block=block,
        power_of_two=bool(_is_power_of_two(quantizer.scale)),
        narrow=signed and quantizer.qmin > -(2 ** (bits - 1)),
    )


def _broken(layer: LayerFormat, pair: Pair) -> list[Violation]:
    wrong = [Violation(layer.name, tensor, rule)
             for tensor, accepted, found in (("weight", pair.weight, layer.weight),
                                             ("activation", pair.activation, layer.activation))
             for rule in accepted.broken_by(found)]
    if layer.operation not in pair.operations:
        wrong.append(Violation(
            layer.name, "operation",
            f"must be {' or '.join(pair.operations)}; got {layer.operation}"))
    return wrong


def _distance(layer: LayerFormat, pair: Pair) -> tuple[int, int]:
    """A wrong format makes another program of it; the rest is a matter of calibration."""
    formats = (layer.weight.name not in pair.weight.formats) + (
        layer.activation.name not in pair.activation.formats)
    return formats, len(_broken(layer, pair))


def _is_power_of_two(scale: Array) -> bool:
    return bool((np.frexp(scale)[0] == 0.5).all())


def _target(row: dict[str, object]) -> Target:
    pairs = row["pair"]
    assert isinstance(pairs, list)                      # our own file, and tested
    return Target(str(row["name"]), str(row["title"]), tuple(
        Pair(_rule(p["weight"]), _rule(p["activation"]),
             tuple(p.get("operations", OPERATIONS))) for p in pairs), str(row["source"]))


def _rule(fields: dict[str, object]) -> TensorRule:
    lists = {n: tuple(v) for n, v in fields.items() if isinstance(v, list)}
    return TensorRule(**{**fields, **lists})             # type: ignore[arg-type]
