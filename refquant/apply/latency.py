"""Measure our own kernels on this machine, layer shape by layer shape.

===========  ==================================================================
W and A      kernel
===========  ==================================================================
32, 32       product of floats (BLAS); depthwise: `nn.convolution`
8, 8         `kernels.int8_gemm`, weights prepared; depthwise: `integer.convolution`
4, 32        `kernels.mixed_gemm`, groups of 128
4, 8         `kernels.low_bit`
2, 8         `kernels.low_bit`
2, 2         `kernels.low_bit`
1, 1         `kernels.low_bit`, signs
===========  ==================================================================

A product is timed without what surrounds it (patches, requantization), except in a
depthwise layer, which is no product. No kernel of ours has less than 8 bits there, so
the table has no entry for it.
"""

import platform
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from time import perf_counter

import numpy as np

from refquant._types import Array
from refquant._validate import require_number
from refquant.integer.convolution import depthwise_convolution, same
from refquant.kernels import int8_gemm, low_bit, mixed_gemm
from refquant.mixed_precision.latency_table import LatencyTable, Shape
from refquant.nn.convolution import depthwise_conv2d
from refquant.quantizers.uniform import Uniform

__all__ = ["KERNELS", "kernel_for", "machine_name", "measure", "measure_in_a_row"]

#: Pairs of bit-widths of weights and activations that have a kernel.
KERNELS = ((32, 32), (8, 8), (4, 32), (4, 8), (2, 8), (2, 2), (1, 1))


def kernel_for(
    shape: Shape, weight_bits: int, activation_bits: int, *, rng: np.random.Generator
) -> Callable[[], Array] | None:
    """A call that does the work of such a layer once, on random operands.

    Parameters
    ----------
    shape : Shape
    weight_bits, activation_bits : int
    rng : numpy.random.Generator
        One draw per weight, then one per activation, in C order.

    Returns
    -------
    callable, () -> ndarray, or None
        None if there is no kernel for it.

    References
    ----------
    The kernels' own modules.

    Examples
    --------
    >>> call = kernel_for(Shape(4, 9, 2), 8, 8, rng=np.random.default_rng(0))
    >>> call().shape
    (4, 2)
    >>> kernel_for(Shape(4, 9, 2), 3, 5, rng=np.random.default_rng(0)) is None
    True
    """
    pair = (weight_bits, activation_bits)
    if pair not in KERNELS or (shape.depthwise and min(pair) < 8):
        return None
    if shape.depthwise:
        return _depthwise(shape, weight_bits, rng)
    w = _codes(weight_bits, (shape.outputs, shape.inputs), rng)
    x = _codes(activation_bits, (shape.rows, shape.inputs), rng)
    if pair == (32, 32):
        return lambda: x @ w.T
    if pair == (8, 8):
        return partial(int8_gemm.gemm_prepared, x, int8_gemm.prepare(w))
    if pair == (4, 32):
        packed = mixed_gemm.pack(w + 8, np.full((shape.outputs, 1), 0.1))
        return partial(mixed_gemm.product, x, packed)
    levels = [low_bit.SIGNS if b == 1 else low_bit.integers(b) for b in pair]
    prepared = low_bit.prepare(w, levels[0], x=levels[1], rows=shape.rows)
    return partial(low_bit.product, x, prepared)


def measure(
    shapes: Iterable[Shape], *, rng: np.random.Generator, seconds: float = 0.05,
    clock: Callable[[], float] = perf_counter,
    progress: Callable[[Shape, int, int], None] = lambda shape, w, a: None,
) -> LatencyTable:
    """Table of all these shapes on all kernels that can do them.

    Parameters
    ----------
    shapes : iterable of Shape
        Each is measured once, however often it occurs.
    rng : numpy.random.Generator
        For the operands; see `kernel_for`.
    seconds : float
        How long to repeat each entry; the *least* time of one call is kept, since all
        that can disturb a call makes it longer.
    clock : callable, () -> float
        Seconds.
    progress : callable, (shape, weight_bits, activation_bits) -> None
        Hears of each entry before it is measured.

    Returns
    -------
    LatencyTable

    Raises
    ------
    ValueError
        If `seconds` is negative.

    References
    ----------
    Wang et al., 2019, arXiv:1811.08886, section 3.3.

    Examples
    --------
    >>> table = measure([Shape(1, 8, 2)], rng=np.random.default_rng(0), seconds=0)
    >>> len(table.seconds) == len(KERNELS)
    True
    """
    require_number("seconds", seconds)
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"`seconds` must be finite and at least 0; got {seconds}")
    found: dict[tuple[Shape, int, int], float] = {}
    for shape in dict.fromkeys(shapes):
        for w, a in KERNELS:
            call = kernel_for(shape, w, a, rng=rng)
            if call is not None:
                progress(shape, w, a)
                found[shape, w, a] = _least_time(call, seconds, clock)
    return LatencyTable(found, machine_name())


