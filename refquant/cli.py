"""The command line: ``refquant tour | concepts | bench | latency | oracle | run | ...``.

Exit status: 0 fine, 1 a claim does not hold (tour) or a benchmark got worse (bench), 2 bad
input or no room, 130 interrupted, 141 nobody reads stdout any more, 143 terminated; bench adds 2
for a broken benchmark and 3 for nothing measured. Bad input gets one line on stderr.
"""

import math
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from refquant import __version__
from refquant.oracle._commands import app as oracle

__all__ = ["app", "main", "run"]

BAD_INPUT, INTERRUPTED, CLOSED_PIPE = 2, 130, 141
#: More threads than any machine has cores, and fewer than it has room for.
MOST_JOBS = 256
MOST_MEGABYTES = 1e9

#: What typer raises for wrong arguments; older versions take it from click, newer ones do not.
USAGE_ERRORS: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

app = typer.Typer(
    help="The golden reference for neural-network quantization, in readable NumPy.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


app.add_typer(oracle, name="oracle")


class BadInput(Exception):
    """Something the user asked for cannot be done: one line says what."""


def main() -> None:
    """Entry point of the `refquant` script."""
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name)
        if stream is None:                  # `refquant tour >&-`: nobody wants to read it
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))    # noqa: SIM115
        else:                               # a locale without our dashes: a mark for each
            stream.reconfigure(errors="replace")
    for name in ("SIGTERM", "SIGHUP"):      # ends as Ctrl-C does: files that are not whole go
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _end)
    sys.exit(run(sys.argv[1:]))


