r"""The same codes in less time: where sums are proved small, floats hold them exactly.

Products of codes are added up by BLAS, in float32 if the sum of magnitudes of every
filter times the largest code is at most :math:`2^{24}`, else in float64; no order of
summation can round (`refquant.kernels.int8_gemm.plan`). The zero point is folded into
the bias, and the image padded with it.

Requantization, too, is exact in float64 if the sums stay below :math:`2^{22}`. With m the
31-bit mantissa as a fraction, ``acc * m + 1/2`` has at most 53 bits, so that its floor is
the rounded high half t. The second rounding, of :math:`v = t \, 2^{-R}`, has ties that need
a nudge: ``rint(v * (1 + 2**-24))`` sends them away from zero and ``rint(v + 2**-(R+2))``
up, and neither moves any other v across a tie, since those keep :math:`2^{-R}` away.

Parameters are tiled to the shape of a block of rows: NumPy's inner loop is then long. What
does not leave a layer is written to memory that is kept between calls, per thread: fresh
pages of the system cost more than what is computed in them.
"""

import math
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from refquant._types import Array, Codes
from refquant._validate import require_codes
from refquant.integer.arithmetic import quantize_multiplier
from refquant.integer.requantize import (
    Lanes,
    Rule,
    double_away,
    double_up,
    in_float32,
    single_up,
)
from refquant.kernels.int8_gemm import plan
from refquant.quantizers.uniform import Uniform

if TYPE_CHECKING:
    from refquant.integer.convolution import Window
    from refquant.integer.layers import Rescaled

#: Elements of a block of sums: a few arrays of it stay in the second cache.
BLOCK = 2**14
#: Elements of the patches of a block.
MOST_PATCHES = 2**19
#: Bytes of an array that is kept for the next call.
MOST_KEPT = 2**24

_KEPT = threading.local()


class Finish(Protocol):
    """Float sums without bias, shape (rows, channels), to codes."""

    def __call__(self, sums: Array, out: Codes | None = None) -> Codes:
        """The codes, written to `out` if it is given."""


