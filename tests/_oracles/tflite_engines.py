"""Other people's engines, each in a process of its own: some inputs make them crash.

`answers` gives cases to a worker, this file run as a script. A worker that dies or takes too
long costs the one case it was at; a new one goes on behind it.
"""

import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ENGINES = ("tflm", "litert_ref", "litert_x86", "xnnpack")
MODULES = {"tflm": "tflite_micro", "litert_ref": "ai_edge_litert", "litert_x86": "ai_edge_litert",
           "xnnpack": "ai_edge_litert"}  # fmt: skip


def answers(engine: str, cases: list[tuple[bytes, Any]], *, seconds: float = 120) -> list[Any]:
    """For each file and its runs: a list of outputs per run, or a str that says what went wrong."""
    found: list[Any] = []
    with tempfile.TemporaryDirectory() as folder:
        questions, results = Path(folder, "in"), Path(folder, "out")
        while len(found) < len(cases):
            questions.write_bytes(pickle.dumps(cases[len(found):]))
            results.write_bytes(b"")
            try:
                done = subprocess.run(
                    [sys.executable, __file__, engine, questions, results],
                    capture_output=True, timeout=seconds, check=False)
                end = f"exit status {done.returncode}"
            except subprocess.TimeoutExpired:
                end = "timeout"
            got = []
            with results.open("rb") as file:
                while True:
                    try:
                        got.append(pickle.load(file))
                    except (EOFError, pickle.UnpicklingError):
                        break
            found += got[: len(cases) - len(found)]
            if len(found) < len(cases):
                found.append(f"crash: {end}")
    return found


def _runner(engine: str, content: bytes) -> Any:
    if engine == "tflm":
        from tflite_micro import runtime

        micro = runtime.Interpreter.from_bytes(content, arena_size=2**22)

        def run_micro(inputs: list[Any]) -> list[Any]:
            for i, x in enumerate(inputs):
                micro.set_input(x, i)
            micro.invoke()
            return [micro.get_output(0).copy()]

        return run_micro
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    resolver = {"litert_ref": OpResolverType.BUILTIN_REF, "xnnpack": OpResolverType.AUTO,
                "litert_x86": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES}[engine]
    lite = Interpreter(model_content=content, experimental_op_resolver_type=resolver)
    lite.allocate_tensors()
    given = [d["index"] for d in lite.get_input_details()]
    wanted = [d["index"] for d in lite.get_output_details()]

    def run_lite(inputs: list[Any]) -> list[Any]:
        for i, x in zip(given, inputs, strict=True):
            lite.set_tensor(i, x)
        lite.invoke()
        return [lite.get_tensor(i).copy() for i in wanted]

    return run_lite


def _work(engine: str, questions: str, results: str) -> None:
    with Path(results).open("ab") as out:
        for content, runs in pickle.loads(Path(questions).read_bytes()):
            try:
                run = _runner(engine, content)
                answer: Any = [run(inputs) for inputs in runs]
            except Exception as err:
                answer = f"refused: {' '.join(str(err).split())[:160]}"
            pickle.dump(answer, out)
            out.flush()


if __name__ == "__main__":
    _work(*sys.argv[1:])
