"""Vectors: nearest by brute force, errors that may only fall, lattices by enumeration."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refquant.quantizer import bits_per_element, fake_quantize
from refquant.quantizers import vector
from refquant.quantizers.vector import (
    Product,
    Residual,
    Vector,
    additive,
    kmeans,
    nearest_d8,
    nearest_e8,
    product,
    residual,
)

few = settings(max_examples=12)
reals = st.floats(-8, 8, width=32)
eights = hnp.arrays(np.float64, st.tuples(st.integers(0, 4), st.just(8)), elements=reals)
gauss = np.random.default_rng(0).normal(size=(48, 8))


def rng():
    return np.random.default_rng(1)


def squared_error(x, q):
    return np.sum((x - fake_quantize(x, q)) ** 2)


FITS = {
    "kmeans": lambda x: kmeans(x, 8, sub_vector=2, rng=rng()),
    "product": lambda x: product(x, 8, sub_vector=2, rng=rng()),
    "residual": lambda x: residual(x, 8, sub_vector=2, stages=2, rng=rng()),
    "additive": lambda x: additive(x, 8, sub_vector=2, stages=2, rng=rng()),
}


@pytest.mark.parametrize("fit", list(FITS))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_laws_of_a_quantizer(fit, dtype):
    x = gauss.astype(dtype)
    before = x.copy()
    q = FITS[fit](x)
    codes = q.encode(x)
    decoded = q.decode(codes)
    assert codes.dtype == np.int32
    assert (decoded.shape, decoded.dtype) == (x.shape, x.dtype)
    assert np.array_equal(x, before)
    assert np.sum((decoded - q.decode(q.encode(decoded))) ** 2) <= 1e-9 * np.sum(x**2)
    assert np.array_equal(q.encode(x), codes)
    with pytest.raises(ValueError, match="`x` must not contain NaN"):
        q.encode(np.full_like(x, np.nan))
    assert q.decode(q.encode(x[:0])).shape == (0, 8)


@pytest.mark.parametrize("fit", list(FITS))
def test_fits_are_reproducible_from_the_generator(fit):
    q, again = FITS[fit](gauss), FITS[fit](gauss)
    assert np.array_equal(q.encode(gauss), again.encode(gauss))


@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 6), d=st.integers(1, 3))
def test_the_nearest_codeword_is_chosen_the_lower_at_a_tie(seed, k, d):
    draw = np.random.default_rng(seed)
    # Small whole numbers make ties common, and every distance exact.
    q = Vector(draw.integers(-2, 3, (k, d)).astype(float))
    x = draw.integers(-2, 3, (4, 2 * d)).astype(float)
    for row, codes in zip(x, q.encode(x), strict=True):
        for i, code in enumerate(codes):
            distance = [np.sum((row[i * d : (i + 1) * d] - c) ** 2) for c in q.codebook]
            assert code == distance.index(min(distance))


def test_one_dimension_is_scalar_kmeans():
    x = gauss.ravel()
    q = kmeans(x, 4, sub_vector=1, rng=rng())
    levels = np.sort(q.codebook.ravel())
    cell = np.searchsorted((levels[1:] + levels[:-1]) / 2, x)
    assert np.allclose([x[cell == i].mean() for i in range(4)], levels, atol=1e-9)


def test_product_with_one_place_is_kmeans():
    x = gauss[:, :2]
    one, many = kmeans(x, 4, sub_vector=2, rng=rng()), product(x, 4, sub_vector=2, rng=rng())
    assert np.array_equal(many.codebooks[0], one.codebook)
    assert np.array_equal(many.encode(x), one.encode(x))


@few
@given(seed=st.integers(0, 2**32 - 1), stages=st.integers(1, 3))
def test_another_stage_never_raises_the_error(seed, stages):
    x = np.random.default_rng(seed).normal(size=(20, 4))
    shorter = residual(x, 3, sub_vector=2, stages=stages, rng=rng())
    longer = residual(x, 3, sub_vector=2, stages=stages + 1, rng=rng())
    greedy = lambda q: squared_error(x, q)  # noqa: E731
    assert np.array_equal(longer.codebooks[:stages], shorter.codebooks)
    assert greedy(longer) <= greedy(shorter) * (1 + 1e-9)


@few
@given(seed=st.integers(0, 2**32 - 1), stages=st.integers(1, 3))
def test_additive_is_never_worse_than_residual(seed, stages):
    x = np.random.default_rng(seed).normal(size=(20, 4))
    sweep = {"sub_vector": 2, "stages": stages}
    joint = additive(x, 3, rng=rng(), max_sweeps=3, **sweep)
    greedy = residual(x, 3, rng=rng(), **sweep)
    assert squared_error(x, joint) <= squared_error(x, greedy) * (1 + 1e-9)


@pytest.mark.parametrize("exact_sums", [1, 4096])
def test_residual_codes_cannot_be_improved_one_at_a_time(exact_sums, monkeypatch):
    monkeypatch.setattr(vector, "EXACT_SUMS", exact_sums)
    q = residual(gauss, 4, sub_vector=2, stages=2, rng=rng())
    codes = q.encode(gauss)
    best = np.sum((gauss - q.decode(codes)).reshape(48, 4, 2) ** 2, axis=-1)
    for stage, code in itertools.product(range(2), range(4)):
        other = codes.copy()
        other[stage] = code
        error = np.sum((gauss - q.decode(other)).reshape(48, 4, 2) ** 2, axis=-1)
        assert (best <= error * (1 + 1e-9)).all()


@few
@given(seed=st.integers(0, 2**32 - 1))
def test_no_single_change_helps_where_there_are_many_sums(seed):
    draw = np.random.default_rng(seed)
    q = Residual(draw.normal(size=(4, 9, 2)))                   # 6561 sums: not searched one by one
    x = draw.normal(size=(20, 2))
    codes = q.encode(x)
    best = np.sum((x - q.decode(codes)) ** 2, axis=1)
    for stage, code in itertools.product(range(4), range(9)):
        other = codes.copy()
        other[stage] = code
        assert (best <= np.sum((x - q.decode(other)) ** 2, axis=1) * (1 + 1e-9)).all()


@pytest.mark.parametrize(("k", "stages"), [(16, 4), (8, 5), (32, 3), (8, 3)])
def test_joint_codebooks_are_better_and_stay_near_the_data(k, stages):
    # The design is singular in many ways; with the roundings of its zeros taken for
    # singular values the codewords were 1e13, and cancelled in the sums but for noise.
    x = np.random.default_rng(0).normal(size=(128, 8))
    first, joint = (
        additive(x, k, sub_vector=4, stages=stages, rng=rng(), max_sweeps=sweeps)
        for sweeps in (0, 10)
    )
    assert np.abs(joint.codebooks).max() < 2 * np.abs(x).max()
    error = [np.sum((x - fake_quantize(x, q)) ** 2) for q in (first, joint)]
    assert error[1] < 0.95 * error[0]


def test_golden_N16_bits_of_product_quantization():
    q = Vector(np.zeros((256, 8)))
    bits = bits_per_element(q, (4096, 4096))
    assert bits == pytest.approx(1.00390625, abs=1e-12)
    assert 32 / bits == pytest.approx(31.87548638, abs=1e-8)
    assert bits_per_element(Product(np.zeros((2, 256, 8))), (4, 16)) == 1 + 2 * 256 * 8 * 32 / 64


@few
@given(seed=st.integers(0, 2**32 - 1))
def test_residual_codes_are_the_nearest_sum(seed):
    draw = np.random.default_rng(seed)
    q = Residual(draw.normal(size=(3, 3, 2)))
    x = draw.normal(size=(5, 4))
    error = np.sum((x - fake_quantize(x, q)).reshape(5, 2, 2) ** 2, axis=-1)
    for choice in itertools.product(range(3), repeat=3):
        codes = np.broadcast_to(np.array(choice)[:, np.newaxis, np.newaxis], (3, 5, 2))
        other = np.sum((x - q.decode(codes)).reshape(5, 2, 2) ** 2, axis=-1)
        assert (error <= other * (1 + 1e-9)).all()


@given(x=eights)
def test_d8_is_the_nearest_even_vector(x):
    point = nearest_d8(x)
    assert (np.sum(point, axis=-1) % 2 == 0).all()
    assert np.array_equal(point, np.rint(point))
    for offset in itertools.product((-1, 0, 1), repeat=3):
        # Neighbours that differ in up to three coordinates, the sum kept even.
        step = np.zeros(8)
        step[:3] = offset
        step[7] = sum(offset) % 2
        closer = np.sum((x - point - step) ** 2, axis=-1)
        assert (np.sum((x - point) ** 2, axis=-1) <= closer + 1e-9).all()


def test_a_whole_vector_with_an_odd_sum_goes_up_in_its_first_coordinate():
    assert np.array_equal(nearest_d8(np.eye(8)[0]), 2 * np.eye(8)[0])


@pytest.mark.parametrize("exponent", [-140, 120])
def test_training_at_the_ends_of_float32_loses_nothing(exponent):
    x = np.array([0.0, 1, 5, 6], np.float32)
    q = kmeans(np.ldexp(x, exponent), 2, sub_vector=1, rng=rng())
    assert np.array_equal(np.sort(np.ldexp(q.codebook.ravel(), -exponent)), [0.5, 5.5])


def minimal_vectors():
    """The 240 shortest vectors of E8."""
    for i, j in itertools.combinations(range(8), 2):
        for a, b in itertools.product((-1, 1), repeat=2):
            v = np.zeros(8)
            v[[i, j]] = a, b
            yield v
    for signs in itertools.product((-0.5, 0.5), repeat=8):
        if np.prod(signs) > 0:
            yield np.array(signs)


MINIMAL = np.array(list(minimal_vectors()))


@given(x=eights)
def test_e8_has_no_closer_neighbour(x):
    # A point is nearest if and only if no relevant vector leads closer: those of E8 are
    # its 240 minimal vectors and 2160 of norm 4, which are sums of two of them.
    assert len(MINIMAL) == 240
    point = nearest_e8(x)
    error = np.sum((x - point) ** 2, axis=-1)
    for v in MINIMAL:
        assert (error <= np.sum((x - point - v) ** 2, axis=-1) + 1e-9).all()


@given(x=eights, index=st.integers(0, 239))
def test_e8_is_a_lattice_and_its_points_stay(x, index):
    point = nearest_e8(x)
    assert np.array_equal(nearest_e8(point), point)
    assert np.array_equal(nearest_e8(point + MINIMAL[index]), point + MINIMAL[index])


def test_golden_N17_second_moment_of_e8():
    # Uniform points stay uniform in the cell after reduction. 2e5 draws: the standard
    # deviation of the squared norm is 0.20, so the standard error of the estimate over
    # eight dimensions is 6e-5; five of them are allowed.
    x = np.random.default_rng(0).uniform(-4, 4, (200_000, 8))
    moment = np.mean(np.sum((x - nearest_e8(x)) ** 2, axis=1)) / 8
    assert moment == pytest.approx(929 / 12960, abs=3e-4)
    assert 10 * np.log10((1 / 12) / (929 / 12960)) == pytest.approx(0.6540804149, abs=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kmeans(gauss, 3, sub_vector=3, rng=rng()), "`group_size` must divide 8 columns"),
        (lambda: kmeans(np.zeros((4, 2)), 2, sub_vector=2, rng=rng()), "the 1 distinct"),
        (lambda: kmeans(gauss[:0], 2, sub_vector=2, rng=rng()), "`x` must not be empty"),
        (lambda: kmeans(gauss, 0, sub_vector=2, rng=rng()), "`k` must be at least 1; got 0"),
        (lambda: residual(gauss, 2, sub_vector=2, stages=0, rng=rng()), "`stages` must be"),
        (lambda: Vector(np.zeros(3)), "`codebook` must have 2 axes"),
        (lambda: Vector(np.array([[np.inf]])), "`codebook` must be finite; got inf"),
        (lambda: Vector(np.zeros((2, 2))).decode(np.array([2])), r"in \[0, 1\]; got 2"),
        (lambda: Product(np.zeros((2, 2, 2))).encode(gauss), "`x` must have 4 columns; got 8"),
        (lambda: Residual(np.zeros((2, 2, 2))).decode(np.zeros((1, 3), int)), "must have 2 stages"),
        (lambda: Residual(np.zeros((2, 2, 2))).decode(np.array(1)), r"2 stages .* got shape \(\)"),
        (lambda: Product(np.zeros((2, 2, 2))).decode(np.zeros(3, int)), "must have 2 columns; got"),
        (lambda: nearest_e8(np.zeros(7)), "`x` must have 8 columns"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_tie_of_e8_takes_the_point_of_d8():
    assert np.array_equal(nearest_e8(np.full(8, 0.25)), np.zeros(8))    # as near to eight halves


@pytest.mark.parametrize("power", [-1000, -600, 600, 1000])
def test_codewords_of_any_magnitude_have_a_nearest(power):
    codebook = np.array([[0.0, 0.0], [1.0, 1.0], [3.0, 3.0]])
    x = np.array([[0.9, 0.9, 2.1, 2.2, 0.4, 0.4]])
    far = Vector(np.ldexp(codebook, power))
    assert far.encode(np.ldexp(x, power)).tolist() == [[1, 2, 0]]
    assert Residual(far.codebook[np.newaxis]).encode(np.ldexp(x, power)).tolist() == [[[1, 2, 0]]]


@pytest.mark.parametrize("fit", [residual, additive])
@pytest.mark.parametrize("power", [-900, 900, 1020])
def test_stages_of_any_magnitude_have_the_same_digits(fit, power):
    x = np.random.default_rng(0).normal(size=(20, 4))
    q, far = (
        fit(np.ldexp(x, p), 3, sub_vector=2, stages=2, rng=np.random.default_rng(0))
        for p in (0, power)
    )
    assert np.array_equal(far.codebooks, np.ldexp(q.codebooks, power))


def test_points_of_d8_have_an_even_sum_where_float32_would_round_it():
    x = np.array([2**23 + 1, 2**23, 0, 0, 0, 0, 0, 0], np.float32)
    assert sum(map(int, nearest_d8(x))) % 2 == 0
    x = np.array([2**25, 1, 0, 0, 0, 0, 0, 0], np.float32)
    assert sum(map(int, nearest_d8(x))) % 2 == 0
    assert np.array_equal(nearest_e8(np.full(8, 1.7e308)), np.full(8, 1.7e308))
