"""``refquant bench``: run ``asv_benchmarks/bench.py`` of the checkout that this package is in."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["ACTIONS", "bench"]

ACTIONS = ("quick", "full", "compare", "publish", "serve")
NOTHING_MEASURED = 3


def bench(action: str, *, ref: str, factor: float, patterns: Sequence[str]) -> int:
    """Exit status of `bench.py`: 0 fine, 1 worse, 2 broken, 3 nothing measured."""
    script = Path(__file__).resolve().parent.parent / "asv_benchmarks" / "bench.py"
    if not script.is_file():
        print(
            "nothing was measured: the benchmarks are not part of an installed package; "
            "run them from a checkout of the repository",
            file=sys.stderr,
        )
        return NOTHING_MEASURED
    selected = [word for pattern in patterns for word in ("--bench", pattern)]
    command = [sys.executable, str(script), action, ref, "--factor", str(factor), *selected]
    process = subprocess.Popen(command)
    try:
        return process.wait()
    except KeyboardInterrupt:               # bench.py got the signal too, and says so itself
        process.wait()
        sys.exit(130)
