"""Damaged and hostile .tflite files: one line of ValueError or an answer, and nothing else.

The short sweep is deterministic and runs always; the long one, of all operators on all
engines with the memory held by the system, is as long as REFQUANT_FUZZ says.
"""

import collections
import os
import random
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from _oracles.tflite_builder import Operator, Tensor, constant, flatbuffer, model
from _oracles.tflite_cases import OPERATORS, cases

from refquant.integer.engines import ENGINES, TFLM
from refquant.interop.tflite import read_tflite
from refquant.interop.tflite_program import prepare, run

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 30.0          # for one file; the largest tensors allowed take a few


def outcome(content: bytes, engine=TFLM) -> str:
    """What became of a file: read, prepare, run say where it was refused."""
    stage = "read"
    try:
        found = read_tflite(content)
        stage = "prepare"
        program = prepare(found, engine)
        stage = "run"
        run(program, [np.zeros(found.tensors[i].shape, found.tensors[i].dtype)
                      for i in found.inputs])
        return "ran"
    except ValueError as err:
        text = str(err)
        assert "\n" not in text, text
        assert len(text) < 500, text
        return stage


def small() -> bytes:
    """One convolution: every table of the format that matters, in 700 bytes."""
    tensors = [Tensor((1, 2, 2, 1), "int8", 0.1, 3),
               constant(np.ones((2, 2, 2, 1)), "int8", [0.1, 0.2]),
               constant([5, 6], "int32", [0.01, 0.02]), Tensor((1, 1, 1, 2), "int8", 0.3, -4)]
    options = {"padding": 1, "stride_w": 1, "stride_h": 1}
    return model(tensors, [Operator("CONV_2D", [0, 1, 2], [3], options)], [0], [3])


def test_the_builder_and_the_reader_agree():
    found = read_tflite(small())
    assert outcome(small()) == "ran"
    assert [t.shape for t in found.tensors] == [(1, 2, 2, 1), (2, 2, 2, 1), (2,), (1, 1, 1, 2)]
    assert found.tensors[1].scale.tolist() == np.float32([0.1, 0.2]).tolist()
    assert (found.operators[0].name, found.operators[0].inputs) == ("CONV_2D", (0, 1, 2))


def test_a_file_cut_off_at_any_byte_is_refused_or_whole():
    content = small()
    found = collections.Counter(outcome(content[:n]) for n in range(len(content)))
    assert found["read"] > 0.8 * len(content)       # the last bytes may be padding or a name


@pytest.mark.parametrize("change", [lambda b: 0, lambda b: 255, lambda b: b ^ 1, lambda b: b ^ 128])
def test_any_byte_may_be_wrong(change):
    content, found = small(), collections.Counter()
    for at in range(len(content)):
        raw = bytearray(content)
        raw[at] = change(raw[at])
        found[outcome(bytes(raw))] += 1
    assert found["read"]
    assert found["ran"]


