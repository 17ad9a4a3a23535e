"""Static and dynamic ranges."""

from functools import partial

import numpy as np
import pytest
from _oracles.samples import POWERS, assert_leaves_argument_alone, assert_refuses_bad_data, matrices
from hypothesis import given
from hypothesis import strategies as st
from ptq._experiments import calibrated_ranges, minilm_activations, need_minilm

from refquant.apply import simulate
from refquant.calibration.dynamic import per_tensor, per_token, quantize_dynamic, static
from refquant.metrics import sqnr
from refquant.quantizer import fake_quantize
from refquant.quantizers.uniform import asymmetric, symmetric

FITS = st.builds(partial, st.sampled_from([per_tensor, per_token]), bits=st.integers(2, 8))


@given(matrices(), FITS, POWERS)
def test_dynamic_codes_do_not_see_the_size_of_the_data(x, fit, factor):
    plain, scaled = quantize_dynamic(x, fit), quantize_dynamic(x * factor, fit)
    assert np.array_equal(plain.codes, scaled.codes)


@given(matrices(), FITS)
def test_dynamic_ranges_clip_nothing(x, fit):
    codes, quantizer = quantize_dynamic(x, fit)
    error = np.abs(quantizer.decode(codes) - x)
    assert (error <= quantizer.scale * (0.5 + 1e-12)).all()


@given(matrices(), st.integers(2, 8), st.randoms(use_true_random=False))
def test_a_token_does_not_depend_on_its_batch_mates(x, bits, random):
    row = random.randrange(len(x))
    together = quantize_dynamic(x, partial(per_token, bits=bits))
    alone = quantize_dynamic(x[[row]], partial(per_token, bits=bits))
    assert np.array_equal(together.codes[[row]], alone.codes)
    assert np.array_equal(together.quantizer.scale[[row]], alone.quantizer.scale)


def test_a_sample_depends_on_its_batch_mates_per_tensor():
    x = np.array([[0.0, 1.0], [0.0, 100.0]])
    fit = partial(per_tensor, bits=4)
    together, alone = quantize_dynamic(x, fit), quantize_dynamic(x[:1], fit)
    assert not np.array_equal(together.codes[0], alone.codes[0])


@given(matrices(), st.integers(2, 8))
def test_static_range_of_one_batch_is_the_dynamic_one(x, bits):
    once, now = static([x], bits=bits), per_tensor(x, bits=bits)
    assert np.array_equal(once.scale, now.scale)
    assert np.array_equal(once.zero_point, now.zero_point)


@given(matrices(), st.integers(1, 4), st.integers(2, 8))
def test_static_range_does_not_depend_on_how_the_data_are_batched(x, size, bits):
    batches = [x[at : at + size] for at in range(0, len(x), size)]
    for order in (batches, batches[::-1]):
        quantizer = static(order, bits=bits)
        assert np.array_equal(quantizer.scale, static([x], bits=bits).scale)
        assert np.array_equal(quantizer.zero_point, static([x], bits=bits).zero_point)


@pytest.mark.parametrize("gain", [0.25, 1, 4])
def test_dynamic_fidelity_does_not_change_with_the_gain_and_static_fidelity_does(gain):
    x = np.random.default_rng(0).standard_normal((64, 32))
    fixed = static([x], bits=8)
    dynamic = sqnr(gain * x, fake_quantize(gain * x, per_tensor(gain * x, bits=8)))
    assert dynamic == pytest.approx(sqnr(x, fake_quantize(x, fixed)), rel=1e-12)   # of the logs
    if gain != 1:
        assert sqnr(gain * x, fake_quantize(gain * x, fixed)) < dynamic - 6     # decibels


def test_a_token_of_zeros_gets_scale_one():
    x = np.array([[0.0, 0.0], [1.0, -1.0]])
    codes, quantizer = quantize_dynamic(x, partial(per_token, bits=8))
    assert quantizer.scale[0] == 1
    assert (codes[0] == quantizer.zero_point[0]).all()


@pytest.mark.parametrize("calibrate", [per_tensor, per_token])
def test_bad_data_are_refused(calibrate):
    assert_refuses_bad_data(partial(calibrate, bits=8))
    assert_leaves_argument_alone(partial(calibrate, bits=8))
    assert_refuses_bad_data(lambda x: static([x], bits=8))
    with pytest.raises(ValueError, match="`batches` must hold at least one batch"):
        static([], bits=8)


@pytest.mark.peer
@pytest.mark.slow
def test_on_a_transformer_symmetric_loses_to_asymmetric_and_both_to_a_range_per_token():
    """A26. MiniLM, W8A8: outputs of GELU fill less than half of a symmetric grid."""
    need_minilm()
    ranges = calibrated_ranges()
    even = {name: symmetric(np.maximum(-r.low, r.high).reshape(()), bits=8)
            for name, r in ranges.items()}
    uneven = {name: asymmetric(np.minimum(r.low, 0).reshape(()),
                               np.maximum(r.high, 0).reshape(()), bits=8)
              for name, r in ranges.items()}
    token = simulate.dynamic(dict.fromkeys(ranges, partial(per_token, bits=8)))
    cosines = [minilm_activations(tap).cosine
               for tap in (simulate.static(even), simulate.static(uneven), token)]
    assert cosines[0] < cosines[1] < cosines[2]
    assert cosines[2] >= 0.995
