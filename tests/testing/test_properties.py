"""Properties: a right quantizer has them all, each mistake lacks one."""

import numpy as np
import pytest
from _oracles import wrong_quantizers as wrong
from hypothesis import HealthCheck, given, settings

import refquant.testing as rqt
from refquant.testing.properties import (
    Affine,
    assert_dialect,
    idempotent,
    monotone,
    placement_invariant,
    saturates,
    sign_symmetric,
)

LAWS = [monotone, placement_invariant, saturates, sign_symmetric]


def quantizer(kind):
    def quantize(x, scale, zero_point, qmin, qmax):
        with np.errstate(all="ignore"):
            codes = kind().codes(x, np.float32(scale), np.float32(zero_point), qmin, qmax)
        return np.where(np.isnan(codes), 0, codes)

    return quantize


right = quantizer(wrong.Quantizer)
inputs = rqt.strategies.affine_inputs(["int8", "uint8"])
normal = rqt.strategies.affine_inputs(["int8"], subnormal=False)
few = settings(max_examples=50, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@few
@given(given_=inputs)
def test_rounding_the_quotient_has_every_property(law, given_):
    law(right, given_)


@few
@given(given_=normal)
def test_values_of_codes_keep_their_code(given_):
    if given_.scale < 1e36 and given_.scale > 1e-36:
        idempotent(right, given_)


@few
@given(given_=inputs)
def test_the_dialect_of_each_mistake_is_followed(given_):
    assert_dialect(right, given_, dialect="onnx")
    assert_dialect(quantizer(wrong.TiesAway), given_, dialect="tflite.reference")
    assert_dialect(quantizer(wrong.Float64Division), given_, dialect="exact")


@pytest.mark.parametrize("kind", [wrong.TiesAway, wrong.Reciprocal, wrong.ZeroPointFirst,
                                  wrong.Int32BeforeClamp, wrong.Float64Division],
                         ids=lambda kind: kind.__name__)
def test_each_mistake_is_found_within_the_examples_of_a_usual_run(kind):
    @settings(max_examples=300, database=None, derandomize=True,
              suppress_health_check=list(HealthCheck))
    @given(given_=inputs)
    def follows_onnx(given_):
        assert_dialect(quantizer(kind), given_, dialect="onnx")

    with pytest.raises(AssertionError, match="onnx gives"):
        follows_onnx()


UNIT = Affine(np.array([-2.5, -1, 0.5, 1.5, 3], np.float32), 1.0, 0, -128, 127)


@pytest.mark.parametrize(("law", "broken", "message"), [
    (monotone, lambda x, *grid: -np.rint(x), "codes fall after x = -2.5 "),
    (idempotent, lambda x, *grid: np.rint(x) + 1, "the value of the code of x = -2.5 "),
    (saturates, quantizer(wrong.Int32BeforeClamp), "x = inf .* must become 127, got -128"),
    (sign_symmetric, lambda x, *grid: np.floor(x + 0.5), "x = -2.5 .*: -2, and 3 with the other"),
    (placement_invariant, lambda x, *grid: np.rint(x) + (np.arange(x.size) == 2),
     "in an array of 5"),
    (monotone, lambda x, *grid: np.zeros(3), r"codes must have the shape \(5,\); got \(3,\)"),
])
def test_what_breaks_a_property_is_shown(law, broken, message):
    with pytest.raises(AssertionError, match=message):
        law(broken, UNIT)


def test_nan_has_no_place_in_an_order():
    odd = UNIT._replace(x=np.array([1, np.nan, -1], np.float32))
    monotone(right, odd)
    sign_symmetric(right, odd)
    assert_dialect(lambda x, *grid: np.where(np.isnan(x), 99, np.rint(x)), odd, dialect="onnx")
