"""One inference of a deployed model: ours, LiteRT in three configurations, and TFLM."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from refquant.integer.engines import ENGINES
from refquant.interop.tflite import read_tflite
from refquant.interop.tflite_program import prepare, run

from ..common import Benchmark, Quality, need, share_of_time

MODELS = ["resnet8_int8", "kws_ref_model_int8"]
FOLDERS = [Path(os.environ.get("REFQUANT_DATA", "")),
           Path(__file__).resolve().parents[3].parent / "shared" / "data"]


def content(model: str) -> bytes:
    for folder in FOLDERS:
        file = folder / "tflite" / f"{model}.tflite"
        if file.is_file():
            return file.read_bytes()
    raise NotImplementedError("no models: set REFQUANT_DATA")


def codes(model: str) -> np.ndarray:
    loaded = read_tflite(content(model))
    shape = loaded.tensors[loaded.inputs[0]].shape
    return np.random.default_rng(0).integers(-128, 128, shape, np.int8)


def ours(model: str, engine: str = "tflm") -> Callable[[], object]:
    program, x = prepare(read_tflite(content(model)), ENGINES[engine]), codes(model)
    return lambda: run(program, [x]).outputs[0]


def theirs(model: str, engine: str) -> Callable[[], object]:
    data, x = content(model), codes(model)
    if engine == "tflm":
        micro = need("tflite_micro").runtime.Interpreter.from_bytes(data)

        def invoke_micro() -> object:
            micro.set_input(x, 0)
            micro.invoke()
            return micro.get_output(0)

        return invoke_micro
    lite = need("ai_edge_litert.interpreter")
    kinds = lite.OpResolverType
    resolver = {"litert_ref": kinds.BUILTIN_REF, "xnnpack": kinds.AUTO,
                "litert_x86": kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES}[engine]
    interpreter = lite.Interpreter(
        model_content=data, experimental_op_resolver_type=resolver, num_threads=1)
    interpreter.allocate_tensors()
    (given,), (wanted,) = (
        [d["index"] for d in details]
        for details in (interpreter.get_input_details(), interpreter.get_output_details()))

    def invoke() -> object:
        interpreter.set_tensor(given, x)
        interpreter.invoke()
        return interpreter.get_tensor(wanted)

    return invoke


class TfliteProgram(Benchmark):
    params = (["refquant", "peer"], MODELS, list(ENGINES))
    param_names = ("impl", "model", "engine")

    def setup(self, impl: str, model: str, engine: str) -> None:
        self.call = (ours if impl == "refquant" else theirs)(model, engine)

    def time_run(self, impl: str, model: str, engine: str) -> None:
        self.call()


class TfliteProgramQuality(Quality):
    params = (MODELS, list(ENGINES))
    param_names = ("model", "engine")

    def setup(self, model: str, engine: str) -> None:
        self.ours, self.theirs = ours(model, engine), theirs(model, engine)

    def track_share_of_the_peer(self, model: str, engine: str) -> float:
        return share_of_time(self.ours, self.theirs)

    def track_differing_outputs(self, model: str, engine: str) -> float:
        return float(np.count_nonzero(np.asarray(self.ours()) != np.asarray(self.theirs())))

    track_share_of_the_peer.unit = "time of the peer"
    track_differing_outputs.unit = "codes"
