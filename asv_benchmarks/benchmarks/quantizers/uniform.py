"""The definition of uniform quantization beside the peers: time, memory, error, memory ratio."""

import tracemalloc

import numpy as np

from benchmarks.common import Benchmark, Quality, need, size, weights
from refquant.metrics import mse, predicted_mse
from refquant.quantizer import bits_per_element, fake_quantize
from refquant.quantizers.uniform import asymmetric, full_range, half_open, symmetric

MAKERS = {
    "symmetric": lambda x, bits: symmetric(np.abs(x).max(), bits=bits),
    "half_open": lambda x, bits: half_open(np.abs(x).max(), bits=bits),
    "full_range": lambda x, bits: full_range(np.abs(x).max(), bits=bits),
    "asymmetric": lambda x, bits: asymmetric(x.min(), x.max(), bits=bits),
}


def onnx_session(op):
    """A model of one QuantizeLinear or DequantizeLinear, on one thread."""
    onnx, ort = need("onnx"), need("onnxruntime")
    helper, kind = onnx.helper, onnx.TensorProto
    before, after = (kind.FLOAT, kind.UINT8) if op == "QuantizeLinear" else (kind.UINT8, kind.FLOAT)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "scale", "zero_point"], ["y"])], op,
        [value("x", before, [None]), value("scale", kind.FLOAT, []),
         value("zero_point", kind.UINT8, [])],
        [value("y", after, [None])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


class Uniform(Benchmark):
    params = (["refquant", "naive", "onnxruntime"],)
    param_names = ("impl",)

    def setup(self, impl):
        x = weights("gauss", size(10_000_000))
        q = asymmetric(x.min(), x.max(), bits=8)
        codes = q.encode(x)
        scale, zero_point = q.scale, q.zero_point
        if impl == "refquant":
            self.encode, self.decode = lambda: q.encode(x), lambda: q.decode(codes)
        elif impl == "naive":
            self.encode = lambda: np.clip(np.round(x / scale) + zero_point, 0, 255).astype(np.int32)
            self.decode = lambda: scale * (codes - zero_point).astype(np.float32)
        else:
            there, back = onnx_session("QuantizeLinear"), onnx_session("DequantizeLinear")
            parameters = {"scale": scale, "zero_point": zero_point.astype(np.uint8)}
            small = codes.astype(np.uint8)
            self.encode = lambda: there.run(None, {"x": x, **parameters})
            self.decode = lambda: back.run(None, {"x": small, **parameters})

    def time_encode(self, impl):
        self.encode()

    def time_decode(self, impl):
        self.decode()

    def peakmem_encode(self, impl):
        self.encode()

    def peakmem_decode(self, impl):
        self.decode()


class UniformError(Quality):
    params = (list(MAKERS), [2, 4, 8], ["gauss", "laplace", "outlier"])
    param_names = ("constructor", "bits", "data")

    def setup(self, constructor, bits, data):
        self.x = weights(data, size(200_000))
        self.quantizer = MAKERS[constructor](self.x, bits)

    def track_relative_mse(self, constructor, bits, data):
        noise = mse(self.x, fake_quantize(self.x, self.quantizer))
        return noise / mse(self.x, np.zeros_like(self.x))

    track_relative_mse.unit = "fraction of the variance"

    def track_distance_from_theory(self, constructor, bits, data):
        noise = mse(self.x, fake_quantize(self.x, self.quantizer))
        return abs(noise / predicted_mse(self.quantizer.scale) - 1)

    track_distance_from_theory.unit = "relative to scale**2 / 12"

    def track_bits_per_element(self, constructor, bits, data):
        return bits_per_element(self.quantizer, self.x.shape)

    track_bits_per_element.unit = "bits/element"


class UniformMemory(Quality):
    """Input, output and work arrays at their peak, over input plus output."""

    params = (["encode", "decode", "fake_quantize"], ["float32", "float64"])
    param_names = ("operation", "dtype")

    def setup(self, operation, dtype):
        self.x = weights("gauss", size(1_000_000), dtype)
        q = asymmetric(self.x.min(), self.x.max(), bits=8)
        if operation == "decode":
            self.x = q.encode(self.x)
        self.call = {"encode": q.encode, "decode": q.decode,
                     "fake_quantize": lambda x: fake_quantize(x, q)}[operation]

    def track_peak_over_arrays(self, operation, dtype):
        tracemalloc.start()
        try:
            result = self.call(self.x)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        return (self.x.nbytes + peak) / (self.x.nbytes + result.nbytes)

    track_peak_over_arrays.unit = "times input plus output"
