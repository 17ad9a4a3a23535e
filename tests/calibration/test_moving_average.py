"""Moving average of ranges."""

import numpy as np
import pytest
from _oracles.samples import vectors
from hypothesis import given
from hypothesis import strategies as st

from refquant.calibration.minmax import Range, minmax
from refquant.calibration.moving_average import moving_average, update


def batches():
    return st.lists(vectors(dtype=np.float64, max_size=4), min_size=1, max_size=4)


@given(vectors())
def test_one_batch_is_min_max(x):
    assert all(map(np.array_equal, moving_average([minmax(x)]), minmax(x)))


@given(batches(), st.floats(0.001, 1))
def test_the_average_lies_between_the_extremes_of_the_batches(data, rate):
    lows, highs = zip(*map(minmax, data), strict=True)
    low, high = moving_average(map(minmax, data), rate=rate)
    slack = 1e-12 * max(np.abs(np.concatenate(data)).max(), 1e-300)
    assert min(lows) - slack <= low <= max(lows) + slack
    assert min(highs) - slack <= high <= max(highs) + slack


@given(batches(), st.floats(0.001, 1))
def test_weights_of_the_batches_are_powers(data, rate):
    n = len(data)
    weights = np.array([(1 - rate) ** (n - 1 - t) * (rate if t else 1) for t in range(n)])
    assert weights.sum() == pytest.approx(1)
    expected = weights @ np.array([x.max() for x in data])
    high = moving_average(map(minmax, data), rate=rate).high[0]
    assert high == pytest.approx(expected, abs=1e-9)


@given(batches())
def test_rate_one_remembers_the_last_batch_alone(data):
    low, high = moving_average(map(minmax, data), rate=1.0)
    last = minmax(data[-1])
    assert np.allclose(low, last.low, rtol=1e-12, atol=1e-9)
    assert np.allclose(high, last.high, rtol=1e-12, atol=1e-9)


def test_golden_c13():
    first = update(None, Range(np.float32([-1]), np.float32([1])))
    low, high = update(first, Range(np.float32([-3]), np.float32([5])))
    assert low.dtype == high.dtype == np.float32
    assert low[0] == pytest.approx(-1.02, abs=1e-7)
    assert high[0] == pytest.approx(1.04, abs=1e-7)


def test_order_matters():
    a, b = minmax(np.array([-1.0, 1.0])), minmax(np.array([-3.0, 5.0]))
    assert moving_average([a, b]).high != moving_average([b, a]).high


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="`ranges` must hold at least one"):
        moving_average([])
    for rate in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="`rate` must lie in"):
            update(None, minmax(np.ones(2)), rate=rate)


@pytest.mark.peer
def test_agrees_with_torch():
    torch = pytest.importorskip("torch")
    observer = torch.ao.quantization.MovingAverageMinMaxObserver(averaging_constant=0.01)
    data = np.random.default_rng(0).standard_normal((20, 100)).astype(np.float32)
    for batch in data:
        observer(torch.from_numpy(batch))
    low, high = moving_average(map(minmax, data))
    assert low[0] == pytest.approx(observer.min_val.item(), rel=1e-5)
    assert high[0] == pytest.approx(observer.max_val.item(), rel=1e-5)


def test_a_batch_of_another_shape_is_refused():
    two, three = (minmax(np.ones((n, 4)), axis=1) for n in (2, 3))
    with pytest.raises(ValueError, match=r"`batch` must have shape \(2, 1\); got \(3, 1\)"):
        update(two, three)


@pytest.mark.parametrize("rate", [None, "4"])
def test_a_rate_that_is_no_number_is_refused(rate):
    with pytest.raises(TypeError, match="`rate` must be a real number"):
        update(None, minmax(np.ones(2)), rate=rate)