def _end(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def run(arguments: Sequence[str]) -> int:
    """Exit status of one command, whose errors are single lines on stderr."""
    try:
        status = app(args=list(arguments), prog_name="refquant", standalone_mode=False)
        sys.stdout.flush()
    except SystemExit as done:
        if isinstance(done.__context__, BrokenPipeError):       # typer would say 1
            return _closed_pipe()
        return done.code if isinstance(done.code, int) else 1
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except BrokenPipeError:                 # `refquant concepts | head`
        return _closed_pipe()
    except OSError as err:                  # `refquant concepts > /dev/full`
        _silence_stdout()
        place = "stdout" if err.filename is None else err.filename
        return _complain(f"{place} must take what is written; got {err}", BAD_INPUT)
    except BadInput as err:
        return _complain(str(err), BAD_INPUT)
    except USAGE_ERRORS as err:
        return _complain(err.format_message(), BAD_INPUT)
    if status == INTERRUPTED:               # newer typers turn Ctrl-C into this status
        return _complain("interrupted", INTERRUPTED)
    return status if isinstance(status, int) else 0


def _closed_pipe() -> int:
    _silence_stdout()
    return CLOSED_PIPE


def _silence_stdout() -> None:
    """What is still in the buffer must not fail again when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)


def _complain(text: str, status: int) -> int:
    print("refquant:", " ".join(text.split()), file=sys.stderr)
    return status


@app.callback(invoke_without_command=True)
def _refquant(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def tour(
    quick: Annotated[bool, typer.Option("--quick", help="Smaller inputs, in seconds.")] = False,
    output: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("report.html"),
) -> int:
    """Measure every concept on a trained network, and write a report with plots.

    Exit status 1 if a built-in claim does not hold. The plots need matplotlib; without it the
    report says so in their place, and everything else is the same.
    """
    output = _writable(output)
    from refquant.nn.memory import keep_freed_memory
    from refquant.nn.models import trained_digits_cnn
    from refquant.tour import take_tour

    keep_freed_memory()                     # the process is ours; the network runs a hundred times
    try:
        trained_digits_cnn()
    except (OSError, ValueError) as err:    # not there, not ours
        raise BadInput(str(err)) from None
    try:
        return take_tour(quick=quick, output=output)
    except BrokenPipeError:
        raise
    except OSError as err:                  # no room
        raise BadInput(f"the tour must be able to read and write its files; got {err}") from None


@app.command()
def concepts(
    term: Annotated[str, typer.Argument(help="Part of an id, a text or a module.")] = "",
) -> int:
    """List the concepts of the field: the module and chapter of each, or that it is missing."""
    from refquant._concepts import UnknownTerm, load, print_concepts

    try:
        print_concepts(load(), term)
    except (UnknownTerm, FileNotFoundError) as err:
        raise BadInput(str(err)) from None
    return 0


@app.command()
def bench(
    action: Annotated[
        str, typer.Argument(metavar="[quick|full|compare|publish|serve]", help="What to do.")
    ] = "quick",
    ref: Annotated[str, typer.Argument(help="For compare: the commit to compare with.")] = "main",
    quick: Annotated[bool, typer.Option("--quick", help="The same as the action quick.")] = False,
    benchmark: Annotated[
        list[str] | None, typer.Option("--bench", "-b", help="Regular expression; repeatable.")
    ] = None,
    factor: Annotated[float, typer.Option("--factor", "-f", help="What counts as worse.")] = 1.25,
) -> int:
    """Run the benchmarks with asv, from a checkout.

    Exit status: 0 fine, 1 a benchmark got worse, 2 a benchmark failed, 3 nothing was measured.
    """
    from refquant._bench import ACTIONS
    from refquant._bench import bench as run_bench

    if action not in ACTIONS:
        raise BadInput(f"`action` must be one of {', '.join(ACTIONS)}; got {action}")
    if quick and action != "quick":
        raise BadInput(f"`--quick` must stand alone or with quick; got {action}")
    if not factor > 1:
        raise BadInput(f"`--factor` must be above 1; got {factor}")
    return run_bench(action, ref=ref, factor=factor, patterns=benchmark or [])


@app.command()
def latency(
    shapes: Annotated[
        list[str] | None,
        typer.Option("--shape", help="ROWSxINPUTSxOUTPUTS of a product, as 1x4096x4096; "
                                     "repeatable. Without it: the layers of the shipped network."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="A .json file for the table.")] = None,
    seconds: Annotated[float, typer.Option(help="How long to repeat each entry.")] = 0.05,
) -> int:
    """Measure our kernels on this machine, layer by layer, at every bit-width they have.

    The table has the costs for `mixed_precision.integer_program`, of the widths that every layer
    has a kernel for; its sum is compared with the layers called one after the other.
    """
    from refquant.workflow._latency import latency as measure_latency

    if not 0 <= seconds <= 60:
        raise BadInput(f"`--seconds` must lie in [0, 60]; got {seconds}")
    path = None if output is None else _writable(output)
    try:
        return measure_latency(shapes or [], seconds=seconds, output=path)
    except (ValueError, FileNotFoundError, MemoryError) as err:
        raise BadInput(str(err) or "the operands must fit into memory") from None


@app.command()
def workflow(
    model: Annotated[
        Path | None,
        typer.Argument(metavar="MODEL.onnx", help="A float model; without it the shipped one."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="A .npz with an array for each input, examples along the first axis: a "
                          "third to fit to, a third to choose by, a third to judge by."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where the quantized model goes; the best one, even "
                                            "if it is not good enough."),
    ] = None,
    bits: Annotated[int, typer.Option(help="Of a weight, on the first rung.")] = 4,
    max_drop: Annotated[float, typer.Option(help="Points that may be lost.")] = 1.0,
    group: Annotated[
        int | None, typer.Option(help="Inputs that share a scale; else whole rows.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Array of --data with the classes; labels if it is there.")
    ] = None,
    groups: Annotated[
        str | None, typer.Option(help="Array of --data with the number of each example's subgroup.")
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(help="labels, same (answer as the float model), cosine (to its output) or "
                          "explained (variance of it); else what fits."),
    ] = None,
    shifted: Annotated[
        Path | None, typer.Option(help="A .npz of other data: do ranges and scores hold there?")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="An .html file for the whole story.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
    jobs: Annotated[int, typer.Option(help="Layers at a time, each on a core.")] = 1,
) -> int:
    """Quantize a network by the cheapest way that is good enough.

    From rounding to nearest up to training, or to layers left in float: each rung is tried and
    judged, the first within reach of the float network is taken. Then: which layers cost most,
    which groups pay, and what to try next. Exit status 1 if no rung is good enough.
    """
    from refquant.workflow._command import Settings
    from refquant.workflow._command import workflow as climb
    from refquant.workflow._file_command import JUDGES, workflow_file

    if not 2 <= bits <= 8:
        raise BadInput(f"`--bits` must lie in [2, 8]; got {bits}")
    if not 0 <= max_drop <= 100:
        raise BadInput(f"`--max-drop` must lie in [0, 100]; got {max_drop}")
    if seed < 0:
        raise BadInput(f"`--seed` must be at least 0; got {seed}")
    if group is not None and group < 2:
        raise BadInput(f"`--group` must be at least 2; got {group}")
    _require_jobs(jobs)
    if judge is not None and judge not in JUDGES:
        raise BadInput(f"`--judge` must be one of {', '.join(JUDGES)}; got {judge}")
    page = None if report is None else _writable(report, "--report")
    target = None if output is None else _writable(output)
    if page is not None and page == target:
        raise BadInput(f"`--report` must not be the output; got {report}")
    settings = Settings(bits, max_drop, page, as_json, seed, group, labels, groups, judge, jobs)
    if model is None:
        given = {"--data": data, "--output": output, "--group": group, "--labels": labels,
                 "--groups": groups, "--judge": judge, "--shifted": shifted,
                 "--jobs": jobs if jobs > 1 else None}
        alone = [name for name, value in given.items() if value is not None]
        if alone:
            raise BadInput(f"`{alone[0]}` must have a MODEL.onnx; got none")
        try:
            return climb(settings)
        except (OSError, ValueError) as err:        # the shipped weights: not there, not ours
            raise BadInput(str(err)) from None
    if data is None:
        raise BadInput("`MODEL.onnx` must have data to fit to and to judge by; got no `--data`")
    for name, file in (("MODEL.onnx", model), ("--data", data), ("--shifted", shifted)):
        if file is not None and not file.is_file():
            raise BadInput(f"`{name}` must be a file; got {file}")
        for told, path in (("--output", target), ("--report", page)):
            if file is not None and path is not None and path.exists() and path.samefile(file):
                raise BadInput(f"`{told}` must not be {name}; got {path}")
    try:
        _require_no_weights(model, target)
        _require_no_weights(model, page, "--report")
        return workflow_file(model, data, settings, target, shifted)
    except (ValueError, TypeError, ModuleNotFoundError, MemoryError) as err:
        raise BadInput(str(err) or "the model must fit into memory") from None


@app.command("run")
def run_model(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A .tflite or .onnx file.")],
    inputs: Annotated[
        list[Path],
        typer.Option("--input", help="x.npy: one input, or many along the leading axis; "
                                     "repeat it for a model with several inputs."),
    ],
    outputs: Annotated[
        list[Path] | None, typer.Option("--output", help="y.npy; repeat it for several outputs.")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(help="tflm, litert_ref, litert_x86 or xnnpack; for ONNX onnxruntime, which "
                          "fuses QDQ groups, or onnx, which does not."),
    ] = None,
    dump_all: Annotated[
        Path | None, typer.Option(help="A folder for every value of the model, a file each.")
    ] = None,
) -> int:
    """Run a quantized model as a runtime does, bit for bit.

    Of an ONNX model the operators on codes are exact; floats between them part in their last bits.

    Many inputs are run one by one, states reset before each, and the outputs come out along the
    leading axis too.
    """
    from refquant.interop._run import run_file

    wanted = [_writable(path) for path in outputs or []]
    try:
        run_file(model, inputs, outputs=wanted, engine=engine, dump=dump_all)
    except (ValueError, TypeError, ModuleNotFoundError, MemoryError) as err:
        raise BadInput(str(err) or "the model must fit into memory") from None
    return 0


@app.command()
def report(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help=".onnx, .tflite, .safetensors or .npz")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="An .html file with all schemes.")
    ] = None,
    sqnr: Annotated[float, typer.Option(help="What is good enough, in dB of the weights.")] = 20.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    jobs: Annotated[int, typer.Option(help="Tensors at a time, each on a core.")] = 1,
) -> int:
    """Say of every tensor of a file what it would lose in which scheme, and what would do.

    There is one tensor in memory for each job. Nothing is unpickled, and no other file is opened
    but the weights that lie beside an ONNX model.
    """
    from refquant.workflow._report import report_file

    target = None if output is None else _writable(output)
    if not math.isfinite(sqnr):
        raise BadInput(f"`--sqnr` must be finite; got {sqnr}")
    _require_jobs(jobs)
    if not file.is_file():
        raise BadInput(f"`FILE` must be a file; got {file}")
    if target is not None and target.exists() and target.samefile(file):
        raise BadInput(f"`--output` must not be the file itself; got {output}")
    try:
        _require_no_weights(file, target)
        return report_file(file, sqnr=sqnr, output=target, as_json=as_json, jobs=jobs)
    except (ValueError, TypeError, ModuleNotFoundError, MemoryError) as err:
        raise BadInput(str(err) or "the largest tensor must fit into memory") from None


@app.command()
def quantize(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A float .onnx model, or a .safetensors or "
                                                   ".npz file of weights.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where the quantized one goes: .onnx with QDQ, "
                                                  "or .safetensors or .npz with codes.")
    ],
    bits: Annotated[int, typer.Option(help="Of the weights, from 2 to 8.")] = 8,
    method: Annotated[
        str, typer.Option(help="nearest, clip, gptq, adaround, awq or smoothquant; for weights "
                         "alone nearest, clip or hqq.")
    ] = "nearest",
    calibration: Annotated[
        Path | None,
        typer.Option(help="A .npz with an array for each input, examples along the first axis. "
                          "With 8 or more the last quarter is kept to judge by."),
    ] = None,
    group: Annotated[
        int | None, typer.Option(help="Inputs that share a scale; else whole rows.")
    ] = None,
    activations: Annotated[
        bool, typer.Option("--activations", help="Quantize what enters the layers to 8 bits.")
    ] = False,
    budget: Annotated[
        float | None,
        typer.Option(help="Megabytes of weights: 4 or 8 bits a layer, by an integer program."),
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="A layer or tensor to leave as it is; repeatable.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
    jobs: Annotated[
        int, typer.Option(help="Layers at a time, each on a core; the file is the same.")
    ] = 1,
) -> int:
    """Quantize a float ONNX model to a QDQ model that other runtimes run, or a file of weights.

    What was written is run on the data of --calibration and compared with the float model before
    it replaces anything; without data a runtime must load it. Weights without a graph are read
    back instead, and must hold the same numbers.
    """
    from refquant.workflow._quantize import METHODS, Settings, quantize_file

    target = _writable(output)
    if method not in METHODS:
        raise BadInput(f"`--method` must be one of {', '.join(METHODS)}; got {method}")
    if not 2 <= bits <= 8:
        raise BadInput(f"`--bits` must lie in [2, 8]; got {bits}")
    if group is not None and group < 2:
        raise BadInput(f"`--group` must be at least 2; got {group}")
    if budget is not None and not 0 < budget <= MOST_MEGABYTES:
        raise BadInput(f"`--budget` must be above 0; got {budget}" if not budget > 0 else
                       f"`--budget` must be at most {MOST_MEGABYTES:g} megabytes; got {budget}")
    if seed < 0:
        raise BadInput(f"`--seed` must be at least 0; got {seed}")
    if not model.is_file():
        raise BadInput(f"`MODEL` must be a file; got {model}")
    if calibration is not None and not calibration.is_file():
        raise BadInput(f"`--calibration` must be a file; got {calibration}")
    if target.exists() and target.samefile(model):
        raise BadInput(f"`--output` must not be the model itself; got {output}")
    if calibration is not None and target.exists() and target.samefile(calibration):
        raise BadInput(f"`--output` must not be the calibration data; got {output}")
    _require_jobs(jobs)
    settings = Settings(bits, method, group, activations, budget, tuple(keep or ()), seed, jobs)
    try:
        _require_no_weights(model, target)
        return quantize_file(model, target, settings, calibration)
    except (ValueError, TypeError, ModuleNotFoundError, MemoryError) as err:
        raise BadInput(str(err) or "the model must fit into memory") from None


@app.command("explain-difference")
def explain_difference(
    model: Annotated[Path, typer.Argument(metavar="MODEL.tflite", help="A quantized model.")],
    inputs: Annotated[
        list[Path],
        typer.Option("--input", help="x.npy: one input, or many along the leading axis; "
                                     "repeat it for a model with several inputs."),
    ],
    engines: Annotated[
        str, typer.Option(help="Two of tflm, litert_ref, litert_x86, xnnpack.")
    ] = "tflm,litert_x86",
) -> int:
    """Compare two runtimes layer by layer: how many elements differ, by which rule, and why.

    Every layer of the second gets the values of the first, so that a difference stays where it
    is made; the first element that differs is worked out in whole numbers.
    """
    import numpy as np

    from refquant.integer.engines import ENGINES
    from refquant.interop._files import load_array, load_tflite, runs_of
    from refquant.interop.tflite_difference import difference_report
    from refquant.interop.tflite_difference import explain_difference as explain

    names = engines.split(",")
    if len(names) != 2 or len(set(names) & set(ENGINES)) != 2:
        raise BadInput(f"`--engines` must be two of {', '.join(ENGINES)}, with a comma between; "
                       f"got {engines}")
    if model.suffix == ".onnx":
        raise BadInput(f"only .tflite models have engines to compare; got {model}")
    first, second = names
    try:
        loaded = load_tflite(model)
        tensors = [loaded.tensors[i] for i in loaded.inputs]
        runs = runs_of([(np.dtype(t.dtype), t.shape) for t in tensors],
                       [load_array(path) for path in inputs])
        found = explain(loaded, runs.inputs, ENGINES[first], ENGINES[second])
    except (ValueError, TypeError, MemoryError) as err:
        raise BadInput(str(err) or "the model must fit into memory") from None
    print(difference_report(found, first, second))
    return 0


def _writable(output: Path, option: str = "--output") -> Path:
    """The file itself where `output` is a link to it; refused before the work, not after it."""
    try:
        file = output.resolve()
        if file.is_dir() or not output.name:
            raise BadInput(f"`{option}` must be a file; got the folder {output}")
        if file.exists() and not file.is_file():            # /dev/null would be replaced
            raise BadInput(f"`{option}` must be a regular file; got {output}")
        if not file.parent.is_dir():
            raise BadInput(f"`{option}` must lie in an existing folder; got {output}")
        if not os.access(file.parent, os.W_OK):
            raise BadInput(f"`{option}` must lie in a folder you may write to; got {output}")
        name_longest = os.pathconf(file.parent, "PC_NAME_MAX") - len(".12345678.")
        if len(os.fsencode(file.name)) > name_longest:
            raise BadInput(f"`{option}` must have a name of at most {name_longest} bytes; "
                           f"got {len(os.fsencode(file.name))}")
    except (OSError, RuntimeError) as err:                  # too long, a loop of links
        raise BadInput(f"`{option}` must be a path of this system; got {err}") from None
    return output if file == output.absolute() else file


def _require_no_weights(model: Path, target: Path | None, option: str = "--output") -> None:
    """Raise if weights of the model lie in the target."""
    if target is None or not target.exists() or model.suffix != ".onnx":
        return
    from refquant.interop._external import weights_beside
    from refquant.interop.onnx_float import read_proto

    if any(target.samefile(path) for path in weights_beside(*read_proto(model)[:2])):
        raise BadInput(f"`{option}` must not hold weights of the model; got {target}")


def _require_jobs(jobs: int) -> None:
    if not 1 <= jobs <= MOST_JOBS:
        raise BadInput(f"`--jobs` must lie in [1, {MOST_JOBS}]; got {jobs}")
