"""Readers of files and what they read, for tests with damaged files.

A reader gets the bytes of a file; it gives numbers or raises ValueError with one line. Two
seconds and 64 MB are enough for any small file, whatever it says about itself.

    python tests/_oracles/hostile.py READER COUNT [SEED]

runs one reader on COUNT damaged files with 1 GB of address space above what Python has, and
prints what became of them; of each way to break the law one file, by its seed and number.
"""

import atexit
import collections
import io
import json
import math
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

if __name__ == "__main__":                      # as a program: from the root of the checkout
    sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from _oracles import damage, tflite_cases

from refquant.apply.train import resume, save, start
from refquant.compression import deep_compression
from refquant.interop import safetensors
from refquant.interop._files import load_array, load_model
from refquant.interop.qdq import CodedWeight
from refquant.interop.tflite import read_tflite
from refquant.mixed_precision.latency_table import LatencyTable, Shape, from_json, to_json
from refquant.oracle import vectors
from refquant.oracle.conformance import read_baseline
from refquant.workflow._quantize import read_inputs
from refquant.workflow.coded import CodedTensor, dequantized, write_coded
from refquant.workflow.tensors import tensors_of

#: Readers of everything, and of ONNX, which needs a package.
NAMES = ("safetensors", "npz", "npy", "calibration", "coded-npz", "coded-safetensors", "layout",
         "tflite", "tflite-run", "latency", "oracle", "baseline", "checkpoint", "deep-compression")
ONNX_NAMES = ("onnx-float", "onnx-integer", "onnx-run", "onnx-tensors")
FOLDER = Path(tempfile.mkdtemp(prefix="hostile.", dir="/dev/shm" if os.path.isdir("/dev/shm")
                               else None))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
RNG = np.random.default_rng(0)
W = RNG.standard_normal((4, 8)).astype(np.float32)
SECONDS, BYTES = 2.0, 2**26


class Reader(NamedTuple):
    """Sound files, a way to damage them, and what reads them."""

    seeds: list
    damage: object
    read: object


def written(name, write):
    """The bytes of a file that `write` writes."""
    path = FOLDER / f"seed.{name}"
    write(path)
    content = path.read_bytes()
    path.unlink()
    return content


def through(name, read):
    """A reader of bytes, of one that wants a path."""
    def reading(content):
        path = FOLDER / f"x{os.getpid()}.{name}"
        path.write_bytes(content)
        try:
            read(path)
        finally:
            path.unlink()

    return reading


def all_tensors(path):
    for tensor in tensors_of(path):
        tensor.read()
        if tensor.as_is:
            tensor.as_is()


def on_zeros(path):
    """A model run once, unless its inputs are large."""
    model = load_model(path, None)
    shapes = [(dtype, [2 if n is None else n for n in shape]) for dtype, shape in model.inputs]
    inputs = [np.zeros(shape, dtype) for dtype, shape in shapes if math.prod(shape) < 10_000]
    if len(inputs) == len(model.inputs):
        model.run(inputs, None)


def coded(path):
    zero = np.array([[3, 0], [1, 2]], np.uint8)
    codes = RNG.integers(0, 16, (2, 8)).astype(np.int32)
    scale = np.ones((2, 2), np.float32)
    write_coded(path, [("w", CodedTensor(CodedWeight(codes, scale, zero, 4, False), (8, 2),
                                         (1, 0))),
                       ("v", CodedTensor(CodedWeight(codes, scale, zero / 7, 8, False), (2, 8),
                                         (0, 1))), ("b", np.ones(3))])


def archive(path, *, packed=False):
    (np.savez_compressed if packed else np.savez)(
        path, w=W, x=np.arange(6, dtype=np.int16), b=np.asfortranarray(W.astype(">f8")))


def tensors(path):
    safetensors.write(path, [("w", W), ("i", np.arange(3)), ("t", np.array(True)), (
        "h", safetensors.Bits("BF16", np.ones(4, np.uint16)))], {"format": "pt"})


def deep(content):
    deep_compression.read(content)


def latency_table():
    return to_json(LatencyTable({(Shape(1, 2, 3), 8, 8): 0.5, (Shape(4, 2, 3, True), 4, 32): 1e-3},
                                "m")).encode()


def oracle_file():
    files = sorted((vectors.DATA / "normative").glob("*.json"), key=lambda p: p.stat().st_size)
    return files[0].read_bytes()


