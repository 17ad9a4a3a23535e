"""Judges of an operation: its pullback against finite differences of its value."""

import numpy as np


def assert_pullback(op, arrays, *, differentiable=None, step=1e-6, tolerance=1e-7, rng=None):
    """The pullback of a random gradient is the directional derivative, input by input.

    With a direction d, ``<g, (f(x + h d) - f(x - h d)) / 2h> = <pullback(g), d>``.
    In float64 with h = 1e-6 the error of the difference is about 1e-10.
    """
    rng = np.random.default_rng(0) if rng is None else rng
    value, pullback = op(*arrays)
    g = rng.standard_normal(value.shape)
    parts = pullback(g)
    assert len(parts) == len(arrays)
    for i, (array, part) in enumerate(zip(arrays, parts, strict=True)):
        if differentiable is not None and i not in differentiable:
            continue
        assert part.shape == array.shape
        d = rng.standard_normal(array.shape)
        ahead = op(*arrays[:i], array + step * d, *arrays[i + 1 :])[0]
        behind = op(*arrays[:i], array - step * d, *arrays[i + 1 :])[0]
        expected = ((ahead - behind) / (2 * step) * g).sum()
        size = 1 + np.abs(g).sum() * max(1.0, np.abs(ahead).max())
        assert abs((part * d).sum() - expected) <= tolerance * size


def assert_dtypes(op, arrays):
    """Value and gradients of a float32 call are float32."""
    arrays = [a.astype(np.float32) if a.dtype.kind == "f" else a for a in arrays]
    value, pullback = op(*arrays)
    assert value.dtype == np.float32
    for part in pullback(np.ones(value.shape, np.float32)):
        assert part is None or part.dtype == np.float32
