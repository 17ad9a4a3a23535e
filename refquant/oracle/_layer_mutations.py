"""Mistakes in integer layers: what a plausible wrong kernel of a .tflite operator answers."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from refquant._types import Array
from refquant.oracle import _layers
from refquant.oracle._document import Kernel, Named
from refquant.oracle.vectors import VectorFile, values
from refquant.rounding import half_away, half_up

Params = Mapping[str, Any]


def layer_mutations(file: VectorFile) -> dict[str, Kernel]:
    """Wrong kernels of one layer, by name."""
    right = {name: d.fast for name, d in _layers.derivations(file.op).items()}
    base = right[file.base_dialect]

    def changed(**of: Callable[[Params], Any]) -> Kernel:
        return lambda params, inputs: base(
            {**params, **{k: f(params) for k, f in of.items()}}, inputs)

    apart = [d for case in file for d in case.differs]
    found: dict[str, Kernel] = {f"as {name}": right[name] for name in right
                                if apart.count(name) >= 2}
    found["y as unsigned"] = lambda params, inputs: {"y": base(params, inputs)["y"] ^ 0x80}
    if "x" in file.inputs:
        found["x as unsigned"] = lambda params, inputs: base(params, {"x": inputs["x"] ^ 0x80})
    fixed = file.op in ("tflite_softmax", "tflite_logistic", "tflite_tanh")
    for name in file.params:
        if name.endswith("_zero_point") and not (fixed and name[0] == "y"):
            found[f"{name} ignored"] = changed(**{name: lambda p: 0})
    if fixed:
        found["truncated"] = _truncated(file.op)
    if file.op == "tflite_softmax":         # where only differences count
        del found["x_zero_point ignored"]
        found["narrow range"] = lambda params, inputs: {
            "y": np.where(base(params, inputs)["y"] == 0x80, np.uint8(0x81),
                          base(params, inputs)["y"])}
    if "bias" in file.params:
        found["no bias"] = changed(bias=lambda p: np.zeros_like(np.asarray(p["bias"])))
        found["first scale for all channels"] = changed(
            w_scale=lambda p: np.full_like(np.asarray(p["w_scale"]),
                                           np.ravel(p["w_scale"])[0]))
    if file.op in ("tflite_conv", "tflite_depthwise"):
        found["padded with code 0"] = lambda params, inputs: base(
            {**params, "pads": np.zeros(4, np.int64)}, {"x": _padded(inputs["x"], params["pads"])})
    if file.op == "tflite_add":
        found["scales of the inputs in reverse"] = changed(
            a_scale=lambda p: p["b_scale"], b_scale=lambda p: p["a_scale"])
    if file.op == "tflite_average_pool":
        found |= {"count of the whole window": _pool(whole=True, half=True),
                  "truncated": _pool(whole=False, half=False)}
    if file.op == "tflite_mean":
        found["rounded once"] = _mean_once
    if file.op == "tflite_leaky_relu":
        found["no slope"] = changed(alpha=lambda p: np.array(0x3F800000, "u4"))
    return found


def _padded(x: Array, pads: Array) -> Array:
    top, left, bottom, right = np.asarray(pads).tolist()
    return np.pad(np.asarray(x), ((0, 0), (top, bottom), (left, right), (0, 0)))


def _real(params: Params, name: str, codes: Array) -> Array:
    scale = float(values(np.asarray(params[f"{name}_scale"]), "float32"))
    return (_layers._codes(codes) - int(params[f"{name}_zero_point"])) * scale


def _truncated(op: str) -> Kernel:
    """The real function, rounded down to a code."""
    def answer(params: Params, inputs: Named) -> Named:
        x = _real(params, "x", inputs["x"])
        if op == "tflite_softmax":
            e = np.exp(x - x.max(axis=-1, keepdims=True))
            codes = 256 * e / e.sum(axis=-1, keepdims=True) - 128
        else:
            codes = 256 / (1 + np.exp(-x)) - 128 if op == "tflite_logistic" else 128 * np.tanh(x)
        return {"y": (np.clip(np.floor(codes), -128, 127).astype(np.int64) & 255).astype("u1")}
    return answer


def _pool(*, whole: bool, half: bool) -> Kernel:
    def answer(params: Params, inputs: Named) -> Named:
        x = _padded(_layers._codes(inputs["x"]), params["pads"])
        there = _padded(np.ones(np.shape(inputs["x"]), np.int64), params["pads"])
        axes, (sv, sh) = (1, 2), np.asarray(params["strides"]).tolist()
        window = tuple(np.asarray(params["window"]).tolist())
        seen, counted = (np.lib.stride_tricks.sliding_window_view(a, window, axis=axes)
                         [:, ::sv, ::sh].sum(axis=(-2, -1)) for a in (x, there))
        count = np.full_like(counted, np.prod(window)) if whole else counted
        more = count // 2 if half else 0
        return {"y": (((abs(seen) + more) // count * np.sign(seen)) & 255).astype("u1")}
    return answer


def _mean_once(params: Params, inputs: Named) -> Named:
    """The mean in real numbers, rounded once to even."""
    steps = _real(params, "x", inputs["x"]).mean(axis=(1, 2), keepdims=True)
    y = float(values(np.asarray(params["y_scale"]), "float32"))
    codes = np.clip(np.rint(steps / y) + params["y_zero_point"], -128, 127)
    return {"y": (codes.astype(np.int64) & 255).astype("u1")}


def wide_mutations(file: VectorFile) -> dict[str, Kernel]:
    """Wrong ways from sums of 64 bits to 16-bit codes."""
    def kernel(rounding: Callable[[Array], Array], *, bits: int = 15,
               wraps: bool = False) -> Kernel:
        def answer(params: Params, inputs: Named) -> Named:
            m = np.float64(values(np.asarray(params["multiplier"]), "float32"))
            fraction, shift = np.frexp(m)
            short = np.ldexp(np.rint(fraction * 2.0**bits), shift - bits)
            whole = rounding(np.asarray(values(inputs["acc"], "int64")) * short)
            codes = whole if wraps else np.clip(whole, -(2**15), 2**15 - 1)
            return {"q": (codes.astype(np.int64) & 0xFFFF).astype("u2")}
        return answer

    return {"31-bit multiplier": kernel(half_up, bits=31), "ties away": kernel(half_away),
            "rounded down": kernel(np.floor), "wraps": kernel(half_up, wraps=True)}