def with_crc(chance, content):
    """An archive of Deep Compression whose checksum fits its damage, as someone would write it."""
    from zlib import crc32

    body = damage.damaged(chance, content[:-4])
    return body + crc32(body).to_bytes(4, "little") if chance.random() < 0.8 else body


@cache
def readers():
    """All readers by name; those of ONNX where it is installed."""
    npz, json_ = damage.npz_damaged, damage.json_damaged
    plain, packed = (written("npz", lambda p, k=k: archive(p, packed=k)) for k in (False, True))
    inputs = {"x": (np.dtype(np.float32), (None, 8)), "m": (np.dtype(np.int64), (None,))}
    model = type("Model", (), {"inputs": inputs})
    data = written("npz", lambda p: np.savez_compressed(
        p, x=np.tile(W, (2, 1)), m=np.arange(8)))
    tflite = [c.content for kind, (_, dtypes) in sorted(tflite_cases.OPERATORS.items())
              for c in tflite_cases.cases(kind, dtypes[0], 2)]
    state = start({"w": W}, {"mean": np.ones(3)})
    archive_ = deep_compression.write({"w": deep_compression.share(W, 2), "b": np.ones(
        3, np.float32)})
    found = {
        "safetensors": Reader([written("safetensors", tensors)], damage.safetensors_damaged,
                              through("safetensors", all_tensors)),
        "npz": Reader([plain, packed], npz, through("npz", all_tensors)),
        "npy": Reader([b"\x93NUMPY"], lambda chance, content: damage.npy(chance),
                      through("npy", lambda p: np.array(load_array(p)))),
        "calibration": Reader([data], npz, through("npz", lambda p: read_inputs(p, model))),
        "coded-npz": Reader([written("npz", coded)], npz,
                            through("npz", lambda p: list(dequantized(p)))),
        "coded-safetensors": Reader([written("safetensors", coded)], damage.safetensors_damaged,
                                    through("safetensors", lambda p: list(dequantized(p)))),
        "layout": Reader([json.dumps({"version": 1, "tensors": {"w": {
            "bits": 4, "group": 4, "signed": False, "shape": [8, 2], "order": [1, 0]}}}).encode()],
            json_, through("npz", lambda p: list(dequantized(p)))),
        "tflite": Reader(tflite, lambda chance, content: damage.damaged(
            chance, content, chance.choice(tflite)), read_tflite_and_its_tensors),
        "tflite-run": Reader(tflite, lambda chance, content: damage.damaged(
            chance, content, chance.choice(tflite)), through("tflite", on_zeros)),
        "latency": Reader([latency_table()], json_,
                          lambda c: from_json(c.decode("utf-8", "replace"))),
        "oracle": Reader([oracle_file()], json_, through("json", vectors.read)),
        "baseline": Reader([b'{"adfb2c2ad2": "rounds away", "x": 1}', b'["a", "b"]'], json_,
                           through("json", read_baseline)),
        "checkpoint": Reader([written("npz", lambda p: save(state, p))], npz,
                             through("npz", resume)),
        "deep-compression": Reader([archive_], with_crc, deep),
    }
    found["layout"] = found["layout"]._replace(read=_layout(found["layout"].read))
    try:
        import onnx
    except ImportError:
        return found
    from refquant.interop.onnx import fuse_qdq, read_onnx
    from refquant.interop.onnx_float import open_float

    seeds = onnx_seeds(onnx)

    def protobuf(chance, content):
        return damage.protobuf_damaged(chance, content, onnx.ModelProto)

    (FOLDER / "w.bin").write_bytes(bytes(256))
    return found | {
        "onnx-float": Reader(seeds, protobuf, through("onnx", open_float)),
        "onnx-integer": Reader(seeds, protobuf, through("onnx", lambda p: fuse_qdq(read_onnx(p)))),
        "onnx-run": Reader(seeds[1:2], protobuf, through("onnx", on_zeros)),
        "onnx-tensors": Reader(seeds, protobuf, through("onnx", all_tensors)),
    }


def _layout(read):
    """A layout is one text in a sound archive."""
    def reading(content):
        file = io.BytesIO()
        notes = json.dumps({"refquant": content.decode("utf-8", "replace")}).encode()
        np.savez(file, **{"w.codes": np.zeros((2, 4), np.uint8), "w.scale": np.ones(
            (2, 2), np.float32), "__metadata__": np.frombuffer(notes, np.uint8)})
        read(file.getvalue())

    return reading


