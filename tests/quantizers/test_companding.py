"""Companding: the formulas, their inverses, and the codebook of a bent even grid."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from quantizers.contract import LAWS, check, nearest

from refquant.metrics import sqnr
from refquant.quantizers.companding import (
    a_law,
    a_law_inverse,
    companded,
    mu_law,
    mu_law_inverse,
)
from refquant.quantizers.uniform import symmetric

unit = st.floats(-1, 1)
PAIRS = [(mu_law, mu_law_inverse), (a_law, a_law_inverse)]
both = pytest.mark.parametrize(("bend", "unbend"), PAIRS, ids=["mu", "A"])


@pytest.mark.parametrize("law", [law for law in LAWS if law is not nearest])
@pytest.mark.parametrize("bound", [np.array(2.0), np.array([[1.0], [3.0]], np.float32)],
                         ids=["tensor", "channel"])
def test_contract_but_for_nearest(law, bound):
    x = np.linspace(-2, 2, 30).reshape(2, 15).astype(bound.dtype)
    check(law, companded(bound, bits=4), x)


def test_golden_M4_values():
    found = [*mu_law(np.array([0.5, 0.01])), *mu_law_inverse(np.array([0.5])),
             *a_law(np.array([0.5, 0.01]))]
    assert found == pytest.approx([0.8757030686, 0.2284773781, 0.05882352941, 0.8733464429,
                                   0.1600648738], abs=1e-10)


@both
@given(x=unit)
def test_unbending_inverts_bending(bend, unbend, x):
    x = np.array(x)
    assert unbend(bend(x)) == pytest.approx(x, rel=1e-12, abs=1e-300)
    assert bend(unbend(x)) == pytest.approx(x, rel=1e-12, abs=1e-300)


@both
@given(a=unit, b=unit)
def test_the_curves_rise_and_are_odd_with_fixed_ends(bend, unbend, a, b):
    low, high = bend(np.array([min(a, b), max(a, b)]))
    assert low <= high
    assert bend(np.array(-a)) == -bend(np.array(a))
    assert bend(np.array([0.0, 1.0])) == pytest.approx([0, 1], abs=1e-15)
    assert bend(np.array(a, np.float32)).dtype == np.float32


@both
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_stays_and_what_is_far_outside_warns_of_nothing(bend, unbend, dtype):
    largest = np.finfo(dtype).max
    for f in (bend, unbend):
        found = f(np.array([np.nan, np.inf, -largest, -0.0], dtype))
        assert np.isnan(found[0])
        assert found[1] == np.inf
        assert found[2] < -1
        assert np.signbit(found[3])


@pytest.mark.parametrize("mu", [15.0, 1000.0])
def test_codebook_uses_the_mu_that_is_given(mu):
    cells = companded(np.array(1.0), bits=3, mu=mu)
    assert mu_law(cells.levels, mu=mu) == pytest.approx(np.arange(-7, 8, 2) / 8, abs=1e-12)


@given(x=unit, bits=st.integers(1, 8))
def test_codebook_is_an_even_grid_behind_the_curve(x, bits):
    q = companded(np.array(1.0), bits=bits)
    cells = 2**bits
    y = (mu_law(np.array(x)) + 1) / 2 * cells                       # on [0, cells]
    code = q.encode(np.array(x))
    assert code <= y + 1e-9
    assert y <= code + 1 + 1e-9
    assert mu_law(q.levels) == pytest.approx((2 * np.arange(cells) + 1) / cells - 1, abs=1e-12)


def test_golden_M6_soft_and_loud_are_equally_clear():
    # 38.06 dB is the constant of the theory; seeded samples of three loudnesses come near.
    constant = 20 * 8 * np.log10(2) + 10 * np.log10(3) - 20 * np.log10(np.log(256))
    assert constant == pytest.approx(38.05770289, abs=1e-8)
    q, even = companded(np.array(1.0), bits=8), symmetric(np.array(1.0), bits=8)
    for loud in (0.1, 0.03, 0.01):
        x = np.random.default_rng(0).laplace(scale=loud / 2**0.5, size=20_000)
        x = x[np.abs(x) < 1]
        assert abs(sqnr(x, q.decode(q.encode(x))) - constant) < 2.5
    assert sqnr(x, even.decode(even.encode(x))) < constant - 10


def test_bad_input_is_refused():
    for f in (mu_law, mu_law_inverse):
        with pytest.raises(ValueError, match="`mu` must be above 0 and finite; got 0"):
            f(np.array(0.5), mu=0)
    for f in (a_law, a_law_inverse):
        with pytest.raises(ValueError, match="`a` must be above 1 and finite; got 1"):
            f(np.array(0.5), a=1)
        with pytest.raises(TypeError, match="must be float"):
            f(np.array(1))
    with pytest.raises(ValueError, match="`bound` must be positive"):
        companded(np.array(0.0), bits=4)
    with pytest.raises(ValueError, match="`bits` must be at most 12"):
        companded(np.array(1.0), bits=13)


@pytest.mark.parametrize("mu", ["255", np.ones(2), None])
def test_a_mu_that_is_no_number_is_refused(mu):
    with pytest.raises(TypeError, match="`mu` must be a real number"):
        mu_law(np.ones(1), mu=mu)
