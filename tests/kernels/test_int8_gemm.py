"""Products through floats equal those of Python's integers, for every input the types admit."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from refquant.kernels import int8_gemm
from refquant.kernels.int8_gemm import (
    MOST,
    gemm,
    gemm_definition,
    gemm_prepared,
    plan,
    prepare,
)

KINDS = [np.int8, np.uint8, np.int16, np.uint16, np.int32]
SIDES = st.sampled_from([0, 1, 2, 3, 7])
INNER = st.sampled_from([0, 1, 2, 3, 5, 31, 127, 129, 1023, 1025, 2049, 4097])


@st.composite
def operands(draw):
    """Both matrices; values at random, or all at an end of the type."""
    m, n, k = draw(SIDES), draw(SIDES), draw(INNER)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    pair = []
    for rows in (m, n):
        kind = np.iinfo(draw(st.sampled_from(KINDS)))
        fill = draw(st.sampled_from(["random", "least", "most", "few"]))
        if fill == "random":
            codes = rng.integers(kind.min, kind.max + 1, (rows, k))
        elif fill == "few":
            codes = rng.integers(max(kind.min, -3), 4, (rows, k))
        else:
            codes = np.full((rows, k), kind.min if fill == "least" else kind.max)
        pair.append(codes.astype(kind.dtype))
    return pair


def by_python(x, weight):
    rows = [[sum(a * b for a, b in zip(r, w, strict=True)) for w in weight.tolist()]
            for r in x.tolist()]
    return np.array(rows, object).reshape(len(x), len(weight))


def fits(x, weight, limit):
    """Whether the sum of magnitudes times the largest magnitude stays below `limit`."""
    peak = max((abs(v) for row in x.tolist() for v in row), default=0)
    if x.itemsize == 1:                             # the kernel trusts the type
        peak = 128 if x.dtype == np.int8 else 255
    return peak * max((sum(map(abs, row)) for row in weight.tolist()), default=0) < limit


@given(pair=operands())
@example(pair=[np.full((2, 1025), -128, np.int8), np.full((3, 1025), -128, np.int8)])
@example(pair=[np.full((1, 4097), -32768, np.int16), np.full((1, 4097), -128, np.int8)])
def test_every_way_equals_python_integers_or_refuses(pair):
    x, weight = pair
    before = x.copy(), weight.copy()
    expected = by_python(x, weight)
    for dtype, limit in ((np.int32, 2**31), (np.int64, 2**63)):
        x_max = int(np.abs(x.astype(np.int64)).max(initial=0))
        room = 128 if x.dtype == np.int8 else 255 if x.dtype == np.uint8 else x_max
        if fits(x, weight, limit):
            product = gemm(x, weight, dtype=dtype)
            again = gemm_prepared(x, prepare(weight, x_max=room, dtype=dtype))
            assert product.dtype == again.dtype == dtype
            assert product.tolist() == again.tolist() == expected.tolist()
        else:
            with pytest.raises(ValueError, match="must leave room in int"):
                gemm(x, weight, dtype=dtype)
            with pytest.raises(ValueError, match="must leave room in int"):
                prepare(weight, x_max=room, dtype=dtype)
    if fits(x, weight, 2**63):
        assert gemm_definition(x, weight).tolist() == expected.tolist()
    assert np.array_equal(x, before[0])
    assert np.array_equal(weight, before[1])


@pytest.mark.parametrize(("m", "n", "k"), [
    (1025, 3, 2), (3, 513, 1026), (1030, 520, 2100), (20, 300, 5000), (2, 65, 5000)])
def test_tiles_of_all_three_axes_meet_without_a_seam(m, n, k):
    rng = np.random.default_rng(0)
    x = rng.integers(-128, 128, (m, k), dtype=np.int8)
    weight = rng.integers(-128, 128, (n, k), dtype=np.int8)
    expected = gemm_definition(x, weight)
    assert np.array_equal(gemm(x, weight), expected)
    assert np.array_equal(gemm_prepared(x, prepare(weight)), expected)
    assert np.array_equal(gemm(x, weight, threads=3), expected)
    assert np.array_equal(gemm_prepared(x, prepare(weight), threads=2), expected)
    assert np.array_equal(gemm(x[::2, ::-1], weight[:, ::-1]), expected[::2])    # any strides


@given(total=st.integers(0, 2**40), w_max=st.integers(0, 2**31), x_max=st.integers(0, 2**31))
@example(total=2**17, w_max=2**7, x_max=2**7)
@example(total=2**17 + 1, w_max=2**7, x_max=2**7)
def test_no_partial_sum_of_a_plan_leaves_its_float(total, w_max, x_max):
    way = plan(total, w_max, x_max)
    exact = {np.float32: 2**24, np.float64: 2**53, np.int64: np.inf}[way.dtype]
    assert 1 <= way.chunk <= MOST
    assert min(way.chunk * w_max, total) * x_max <= exact


def test_one_product_more_than_a_chunk_holds_is_rounded():
    """The bound is not cautious: 1025 products of 2**14, and an odd one, are off by one."""
    x = np.full((1, 1026), 128.0, np.float32)
    weight = np.full((1, 1026), 128.0, np.float32)
    x[0, 0] = weight[0, 0] = 1
    assert int((x @ weight.T)[0, 0]) != 1025 * 2**14 + 1
    codes = x.astype(np.int16)
    assert gemm(codes, codes)[0, 0] == 1025 * 2**14 + 1


def test_small_weights_need_no_chunks_and_16_bit_codes_take_float64():
    small, large = np.ones((2, 4096), np.int8), np.full((2, 5), 127, np.int8)
    assert prepare(small).chunk == MOST
    assert prepare(small).weight.dtype == np.float32
    assert prepare(large, x_max=2**15).weight.dtype == np.float64
    assert plan(2**40, 2**20, 2**20).dtype is np.int64


def test_sums_of_prepared_weights_correct_a_zero_point():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (5, 300), dtype=np.uint8)
    weight = rng.integers(-127, 128, (4, 300), dtype=np.int8)
    prepared = prepare(weight, x_max=255)
    shifted = gemm_prepared(x.astype(np.int16) - np.int16(131), prepared)
    assert np.array_equal(shifted, gemm_definition(x.astype(np.int64) - 131, weight))
    assert np.array_equal(shifted, gemm_prepared(x, prepared) - 131 * prepared.sums)


def test_scratch_is_bounded():
    x = np.ones((64, 8192), np.int8)
    weight = np.ones((4096, 8192), np.int8)
    gemm(x[:1], weight[:1])
    tracemalloc.start()
    gemm(x, weight)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 4096 * 4 + 20e6


@pytest.mark.parametrize(("x", "weight", "error", "says"), [
    (np.ones((2, 3)), np.ones((2, 3), int), TypeError, "`x` must be integers"),
    (np.ones((2, 3), int), np.ones((2, 3), bool), TypeError, "`weight` must be integers"),
    (np.ones(3, int), np.ones((2, 3), int), ValueError, "`x` must be a matrix"),
    (np.ones((2, 3), int), np.ones((2, 4), int), ValueError, "`x` must have rows of 4 codes"),
])
def test_bad_operands_are_refused(x, weight, error, says):
    with pytest.raises(error, match=says):
        gemm(x, weight)
    with pytest.raises(error, match=says):
        gemm_prepared(x, prepare(weight))


def test_codes_larger_than_announced_are_refused():
    prepared = prepare(np.ones((1, 2), np.int8), x_max=127)
    with pytest.raises(ValueError, match=r"`x` must not exceed 127 in magnitude; got 128"):
        gemm_prepared(np.array([[0, -128]], np.int16), prepared)
    assert gemm_prepared(np.array([[0, -127]], np.int8), prepared) == [[-127]]
    with pytest.raises(ValueError, match="must not exceed 128 in magnitude; got 129"):
        gemm_prepared(np.array([[129, 0]], np.uint8), prepare(np.ones((1, 2), np.int8)))
    with pytest.raises(TypeError, match=r"`dtype` must be np.int32 or np.int64"):
        prepare(np.ones((1, 2), np.int8), dtype=np.int16)


def test_nothing_is_multiplied_before_the_bounds_are_known(monkeypatch):
    def never(*_):
        raise AssertionError("worked before checking")

    monkeypatch.setattr(int8_gemm, "_product", never)
    with pytest.raises(ValueError, match="could reach 2199023255552; take dtype"):
        gemm(np.full((1, 2), 2**20), np.full((1, 2), 2**20))


def test_threads_must_be_at_least_1():
    x = np.ones((1, 600), np.int8)
    with pytest.raises(ValueError, match="`threads` must be at least 1; got 0"):
        gemm(x, np.ones((600, 600), np.int8), threads=0)


@pytest.mark.peer
def test_torch_forms_the_same_sums():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x = rng.integers(-128, 128, (32, 256), dtype=np.int8)
    weight = rng.integers(-128, 128, (64, 256), dtype=np.int8)
    theirs = torch._int_mm(torch.from_numpy(x), torch.from_numpy(weight).T)
    assert np.array_equal(gemm(x, weight), theirs.numpy())


def test_the_definition_refuses_what_the_others_refuse():
    for x, weight, error, says in (
        (np.array([[1.5]]), np.array([[1]]), TypeError, "`x` must be integers"),
        (np.array([[1, 2]]), np.array([[1]]), ValueError, "`x` must have rows of 1 codes"),
        (np.array([1]), np.array([[1]]), ValueError, "`x` must be a matrix"),
    ):
        for call in (gemm, gemm_definition):
            with pytest.raises(error, match=says):
                call(x, weight)


@pytest.mark.parametrize("dtype", [[], "int32", np.dtype(np.int32), None, np.int16])
def test_other_results_than_the_two_are_refused(dtype):
    with pytest.raises(TypeError, match=r"`dtype` must be np.int32 or np.int64"):
        gemm(np.array([[1]]), np.array([[1]]), dtype=dtype)


def test_a_weight_that_was_not_prepared_is_refused():
    with pytest.raises(TypeError, match="`prepared` must be `Prepared`; got ndarray"):
        gemm_prepared(np.array([[1]]), np.array([[1]]))
