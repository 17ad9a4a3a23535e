"""Products of matrices by other libraries, one thread each, operands as they want them."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np

from benchmarks.common import OPERANDS, QUICK, Benchmark, matched_share, need

#: Inputs and outputs of the layer, and of a small one that runs the same code: of as many weights
#: that `int8_gemm` does not take its short way.
SIDE, SMALL_SIDE = (512, 256) if QUICK else (4096, 640)
#: Multiplications to a tile that OpenBLAS takes without copying its operands first: for few
#: rows, tiles are nearly twice as fast as one call, so they are the fair dense peer.
SMALL = 1_000_000
#: Rows of the weight in a tile where `SMALL` would leave less than 16.
TILE_ROWS = 256


def sgemm(x: np.ndarray, weight: np.ndarray) -> Callable[[], object]:
    """Dense float32, one call of BLAS."""
    left, right = x.astype(np.float32), weight.astype(np.float32)
    return lambda: left @ right.T


def sgemm_weight_first(x: np.ndarray, weight: np.ndarray) -> Callable[[], object]:
    """The same as ``weight @ x``, x given as columns: OpenBLAS is faster this way round."""
    left, right = weight.astype(np.float32), np.ascontiguousarray(x.T.astype(np.float32))
    return lambda: left @ right


def tiled_sgemm(x: np.ndarray, weight: np.ndarray) -> Callable[[], object]:
    """Dense float32, in tiles small enough for the direct kernels of OpenBLAS."""
    left, right = x.astype(np.float32), weight.astype(np.float32)
    rows = SMALL // left.size if left.size <= SMALL // 16 else TILE_ROWS
    out = np.empty((len(left), len(right)), np.float32)

    def run() -> None:
        for j in range(0, len(right), rows):
            np.matmul(left, right[j : j + rows].T, out=out[:, j : j + rows])

    return run


def numpy_int32(x: np.ndarray, weight: np.ndarray) -> Callable[[], object]:
    """NumPy's own integer product: loops without BLAS, along the rows of both operands."""
    left, right = x.astype(np.int32), weight.astype(np.int32)
    return lambda: left @ right.T


def numpy_int32_in_out(x: np.ndarray, weight: np.ndarray) -> Callable[[], object]:
    """The same with the weight stored as (in, out): its loops stride, and take far longer."""
    left, right = x.astype(np.int32), np.ascontiguousarray(weight.astype(np.int32).T)
    return lambda: left @ right


def torch_float32(x: np.ndarray, weight: np.ndarray) -> Callable[[], object]:
    """Dense float32 by torch."""
    torch = one_thread_torch()
    left = torch.from_numpy(x.astype(np.float32))
    right = torch.from_numpy(weight.astype(np.float32))
    return lambda: left @ right.T


def torch_int8(x: np.ndarray, weight: np.ndarray) -> Callable[[], object]:
    """int8 by torch: VNNI instructions, four products and their sum at once."""
    torch = one_thread_torch()
    left = torch.from_numpy(x.astype(np.int8))
    right = torch.from_numpy(weight.astype(np.int8)).T
    return lambda: torch._int_mm(left, right)


def one_thread_torch():
    """torch, held to one thread."""
    torch = need("torch")
    torch.set_num_threads(1)
    return torch


def onnx_int8(x: np.ndarray, weight: np.ndarray) -> Callable[[], object]:
    """MatMulInteger of onnxruntime, the weight a constant it may rearrange."""
    return _matmul_integer(x, weight, constant=True)


def onnx_int8_dynamic(x: np.ndarray, weight: np.ndarray) -> Callable[[], object]:
    """MatMulInteger of onnxruntime, both operands given with each call."""
    return _matmul_integer(x, weight, constant=False)


