"""What ``refquant oracle list`` prints: the names that the other commands take."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

from refquant.oracle._flags import FLAGS
from refquant.oracle.adapters import ADAPTERS
from refquant.oracle.conformance import HOME_DIALECT
from refquant.oracle.vectors import load, names, table_names


def files() -> Iterator[str]:
    """File, cases, dialects; the base dialect first."""
    return _columns([(name, str(len(file)), ", ".join(
        sorted(file.dialects, key=lambda d: d != file.base_dialect)))
        for name in names() for file in [load(name)]])


def dialects() -> Iterator[str]:
    """Dialect, and the operations that it covers."""
    ops: dict[str, list[str]] = {}
    for name in names():
        file = load(name)
        for dialect in file.dialects:
            if file.op not in ops.setdefault(dialect, []):
                ops[dialect].append(file.op)
    return _columns([(dialect, ", ".join(own)) for dialect, own in ops.items()])


def flags() -> Iterator[str]:
    """Flag, number of cases, meaning."""
    counts = dict.fromkeys(FLAGS, 0)
    for name in names():
        for case in load(name):
            for flag in case.flags:
                counts[flag] += 1
    return _columns([(flag, str(n), FLAGS[flag][1]) for flag, n in counts.items() if n])


def adapters() -> Iterator[str]:
    """Adapter, and the dialect that its library is expected to speak."""
    return _columns([(name, HOME_DIALECT[name]) for name in ADAPTERS])


#: Kind to what lists it.
KINDS: Mapping[str, Callable[[], Iterator[str]]] = MappingProxyType({
    "files": files, "dialects": dialects, "flags": flags, "tables": lambda: iter(table_names()),
    "adapters": adapters,
})  # fmt: skip


def _columns(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
