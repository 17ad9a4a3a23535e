"""Codes by method: one grid, errors in the order that theory gives, and no data, no method."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refquant.calibration.second_moment import output_error
from refquant.workflow.weights import (
    MOST_WITH_ZERO_POINT,
    Seen,
    by_adaround,
    by_gptq,
    clipped,
    grid,
    nearest,
)

SHAPES = st.tuples(st.integers(1, 5), st.sampled_from([(8, 2), (8, 4), (8, 8), (6, 3)]),
                   st.integers(2, 8), st.integers(0, 999))


def problem(shape):
    out, (n, group), bits, seed = shape
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((out, n)).astype(np.float32)
    x = (rng.standard_normal((60, n)) @ rng.standard_normal((n, n))).astype(np.float32)
    return w, bits, group, Seen.of(x, x)


@settings(max_examples=60)
@given(SHAPES)
def test_every_method_gives_codes_of_its_bits_with_a_scale_for_each_group(shape):
    w, bits, group, seen = problem(shape)
    slow = partial(by_adaround, rng=np.random.default_rng(0), steps=20)
    for method in (nearest, clipped, by_gptq, slow):
        c = method(w, bits, group, seen)
        low, high = (0, 2**bits - 1) if bits <= MOST_WITH_ZERO_POINT else (
            1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1)
        assert c.codes.shape == w.shape
        assert c.scale.shape == c.zero_point.shape == (len(w), w.shape[1] // group)
        assert c.scale.dtype == np.float32
        assert low <= c.codes.min() <= c.codes.max() <= high
        assert low <= c.zero_point.min() <= c.zero_point.max() <= high


@settings(max_examples=60)
@given(SHAPES)
def test_nearest_is_within_half_a_step_and_clipping_never_worse_in_the_square(shape):
    w, bits, group, _ = problem(shape)
    c = nearest(w, bits, group)
    # A range that is rounded to hold zero on a code may miss its end by half a step more.
    slack = 0.5 if bits > MOST_WITH_ZERO_POINT else 1.0
    assert (np.abs(w - c.decoded()) <= slack * np.repeat(c.scale, group, axis=1) * 1.0001).all()
    squared = [np.square(w - m(w, bits, group).decoded()).sum() for m in (clipped, nearest)]
    assert squared[0] <= squared[1] * (1 + 1e-5) + 1e-12


def test_gptq_and_adaround_serve_the_outputs_on_average():
    gains = {"gptq": [], "adaround": []}
    for seed in range(6):
        w, bits, group, seen = problem((12, (8, 8), 3, seed))
        h = seen.moment.hessian
        base = output_error(w - nearest(w, bits, group).decoded(), h)
        gptq = output_error(w - by_gptq(w, bits, group, seen).decoded(), h)
        learned = by_adaround(w, bits, group, seen, rng=np.random.default_rng(0), steps=200)
        error = output_error(w - learned.decoded(), h)
        assert error <= base
        gains["gptq"].append(gptq / base)
        gains["adaround"].append(error / base)
    assert np.mean(gains["gptq"]) < 0.7
    assert np.mean(gains["adaround"]) < 0.8


def test_groups_of_gptq_are_those_of_the_columns_as_they_lie():
    """However unlike the groups are, and in whatever order the columns are rounded."""
    ratios = []
    for seed in range(6):
        w, bits, group, seen = problem((12, (8, 4), 3, seed))
        w = w * np.repeat([0.1, 1], 4).astype(np.float32)
        c, plain = by_gptq(w, bits, group, seen), nearest(w, bits, group)
        assert np.allclose(c.scale, plain.scale, rtol=1e-6)
        errors = [output_error(w - x.decoded(), seen.moment.hessian) for x in (c, plain)]
        ratios.append(errors[0] / errors[1])
    assert np.mean(ratios) < 0.85


def test_what_adaround_learns_from_other_inputs_is_not_taken_if_it_is_worse():
    fell_back = 0
    for seed in range(4):
        w, bits, group, seen = problem((6, (8, 8), 3, seed))
        other = seen._replace(sample=seen.sample[:, ::-1] ** 3)
        base = nearest(w, bits, group)
        made = by_adaround(w, bits, group, other, rng=np.random.default_rng(0), steps=60)
        errors = [output_error(w - x.decoded(), seen.moment.hessian) for x in (made, base)]
        assert errors[0] <= errors[1]
        fell_back += np.array_equal(made.codes, base.codes)
    assert fell_back


def test_gptq_with_white_inputs_is_nearest():
    rng = np.random.default_rng(1)
    w = rng.standard_normal((4, 8)).astype(np.float32)
    x = np.concatenate([np.eye(8), -np.eye(8)]).astype(np.float32)
    a, b = by_gptq(w, 4, 4, Seen.of(x, x)), nearest(w, 4, 4)
    assert np.array_equal(a.codes, b.codes)
    assert np.array_equal(a.scale, b.scale)


def test_what_is_seen_does_not_depend_on_the_batches():
    x = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)
    whole = Seen.of(x, x)
    parts = Seen.of(x[:7], x[:7]).merge(Seen.of(x[7:], x[7:]))
    for a, b in zip(whole[1:], parts[1:], strict=True):
        assert np.allclose(a, b, rtol=1e-6)
    assert np.allclose(whole.moment.hessian, parts.moment.hessian)
    scale = np.array([1.0, 2.0, 0.5, 3.0])
    direct, derived = Seen.of((x / scale).astype(np.float32), x), whole.divided(scale)
    assert np.allclose(direct.moment.hessian, derived.moment.hessian, rtol=1e-5)
    assert np.allclose(direct.low, derived.low, rtol=1e-6)
    assert np.allclose(direct.absolute, derived.absolute, rtol=1e-5)


def test_zeros_stay_zeros():
    for bits in (4, 8):
        assert not nearest(np.zeros((2, 4), np.float32), bits, 2).decoded().any()
        x = np.zeros((5, 4), np.float32)
        learned = by_adaround(np.ones((2, 4), np.float32), bits, 2, Seen.of(x, x),
                              rng=np.random.default_rng(0))
        assert np.array_equal(learned.codes, nearest(np.ones((2, 4), np.float32), bits, 2).codes)
    assert grid(np.zeros((1, 3)), bits=4).scale.item() > 0


@pytest.mark.parametrize("method", [by_gptq, partial(by_adaround, rng=np.random.default_rng(0))])
def test_a_method_without_data_says_so(method):
    with pytest.raises(ValueError, match="`method` must have data to learn from"):
        method(np.ones((2, 4)), 4, 2, None)
