"""Commands killed at any moment: ``python tests/_oracles/kills.py COUNT [SEED] [COMMAND ...]``.

Everything is loaded once; each trial is a fork that runs a command and gets a signal after a
while. Before, `out` holds another file; after, it holds that or the whole new one, byte for
byte, and beside it there is nothing: but for a hidden ``.part`` where the signal was SIGKILL.
"""

import collections
import contextlib
import io
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

if __name__ == "__main__":                      # as a program: from the root of the checkout
    sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from refquant import cli
from refquant.interop import safetensors

OLD = b"what was there"
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
COMMANDS = {
    "safetensors": ["quantize", "m.safetensors", "-o", "out.safetensors", "--bits", "4",
                    "--method", "clip"],
    "npz": ["quantize", "m.safetensors", "-o", "out.npz", "--bits", "8"],
    "report": ["report", "m.safetensors", "-o", "out.html"],
    "onnx": ["quantize", "m.onnx", "-o", "out.onnx", "--bits", "4", "--calibration", "x.npz"],
    "onnx-npz": ["quantize", "m.onnx", "-o", "out.npz", "--bits", "4"],
    "workflow": ["workflow", "m.onnx", "--data", "x.npz", "-o", "out.onnx", "--bits", "4"],
}
WITHOUT_ONNX = ("safetensors", "npz", "report")


def prepare(names):
    """Models and data for these commands in the working directory."""
    rng = np.random.default_rng(0)
    safetensors.write("m.safetensors", {f"w{i}": rng.standard_normal((64, 256), np.float32)
                                        for i in range(12)})
    if set(names) <= set(WITHOUT_ONNX):
        return
    from refquant.interop.onnx_export import export_onnx
    from refquant.nn.data import digits
    from refquant.nn.models import trained_digits_cnn

    model = trained_digits_cnn()
    Path("m.onnx").write_bytes(export_onnx(
        model.nodes, model.values, {"x": (np.float32, ("n", 8, 8, 1))}, ["logits"]))
    np.savez("x.npz", x=digits().x_train[:96], labels=digits().y_train[:96])


def begun(command):
    """A process that runs a command, silently."""
    process = os.fork()
    if process:
        return process
    status = 99
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        sys.argv = ["refquant", *command]
        try:
            cli.main()
        except SystemExit as done:
            status = int(done.code or 0)
        except KeyboardInterrupt:               # before `run` or after it
            status = 130
    finally:
        os._exit(status)


def main(count, seed, names):
    """Kill `count` times; exit status 1 if anything was left that should not be."""
    chance, tally = random.Random(seed), collections.Counter()
    os.chdir(tempfile.mkdtemp(prefix="kills."))
    names = names or list(COMMANDS)
    prepare(names)
    around = {p.name for p in Path().iterdir()}
    wanted, length = {}, {}
    for name in names:
        out = Path(COMMANDS[name][COMMANDS[name].index("-o") + 1])
        with contextlib.redirect_stdout(io.StringIO()):     # here, to load every module once
            assert cli.run(COMMANDS[name]) == 0, f"{name} does not run"
        at = time.perf_counter()
        assert os.waitpid(begun(COMMANDS[name]), 0)[1] == 0, f"{name} does not run in a fork"
        length[name] = time.perf_counter() - at
        wanted[name] = out, out.read_bytes()
        out.unlink()
    wrong = []
    for k in range(count):
        name, number = chance.choice(names), chance.choice(SIGNALS)
        out, new = wanted[name]
        out.write_bytes(OLD)
        share = chance.uniform(0, 1.1) if chance.random() < 0.5 else chance.uniform(0.8, 1.05)
        process = begun(COMMANDS[name])
        time.sleep(share * length[name])
        try:
            os.kill(process, number)
        except ProcessLookupError:
            tally["too late"] += 1
        status = os.waitpid(process, 0)[1]
        content = out.read_bytes()
        left = {p.name for p in Path().iterdir()} - around - {out.name}
        tally[signal.Signals(number).name] += 1
        tally["new" if content == new else "old" if content == OLD else "torn"] += 1
        tally["ended before"] += status == 0
        if left:
            tally["parts left"] += 1
        if content not in (OLD, new) or (left and number != signal.SIGKILL) or not all(
                n.startswith(".") and n.endswith(".part") for n in left):
            wrong.append((k, name, signal.Signals(number).name, round(share, 3), sorted(left)))
        for n in (*left, out.name):
            Path(n).unlink()
    print(f"{count} kills, {dict(tally)}")
    for one in wrong:
        print("   ", one)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int((sys.argv[2:] or ["0"])[0]), sys.argv[3:]))
