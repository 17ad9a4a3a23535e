"""Ternary products of a 4096 x 4096 layer, beside the products of floats, bytes and files."""

from functools import lru_cache

import numpy as np

from benchmarks.common import OPERANDS, Quality, need
from benchmarks.kernels import _peers
from benchmarks.kernels._peers import DENSE, SIDE, _Product, scratch
from refquant.kernels import binary, bit_serial, packing, ternary


def trits(rows, side):
    return np.random.default_rng(0).integers(-1, 2, (rows, side), dtype=np.int8)


def activations(bits, side):
    """Signs for 1 bit, integers in two's complement for more."""
    rng, half = np.random.default_rng(1), 2 ** (bits - 1)
    if bits == 1:
        return 2 * rng.integers(0, 2, (1, side), dtype=np.int8) - 1
    return rng.integers(-half, half, (1, side), dtype=np.int8)


def planes(x, bits):
    return binary.pack((x + 1) // 2) if bits == 1 else bit_serial.pack(x, bits=bits, signed=True)


def onnx_2_bits(x, weight, level=0):
    """MatMulNBits of onnxruntime: float32 by 2-bit codes, blocks of 32 with a scale each."""
    onnx = need("onnx")
    helper, real = onnx.helper, onnx.TensorProto.FLOAT
    stored = packing.pack((weight + 2).astype(np.uint8), bits=2)        # 2 is their zero
    blocks = x.shape[1] // 32
    constants = [
        onnx.numpy_helper.from_array(stored.reshape(len(weight), blocks, 8), "w"),
        onnx.numpy_helper.from_array(np.ones(len(weight) * blocks, np.float32), "scales"),
    ]
    node = helper.make_node(
        "MatMulNBits", ["x", "w", "scales"], ["y"], domain="com.microsoft", K=x.shape[1],
        N=len(weight), bits=2, block_size=32, accuracy_level=level)
    graph = helper.make_graph(
        [node], "product", [helper.make_tensor_value_info("x", real, x.shape)],
        [helper.make_tensor_value_info("y", real, (len(x), len(weight)))], constants)
    session, given = _peers.one_thread_session(graph, ("com.microsoft",)), x.astype(np.float32)
    return lambda: session.run(None, {"x": given})


def onnx_2_bits_by_int8(x, weight):
    """The same, for which x is rounded to int8 in blocks: fast, and not exact."""
    return onnx_2_bits(x, weight, level=4)


def gguf(x, weight):
    """The file format TQ2_0 of ggml, dequantized by its Python package, then BLAS."""
    quants = need("gguf").quants
    kind, left = need("gguf").GGMLQuantizationType.TQ2_0, x.astype(np.float32)
    stored = quants.quantize(weight.astype(np.float32), kind)
    return lambda: left @ quants.dequantize(stored, kind).T


PEERS = {
    **DENSE,
    "onnxruntime 2 bits": onnx_2_bits,
    "onnxruntime 2 bits by int8": onnx_2_bits_by_int8,
    "gguf, then BLAS": gguf,
}
VECTOR = ["refquant", "float32 BLAS", "torch int8", "onnxruntime int8",
          "onnxruntime 2 bits", "onnxruntime 2 bits by int8"]


@lru_cache(maxsize=4)
def vector_of(impl, side, bits):
    x, weight = activations(bits, side), trits(side, side)
    if impl != "refquant":
        return PEERS[impl](x, weight)
    left, right = planes(x, bits), ternary.pack(weight)
    return lambda: ternary.product(left, right)


class Ternary(_Product):
    """One row of x with `bits` bits; operands packed, as the peers hold theirs in their types."""

    params = (VECTOR, [1, 2, 4, 8], list(OPERANDS))
    param_names = ("impl", "bits", "operands")

    def setup(self, impl, bits, operands):
        self.prepare(vector_of, impl, operands, bits)


@lru_cache(maxsize=4)
def batch_of(impl, side, rows):
    x, weight = trits(rows, side), trits(side, side)
    if impl != "refquant":
        return PEERS[impl](x, weight)
    left, right = ternary.pack(x), ternary.pack(weight)
    return lambda: ternary.product(left, right)


class TernaryBatch(_Product):
    """`rows` of ternary x by ternary weights."""

    params = (["refquant", *PEERS], [8, 64], list(OPERANDS))
    param_names = ("impl", "rows", "operands")

    def setup(self, impl, rows, operands):
        self.prepare(batch_of, impl, operands, rows)


class TernaryMemory(Quality):
    params = (["refquant", "base-3 bytes", "float32 BLAS"],)
    param_names = ("impl",)

    def track_bits_per_weight(self, impl):
        weight = trits(8, SIDE)
        held = {
            "refquant": lambda: ternary.pack(weight).words,
            "base-3 bytes": lambda: packing.pack_trits(weight),
            "float32 BLAS": lambda: weight.astype(np.float32),
        }[impl]()
        return 8 * held.nbytes / weight.size

    track_bits_per_weight.unit = "bits"


class TernaryScratch(Quality):
    params = (["refquant", "float32 BLAS"],)
    param_names = ("impl",)

    def track_scratch(self, impl):
        """Of a product with one row of 8 bits."""
        return scratch(vector_of(impl, SIDE, 8))

    track_scratch.unit = "megabytes"
