"""Look up how long a layer takes: measured once per shape and precision, then added.

Bit operations say how large a circuit is, not how long *this* machine takes: a CPU
without 4-bit instructions unpacks first, and may be slower for it. So hardware-aware
methods measure. The table answers for what was measured and refuses everything else:
between 4 and 8 bits there is another program, and nothing to interpolate.

The sum over layers assumes that they run one after the other and share nothing, which
is to be checked, not believed (`refquant.apply.latency` does).
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from refquant._types import Array
from refquant._validate import short

__all__ = ["LatencyTable", "Shape", "from_json", "to_json"]


class Shape(NamedTuple):
    """What a kernel sees of a layer: ``rows`` times ``inputs`` by ``outputs``.

    Attributes
    ----------
    rows : int
        Positions times batch.
    inputs : int
        Products added up for one output.
    outputs : int
    depthwise : bool
        Each output channel has inputs of its own.

    References
    ----------
    Cai et al., 2019, arXiv:1812.00332, appendix B (the keys of their table).
    """

    rows: int
    inputs: int
    outputs: int
    depthwise: bool = False


class LatencyTable(NamedTuple):
    """Seconds of each measured shape at each measured pair of bit-widths.

    Attributes
    ----------
    seconds : mapping of (Shape, int, int) to float
        Keyed by shape, bits of the weights and bits of the activations; 32 is float32.
    machine : str
        What it was measured on.

    References
    ----------
    Wang et al., 2019, arXiv:1811.08886, section 3.3.

    Examples
    --------
    >>> shape = Shape(64, 144, 16)
    >>> table = LatencyTable({(shape, 8, 8): 2e-5, (shape, 4, 32): 3e-5}, "example")
    >>> table.of(shape, 8, 8)
    2e-05
    >>> table.total([shape, shape], [8, 4], [8, 32])
    5e-05
    """

    seconds: Mapping[tuple[Shape, int, int], float]
    machine: str

    def of(self, shape: Shape, weight_bits: int, activation_bits: int) -> float:
        """Seconds of one layer; a ValueError if it was not measured."""
        try:
            return self.seconds[shape, weight_bits, activation_bits]
        except KeyError:
            known = sorted({(w, a) for s, w, a in self.seconds if s == shape})
            raise ValueError(
                f"`shape` must be in the table at W{weight_bits}A{activation_bits}; got {shape}, "
                + (f"measured at {', '.join(f'W{w}A{a}' for w, a in known)}" if known
                   else "not measured at all")) from None

    def total(
        self, shapes: Iterable[Shape], weight_bits: Sequence[int], activation_bits: Sequence[int]
    ) -> float:
        """Seconds of the layers one after the other."""
        rows = zip(shapes, weight_bits, activation_bits, strict=True)
        return math.fsum(self.of(s, w, a) for s, w, a in rows)

    def costs(
        self, shapes: Sequence[Shape], pairs: Sequence[tuple[int, int]], *,
        missing: float = math.inf,
    ) -> Array:
        """Seconds of each layer at each pair of widths, and `missing` where none was measured.

        For `integer_program`, whose costs are finite, give a `missing` above the budget: what
        has no kernel is then never chosen.
        """
        return np.array([[self.seconds.get((s, w, a), missing) for w, a in pairs] for s in shapes])


def to_json(table: LatencyTable) -> str:
    """The table as text, the same for the same table.

    Parameters
    ----------
    table : LatencyTable

    Returns
    -------
    str

    References
    ----------
    Wang et al., 2019, arXiv:1811.08886, section 3.3.

    Examples
    --------
    >>> table = LatencyTable({(Shape(1, 2, 3), 8, 8): 0.5}, "example")
    >>> from_json(to_json(table)) == table
    True
    """
    rows = [{**shape._asdict(), "weight_bits": w, "activation_bits": a, "seconds": seconds}
            for (shape, w, a), seconds in sorted(table.seconds.items())]
    return json.dumps({"machine": table.machine, "entries": rows}, indent=1) + "\n"


def from_json(text: str) -> LatencyTable:
    """The table of `to_json`, every entry checked.

    Parameters
    ----------
    text : str

    Returns
    -------
    LatencyTable

    Raises
    ------
    ValueError
        If it is no JSON, or an entry lacks a field or has one that cannot be.

    References
    ----------
    Wang et al., 2019, arXiv:1811.08886, section 3.3.

    Examples
    --------
    >>> from_json('{"machine": "m", "entries": []}').machine
    'm'
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as err:
        raise ValueError(f"a latency table must be JSON; got {err}") from None
    if not isinstance(data, dict) or not isinstance(data.get("entries"), list) or not isinstance(
            data.get("machine"), str):
        raise ValueError("a latency table must hold `machine` and `entries`; got something else")
    return LatencyTable(dict(map(_entry, data["entries"])), data["machine"])


def _entry(row: Any) -> tuple[tuple[Shape, int, int], float]:
    kinds: dict[str, tuple[type, ...]] = {
        "rows": (int,), "inputs": (int,), "outputs": (int,), "depthwise": (bool,),
        "weight_bits": (int,), "activation_bits": (int,), "seconds": (int, float)}
    if not isinstance(row, dict) or set(row) != set(kinds):
        raise ValueError(f"an entry must have exactly the fields {', '.join(kinds)}; "
                         f"got {short(row)}")
    for name, kind in kinds.items():
        value = row[name]
        truth = bool in kind
        good = isinstance(value, kind) and isinstance(value, bool) == truth
        if not good or not (truth or 0 < value < float("inf")):
            wanted = "true or false" if truth else "positive"
            raise ValueError(f"`{name}` must be {wanted}; got {short(repr(value))}")
    shape = Shape(row["rows"], row["inputs"], row["outputs"], row["depthwise"])
    return (shape, row["weight_bits"], row["activation_bits"]), float(row["seconds"])
