"""A file that gets its name when it is whole: until then, what stood there stays."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

__all__ = ["whole"]


@contextmanager
def whole(path: Path) -> Iterator[IO[bytes]]:
    """A new file beside `path`, renamed to it at the end of the block, or removed by an error.

    It is called ``.NAME.RANDOM.part``: hidden, and of no kind that anything here reads. Only a
    process that is killed outright can leave one behind; it can be removed at any time.
    """
    part = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}.part")
    try:                                        # begins before there is anything to remove
        with part.open("x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())             # the bytes before the name
        os.replace(part, path)
    except OSError as err:
        if err.filename is None and err.errno is not None:      # no room: a write says not where
            raise OSError(err.errno, err.strerror, os.fspath(path)) from None
        raise
    finally:
        part.unlink(missing_ok=True)
