"""ONNX's elementwise operators: readable NumPy, and the runtime that the standard grew up with."""

from collections.abc import Callable

import numpy as np

from refquant.integer.onnx_operators import (
    INT4,
    INT8,
    cast_to_codes,
    dequantize_linear,
    quantize_linear,
)
from refquant.quantizers.minifloat import E4M3FN

from ..common import Benchmark, Quality, need, size, weights


def node(op: str, inputs: list[np.ndarray], output: int, **attributes) -> Callable[[], object]:
    """One node in onnxruntime; all inputs but the first are part of the model."""
    onnx, ort = need("onnx"), need("onnxruntime")
    names = [f"i{n}" for n in range(len(inputs))]
    fixed = [
        onnx.numpy_helper.from_array(v, n) for n, v in zip(names[1:], inputs[1:], strict=True)
    ]
    kind = onnx.helper.np_dtype_to_tensor_dtype(inputs[0].dtype)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(op, names, ["y"], **attributes)],
        "one node",
        [onnx.helper.make_tensor_value_info("i0", kind, inputs[0].shape)],
        [onnx.helper.make_tensor_value_info("y", output, None)],
        fixed,
    )
    opset = onnx.helper.make_opsetid("", 21)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    # The output stays where it is: 4 and 8 bit floats have no NumPy type.
    return lambda: session.run_with_ort_values(
        ["y"], {"i0": ort.OrtValue.ortvalue_from_numpy(inputs[0])}
    )


class OnnxOperators(Benchmark):
    params = (["refquant", "onnxruntime"], ["quantize", "dequantize", "cast to E4M3FN"])
    param_names = ("impl", "operator")

    def setup(self, impl: str, operator: str) -> None:
        x = weights("gauss", size(1_000_000))
        scale, zero = np.array(0.02, np.float32), np.array(3, np.int8)
        codes = quantize_linear(x, scale, zero, output=INT8)
        ours = {
            "quantize": lambda: quantize_linear(x, scale, zero, output=INT8),
            "dequantize": lambda: dequantize_linear(codes, scale, zero, source=INT8),
            "cast to E4M3FN": lambda: cast_to_codes(x, E4M3FN),
        }
        if impl == "refquant":
            self.call = ours[operator]
            return
        kinds = need("onnx").TensorProto
        theirs = {
            "quantize": lambda: node("QuantizeLinear", [x, scale, zero], kinds.INT8),
            "dequantize": lambda: node(
                "DequantizeLinear", [codes.astype(np.int8), scale, zero], kinds.FLOAT
            ),
            "cast to E4M3FN": lambda: node(
                "Cast", [x], kinds.FLOAT8E4M3FN, to=kinds.FLOAT8E4M3FN
            ),
        }
        self.call = theirs[operator]()

    def time_call(self, impl: str, operator: str) -> None:
        self.call()


class OnnxOperatorsQuality(Quality):
    """Error of four bits with one scale per block, and what the scales take."""

    params = ([16, 64, 256, 1024],)
    param_names = ("block_size",)

    def track_rms_error(self, block_size: int) -> float:
        x = weights("outlier", 16_384).reshape(16, 1024)
        amax = np.abs(x.reshape(16, -1, block_size)).max(axis=-1)
        scale = (amax / np.float32(7)).astype(np.float32)
        codes = quantize_linear(x, scale, output=INT4, block_size=block_size)
        y = dequantize_linear(codes, scale, source=INT4, block_size=block_size)
        return float(np.sqrt(np.mean((x - y) ** 2)))

    def track_bits_per_value(self, block_size: int) -> float:
        return 4 + 32 / block_size

    track_rms_error.unit = "rms"
    track_bits_per_value.unit = "bits"