def _matmul_integer(x: np.ndarray, weight: np.ndarray, *, constant: bool):
    """x as uint8 with zero point 128: with int8 the runtime takes a path many times slower."""
    onnx = need("onnx")
    helper, kinds = onnx.helper, onnx.TensorProto
    right = np.ascontiguousarray(weight.astype(np.int8).T)
    feeds = {"x": (x.astype(np.int16) + 128).astype(np.uint8)}
    inputs = [helper.make_tensor_value_info("x", kinds.UINT8, x.shape)]
    stored = [onnx.numpy_helper.from_array(np.array(128, np.uint8), "z")]
    if constant:
        stored.append(onnx.numpy_helper.from_array(right, "w"))
    else:
        inputs.append(helper.make_tensor_value_info("w", kinds.INT8, right.shape))
        feeds["w"] = right
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w", "z"], ["y"])], "product", inputs,
        [helper.make_tensor_value_info("y", kinds.INT32, (len(x), len(weight)))], stored)
    session = one_thread_session(graph)
    return lambda: session.run(None, feeds)


def onnx_4_bits(
    x: np.ndarray, codes: np.ndarray, scale: np.ndarray, group: int
) -> Callable[[], object]:
    """MatMulNBits of onnxruntime: float32 by int4 in groups, zero point 8."""
    onnx = need("onnx")
    helper, real = onnx.helper, onnx.TensorProto.FLOAT
    out, n = codes.shape
    pairs = codes.astype(np.uint8).reshape(out, n // group, group // 2, 2)
    stored = {"w": pairs[..., 0] | pairs[..., 1] << 4, "s": scale.astype(np.float32)}
    node = helper.make_node(
        "MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft",
        K=n, N=out, bits=4, block_size=group)
    graph = helper.make_graph(
        [node], "product", [helper.make_tensor_value_info("x", real, x.shape)],
        [helper.make_tensor_value_info("y", real, (len(x), out))],
        [onnx.numpy_helper.from_array(array, name) for name, array in stored.items()])
    session = one_thread_session(graph, ("com.microsoft",))
    return lambda: session.run(None, {"x": x})


def gguf_4_bits(x: np.ndarray, values: np.ndarray) -> Callable[[], object]:
    """Q4_0 of gguf, groups of 32: dequantize, then one call of BLAS."""
    quants = need("gguf.quants")
    kind = need("gguf").GGMLQuantizationType.Q4_0
    stored = quants.quantize(values.astype(np.float32), kind)
    return lambda: x @ quants.dequantize(stored, kind).T


def one_thread_session(graph, domains: tuple[str, ...] = ()):
    """A session of onnxruntime on one thread for `graph`."""
    onnx, onnxruntime = need("onnx"), need("onnxruntime")
    opsets = [onnx.helper.make_opsetid("", 21)]
    opsets += [onnx.helper.make_opsetid(domain, 1) for domain in domains]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"])


#: The peers of any product of small integers, by name.
DENSE = {
    "float32 BLAS": sgemm,
    "float32 BLAS tiled": tiled_sgemm,
    "numpy int32": numpy_int32,
    "torch float32": torch_float32,
    "torch int8": torch_int8,
    "onnxruntime int8": onnx_int8,
}


class _Product(Benchmark):
    """One product a sample, its operands cold or hot.

    ``call_of(impl, side, ...)`` makes the call for a weight of `side` x `side`.
    """

    timeout = 120.0
    number, warmup_time = 1, 0.0        # asv calls setup, and so evicts, before each sample

    def prepare(self, call_of, impl, operands, *how):
        self.call, self.code = call_of(impl, SIDE, *how), call_of(impl, SMALL_SIDE, *how)
        self.call_of, self.operands, self.how = call_of, operands, how
        OPERANDS[operands](self.call, self.code)

    def share(self, ours):
        """Time of the product by `ours` over that by `impl`."""
        mine, its_code = (self.call_of(ours, side, *self.how) for side in (SIDE, SMALL_SIDE))
        return matched_share(mine, self.call, self.operands, [its_code, self.code])

    def time_product(self, *params):
        self.call()

    def peakmem_product(self, *params):
        self.call()

    def track_time_of_refquant_over_this(self, *params):
        """Time of refquant over that of `impl`, side by side."""
        return self.share("refquant")

    track_time_of_refquant_over_this.unit = "ratio"


def scratch(call: Callable[[], object]) -> float:
    """Megabytes that a call of NumPy needs at its peak, the result among them."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()