def convolution(
    layer: "Rescaled", weight: Array, bias: Array, x: Uniform, window: "Window"
) -> "Rescaled":
    """The layer with a product of patches and weights, if it has no groups and is exact so."""
    out, kh, kw, depth = weight.shape
    found = _prepared(layer, weight.reshape(out, -1), bias, x)
    if found is None:
        return layer
    dtype, finish = found
    matrix: Array = np.ascontiguousarray(weight.reshape(out, -1).T.astype(dtype))
    (sv, sh), (dv, dh) = window.strides, window.dilations
    extent = (kh - 1) * dv + 1, (kw - 1) * dh + 1
    plain = (kh, kw) == (sv, sh) == (1, 1) and not np.any(window.padding)

    def fast(codes: Array) -> Codes:
        codes = require_codes("codes", codes, x.qmin, x.qmax)
        if codes.ndim != 4 or codes.shape[3] != depth or not codes.size:
            return layer.finish(layer.accumulate(codes))        # groups, or an error to report
        batch = len(codes)
        if plain:
            return finish(_product(codes.reshape(-1, depth), matrix)).reshape(*codes.shape[:3], out)
        padded = _padded(codes, x, window, dtype)
        if padded.shape[1] < extent[0] or padded.shape[2] < extent[1]:
            return layer.finish(layer.accumulate(codes))
        view = np.lib.stride_tricks.sliding_window_view(padded, extent, axis=(1, 2))
        view = view[:, ::sv, ::sh, :, ::dv, ::dh].transpose(0, 1, 2, 4, 5, 3)
        height, width = view.shape[1:3]
        step = max(min(4 * BLOCK // (width * out), MOST_PATCHES // (width * len(matrix))), 1)
        result: Codes = np.empty((batch, height, width, out), np.int32)
        for b in range(batch):
            for top in range(0, height, step):
                patches = view[b, top : top + step]
                sums = _product(patches, matrix)
                finish(sums, result[b, top : top + step].reshape(sums.shape))
        return result

    return replace(layer, fast=fast)


def depthwise(
    layer: "Rescaled", weight: Array, bias: Array, x: Uniform, window: "Window"
) -> "Rescaled":
    """The layer as a sum of shifted images, each times one weight per channel."""
    out, kh, kw, depth = weight.shape
    found = _prepared(layer, weight.reshape(out, -1), bias, x)
    if found is None or depth != 1:
        return layer
    dtype, finish = found
    (sv, sh), (dv, dh) = window.strides, window.dilations
    filters: Array = weight[..., 0].astype(dtype)
    tiles: dict[int, list[Array]] = {}              # weights of each place, over a row of the image

    def fast(codes: Array) -> Codes:
        codes = require_codes("codes", codes, x.qmin, x.qmax)
        if codes.ndim != 4 or not codes.size or out % codes.shape[3]:
            return layer.finish(layer.accumulate(codes))
        padded = _padded(codes, x, window, dtype)
        if out != codes.shape[3]:
            padded = np.repeat(padded, out // codes.shape[3], axis=3)
        height = (padded.shape[1] - (kh - 1) * dv - 1) // sv + 1
        width = (padded.shape[2] - (kw - 1) * dh - 1) // sh + 1
        if height < 1 or width < 1:
            return layer.finish(layer.accumulate(codes))
        if width not in tiles:
            tiles[width] = [np.tile(filters[:, k, j], (width, 1))
                            for k in range(kh) for j in range(kw)]
        places = [(k * dv, j * dh) for k in range(kh) for j in range(kw)]
        step = max(BLOCK // (width * out), 1)
        result: Codes = np.empty((len(codes), height, width, out), np.int32)
        for b in range(len(codes)):
            for top in range(0, height, step):
                rows = min(step, height - top)
                total = _scratch("sums", (rows, width, out), dtype)
                term = _scratch("patches", (rows, width, out), dtype)
                for k, ((down, right), tile) in enumerate(zip(places, tiles[width], strict=True)):
                    start = top * sv + down
                    seen = padded[b, start : start + (rows - 1) * sv + 1 : sv,
                                  right : right + (width - 1) * sh + 1 : sh]
                    np.multiply(seen, tile, out=term if k else total)
                    if k:
                        total += term
                block = result[b, top : top + rows]
                finish(total.reshape(-1, out), block.reshape(-1, out))
        return result

    return replace(layer, fast=fast)


def fully_connected(layer: "Rescaled", weight: Array, bias: Array, x: Uniform) -> "Rescaled":
    """The layer as one product in float."""
    found = _prepared(layer, weight, bias, x)
    if found is None:
        return layer
    dtype, finish = found
    matrix: Array = np.ascontiguousarray(weight.T.astype(dtype))

    def fast(codes: Array) -> Codes:
        codes = require_codes("codes", codes, x.qmin, x.qmax)
        if codes.ndim != 2 or codes.shape[1] != len(matrix):
            return layer.finish(layer.accumulate(codes))
        return finish(_product(codes, matrix))

    return replace(layer, fast=fast)


def _scratch(name: str, shape: tuple[int, ...], dtype: type) -> Array:
    """An array whose memory the next call of this thread with that name takes again."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    kept = getattr(_KEPT, name, None)
    if kept is None or kept.size < size:
        kept = np.empty(max(size, 1), np.uint8)
        if size <= MOST_KEPT:
            setattr(_KEPT, name, kept)
    return kept[:size].view(dtype).reshape(shape)


def _product(rows: Array, matrix: Array) -> Array:
    """Rows, the last axes of which are flattened and cast, times a matrix of floats."""
    count = math.prod(rows.shape) // len(matrix)
    cast = _scratch("patches", rows.shape, matrix.dtype.type)
    np.copyto(cast, rows, casting="unsafe")
    sums = _scratch("sums", (count, matrix.shape[1]), matrix.dtype.type)
    return np.matmul(cast.reshape(count, len(matrix)), matrix, out=sums)


def _padded(codes: Array, x: Uniform, window: "Window", dtype: type) -> Array:
    if not np.any(window.padding):
        return codes.astype(dtype)
    batch, height, width, channels = codes.shape
    (above, below), (left, right) = window.padding
    shape = batch, height + above + below, width + left + right, channels
    padded = _scratch("padded", shape, dtype)
    padded[...] = int(x.zero_point.item())
    padded[:, above : above + height, left : left + width] = codes
    return padded


def _prepared(
    layer: "Rescaled", weight: Array, bias: Array, x: Uniform
) -> tuple[type, Finish] | None:
    """Where to add up the products of one filter per row, and how to go on; None if nowhere."""
    if not weight.size:
        return None
    total, w_max = int(np.abs(weight).sum(axis=1).max()), int(np.abs(weight).max())
    x_max = max(-x.qmin, x.qmax)
    dtype = np.float32 if total * x_max <= 2**24 else plan(total, w_max, x_max).dtype
    if dtype is np.float32 and total * x_max > 2**24:
        dtype = np.float64                          # exact in chunks alone, which are not made here
    if dtype is np.int64 or (dtype is np.float64 and total * x_max > 2**53):
        return None
    folded = bias - int(x.zero_point.item()) * weight.sum(axis=1)
    bound = total * x_max + int(np.abs(folded).max())
    return dtype, _finish(layer, folded, bound)


def _finish(layer: "Rescaled", bias: Array, bound: int) -> Finish:
    rule, channels = layer.rule, len(bias)
    real = np.broadcast_to(layer.multiplier, channels)
    chosen: dict[str, Rule] = {"first": rule, "last": rule}
    whole = channels
    if isinstance(rule, Lanes):
        chosen, whole = {"first": rule.vector, "last": rule.scalar}, channels // rule.width
        whole *= rule.width
    double = {double_away, double_up}
    if set(chosen.values()) <= double and bound <= 2**22:
        away = np.arange(channels) >= whole if chosen["last"] is double_away else np.zeros(1, bool)
        if chosen["first"] is double_away:
            away = away | (np.arange(channels) < whole)
        found = _in_two_steps(layer, real, bias, np.broadcast_to(away, channels))
        if found is not None:
            return found
    if rule is single_up and bound <= 2**22:
        found = _in_one_step(layer, real, bias)
        if found is not None:
            return found
    if rule is in_float32 and bound <= 2**24:
        return _in_float32(layer, real, bias)

    def finish(sums: Array, out: Codes | None = None) -> Codes:
        codes = layer.finish(sums.astype(np.int64) + bias)
        if out is not None:
            out[...] = codes
        return codes

    return finish


def _in_two_steps(layer: "Rescaled", real: Array, bias: Array, away: Array) -> Finish | None:
    mantissa, shift = quantize_multiplier(real)
    right = -shift
    if (right < 0).any() or (right > 20).any():
        return None
    zero = int(layer.output.zero_point.item())
    m = mantissa * 2.0**-31
    first = bias * m + 0.5
    second = 2.0**-right * np.where(away, 1 + 2.0**-24, 1.0)
    nudge = zero + np.where(away, 0.0, 2.0 ** -(right + 2))
    tiles = _Tiles(m, first, second, nudge)
    low, high = layer.limits

    def finish(sums: Array, out: Codes | None = None) -> Codes:
        result: Codes = np.empty(sums.shape, np.int32) if out is None else out
        for block, part, (m, first, second, nudge) in tiles.blocks(sums, result):
            t = _scratch("work", block.shape, np.float64)
            np.multiply(block, m, out=t)
            t += first
            np.floor(t, out=t)
            t *= second
            t += nudge
            np.rint(t, out=t)
            _clamp(t, low, high, part)
        return result

    return finish


def _in_one_step(layer: "Rescaled", real: Array, bias: Array) -> Finish | None:
    mantissa, shift = quantize_multiplier(real)
    if (shift > 0).any() or (shift < -20).any():
        return None
    m = mantissa * 2.0 ** (shift - 31)
    tiles = _Tiles(m, bias * m + 0.5)
    zero, (low, high) = int(layer.output.zero_point.item()), layer.limits

    def finish(sums: Array, out: Codes | None = None) -> Codes:
        result: Codes = np.empty(sums.shape, np.int32) if out is None else out
        for block, part, (m, first) in tiles.blocks(sums, result):
            t = _scratch("work", block.shape, np.float64)
            np.multiply(block, m, out=t)
            t += first
            np.floor(t, out=t)
            t += zero
            _clamp(t, low, high, part)
        return result

    return finish


def _in_float32(layer: "Rescaled", real: Array, bias: Array) -> Finish:
    tiles = _Tiles(bias.astype(np.float32), real.astype(np.float32))
    zero, (low, high) = int(layer.output.zero_point.item()), layer.limits

    def finish(sums: Array, out: Codes | None = None) -> Codes:
        result: Codes = np.empty(sums.shape, np.int32) if out is None else out
        for block, part, (offset, m) in tiles.blocks(sums, result):
            t = _scratch("work", block.shape, np.float32)
            np.copyto(t, block, casting="unsafe")
            t += offset
            t *= m
            np.rint(t, out=t)
            np.clip(t, low - zero, high - zero, out=t)      # as floats: a product may be large
            np.copyto(part, t, casting="unsafe")
            part += zero
        return result

    return finish


def _clamp(t: Array, low: int, high: int, out: Codes) -> None:
    """Whole floats below 2**31 as codes between the limits."""
    np.copyto(out, t, casting="unsafe")
    np.maximum(out, low, out=out)
    np.minimum(out, high, out=out)


class _Tiles:
    """Numbers per channel, repeated over the rows of a block when first needed."""

    def __init__(self, *parameters: Array) -> None:
        self.parameters = parameters
        self.channels = len(parameters[0])
        self.most = max(BLOCK // self.channels, 1)
        self.rows = 0
        self.tiles: tuple[Array, ...] = ()

    def blocks(
        self, sums: Array, result: Codes
    ) -> "list[tuple[Array, Codes, tuple[Array, ...]]]":
        need = min(self.most, len(sums))
        if need > self.rows:
            self.rows = need
            self.tiles = tuple(np.tile(p, (need, 1)) for p in self.parameters)
        tiles = self.tiles
        found = []
        for top in range(0, len(sums), self.most):
            block = sums[top : top + self.most]
            found.append((block, result[top : top + self.most],
                          tuple(tile[: len(block)] for tile in tiles)))
        return found
