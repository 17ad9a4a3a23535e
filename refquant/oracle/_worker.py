"""The other process: it makes an adapter and answers, and may die without taking anyone along.

Parent and worker exchange pickled tuples through pipes. The worker takes the two standard
streams for itself first, so that libraries that print cannot disturb the exchange.
"""

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import MappingProxyType
from typing import IO, Any

import numpy as np

from refquant._types import Array
from refquant.oracle.adapters import Missing, Params, Reject, Types, load_adapter
from refquant.oracle.vectors import Named

#: Seconds a library may take to be imported.
START = 120.0
#: Questions in a row that go unanswered, by crash or time, before no more are asked: a library that
#: answers nothing would else take its time limit for each of thousands.
PATIENCE = 24
#: A month, beyond which no clock of the system waits.
LONGEST = 30 * 86400.0
#: Bytes of an answer: none that is right comes near.
LARGEST = 2**26


class Crash(Exception):
    """The worker died: how."""


class Timeout(Exception):
    """The worker did not answer in time."""


class Broken(Exception):
    """The adapter raised: what."""


class Worker:
    """An adapter in a process of its own, with the members of an adapter.

    It is started when first asked, and again after it crashed or was too slow; but not after
    `PATIENCE` questions in a row.
    """

    def __init__(self, spec: str, *, timeout: float) -> None:
        if not timeout > 0:
            raise ValueError(f"`timeout` must be positive; got {timeout:g}")
        self.spec, self.timeout = spec, min(timeout, LONGEST)
        self._process: subprocess.Popen[bytes] | None = None
        self._unanswered = 0
        self._last: Crash | Timeout = Timeout("")
        try:
            self.name, self.version = self._ask(("hello",), START)
        except (Crash, Timeout) as err:
            raise type(err)(f"`impl` must start; {spec}: {err}") from None
        except BaseException:
            self.close()
            raise

    def supports(self, op: str, types: Types, params: Params) -> Any:
        return self._ask(("supports", op, dict(types), dict(params)), self.timeout)

    def run(self, op: str, types: Types, params: Params, inputs: Named) -> Any:
        return self._ask(("run", op, dict(types), dict(params), dict(inputs)), self.timeout)

    def run_all(
        self, op: str, types: Types, params: Params, many: Sequence[tuple[str, Named]]
    ) -> list[Any]:
        """As `answers`."""
        return list(self._ask(("run_all", op, dict(types), dict(params), many), self.timeout))

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(OSError):
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                if stream:
                    stream.close()

    def _start(self) -> None:
        paths = [p or os.getcwd() for p in sys.path]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "refquant.oracle._worker", self.spec],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)})
        self._answers: queue.Queue[Any] = queue.Queue()
        threading.Thread(
            target=_read_into, args=(self._answers, self._process.stdout), daemon=True).start()

    def _ask(self, question: Any, seconds: float) -> Any:
        if self._unanswered >= PATIENCE:
            raise self._last
        try:
            if self._process is None:
                self._start()
                self._send(("hello",), START)
            answer = self._hello if question == ("hello",) else self._send(question, seconds)
        except (Crash, Timeout) as err:
            self._unanswered += 1
            self._last = type(err)(f"not asked after {PATIENCE} in a row without answer; {err}")
            raise
        except Exception:
            self._unanswered = 0                # a refusal is an answer
            raise
        self._unanswered = 0 if question[0] in ("run", "run_all") else self._unanswered
        return answer

    def _send(self, question: Any, seconds: float) -> Any:
        process = self._process
        assert process is not None and process.stdin is not None    # noqa: PT018, for mypy
        try:
            pickle.dump(question, process.stdin)
            process.stdin.flush()
            kind, answer = self._answers.get(timeout=seconds)
        except queue.Empty:
            self.close()
            raise Timeout(f"no answer in {seconds:g} s") from None
        except OSError:
            kind, answer = "end", None
        if kind == "end":
            code = process.wait()
            self.close()
            raise Crash(_death(code))
        if kind == "lost":
            self.close()
            raise Broken(answer)
        if kind == "raise":
            raise answer
        if question == ("hello",):
            self._hello = answer
        return answer


def _read_into(answers: "queue.Queue[Any]", stream: IO[bytes]) -> None:
    try:
        while True:
            answers.put(pickle.load(stream))
    except (EOFError, OSError):
        answers.put(("end", None))
    except Exception as err:                    # an object that cannot be made here
        answers.put(("lost", f"the answer must be arrays; {one_line(err)}"))


def _death(code: int) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"the process died of {signal.Signals(-code).name}"
    return f"the process ended with status {code}"


def one_line(error: BaseException) -> str:
    """An exception in a line."""
    try:
        text = printable(str(error))[:300]
    except Exception:                           # one that cannot say what it is
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def printable(text: str) -> str:
    """In a line, without what a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


def called(adapter: Any, op: str, types: Types, params: Params, inputs: Named) -> Any:
    """Answer of an adapter; any exception but a refusal becomes `Broken`."""
    try:
        answer = adapter.run(op, types, params, inputs)
    except Reject:
        raise
    except (Exception, SystemExit) as err:      # a library that calls `exit` ends nothing here
        raise Broken(one_line(err)) from None
    size = sum(getattr(v, "nbytes", 0) for v in answer.values()) if isinstance(answer, dict) else 0
    if size > LARGEST:
        raise Broken(f"the answer must be as large as the question asks; got {size} bytes")
    return answer


def answers(
    adapter: Any, op: str, types: Types, params: Params, many: Sequence[tuple[str, Named]]
) -> list[Any]:
    """Answers to many calls, or exceptions in their place; each with the view to make first."""
    # Views are made here, since no view survives the pipe.
    found = []
    for view, inputs in many:
        made = {key: VIEWS[view](p) for key, p in inputs.items()} if view else inputs
        try:
            found.append(called(adapter, op, types, params, made))
        except (Reject, Broken) as err:
            found.append(err)
    return found


def _strided(pattern: Array) -> Array:
    return np.repeat(pattern, 2)[::2]


def _unaligned(pattern: Array) -> Array:
    memory = np.empty(pattern.nbytes + 1, np.uint8)
    view = memory[1:].view(pattern.dtype)
    view[...] = pattern
    return view


#: Ways to lay the same array out in memory.
VIEWS = MappingProxyType({"strided": _strided, "unaligned": _unaligned})


def _serve(spec: str) -> None:
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    void = os.open(os.devnull, os.O_RDWR)
    os.dup2(void, 0)
    os.dup2(void, 1)

    def reply(*answer: Any) -> None:
        pickle.dump(answer, sink)
        sink.flush()

    adapter: Any = None
    while True:
        try:
            kind, *rest = pickle.load(source)
        except EOFError:
            return
        try:
            if kind == "hello":
                adapter = load_adapter(spec)
                reply("ok", (printable(str(adapter.name)), printable(str(adapter.version))))
            elif kind == "supports":
                reply("ok", adapter.supports(*rest))
            elif kind == "run":
                reply("ok", called(adapter, *rest))
            else:
                op, types, params, many = rest
                reply("ok", answers(adapter, op, types, params, many))
        except (Reject, Missing, ValueError, Broken) as err:
            reply("raise", type(err)(str(err)))
        except (Exception, SystemExit) as err:
            what = f"`impl` must start; {spec}: " if kind == "hello" else ""
            reply("raise", Broken(what + one_line(err)))


def _end_with(parent: int) -> None:
    """A worker whose parent was killed in the middle of a question must not stay behind."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    # Under its real name, or the exceptions that are sent would be of a module __main__.
    from refquant.oracle._worker import _serve as serve

    serve(sys.argv[1])
