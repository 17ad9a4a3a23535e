"""ONNX's products of codes: what exact sums cost, and how often the float32 scale shows."""

from fractions import Fraction

import numpy as np

from refquant.integer.onnx_products import (
    ConvGeometry,
    matmul_integer,
    qlinear_conv,
    qlinear_matmul,
)
from refquant.quantizers.uniform import Uniform

from ..common import QUICK, Benchmark, Quality, need
from .onnx_operators import node


def quantizer(scale: float, zero_point: int) -> Uniform:
    return Uniform(np.array(scale, np.float32), np.array(zero_point), 0, 255)


def codes(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


A, B, Y = quantizer(0.02, 128), quantizer(0.01, 120), quantizer(0.3, 127)


class OnnxProducts(Benchmark):
    params = (["refquant", "onnxruntime"], ["MatMulInteger", "QLinearMatMul", "QLinearConv"])
    param_names = ("impl", "operator")

    def setup(self, impl: str, operator: str) -> None:
        n = 32 if QUICK else 192
        a, b = codes(n, n), codes(n, n)
        x, w = codes(1, 16, n // 4, n // 4), codes(16, 16, 3, 3)
        ours = {
            "MatMulInteger": lambda: matmul_integer(a, b, 128, 120),
            "QLinearMatMul": lambda: qlinear_matmul(a, A, b, B, Y),
            "QLinearConv": lambda: qlinear_conv(x, A, w, B, Y, geometry=ConvGeometry()),
        }
        if impl == "refquant":
            self.call = ours[operator]
            return
        kinds = need("onnx").TensorProto
        zeros = [np.uint8(128), np.uint8(120)]
        left, right = (x, w) if operator == "QLinearConv" else (a, b)
        if operator == "MatMulInteger":
            self.call = node(operator, [a, b, *map(np.asarray, zeros)], kinds.INT32)
        else:
            inputs = [left, *pair(A), right, *pair(B), *pair(Y)]
            self.call = node(operator, inputs, kinds.UINT8)

    def time_call(self, impl: str, operator: str) -> None:
        self.call()


def pair(q: Uniform) -> list[np.ndarray]:
    return [q.scale, q.zero_point.astype(np.uint8)]


class OnnxProductsQuality(Quality):
    """Share of codes that the exact product of scales and sum would round elsewhere."""

    params = ([0.0004, 0.0032, 0.3],)       # 2, 16 and 1500 steps of the sums: ties are rarer
    param_names = ("y_scale",)

    def track_not_the_nearest(self, y_scale: float) -> float:
        y = quantizer(y_scale, 127)
        a, b = codes(64, 4) % 16 + 120, codes(4, 64) % 16 + 112
        found = qlinear_matmul(a, A, b, B, y)
        unit = Fraction(float(A.scale)) * Fraction(float(B.scale)) / Fraction(float(y.scale))
        sums = matmul_integer(a, b, 128, 120)
        exact = np.array([min(max(round(int(s) * unit) + 127, 0), 255) for s in sums.flat])
        return float((found.ravel() != exact).mean())

    track_not_the_nearest.unit = "share of codes"