@pytest.mark.parametrize("kind", OPERATORS)
def test_any_four_bytes_of_an_operator_may_be_wrong(kind):
    """Words of a file set to what is hostile: ends of the range, itself, a large size."""
    case = cases(kind, OPERATORS[kind][1][0], 1, seed=3)[0]
    rng = random.Random(kind)
    for _ in range(60):
        raw = bytearray(case.content)
        at = 4 * rng.randrange(len(raw) // 4)
        word = rng.choice([0, 1, 7, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32 - 4, len(raw)])
        raw[at : at + 4] = word.to_bytes(4, "little")
        outcome(bytes(raw), list(ENGINES.values())[at // 4 % 4])


def test_huge_shapes_are_refused_before_memory_is_taken():
    for shape in ((2**31 - 1,) * 4, (2**16, 2**16, 1, 1), (2**28,), (-1, 5)):
        tensors = [Tensor(shape, "int8", 0.1), Tensor(shape, "int8", 0.1)]
        start = time.perf_counter()
        assert outcome(model(tensors, [Operator("LOGISTIC", [0], [1])], [0], [1])) in (
            "read", "prepare")
        assert time.perf_counter() - start < SECONDS


def test_a_table_used_a_million_times_is_refused():
    """A vector of tables, each entry pointing to one table: small in the file, large to read."""
    content = bytearray(small())
    many = 20_000
    start = len(content)
    content += struct.pack("<I", many)
    tensor = 4 + content.index(b"t0\0")             # anything: the offsets are what counts
    for k in range(many):
        at = start + 4 + 4 * k
        content += struct.pack("<I", (tensor - at) % 2**32)
    root = struct.unpack_from("<I", content)[0]
    vtable = root - struct.unpack_from("<i", content, root)[0]
    slot = root + struct.unpack_from("<H", content, vtable + 4 + 2 * 4)[0]
    struct.pack_into("<I", content, slot, start - slot)
    assert outcome(bytes(content)) == "read"


def test_a_cycle_of_tables_ends():
    """A root whose vectors of operators and subgraphs lead back to the root."""
    content = bytearray(flatbuffer({1: [{}], 2: [{0: [{}], 3: [{}]}], 4: [{}]}, b"TFL3"))
    root = struct.unpack_from("<I", content)[0]
    vtable = root - struct.unpack_from("<i", content, root)[0]
    for slot in (1, 2, 4):
        place = struct.unpack_from("<H", content, vtable + 4 + 2 * slot)[0]
        vector = root + place + struct.unpack_from("<I", content, root + place)[0]
        entry = vector + 4
        struct.pack_into("<I", content, entry, (root - entry) % 2**32)
    assert outcome(bytes(content)) == "read"


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Cut off, or with bits, bytes, words or stretches of it changed."""
    raw, kind = bytearray(content), rng.randrange(6)
    if kind == 0:
        return bytes(raw[: rng.randrange(len(raw))])
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(raw))
        if kind == 1:
            raw[at] = rng.randrange(256)
        elif kind == 2:
            raw[at] ^= 1 << rng.randrange(8)
        elif kind == 3:
            other, count = rng.randrange(len(raw)), rng.randrange(1, 33)
            raw[at : at + count] = raw[other : other + count]
        else:
            at -= at % 4
            word = rng.choice((0, 1, 2, 3, 5, 8, 16, 100, 2**16, 2**20, 2**31 - 1, 2**31,
                               2**32 - 1, 2**32 - 4, rng.randrange(len(raw)),
                               rng.getrandbits(32)))
            raw[at : at + 4] = word.to_bytes(4, "little")
    return bytes(raw)


def sweep(count: int, seed: int) -> tuple[collections.Counter, float]:
    """Outcomes of damaged files of all operators on all engines, and the longest time of one."""
    files = [c.content for kind, (_, dtypes) in OPERATORS.items() for dtype in dtypes
             for c in cases(kind, dtype, 3, seed=5)]
    rng, engines = random.Random(seed), list(ENGINES.values())
    found: collections.Counter = collections.Counter()
    longest = 0.0
    for k in range(count):
        start = time.perf_counter()
        found[outcome(mutated(files[k % len(files)], rng), engines[k % 4])] += 1
        longest = max(longest, time.perf_counter() - start)
    return found, longest


@pytest.mark.slow
def test_thousands_of_damaged_files_are_refused_or_run():
    """REFQUANT_FUZZ says how many: 50,000 take about a minute."""
    count = int(os.environ.get("REFQUANT_FUZZ", "3000"))
    code = ("import resource, warnings; warnings.simplefilter('error'); "
            "resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30,) * 2); "
            f"from interop.test_flatbuffer import sweep; found, longest = sweep({count}, 0); "
            "print(dict(found), 'longest', longest, 's, peak', "
            "resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, 'MB'); "
            f"assert sum(found.values()) == {count} and longest < {SECONDS}")
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": path}, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stderr[-2000:]
