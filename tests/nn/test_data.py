"""The digits are the same each time; batches cover an epoch; shifts are shifts."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.nn.data import batches, digits, shifted


def test_the_split_is_reproducible_stratified_and_disjoint():
    a, b = digits(seed=0), digits(seed=0)
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    assert not np.array_equal(a.x_train, digits(seed=1).x_train)
    for x, y in ((a.x_train, a.y_train), (a.x_test, a.y_test)):
        assert x.dtype == np.float32
        assert y.dtype == np.int64
        assert np.array_equal(x * 16, np.rint(x * 16))
        assert x.min() == 0
        assert x.max() == 1
    counts = np.bincount(a.y_train) - np.bincount(a.y_test)
    assert np.abs(counts).max() <= 1
    # No image is in both halves (a few in the set are equal to each other: none across).
    train = {image.tobytes() for image in a.x_train}
    assert sum(image.tobytes() in train for image in a.x_test) == 0


def test_the_split_of_seed_zero_is_the_one_the_weights_were_trained_on():
    digest = hashlib.sha256(digits(seed=0).y_test.tobytes()).hexdigest()
    assert digest.startswith("618456c43d584ebf")


@given(st.integers(1, 50), st.integers(1, 50), st.integers(0, 9))
def test_batches_are_disjoint_full_and_seeded(n, size, seed):
    if size > n:
        with pytest.raises(ValueError, match=f"`size` must be at most {n}; got {size}"):
            list(batches(n, size, rng=np.random.default_rng(seed)))
        return
    got = list(batches(n, size, rng=np.random.default_rng(seed)))
    again = list(batches(n, size, rng=np.random.default_rng(seed)))
    flat = np.concatenate(got)
    assert len(got) == n // size
    assert all(len(b) == size for b in got)
    assert len(set(flat.tolist())) == len(flat)
    assert all(np.array_equal(a, b) for a, b in zip(got, again, strict=True))


@given(st.integers(0, 99))
def test_a_shift_is_one_of_nine_and_all_nine_occur(seed):
    x = np.arange(1.0, 13).reshape(1, 3, 4, 1).repeat(200, 0)
    moved = shifted(x, rng=np.random.default_rng(seed))
    framed = np.pad(x[0], ((1, 1), (1, 1), (0, 0)))
    nine = {framed[i : i + 3, j : j + 4].tobytes() for i in range(3) for j in range(3)}
    assert {image.tobytes() for image in moved} == nine     # missing one: 9 (8/9)**200 < 1e-9
    assert np.array_equal(x[0].ravel(), np.arange(1.0, 13))
