"""Observing a network: batches merge, order does not matter, more data never shrinks a range."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refquant.apply.calibrate import Mergeable, collect, observe, plan
from refquant.apply.simulate import input_names
from refquant.calibration.statistics import Range
from refquant.nn.data import digits
from refquant.nn.models import trained_digits_cnn
from refquant.quantizers.uniform import asymmetric

MODEL, SPLIT = trained_digits_cnn(), digits(seed=0)
NAMES = input_names(MODEL.nodes)


def watch(*groups):
    batches = [{"x": SPLIT.x_train[group]} for group in groups]
    return observe(MODEL.nodes, MODEL.values, batches, Range.of, names=NAMES)


def close(a, b):
    """One BLAS may sum a batch of another size in another order: float32 noise, no more."""
    return all(np.allclose(a[n].low, b[n].low, rtol=1e-5, atol=1e-5) for n in a) and all(
        np.allclose(a[n].high, b[n].high, rtol=1e-5, atol=1e-5) for n in a
    )


def test_every_name_gets_one_statistic_in_the_order_asked():
    seen = watch(range(20))
    assert list(seen) == NAMES
    assert all(isinstance(r, Range) and r.low.ndim == (2 if n == "pool" else 4)
               for n, r in seen.items())


@settings(max_examples=25)             # each example runs the network up to five times
@given(st.lists(st.integers(1, 39), max_size=3, unique=True), st.randoms())
def test_batches_merge_to_what_one_batch_gives_in_any_order(cuts, random):
    bounds = [0, *sorted(cuts), 40]
    groups = [range(a, b) for a, b in pairwise(bounds)]
    random.shuffle(groups)
    assert close(watch(*groups), watch(range(40)))


def test_more_data_never_shrinks_a_range():
    few, more = watch(range(10)), watch(range(10), range(10, 60))
    for name in NAMES:
        assert more[name].low <= few[name].low
        assert more[name].high >= few[name].high


def test_collected_values_have_the_observed_ranges():
    batches = [{"x": SPLIT.x_train[:8]}, {"x": SPLIT.x_train[8:20]}]
    kept = collect(MODEL.nodes, MODEL.values, batches, names=NAMES)
    seen = observe(MODEL.nodes, MODEL.values, batches, Range.of, names=NAMES)
    assert kept["x"].shape == (20, 8, 8, 1)
    assert np.array_equal(kept["x"], SPLIT.x_train[:20])
    for name in NAMES:
        assert len(kept[name]) == 20
        assert kept[name].max() == seen[name].high
        assert kept[name].min() == seen[name].low


def test_collected_values_survive_a_buffer_that_is_filled_again():
    buffer = np.empty((1, 2))

    def batches():
        for value in (1.0, 2.0):
            buffer[:] = value
            yield {"x": buffer}

    assert collect([], {}, batches(), names=["x"])["x"].tolist() == [[1, 1], [2, 2]]


def test_activation_grids_hold_zero_exactly():
    made = plan(watch(range(50)), lambda r: asymmetric(r.low, r.high, bits=4))
    for q in made.values():
        zero = np.zeros((1,) * q.scale.ndim, np.float32)
        assert q.decode(q.encode(zero)) == 0


def test_plans_combine_like_dicts():
    seen = watch(range(5))
    four = plan(seen, lambda r: asymmetric(r.low, r.high, bits=4))
    eight = plan(seen, lambda r: asymmetric(r.low, r.high, bits=8), names=["x", "pool"])
    mixed = four | eight
    assert list(eight) == ["x", "pool"]
    assert [mixed[n].code_bits for n in ("x", "stem", "pool")] == [8, 4, 8]


def test_range_is_a_mergeable():
    statistic: Mergeable = Range.of(np.array([1.0]))
    assert statistic.merge(Range.of(np.array([2.0]))).high == 2.0


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match="at least one batch; got none"):
        watch()
    with pytest.raises(ValueError, match=r"occur in the network; got 'stem\.weigth'"):
        collect(MODEL.nodes, MODEL.values, [{"x": SPLIT.x_train[:1]}], names=["stem.weigth"])
    with pytest.raises(ValueError, match="have been observed; got 'y'"):
        plan({"x": 1}, lambda s: s, names=["y"])
    bad = SPLIT.x_train[:2].copy()
    bad[0, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="finite"):
        observe(MODEL.nodes, MODEL.values, [{"x": bad}], Range.of, names=["x"])
