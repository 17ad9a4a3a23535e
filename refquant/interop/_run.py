"""``refquant run``: a model on a file of inputs, every output written, nothing half-written."""

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from refquant._types import Array
from refquant.interop._files import Loaded, See, load_array, load_model, permissions, runs_of, save

__all__ = ["run_file"]


def run_file(
    model: Path,
    inputs: Sequence[Path],
    *,
    outputs: Sequence[Path] = (),
    engine: str | None = None,
    dump: Path | None = None,
) -> None:
    """Run a model on files of inputs, one by one; write its outputs and print a table."""
    _require_apart(outputs, [model, *inputs])
    loaded = load_model(model, engine)
    if outputs and len(outputs) != loaded.outputs:
        raise ValueError(f"`--output` must be given {loaded.outputs} times, once for each output "
                         f"of the model; got {len(outputs)}")
    runs = runs_of(loaded.inputs, [load_array(path) for path in inputs])
    progress, results = _Progress(runs.size), []
    with _dumped(runs.size, dump) as see:
        for k, given in enumerate(runs.inputs):
            results.append(loaded.run(given, see(k)))
            progress.step(k + 1)
    arrays = [runs.together([found[k] for found in results]) for k in range(loaded.outputs)]
    try:
        for path, array in zip(outputs, arrays, strict=False):
            save(path, array)
    except OSError as err:
        raise ValueError(f"the outputs must fit where they go; got {err}") from None
    _print_table(model, loaded, runs.size, arrays)


def _require_apart(outputs: Sequence[Path], read: Sequence[Path]) -> None:
    """No file is written over one that was read, or over another output."""
    taken = {path.resolve() for path in read}
    for path in outputs:
        if path.resolve() in taken:
            raise ValueError("`--output` must be a file of its own, neither the model nor an input "
                             f"nor another output; got {path}")
        taken.add(path.resolve())


@contextmanager
def _dumped(count: int, folder: Path | None) -> Iterator[Callable[[int], See | None]]:
    """For each run a function that keeps what it sees in files, all of which appear at the end."""
    if folder is None:
        yield lambda k: None
        return
    target = folder.resolve()
    if target.exists() and not target.is_dir():
        raise ValueError(f"`--dump-all` must be a folder; got {folder}")
    if target.exists() and any(target.iterdir()):
        raise ValueError(f"`--dump-all` must be a new folder or an empty one; got {folder}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name[:40]}."))
    except OSError as err:
        raise ValueError(f"`--dump-all` must be a folder that can be made; got {err}") from None
    files: dict[str, Array] = {}

    def see_in(k: int) -> See:
        def see(name: str, value: Array) -> None:
            if name not in files:
                if value.nbytes * count > shutil.disk_usage(work).free:
                    raise ValueError(f"`--dump-all` must have room for {value.nbytes * count} more "
                                     f"bytes; got {folder}")
                files[name] = np.lib.format.open_memmap(
                    work / f"{name}.npy", "w+", value.dtype, (count, *value.shape))
            files[name][k] = value

        return see

    try:
        yield see_in
        files.clear()                       # written back when the maps are closed
        work.chmod(permissions(0o777))
        if target.exists():
            target.rmdir()
        work.replace(target)
    except BaseException as err:
        files.clear()
        shutil.rmtree(work, ignore_errors=True)
        if isinstance(err, OSError) and not isinstance(err, BrokenPipeError):
            raise ValueError(f"`--dump-all` must be a folder that can be made; got {err}") from None
        raise


class _Progress:
    """How far a long run is, on stderr: in place on a terminal, a line now and then elsewhere."""

    def __init__(self, count: int) -> None:
        self.count, self.last, self.shown = count, time.monotonic(), False
        self.terminal = sys.stderr.isatty()

    def step(self, done: int) -> None:
        """So many runs are done."""
        now = time.monotonic()
        if done == self.count:
            if self.shown and self.terminal:
                print("\r\033[K", end="", file=sys.stderr, flush=True)
        elif now - self.last > (0.5 if self.terminal else 20):
            self.last, self.shown = now, True
            start, end = ("\r", "") if self.terminal else ("", "\n")
            print(f"{start}{done} of {self.count} runs", end=end, file=sys.stderr, flush=True)


def _print_table(path: Path, loaded: Loaded, count: int, arrays: Sequence[Array]) -> None:
    rows = [("model", path.name), ("engine", loaded.engine), ("runs", str(count))]
    for k, array in enumerate(arrays):
        ends = f", from {array.min()} to {array.max()}" if array.size else ""
        rows.append((f"output {k}", f"{array.dtype} {array.shape}{ends}"))
    for label, text in rows:
        print(f"{label:10}{text}")
