"""Where the commands print: the terminal as it is, or a pipe that is wide enough for tables."""

from rich.console import Console

__all__ = ["console_of"]


def console_of(width: int, *, stderr: bool = False) -> Console:
    """A console; a pipe has no width of its own and gets this one, to leave room for columns."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=width)
