"""Data for calibrators: strategies, and the laws that all of them share."""

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

#: The shared test vector of eight numbers.
W8 = np.array([0.9, -0.2, 0.05, -0.7, 0.4, 0.0, 0.1, -0.35])

#: Exponents of two that move no test value out of the normal numbers.
POWERS = st.integers(-40, 40).map(lambda k: 2.0**k)


def vectors(*, low=-1e3, high=1e3, min_size=1, max_size=20, dtype=None):
    """Rows of finite values, often with ties and zeros."""
    dtypes = st.just(np.dtype(dtype)) if dtype else st.sampled_from([np.float32, np.float64])
    values = st.one_of(
        st.floats(low, high, width=32).map(_no_tiny),
        st.integers(int(low) // 100, int(high) // 100).map(float),
    )
    return st.builds(
        lambda d, v: np.array(v, d), dtypes, st.lists(values, min_size=min_size, max_size=max_size)
    )


def matrices(*, low=-1e3, high=1e3, dtype=np.float64):
    """Matrices of up to 5 x 8 finite values."""
    values = st.floats(low, high, width=32).map(_no_tiny)
    shapes = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=8)
    return hnp.arrays(dtype, shapes, elements=values)


def _no_tiny(value):
    return value if abs(value) > 1e-20 else 0.0


def assert_refuses_bad_data(calibrate):
    """Nothing can be learned from no data, NaN, infinities or integers."""
    with pytest.raises(ValueError, match="must not be empty"):
        calibrate(np.zeros((0, 3)))
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(ValueError, match="finite"):
            calibrate(np.array([[1.0, bad, 2.0]]))
    with pytest.raises(TypeError, match="float32 or float64"):
        calibrate(np.array([[1, 2, 3]]))


def assert_leaves_argument_alone(calibrate):
    """Also where the work is done in place."""
    x = np.random.default_rng(0).standard_normal((4, 50))
    before = x.copy()
    x.flags.writeable = False
    calibrate(x)
    assert np.array_equal(x, before)
