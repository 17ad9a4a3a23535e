"""One command around asv: ``python asv_benchmarks/bench.py [quick|full|compare|publish|serve]``.

quick    every benchmark once, in this interpreter, small inputs; stores nothing
full     measure HEAD in an environment of its own and store the result
compare  measure REF (default main) and HEAD, and say what became worse
publish  write html/: asv's dashboard made to work offline, and a static summary
serve    publish, then show it on http://127.0.0.1:8731/

Exit status: 0 fine, 1 a benchmark got worse, 2 a benchmark failed, 3 nothing was measured (asv
is missing, or nothing could be set up), 130 interrupted. `refquant bench` runs this very file.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
FINE, WORSE, BROKEN, NOTHING = 0, 1, 2, 3
ACTIONS = ["quick", "full", "compare", "publish", "serve"]
# Threads pinned: a second one on small arrays only adds noise. asv drops PYTHONPATH, so the
# checkout comes in by asv's own variable, and wins over an installed refquant.
ENV = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "ASV_PYTHONPATH": str(ROOT),
}


def asv(*args: str, **extra: str) -> tuple[int, str]:
    """Run asv, echo its output line by line, and return its exit status and output."""
    print("$ asv", *args, flush=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "asv", *args],
        cwd=HERE,
        env={**os.environ, **ENV, **extra},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    out = []
    try:
        for line in process.stdout:
            print(line, end="", flush=True)
            out.append(line)
        return process.wait(), "".join(out)
    except KeyboardInterrupt:               # asv got the signal too: let it clean up
        process.wait(timeout=10)
        raise


def verdict(status: int, out: str) -> int:
    """Tell apart what asv calls 1 alike: slower, cannot import, nothing selected."""
    if "PERFORMANCE DECREASED" in out:
        return WORSE
    failed = sorted(set(re.findall(r"(\S+)\s+(?:\d+/\d+ )?failed$", out, re.M)))
    if status == 2 or failed:
        print(f"failed: {', '.join(failed) or 'see above'}", file=sys.stderr)
        return BROKEN
    if status or not re.search(r"Running [1-9]\d* total benchmarks", out):
        return nothing("asv ran no benchmark; its output above says why")
    return FINE


def nothing(why: str) -> int:
    print(f"nothing was measured: {why}", file=sys.stderr)
    return NOTHING


def commit(ref: str) -> str:
    """Full name of a commit, empty if there is none."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def compare(ref: str, factor: str, selected: list[str]) -> int:
    old, new = commit(ref), commit("HEAD")
    if not old:
        return nothing(f"`ref` must name a commit; got {ref}")
    if old == new:
        return nothing(f"{ref} and HEAD are the same commit, {new[:8]}")
    status = ["git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no"]
    if subprocess.run(status, capture_output=True, text=True, check=False).stdout:
        print("note: uncommitted changes are not measured", file=sys.stderr)
    how = ("--launch-method=forkserver", "-f", factor, "--split")
    return verdict(*asv("continuous", *how, *selected, ref, "HEAD"))


def publish() -> int:
    results = HERE / "results"
    if not (results / "benchmarks.json").exists():
        return nothing("there is no result yet; run `refquant bench full` first")
    status, _ = asv("publish", "--no-pull")
    for script in (["offline.py", "html"], ["summary.py", "results", "-o", "html/summary"]):
        status = status or subprocess.call([sys.executable, *script], cwd=HERE)
    return BROKEN if status else FINE


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="bench.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", default="quick", choices=ACTIONS)
    parser.add_argument("ref", nargs="?", default="main", help="for compare")
    parser.add_argument("-b", "--bench", action="append", default=[], help="regular expression")
    parser.add_argument("-f", "--factor", default="1.25", help="for compare: what counts as worse")
    asked = parser.parse_args(argv)
    selected = [word for pattern in asked.bench for word in ("-b", pattern)]
    if importlib.util.find_spec("asv") is None:
        return nothing('asv is not installed; install it by: pip install -e ".[bench]"')
    if not (Path.home() / ".asv-machine.json").exists():      # asv would ask questions
        asv("machine", "--yes")
    if asked.what == "quick":
        how = ("--python=same", "--quick", "--dry-run", "--launch-method=forkserver")
        return verdict(*asv("run", *how, "--show-stderr", *selected, REFQUANT_BENCH="quick"))
    if asked.what == "full":
        how = ("--launch-method=forkserver", "--show-stderr")
        return verdict(*asv("run", *how, *selected, "HEAD^!"))
    if asked.what == "compare":
        return compare(asked.ref, asked.factor, selected)
    status = publish()
    if asked.what == "serve" and status == FINE:
        return asv("preview", "--port", "8731")[0]
    return status


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
