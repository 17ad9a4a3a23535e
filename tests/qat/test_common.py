"""Broadcasting undone, and where the four masks part."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from refquant.qat._common import closed_range, everywhere, open_range, rounded, sum_to_shape

SHAPES = [((2, 3, 4), ()), ((2, 3, 4), (4,)), ((2, 3, 4), (1, 1, 4)), ((2, 3, 4), (2, 1, 1)),
          ((2, 3, 4), (3, 1)), ((2, 3, 4), (2, 3, 4)), ((1, 4), (1, 1)), ((0, 4), (1, 4)),
          ((0,), ()), ((), ())]


def test_sum_to_shape_is_the_adjoint_of_broadcasting():
    """<g, broadcast(p)> = <sum(g), p>, with whole numbers and so exactly."""
    rng = np.random.default_rng(0)
    for shape, parameter in SHAPES:
        g = rng.integers(-9, 9, shape).astype(np.float32)
        p = rng.integers(-9, 9, parameter).astype(np.float32)
        back = sum_to_shape(g, parameter)
        assert back.shape == parameter
        assert back.dtype == np.float32
        assert (g * np.broadcast_to(p, shape)).sum() == (back * p).sum()


@given(st.floats(-9, 9))
def test_masks_widen_one_after_the_other(v):
    x = np.array([v])
    masks = [mask(x, -3, 2)[0] for mask in (open_range, closed_range, rounded, everywhere)]
    assert masks == sorted(masks)


def test_masks_at_the_ends():
    v = np.array([-3.5001, -3.5, -3.0, -2.9999, -0.0, 0.0, 1.9999, 2.0, 2.5, 2.5001, np.nan])
    assert open_range(v, -3, 2).tolist() == [0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0]
    assert closed_range(v, -3, 2).tolist() == [0, 0, 1, 1, 1, 1, 1, 1, 0, 0, 0]
    # The ties -3.5 and 2.5 go to the even codes -4 and 2: one outside, one inside.
    assert rounded(v, -3, 2).tolist() == [0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 0]
    assert everywhere(v, -3, 2).all()
