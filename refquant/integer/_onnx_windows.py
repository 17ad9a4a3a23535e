"""Windows of ONNX: the elements that each output of a convolution or a pooling sees."""

from typing import TYPE_CHECKING, Any

import numpy as np

from refquant._types import Array
from refquant._validate import require_int

if TYPE_CHECKING:
    from refquant.integer.onnx_products import ConvGeometry

__all__ = ["pads", "window_sums", "windows"]

#: A padded image may have so many elements; a hostile file asks for more.
MOST_ELEMENTS = 2**28


def window_sums(x: Array, w: Array, geometry: "ConvGeometry") -> Array:
    """Products of `x` and `w` under each window, summed in their own type, per group of channels.

    `x` is ``(n, in, spatial...)``, `w` ``(out, in / group, kernel...)``.
    """
    rank, group = w.ndim - 2, geometry.group
    require_int("group", group, 1)
    if x.ndim != w.ndim or rank < 1:
        raise ValueError(f"`x` and `w` must have one rank, 3 or more; got {x.shape} and {w.shape}")
    if x.shape[1] != group * w.shape[1] or w.shape[0] % group:
        raise ValueError(
            f"`w` must have 1/{group} of the channels of `x`, and {group} equal parts; "
            f"got {x.shape} and {w.shape}"
        )
    seen = windows(x, w.shape[2:], geometry)                # n, in, *outputs, *kernel
    spatial, kernel = tuple(range(2, 2 + rank)), tuple(range(2 + rank, 2 + 2 * rank))
    parts = zip(np.split(seen, group, axis=1), np.split(w, group), strict=True)
    sums = [np.tensordot(part, v, axes=((1, *kernel), (1, *spatial))) for part, v in parts]
    return np.moveaxis(np.concatenate(sums, axis=-1), -1, 1)


def windows(
    x: Array, kernel: tuple[int, ...], geometry: "ConvGeometry", *, fill: float = 0
) -> Array:
    """Elements of each window, ``(n, in, *outputs, *kernel)``; `fill` where there are none."""
    rank = len(kernel)
    if x.ndim != rank + 2:
        raise ValueError(f"`x` must have rank {rank + 2} for the kernel {kernel}; got {x.shape}")
    strides = _per_axis("strides", geometry.strides, rank)
    dilations = _per_axis("dilations", geometry.dilations, rank)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    both = pads(x.shape[2:], spans, strides, geometry)
    sizes = [n + before + after for n, (before, after) in zip(x.shape[2:], both, strict=True)]
    if any(size < span for size, span in zip(sizes, spans, strict=True)):
        raise ValueError(
            f"`kernel` must fit into the padded image; got spans {spans} and sizes {sizes}")
    count = x.shape[0] * x.shape[1]
    for size in sizes:                                      # Python integers do not wrap
        count *= size
    if count > MOST_ELEMENTS:
        raise ValueError(f"`x` must have at most 2**28 elements when padded; got {count}")
    x = np.pad(x, [(0, 0), (0, 0), *both], constant_values=fill)
    spatial = tuple(range(2, 2 + rank))
    seen = np.lib.stride_tricks.sliding_window_view(x, spans, axis=spatial)
    steps: Any = [slice(None, None, step) for step in (*strides, *dilations)]
    return seen[:, :, *steps]


def pads(
    sizes: tuple[int, ...], spans: list[int], strides: tuple[int, ...], geometry: "ConvGeometry"
) -> list[tuple[int, int]]:
    """Elements before and behind the data of each spatial axis."""
    rank = len(sizes)
    if geometry.auto_pad is None:
        given = _per_axis("pads", geometry.pads or (0,) * 2 * rank, 2 * rank, low=0)
        return list(zip(given[:rank], given[rank:], strict=True))
    if geometry.pads:
        raise ValueError(f"`pads` must be empty with `auto_pad`; got {geometry.pads}")
    both = []
    for size, span, stride in zip(sizes, spans, strides, strict=True):
        outputs = -(-size // stride)
        total = max((outputs - 1) * stride + span - size, 0)
        before = geometry.auto_pad(total)
        both.append((before, total - before))
    return both


def _per_axis(name: str, given: tuple[int, ...], count: int, *, low: int = 1) -> tuple[int, ...]:
    given = given or (1,) * count
    if len(given) != count:
        raise ValueError(f"`{name}` must have {count} elements; got {given}")
    for step in given:
        require_int(name, step, low)
    return given