def measure_in_a_row(
    shapes: Sequence[Shape], weight_bits: Sequence[int], activation_bits: Sequence[int], *,
    rng: np.random.Generator, seconds: float = 0.05, clock: Callable[[], float] = perf_counter,
) -> float:
    """Seconds of the layers called one after the other: what a table's sum predicts.

    Parameters
    ----------
    shapes : sequence of Shape
    weight_bits, activation_bits : sequence of int, one for each shape
    rng : numpy.random.Generator
        For the operands; see `kernel_for`.
    seconds : float
        As of `measure`.
    clock : callable, () -> float

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If there is no kernel for one of them.

    References
    ----------
    Cai et al., 2019, arXiv:1812.00332, appendix B (a sum of a table against the whole).

    Examples
    --------
    >>> shapes = [Shape(1, 8, 2), Shape(1, 4, 4)]
    >>> measure_in_a_row(shapes, [8, 4], [8, 32], rng=np.random.default_rng(0), seconds=0) > 0
    True
    """
    calls = []
    for shape, w, a in zip(shapes, weight_bits, activation_bits, strict=True):
        call = kernel_for(shape, w, a, rng=rng)
        if call is None:
            raise ValueError(f"`shapes` must have kernels at their widths; got {shape} at W{w}A{a}")
        calls.append(call)

    def all_of_them() -> Array:
        for call in calls:
            y = call()
        return y

    return _least_time(all_of_them, seconds, clock)


def machine_name() -> str:
    """Processor, system and NumPy of this machine, for the head of a table.

    Returns
    -------
    str

    References
    ----------
    `platform`, of the standard library.

    Examples
    --------
    >>> "numpy" in machine_name()
    True
    """
    return f"{platform.machine()} {platform.system()}, numpy {np.__version__}"


def _least_time(call: Callable[[], Array], seconds: float, clock: Callable[[], float]) -> float:
    """Least time of one call: batches of calls as long as the clock is fine, for so long."""
    call()                                              # scratch memory, caches
    start = clock()
    call()
    once = max(clock() - start, 1e-9)
    number = max(1, min(1000, int(2e-4 / once)))
    best, spent = once, once
    while spent < seconds:
        start = clock()
        for _ in range(number):
            call()
        took = clock() - start
        best, spent = min(best, took / number), spent + took
    return best


def _codes(bits: int, shape: tuple[int, int], rng: np.random.Generator) -> Array:
    """Random operands: floats, signs, or codes of two's complement."""
    if bits == 32:
        return rng.standard_normal(shape, np.float32)
    if bits == 1:
        return rng.choice(np.array([-1, 1], np.int8), shape)
    return rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), shape).astype(np.int8)


def _depthwise(shape: Shape, bits: int, rng: np.random.Generator) -> Callable[[], Array]:
    """A layer of as many positions in one image, of stride 1."""
    side = max(1, round(shape.inputs**0.5))
    kernel = (shape.outputs, side, max(1, shape.inputs // side), 1)
    height = next(h for h in range(int(shape.rows**0.5), 0, -1) if shape.rows % h == 0)
    image = (1, height, shape.rows // height, shape.outputs)
    w = _codes(bits, (shape.outputs, kernel[1] * kernel[2]), rng).reshape(kernel)
    x = _codes(bits, (shape.rows, shape.outputs), rng).reshape(image)
    if bits == 32:
        padding = (kernel[1] - 1) // 2
        return lambda: depthwise_conv2d(x, w, padding=padding)[0]
    q = Uniform(np.array(1.0), np.array(0), -128, 127)
    window = same(image[1:3], kernel[1:3])
    return partial(depthwise_convolution(w, None, q, q, q, window), x)

