"""Quantized ONNX models: a small convolutional network, beside onnxruntime."""

import numpy as np

from refquant.interop.onnx import OnnxModel, OnnxNode, fuse_qdq, run_onnx

from ..common import QUICK, Benchmark, Quality, need

SIZE = 8 if QUICK else 32


def network(form: str) -> OnnxModel:
    """Three convolutions of codes, as QLinearConv or as QDQ groups."""
    rng = np.random.default_rng(0)
    scale, zero = np.array(0.05, np.float32), np.array(128, np.uint8)
    held = {"s": scale, "z": zero, "ws": np.array(0.004, np.float32), "wz": np.array(0, np.int8),
            "bz": np.array(0, np.int32), "bs": scale * np.float32(0.004)}
    nodes, name = [], "x"
    for k, (n, m) in enumerate(((3, 16), (16, 16), (16, 32))):
        held[f"w{k}"] = rng.integers(-127, 128, (m, n, 3, 3), np.int8)
        held[f"b{k}"] = rng.integers(-999, 999, m, np.int32)
        settings = {"pads": [1, 1, 1, 1]}
        if form == "QOperator":
            inputs = (name, "s", "z", f"w{k}", "ws", "wz", "s", "z", f"b{k}")
            nodes.append(OnnxNode("QLinearConv", "", inputs, (f"y{k}",), settings))
        else:
            parts = {f"d{k}": (name, "s", "z"), f"e{k}": (f"w{k}", "ws", "wz"),
                     f"f{k}": (f"b{k}", "bs", "bz")}
            nodes += [OnnxNode("DequantizeLinear", "", read, (made,), {})
                      for made, read in parts.items()]
            nodes.append(OnnxNode("Conv", "", tuple(parts), (f"c{k}",), settings))
            nodes.append(OnnxNode("QuantizeLinear", "", (f"c{k}", "s", "z"), (f"y{k}",), {}))
        name = f"y{k}"
    shape = (1, 3, SIZE, SIZE)
    return OnnxModel(tuple(nodes), held, {"x": (np.dtype(np.uint8), shape)}, (name,))


def images() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (1, 3, SIZE, SIZE), np.uint8)


class Onnx(Benchmark):
    """Time of one image."""

    params = (["refquant", "onnxruntime"], ["QOperator", "QDQ"])
    param_names = ("impl", "form")

    def setup(self, impl: str, form: str) -> None:
        model, x = network(form), images()
        if impl == "refquant":
            self.call = lambda: run_onnx(model, {"x": x})
            return
        helper, runtime = need("onnx").helper, need("onnxruntime")
        kinds = need("onnx").TensorProto
        graph = helper.make_graph(
            [helper.make_node(n.op, n.inputs, n.outputs, **n.attributes) for n in model.nodes],
            "network", [helper.make_tensor_value_info("x", kinds.UINT8, x.shape)],
            [helper.make_tensor_value_info(model.outputs[0], kinds.UINT8, None)],
            [need("onnx").numpy_helper.from_array(v, k) for k, v in model.constants.items()])
        options = runtime.SessionOptions()
        options.intra_op_num_threads = 1
        session = runtime.InferenceSession(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
            .SerializeToString(), options, providers=["CPUExecutionProvider"])
        self.call = lambda: session.run(None, {"x": x})

    def time_image(self, impl: str, form: str) -> None:
        self.call()


class OnnxReadings(Quality):
    """How far the two readings of QDQ are apart: floats as written, and fused to codes."""

    def track_codes_apart(self) -> float:
        model, x = network("QDQ"), images()
        one, two = run_onnx(model, {"x": x}), run_onnx(fuse_qdq(model), {"x": x})
        # Each layer by itself, fed with the codes of the fused model.
        apart = sum(int((one[f"y{k}"] != two[f"y{k}"]).sum()) for k in range(3))
        return apart / sum(one[f"y{k}"].size for k in range(3))

    track_codes_apart.unit = "share of codes"
