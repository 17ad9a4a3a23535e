"""The command line: ``refquant tour | concepts | bench``.

Exit status: 0 fine, 1 a claim does not hold (tour) or a benchmark got worse (bench), 2 bad
input, 130 interrupted; bench adds 2 for a broken benchmark and 3 for nothing measured.
Bad input gets one line on stderr.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from refquant import __version__

__all__ = ["app", "main", "run"]

BAD_INPUT, INTERRUPTED, CLOSED_PIPE = 2, 130, 141

#: What typer raises for wrong arguments; older versions take it from click, newer ones do not.
USAGE_ERRORS: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

app = typer.Typer(
    help="The golden reference for neural-network quantization, in readable NumPy.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


class BadInput(Exception):
    """Something the user asked for cannot be done: one line says what."""


def main() -> None:
    """Entry point of the `refquant` script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Exit status of one command, whose errors are single lines on stderr."""
    try:
        status = app(args=list(arguments), prog_name="refquant", standalone_mode=False)
        sys.stdout.flush()
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else 1
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except BrokenPipeError:                 # `refquant concepts | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    except BadInput as err:
        return _complain(str(err), BAD_INPUT)
    except USAGE_ERRORS as err:
        return _complain(err.format_message(), BAD_INPUT)
    if status == INTERRUPTED:               # newer typers turn Ctrl-C into this status
        return _complain("interrupted", INTERRUPTED)
    return status if isinstance(status, int) else 0


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
    _require_writable(output)
    from refquant.tour import take_tour

    try:
        return take_tour(quick=quick, output=output)
    except BrokenPipeError:
        raise
    except OSError as err:                  # no weights, no room
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


def _require_writable(output: Path) -> None:
    """Refuse before the work, not after it."""
    if output.is_dir() or not output.name:
        raise BadInput(f"`--output` must be a file; got the folder {output}")
    folder = output.parent
    if not folder.is_dir():
        raise BadInput(f"`--output` must lie in an existing folder; got {output}")
    if not os.access(folder, os.W_OK):
        raise BadInput(f"`--output` must lie in a folder you may write to; got {output}")