def read_tflite_and_its_tensors(content):
    model = read_tflite(content)
    for tensor in model.tensors:
        if tensor.data is not None:
            np.array(tensor.data)


def onnx_seeds(onnx):
    """A float model, one with codes, and one whose weights lie beside it."""
    make, constant = onnx.helper, onnx.numpy_helper.from_array
    info = make.make_tensor_value_info
    nodes = [make.make_node("MatMul", ["x", "w"], ["a"], name="first"),
             make.make_node("Constant", [], ["k"], value=constant(W[:, :2], "k")),
             make.make_node("Gemm", ["a", "k"], ["g"], transB=0, alpha=1.0),
             make.make_node("Reshape", ["g", "s"], ["r"]),
             make.make_node("Conv", ["r", "c"], ["y"], strides=[1, 1], pads=[0, 0, 0, 0])]
    arrays = {"w": W.T.copy(), "s": np.array([-1, 1, 1, 2]), "c": np.ones((3, 1, 1, 2), np.float32)}
    graph = make.make_graph(nodes, "g", [info("x", 1, ["n", 8])], [info("y", 1, None)],
                            [constant(v, n) for n, v in arrays.items()])
    whole = make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=8)
    arrays = {"s": np.float32(0.1), "z": np.uint8(128), "w": np.ones((8, 4), np.int8),
              "ws": np.float32(0.01), "wz": np.int8(0)}
    nodes = [make.make_node(kind, inputs, [out]) for kind, inputs, out in (
        ("QuantizeLinear", ["x", "s", "z"], "q"), ("DequantizeLinear", ["q", "s", "z"], "d"),
        ("DequantizeLinear", ["w", "ws", "wz"], "wd"), ("MatMul", ["d", "wd"], "m"),
        ("QuantizeLinear", ["m", "s", "z"], "mq"), ("DequantizeLinear", ["mq", "s", "z"], "y"))]
    graph = make.make_graph(nodes, "q", [info("x", 1, [2, 8])], [info("y", 1, [2, 4])],
                            [constant(np.asarray(v), n) for n, v in arrays.items()])
    codes = make.make_model(graph, opset_imports=[make.make_opsetid("", 21)], ir_version=10)
    beside = onnx.ModelProto()
    beside.CopyFrom(whole)
    tensor = beside.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": "w.bin", "offset": "16", "length": "128"}.items():
        tensor.external_data.add(key=key, value=value)
    return [m.SerializeToString() for m in (whole, codes, beside)]


class TooSlowError(BaseException):
    """Two seconds are over."""


def _late(*_):
    raise TooSlowError


def judged(read, content):
    """What a reader made of it: "read", or the line of its ValueError; AssertionError else."""
    signal.signal(signal.SIGPROF, _late)        # time of this process: others may be busy
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            read(content)
    except ValueError as err:
        line = str(err)
        assert "\n" not in line, f"more than one line: {line[:300]!r}"
        assert line, "no word about it"
        assert len(line) < 600, f"a line of {len(line)}: {line[:200]}"
        return line
    except TooSlowError:
        raise AssertionError(f"more than {SECONDS} seconds") from None
    except Exception as err:
        raise AssertionError(f"{type(err).__name__}: {err}") from err
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    assert "REFQUANT_TRAP" not in os.environ, "a pickle was opened"
    return "read"


def main(name, count, seed):
    """Run one reader; exit status 1 if it broke the law."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, resource.RLIM_INFINITY))
    reader, kinds, broken = readers()[name], collections.Counter(), {}
    slowest, begun = 0.0, time.process_time()
    for k in range(count):
        chance = damage.chance_of(seed * 1_000_003 + k)
        content = reader.damage(chance, chance.choice(reader.seeds))
        at = time.process_time()
        try:
            said = judged(reader.read, content)
            kinds["read" if said == "read" else "refused"] += 1
        except AssertionError as err:
            said = str(err)[:160]
            kinds["broken"] += 1
            if said[:60] not in broken:
                broken[said[:60]] = (seed, k, said)
        slowest = max(slowest, time.process_time() - at)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{name:18} {count:7} files, {dict(kinds)}, slowest {slowest:.2f} s, peak {peak:.0f} MB, "
          f"{time.process_time() - begun:.0f} s", flush=True)
    for where in broken.values():
        print("   ", where, flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    names = list(readers()) if sys.argv[1] == "all" else [sys.argv[1]]
    status = [main(name, int(sys.argv[2]), int((sys.argv[3:] or ["0"])[0])) for name in names]
    sys.exit(max(status))
