"""Quantizers with one mistake each, as adapters; and adapters that misbehave."""

import os
import time

import numpy as np

F32 = np.float32


class Quantizer:
    """rint(x / s) + z in float32, saturated: right under onnx. Subclasses make it wrong."""

    version = "1"

    @property
    def name(self):
        return type(self).__name__

    def supports(self, op, types, params):
        if op != "quantize_affine" or params["granularity"] != "per_tensor":
            return f"no {op}"
        if types["x"] != "float32":
            return "float32 only"
        return types["q"] in ("int8", "uint8", "int4", "uint4", "int2", "uint2") or "a byte only"

    def run(self, op, types, params, inputs):
        from refquant.oracle.adapters import Reject

        x = np.asarray(inputs["x"]).astype(np.uint32).view(F32)
        scale = np.asarray(params["scale"]).view(F32)[()]
        zero, low, high = params["zero_point"], params["qmin"], params["qmax"]
        if not (np.isfinite(scale) and scale > 0) or not low <= zero <= high:
            raise Reject("no grid")
        with np.errstate(all="ignore"):
            codes = self.codes(np.atleast_1d(x), scale, F32(zero), low, high)
            codes = np.where(np.isnan(codes), 0, codes)
        return {"q": codes.astype(np.int64).astype(np.uint8).reshape(x.shape)}

    def codes(self, x, s, z, low, high):
        return np.clip(np.rint(x / s) + z, low, high)


class TiesAway(Quantizer):
    def codes(self, x, s, z, low, high):
        r = x / s
        whole = np.trunc(r)
        away = whole + np.where(np.abs(r - whole) >= 0.5, np.copysign(F32(1), r), F32(0))
        return np.clip(away + z, low, high)


class Reciprocal(Quantizer):
    def codes(self, x, s, z, low, high):
        return np.clip(np.rint(x * (F32(1) / s)) + z, low, high)


class ZeroPointFirst(Quantizer):
    def codes(self, x, s, z, low, high):
        return np.rint(np.clip(x / s + z, low, high))


class Float64Division(Quantizer):
    def codes(self, x, s, z, low, high):
        return np.clip(np.rint(x.astype(np.float64) / np.float64(s)) + z, low, high)


class Int32BeforeClamp(Quantizer):
    def codes(self, x, s, z, low, high):
        whole = np.rint(x / s)
        fits = (whole >= -(2.0**31)) & (whole < 2.0**31)
        return np.clip(np.where(fits, whole, -(2.0**31)).astype(np.int64) + int(z), low, high)


class TailUnlikeBody(Quantizer):
    """Lanes of eight round to even, what is left over away from zero."""

    def codes(self, x, s, z, low, high):
        body = np.arange(x.size) < x.size // 8 * 8
        away = TiesAway().codes(x, s, z, low, high)
        return np.where(body, super().codes(x, s, z, low, high), away)


class Raises(Quantizer):
    def run(self, op, types, params, inputs):
        raise RuntimeError("kaput\nand more")


class Hangs(Quantizer):
    def run(self, op, types, params, inputs):
        if np.size(inputs["x"]) == 1 and int(np.ravel(inputs["x"])[0]) == 0x40400000:
            time.sleep(60)
        if np.size(inputs["x"]) > 1:
            raise RuntimeError("one at a time")
        return super().run(op, types, params, inputs)


class Crashes(Quantizer):
    """Dies on subnormal scales, as LiteRT does."""

    def run(self, op, types, params, inputs):
        if 0 < int(params["scale"]) < 0x00800000:
            os.abort()
        return super().run(op, types, params, inputs)


class AlwaysHangs(Quantizer):
    def run(self, op, types, params, inputs):
        time.sleep(60)


class Exits(Quantizer):
    def run(self, op, types, params, inputs):
        raise SystemExit(3)


class Floods(Quantizer):
    def run(self, op, types, params, inputs):
        return {"q": np.zeros(2**27, np.uint8)}


class NoStart(Quantizer):
    def __init__(self):
        raise RuntimeError("no licence\nhere")


class WrongType(Quantizer):
    def run(self, op, types, params, inputs):
        return {"q": super().run(op, types, params, inputs)["q"].astype(np.int32)}


class WrongShape(Quantizer):
    def run(self, op, types, params, inputs):
        return {"q": super().run(op, types, params, inputs)["q"].ravel()[:0]}


class WrongName(Quantizer):
    def run(self, op, types, params, inputs):
        return {"y": super().run(op, types, params, inputs)["q"]}


class NoMapping(Quantizer):
    def run(self, op, types, params, inputs):
        return 3


class NoWorkingSupports(Quantizer):
    def supports(self, op, types, params):
        raise KeyError("oops")


class Prints(Quantizer):
    def run(self, op, types, params, inputs):
        os.write(1, b"noise on stdout\n")
        print("more noise")
        return super().run(op, types, params, inputs)


class Incomplete:
    name = "incomplete"


class Mute(Exception):
    """An exception that cannot be shown."""

    def __str__(self):
        raise ValueError("no text")


class RaisesMute(Quantizer):
    def run(self, op, types, params, inputs):
        raise Mute


class RaisesEscapes(Quantizer):
    def run(self, op, types, params, inputs):
        raise RuntimeError("red \x1b[31m\x07 letters")


def _not_here():
    raise LookupError("not in this process")


class Bomb:
    """Survives the way out of a process, but not the way into another."""

    def __reduce__(self):
        return _not_here, ()


class AnswersBombs(Quantizer):
    def run(self, op, types, params, inputs):
        return {"q": Bomb()}


class NumpyTruth(Quantizer):
    def supports(self, op, types, params):
        return np.bool_(super().supports(op, types, params) is True)


class DiesAtStart(Quantizer):
    def __init__(self):
        os.abort()


class TwoLines(Quantizer):
    name = "two\nlines|<b>"
