"""What an operation of a node is: the function, and the settings bound to it."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from refquant.nn.network import Node, Op

__all__ = ["function_of", "readers", "settings_of"]


def function_of(op: Op) -> Callable[..., Any]:
    """The function under any `functools.partial`."""
    return function_of(op.func) if isinstance(op, partial) else op


def settings_of(op: Op) -> Mapping[str, Any]:
    """Keywords that `functools.partial` has bound to it."""
    return {**settings_of(op.func), **op.keywords} if isinstance(op, partial) else {}


def readers(nodes: Sequence[Node]) -> dict[str, list[Node]]:
    """The nodes that read each name; a node that reads a name twice stands there twice."""
    found: dict[str, list[Node]] = {}
    for node in nodes:
        for name in node.inputs:
            found.setdefault(name, []).append(node)
    return found
