"""Measuring kernels: that each does the work it is timed for, and how the clock is used."""

import numpy as np
import pytest

from refquant.apply.latency import KERNELS, kernel_for, measure, measure_in_a_row
from refquant.mixed_precision.latency_table import Shape

SHAPES = [Shape(1, 64, 10), Shape(64, 144, 16), Shape(5, 3, 2), Shape(16, 9, 8, True),
          Shape(1, 1, 1)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("pair", KERNELS)
def test_a_kernel_computes_the_whole_layer(shape, pair):
    call = kernel_for(shape, *pair, rng=np.random.default_rng(0))
    if shape.depthwise and min(pair) < 8:
        assert call is None
        return
    y = call()
    assert y.size == shape.rows * shape.outputs
    if not shape.depthwise and 32 not in pair:
        assert np.issubdtype(y.dtype, np.integer)
        assert np.abs(y).max(initial=0) <= shape.inputs * 2 ** (pair[0] + pair[1] - 2)
    assert np.array_equal(y, call())


def test_the_operands_depend_on_the_generator_alone():
    a, b, c = (kernel_for(SHAPES[1], 8, 8, rng=np.random.default_rng(s))() for s in (1, 1, 2))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


class Clock:
    """A clock that is read, and moves by this much each time."""

    def __init__(self, step):
        self.time, self.step = 0.0, step

    def __call__(self):
        self.time += self.step
        return self.time


def test_what_is_kept_is_the_least_time_of_one_call():
    table = measure([SHAPES[0]], rng=np.random.default_rng(0), seconds=0.02, clock=Clock(1e-3))
    assert np.allclose(list(table.seconds.values()), 1e-3)      # one call per reading: "1 ms"
    fast = measure([SHAPES[0]], rng=np.random.default_rng(0), seconds=0.002, clock=Clock(1e-5))
    assert max(fast.seconds.values()) == pytest.approx(1e-5 / 20, rel=0.1)      # about twenty calls


def test_each_shape_is_measured_once_and_announced():
    heard = []
    table = measure([SHAPES[0], SHAPES[3], SHAPES[0]], rng=np.random.default_rng(0), seconds=0,
                    progress=lambda *entry: heard.append(entry))
    assert heard == list(table.seconds)
    assert len(heard) == len(KERNELS) + 2


def test_layers_in_a_row_need_kernels():
    with pytest.raises(ValueError, match=r"`shapes` must have kernels .* at W4A8"):
        measure_in_a_row([SHAPES[3]], [4], [8], rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="`seconds` must be finite and at least 0; got nan"):
        measure(SHAPES, rng=np.random.default_rng(0), seconds=float("nan"))
