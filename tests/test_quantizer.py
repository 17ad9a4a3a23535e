"""The protocol's two functions: the round trip, and what an element costs to store."""

import numpy as np
import pytest
from _oracles.memory import peak_over_arrays
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refquant.granularity import group
from refquant.quantizer import bits_per_element, fake_quantize
from refquant.quantizers.codebook import Codebook
from refquant.quantizers.uniform import asymmetric, symmetric

values = hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, min_side=0, max_side=6),
                    elements=st.floats(-10, 10, width=32))


@given(x=values, bits=st.integers(2, 8))
def test_fake_quantization_is_idempotent_bit_for_bit(x, bits):
    for q in (symmetric(np.float32(3), bits=bits),
              asymmetric(np.float32(-1.7), np.float32(5.3), bits=bits)):
        once = fake_quantize(x, q)
        assert once.tobytes() == fake_quantize(once, q).tobytes()


@given(x=values, scale_dtype=st.sampled_from([np.float32, np.float64]))
def test_fake_quantization_keeps_shape_and_dtype_of_the_data(x, scale_dtype):
    q = symmetric(scale_dtype(3), bits=8)
    for data in (x, x.astype(np.float64)):
        x_hat = fake_quantize(data, q)
        assert x_hat.shape == data.shape
        assert x_hat.dtype == data.dtype


def test_any_quantizer_will_do():
    q = Codebook(np.array([-1.0, 0.0, 4.0]), np.array([-0.5, 2.0]))
    assert np.array_equal(fake_quantize(np.array([-9.0, 1.0, 3.0]), q), [-1, 0, 4])


@pytest.mark.parametrize(
    ("quantizer", "shape", "float_bits", "expected"),
    [
        # b + (b_S + b_Z) / g: int4 in groups of 128, half-precision scale, 4-bit zero point.
        pytest.param(asymmetric(-np.ones((8, 1)), np.ones((8, 1)), bits=4), (8, 128), 16,
                     4.15625, id="int4-g128"),
        # 16 levels once, single-precision scale per 64 would be 4.5: here as a uniform grid.
        pytest.param(symmetric(np.ones((4, 1)), bits=4), (4, 64), 32, 4.5, id="int4-g64-fp32"),
        pytest.param(symmetric(np.ones(()), bits=8), (32,), 32, 9.0, id="one-scale"),
        pytest.param(symmetric(np.ones((3, 5)), bits=2), (3, 5), 32, 34.0, id="scale-each"),
    ],
)
def test_bits_per_element_count_the_parameters(quantizer, shape, float_bits, expected):
    assert bits_per_element(quantizer, shape, float_bits=float_bits) == expected


@given(group_size=st.sampled_from([1, 2, 4, 8, 16]), bits=st.integers(2, 8))
def test_smaller_groups_cost_more(group_size, bits):
    blocks = group(np.ones((3, 32)), group_size)
    q = symmetric(np.abs(blocks).max(-1, keepdims=True), bits=bits)
    assert bits_per_element(q, blocks.shape) == bits + 32 / group_size


@pytest.mark.parametrize(
    ("shape", "float_bits", "error", "message"),
    [
        ((3, 0), 32, ValueError, r"`shape` must hold at least one element; got \(3, 0\)"),
        ((3,), 0, ValueError, "`float_bits` must be at least 1; got 0"),
        ((3,), 16.0, TypeError, "`float_bits` must be an integer"),
    ],
)
def test_bad_input_is_named(shape, float_bits, error, message):
    with pytest.raises(error, match=message):
        bits_per_element(symmetric(np.ones(()), bits=8), shape, float_bits=float_bits)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fake_quantize_stays_below_twice_its_arrays(dtype):
    x = np.random.default_rng(0).normal(size=(1000, 500)).astype(dtype)
    q = asymmetric(x.min(1, keepdims=True), x.max(1, keepdims=True), bits=8)
    assert peak_over_arrays(lambda x: fake_quantize(x, q), x) < 2.02
