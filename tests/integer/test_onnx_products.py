"""ONNX's products of codes against loops in Python integers, exact fractions, and onnxruntime."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refquant.integer.onnx_operators import INT8, UINT8, dequantize_linear, quantize_linear
from refquant.integer.onnx_products import (
    ConvGeometry,
    conv_integer,
    matmul_integer,
    qlinear_conv,
    qlinear_matmul,
    same_lower,
    same_upper,
)
from refquant.quantizers.uniform import Uniform

F32 = np.float32


def quantizer(scale, zero_point=0, integer=UINT8) -> Uniform:
    scale, zero_point = np.asarray(scale, F32), np.asarray(zero_point)
    return Uniform(scale, np.broadcast_to(zero_point, scale.shape), integer.qmin, integer.qmax)


UNIT = quantizer(1)


def matmul_by_loop(a, b, a_zero, b_zero) -> list[list[int]]:
    """Python integers, which have no width."""
    (n, k), m = a.shape, b.shape[1]
    a_zero, b_zero = (np.broadcast_to(z, v.shape) for z, v in ((a_zero, a), (b_zero, b)))
    return [
        [
            sum((int(a[i, t]) - int(a_zero[i, t])) * (int(b[t, j]) - int(b_zero[t, j]))
                for t in range(k))
            for j in range(m)
        ]
        for i in range(n)
    ]  # fmt: skip


def conv_by_loop(x, w, x_zero, w_zero, group, strides, dilations, pads):
    """One output at a time, one product at a time; what lies outside is real zero."""
    rank = x.ndim - 2
    outputs = [
        (size + pads[i] + pads[rank + i] - (k - 1) * d - 1) // s + 1
        for i, (size, k, s, d) in enumerate(
            zip(x.shape[2:], w.shape[2:], strides, dilations, strict=True)
        )
    ]
    y = np.zeros((x.shape[0], w.shape[0], *outputs), object)
    w_zero = np.broadcast_to(w_zero, w.shape)
    per_group = w.shape[0] // group
    for n, o in product(range(x.shape[0]), range(w.shape[0])):
        for out in product(*map(range, outputs)):
            for at in product(*map(range, w.shape[1:])):
                where = [
                    i * s + k * d - p
                    for i, s, k, d, p in zip(
                        out, strides, at[1:], dilations, pads[:rank], strict=True
                    )
                ]
                if all(0 <= i < size for i, size in zip(where, x.shape[2:], strict=True)):
                    channel = o // per_group * w.shape[1] + at[0]
                    step = int(x[n, channel, *where]) - x_zero
                    y[n, o, *out] += step * (int(w[o, *at]) - int(w_zero[o, *at]))
    return y


@st.composite
def convolutions(draw):
    """Data, weights, zero points and a geometry that fit each other."""
    rank = draw(st.integers(1, 3))
    few = st.integers(1, 3 if rank < 3 else 2)
    group, per_group, inputs = draw(few), draw(few), draw(few)
    kernel, strides, dilations = (tuple(draw(few) for _ in range(rank)) for _ in range(3))
    pads = tuple(draw(st.integers(0, 2)) for _ in range(2 * rank))
    spatial = [
        max((k - 1) * d + 1 - pads[i] - pads[rank + i], 1) + draw(st.integers(0, 2))
        for i, (k, d) in enumerate(zip(kernel, dilations, strict=True))
    ]
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    x = rng.integers(0, 256, (draw(st.integers(1, 2)), group * inputs, *spatial))
    w = rng.integers(-128, 128, (group * per_group, inputs, *kernel))
    w_zero = rng.integers(-128, 128, (w.shape[0], *(1,) * (rank + 1)))
    return x, w, int(rng.integers(0, 256)), w_zero, group, strides, dilations, pads


class TestMatMulInteger:
    @given(n=st.integers(1, 4), k=st.integers(0, 5), m=st.integers(1, 4), seed=st.integers(0, 99))
    def test_equals_a_loop_with_zero_points_per_row_and_column(self, n, k, m, seed):
        rng = np.random.default_rng(seed)
        a, b = rng.integers(0, 256, (n, k)), rng.integers(-128, 128, (k, m))
        for rows, columns in ((), ()), ((n, 1), (1, m)):
            zeros = rng.integers(0, 256, rows), rng.integers(-128, 128, columns)
            y = matmul_integer(a, b, *zeros)
            assert y.dtype == np.int32
            assert y.tolist() == matmul_by_loop(a, b, *zeros)

    def test_stacks_are_multiplied_one_by_one(self):
        rng = np.random.default_rng(0)
        a, b = rng.integers(0, 256, (3, 2, 4)), rng.integers(0, 256, (3, 4, 5))
        zero = rng.integers(0, 256, (3, 2, 1))
        y = matmul_integer(a, b, zero)
        for i in range(3):
            assert np.array_equal(y[i], matmul_integer(a[i], b[i], zero[i]))

    def test_products_of_bytes_do_not_wrap(self):
        bytes_ = np.array([[255]], np.uint8), np.array([[-128]], np.int8)
        assert matmul_integer(*bytes_, 0, 127) == -255 * 255

    def test_R3_a_sum_beyond_int32_raises_and_the_largest_below_does_not(self):
        def ones(k):
            return np.full((1, k), 255), np.full((k, 1), 255)

        assert matmul_integer(*ones(33_025)) == 33_025 * 255**2
        with pytest.raises(ValueError, match=r"`a @ b` must lie in \[-2147483648, 2147483647\]"):
            matmul_integer(*ones(33_026))


class TestConvInteger:
    @settings(max_examples=60)
    @given(case=convolutions())
    def test_equals_a_loop_in_every_geometry(self, case):
        x, w, x_zero, w_zero, group, strides, dilations, pads = case
        geometry = ConvGeometry(group, strides, dilations, pads)
        y = conv_integer(x, w, x_zero, w_zero, geometry=geometry)
        assert y.dtype == np.int32
        assert np.array_equal(y, conv_by_loop(*case))

    def test_defaults_are_ones_and_no_padding(self):
        rng = np.random.default_rng(0)
        x, w = rng.integers(0, 256, (1, 2, 5, 4)), rng.integers(0, 256, (3, 2, 2, 3))
        explicit = ConvGeometry(1, (1, 1), (1, 1), (0, 0, 0, 0))
        assert np.array_equal(conv_integer(x, w), conv_integer(x, w, geometry=explicit))

    def test_padding_is_the_zero_point(self):
        rng = np.random.default_rng(0)
        x, w = rng.integers(0, 256, (1, 1, 4)), rng.integers(0, 256, (1, 1, 3))
        outside = np.pad(x, [(0, 0), (0, 0), (1, 2)], constant_values=7)
        padded = conv_integer(x, w, 7, geometry=ConvGeometry(pads=(1, 2)))
        assert np.array_equal(padded, conv_integer(outside, w, 7))

    @given(
        size=st.integers(1, 9), k=st.integers(1, 4), stride=st.integers(1, 3), d=st.integers(1, 2)
    )
    def test_auto_pad_gives_one_output_per_stride(self, size, k, stride, d):
        x, w = np.arange(size).reshape(1, 1, -1), np.arange(1, k + 1).reshape(1, 1, -1)
        upper, lower = (
            ConvGeometry(strides=(stride,), dilations=(d,), auto_pad=p)
            for p in (same_upper, same_lower)
        )
        y = conv_integer(x, w, geometry=upper)
        assert y.shape[-1] == -(-size // stride)
        # Read from the other end, where the odd element of padding goes changes sides.
        if (size - 1) % stride == 0:
            mirrored = conv_integer(x[..., ::-1], w[..., ::-1], geometry=lower)
            assert np.array_equal(y, mirrored[..., ::-1])

    def test_auto_pad_puts_the_odd_element_last_or_first(self):
        x, w = np.array([[[1, 2, 3]]]), np.array([[[1, 10]]])
        upper, lower = (ConvGeometry(auto_pad=p) for p in (same_upper, same_lower))
        assert conv_integer(x, w, geometry=upper).tolist() == [[[21, 32, 3]]]
        assert conv_integer(x, w, geometry=lower).tolist() == [[[10, 21, 32]]]

    def test_a_sum_beyond_int32_raises(self):
        x, w = np.full((1, 33_026, 1), 255), np.full((1, 33_026, 1), 255)
        with pytest.raises(ValueError, match=r"`conv\(x, w\)` must lie in"):
            conv_integer(x, w)


powers = st.integers(-8, 8).map(lambda e: 2.0**e)


class TestQLinearMatMul:
    @given(scales=st.tuples(powers, powers, powers), z=st.tuples(*[st.integers(0, 255)] * 3),
           seed=st.integers(0, 99))  # fmt: skip
    def test_is_the_exact_product_quantized_if_scales_are_powers_of_two(self, scales, z, seed):
        rng = np.random.default_rng(seed)
        a, b = rng.integers(0, 256, (3, 5)), rng.integers(0, 256, (5, 2))
        qa, qb, qy = (quantizer(s, zero) for s, zero in zip(scales, z, strict=True))
        y = qlinear_matmul(a, qa, b, qb, qy)
        sums = matmul_by_loop(a, b, z[0], z[1])
        unit = Fraction(scales[0]) * Fraction(scales[1]) / Fraction(scales[2])
        exact = [[min(max(round(s * unit) + z[2], 0), 255) for s in row] for row in sums]
        assert y.tolist() == exact

    def test_is_dequantize_multiply_quantize_if_nothing_is_rounded_before(self):
        rng = np.random.default_rng(0)
        a, b = rng.integers(0, 256, (4, 9)), rng.integers(-128, 128, (9, 3))
        rows = quantizer(F32([[1], [2], [4], [0.5]]), [[3], [5], [0], [255]])
        columns = quantizer(F32([[0.25, 1, 0.125]]), [[-7, 0, 127]], INT8)
        y = quantizer(16, 13)
        real = dequantize_linear(a, rows.scale, rows.zero_point, block_size=9) @ (
            dequantize_linear(b, columns.scale, columns.zero_point, source=INT8, axis=0,
                              block_size=9)
        )  # fmt: skip
        wanted = quantize_linear(real.astype(F32), y.scale, y.zero_point)
        assert np.array_equal(qlinear_matmul(a, rows, b, columns, y), wanted)

    @given(scales=st.tuples(*[st.floats(2**-9, 2, width=32)] * 3), seed=st.integers(0, 99))
    def test_any_scales_give_codes_within_half_a_step_of_exact(self, scales, seed):
        rng = np.random.default_rng(seed)
        a, b = rng.integers(0, 256, (2, 4)), rng.integers(-128, 128, (4, 2))
        y = qlinear_matmul(a, quantizer(scales[0], 128), b, quantizer(scales[1], 0, INT8),
                           quantizer(scales[2], 128))  # fmt: skip
        unit = Fraction(scales[0]) * Fraction(scales[1]) / Fraction(scales[2])
        for code, s in zip(y.flat, np.ravel(matmul_by_loop(a, b, 128, 0)), strict=True):
            if 0 < code < 255:
                exact = int(s) * unit
                # Four roundings to float32: two of the multiplier, of the sum, of the product.
                assert abs(int(code) - 128 - exact) <= Fraction(1, 2) + abs(exact) * 4 / 2**23

    def test_R1_rounds_before_the_zero_point_is_added(self):
        a = np.array([[1], [3], [5], [7]])
        y = qlinear_matmul(a, quantizer(0.5), np.array([[1]]), UNIT, quantizer(1, 1))
        assert y.ravel().tolist() == [1, 3, 3, 5]

    def test_multiplier_is_rounded_after_each_step(self):
        # Exactly 6.50000047, in steps of float32 exactly 6.5: a runtime's user saw the 6.
        scales = quantizer(0.05296124518), quantizer(0.02409377880), quantizer(0.11484327912)
        y = qlinear_matmul([[117]], scales[0], [[5]], *scales[1:])
        assert y == 6

    def test_a_sum_beyond_int32_raises(self):
        a, b = np.full((1, 33_026), 255), np.full((33_026, 1), 255)
        with pytest.raises(ValueError, match=r"`a @ b` must lie in"):
            qlinear_matmul(a, UNIT, b, UNIT, UNIT)

    def test_saturates(self):
        a = np.array([[255], [0]])
        y = qlinear_matmul(a, quantizer(1, 9), np.array([[255]]), UNIT, quantizer(1, 128))
        assert y.ravel().tolist() == [255, 0]

    def test_each_row_and_column_has_its_own_scale(self):
        rng = np.random.default_rng(0)
        a, b = rng.integers(0, 256, (2, 6)), rng.integers(0, 256, (6, 3))
        rows, columns = F32([[0.3], [0.07]]), F32([[0.011, 0.2, 0.05]])
        y = qlinear_matmul(a, quantizer(rows, 100), b, quantizer(columns, 90), quantizer(3.7, 120))
        for i, j in product(range(2), range(3)):
            alone = qlinear_matmul(a[i : i + 1], quantizer(rows[i, 0], 100), b[:, j : j + 1],
                                   quantizer(columns[0, j], 90), quantizer(3.7, 120))  # fmt: skip
            assert y[i, j] == alone


class TestQLinearConv:
    def test_one_by_one_kernel_is_a_matrix_product(self):
        rng = np.random.default_rng(0)
        x, w = rng.integers(0, 256, (1, 5, 3, 2)), rng.integers(-128, 128, (4, 5, 1, 1))
        qx, qw, qy = quantizer(0.1, 7), quantizer(0.03, 0, INT8), quantizer(1.3, 128)
        y = qlinear_conv(x, qx, w, qw, qy)
        wanted = qlinear_matmul(w[:, :, 0, 0], qw, x[0].reshape(5, 6), qx, qy)
        assert np.array_equal(y.reshape(4, 6), wanted)

    def test_bias_is_one_more_product(self):
        rng = np.random.default_rng(0)
        x, w = rng.integers(0, 256, (2, 3, 4)), rng.integers(0, 256, (2, 3, 2))
        bias = np.array([1000, -777])
        # One more input channel of ones, of weight -128 .. 127, must stand for it.
        qx, qw, qy = quantizer(0.2, 0), quantizer(0.1, 0), quantizer(40, 3)
        y = qlinear_conv(x, qx, w, qw, qy, bias)
        sums = conv_integer(x, w) + bias[:, None]
        multiplier = F32(F32(0.2) * F32(0.1)) / F32(40)
        wanted = np.clip(np.rint(sums.astype(F32) * multiplier) + 3, 0, 255)
        assert np.array_equal(y, wanted)

    def test_each_output_channel_has_its_own_scale(self):
        rng = np.random.default_rng(0)
        x, w = rng.integers(0, 256, (1, 4, 5, 5)), rng.integers(-128, 128, (4, 2, 3, 3))
        scale, zero = F32([0.1, 0.02, 0.3, 0.007]), np.array([0, 3, -9, 1])
        geometry = ConvGeometry(group=2, pads=(1, 1, 1, 1))
        qw = quantizer(scale.reshape(4, 1, 1, 1), zero.reshape(4, 1, 1, 1), INT8)
        y = qlinear_conv(x, quantizer(0.5, 8), w, qw, quantizer(9, 100), geometry=geometry)
        for o in range(4):
            part = slice(0, 2) if o < 2 else slice(2, 4)
            alone = qlinear_conv(x[:, part], quantizer(0.5, 8), w[o : o + 1],
                                 quantizer(scale[o], zero[o], INT8), quantizer(9, 100),
                                 geometry=geometry._replace(group=1))  # fmt: skip
            assert np.array_equal(y[:, o], alone[:, 0])

    @pytest.mark.parametrize(
        ("total", "scale", "code"),
        [(95_565_300, 1.569607377405191e-08, 1), (81_876_243, 9.16016631435923e-08, 7)],
    )
    def test_sums_are_rounded_to_float32_before_they_are_multiplied(self, total, scale, code):
        # 1.499999999 and 7.50000003: rounded once, after the product, these were 2 and 8.
        nothing = np.zeros((1, 1, 1), int)
        assert qlinear_conv(nothing, quantizer(scale), nothing, UNIT, UNIT, [total]) == code

    def test_a_bias_that_leaves_int32_raises(self):
        x, w = np.array([[[255]]]), np.array([[[255]]])
        with pytest.raises(ValueError, match=r"`conv\(x, w\) \+ bias` must lie in"):
            qlinear_conv(x, UNIT, w, UNIT, UNIT, [2**31 - 1])


def test_arguments_stay_as_they_are():
    a, b = np.arange(4).reshape(2, 2), np.arange(4, 8).reshape(2, 2)
    before = a.copy(), b.copy()
    matmul_integer(a, b, 1, 2)
    qlinear_matmul(a, quantizer(1, 2), b, UNIT, UNIT)
    conv_integer(a[None], b[None], 1, 2, geometry=ConvGeometry(pads=(1, 1)))
    assert np.array_equal((a, b), before)


X, W = np.zeros((1, 2, 5), int), np.zeros((4, 2, 3), int)


def conv(**geometry):
    return conv_integer(X, W, geometry=ConvGeometry(**geometry))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: matmul_integer([[0.5]], [[1]]), TypeError, "`a` must be integers; got float64"),
        (lambda: matmul_integer([[256]], [[1]]), ValueError,
         "`a` must lie in [-128, 255]; got 256"),
        (lambda: matmul_integer([[1]], [[1]], 0, 300), ValueError,
         "`b_zero_point` must lie in [-128, 255]; got 300"),
        (lambda: matmul_integer([[1, 2]], [[1], [1]], [1, 2, 3]), ValueError,
         "`a_zero_point` must broadcast to the data of shape (1, 2); got (3,)"),
        (lambda: qlinear_matmul([[-1]], UNIT, [[1]], UNIT, UNIT), ValueError,
         "`a` must lie in [0, 255]; got -1"),
        (lambda: qlinear_matmul([[1, 2]], quantizer([[1, 2]]), [[1], [1]], UNIT, UNIT), ValueError,
         "`a_quantizer` must have one scale along axis -1; got shape (1, 2)"),
        (lambda: qlinear_matmul([[1, 2]], UNIT, [[1], [1]], quantizer([[1], [2]]), UNIT),
         ValueError, "`b_quantizer` must have one scale along axis -2; got shape (2, 1)"),
        (lambda: qlinear_conv(X, UNIT, W, quantizer(np.ones((1, 2, 1))), UNIT), ValueError,
         "`w_quantizer` must have one scale along axis -2; got shape (1, 2, 1)"),
        (lambda: qlinear_conv(X, UNIT, W, UNIT, UNIT, [0.5]), TypeError,
         "`bias` must be integers; got float64"),
        (lambda: conv(group=0), ValueError, "`group` must be at least 1; got 0"),
        (lambda: conv(group=2), ValueError,
         "`w` must have 1/2 of the channels of `x`, and 2 equal parts; "
         "got (1, 2, 5) and (4, 2, 3)"),
        (lambda: conv_integer(X, W[0]), ValueError,
         "`x` and `w` must have one rank, 3 or more; got (1, 2, 5) and (2, 3)"),
        (lambda: conv(strides=(0,)), ValueError, "`strides` must be at least 1; got 0"),
        (lambda: conv(dilations=(1, 1)), ValueError,
         "`dilations` must have 1 elements; got (1, 1)"),
        (lambda: conv(dilations=(3,)), ValueError,
         "`kernel` must fit into the padded image; got spans [7] and sizes [5]"),
        (lambda: conv(pads=(1, -1)), ValueError, "`pads` must be at least 0; got -1"),
        (lambda: conv(pads=(1, 1), auto_pad=same_upper), ValueError,
         "`pads` must be empty with `auto_pad`; got (1, 1)"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


@pytest.mark.peer
class TestOnnxRuntime:
    """Bit for bit, on random layers; signed weights have 7 bits, for the reason tested last."""

    def run(self, op, inputs, output, **attributes):
        """Answer of one node; all inputs but the first are part of the model."""
        onnx, ort = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
        helper, numpy_helper = onnx.helper, onnx.numpy_helper
        inputs = {f"i{n}": np.asarray(x) for n, x in enumerate(inputs)}
        data = inputs["i0"]
        ends = ("i0", data.dtype, data.shape), ("y", np.dtype(output), None)
        x, y = (
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), shape)
            for name, dtype, shape in ends
        )
        node = helper.make_node(op, list(inputs), ["y"], **attributes)
        fixed = [numpy_helper.from_array(v, n) for n, v in inputs.items() if n != "i0"]
        model = helper.make_model(helper.make_graph([node], "graph", [x], [y], fixed),
                                  opset_imports=[helper.make_opsetid("", 21)],
                                  ir_version=10)  # fmt: skip
        session = ort.InferenceSession(model.SerializeToString(),
                                       providers=["CPUExecutionProvider"])  # fmt: skip
        return session.run(None, {"i0": data})[0]

    @pytest.mark.parametrize("seed", list(range(4)))
    def test_matmul_integer(self, seed):
        rng = np.random.default_rng(seed)
        a, b = rng.integers(0, 256, (7, 33)), rng.integers(-64, 65, (33, 5))
        zeros = int(rng.integers(0, 256)), rng.integers(-128, 128, 5)
        theirs = self.run("MatMulInteger", [a.astype(np.uint8), b.astype(np.int8),
                          np.uint8(zeros[0]), zeros[1].astype(np.int8)], np.int32)  # fmt: skip
        assert np.array_equal(matmul_integer(a, b, zeros[0], zeros[1].reshape(1, -1)), theirs)

    @pytest.mark.parametrize("seed", list(range(4)))
    def test_qlinear_matmul(self, seed):
        rng = np.random.default_rng(seed)
        a, b = rng.integers(0, 256, (64, 33)), rng.integers(0, 256, (33, 64))
        s = rng.uniform(0.01, 0.1, 3).astype(F32)
        s[2] *= 60
        z = rng.integers(0, 256, 3)
        qa, qb, qy = (quantizer(*pair) for pair in zip(s, z, strict=True))
        z8 = z.astype(np.uint8)
        theirs = self.run("QLinearMatMul", [a.astype(np.uint8), s[0], z8[0], b.astype(np.uint8),
                          s[1], z8[1], s[2], z8[2]], np.uint8)  # fmt: skip
        assert np.array_equal(qlinear_matmul(a, qa, b, qb, qy), theirs)

    @pytest.mark.parametrize("auto_pad", [None, same_upper, same_lower])
    @pytest.mark.parametrize("group", [1, 2])
    def test_qlinear_conv(self, auto_pad, group):
        rng = np.random.default_rng(0)
        x, w = rng.integers(0, 256, (2, 4, 9, 8)), rng.integers(-64, 65, (6, 4 // group, 3, 2))
        scale = rng.uniform(0.01, 0.1, 6).astype(F32)
        bias = rng.integers(-1000, 1000, 6)
        pads = () if auto_pad else (1, 0, 2, 1)
        dilations = (1, 1) if auto_pad else (1, 2)              # it has no kernel for both
        geometry = ConvGeometry(group, (2, 1), dilations, pads, auto_pad)
        qw = quantizer(scale.reshape(6, 1, 1, 1), 0, INT8)
        y = qlinear_conv(x, quantizer(0.03, 77), w, qw, quantizer(2.1, 99), bias, geometry=geometry)
        attributes = {"group": group, "strides": [2, 1], "dilations": list(dilations)}
        if auto_pad:
            attributes["auto_pad"] = auto_pad.__name__.upper()
        else:
            attributes["pads"] = list(pads)
        theirs = self.run("QLinearConv", [x.astype(np.uint8), F32(0.03), np.uint8(77),
                          w.astype(np.int8), scale, np.zeros(6, np.int8), F32(2.1), np.uint8(99),
                          bias.astype(np.int32)], np.uint8, **attributes)  # fmt: skip
        assert np.array_equal(y, theirs)

    def test_conv_integer(self):
        rng = np.random.default_rng(0)
        x, w = rng.integers(0, 256, (1, 4, 9, 8)), rng.integers(0, 256, (6, 2, 3, 2))
        geometry = ConvGeometry(2, (1, 2), (2, 1), (1, 0, 2, 1))
        theirs = self.run("ConvInteger", [x.astype(np.uint8), w.astype(np.uint8), np.uint8(5),
                          np.uint8(130)], np.int32, group=2, strides=[1, 2], dilations=[2, 1],
                          pads=[1, 0, 2, 1])  # fmt: skip
        assert np.array_equal(conv_integer(x, w, 5, 130, geometry=geometry), theirs)

    def test_R6_unsigned_times_signed_is_exact_or_saturates_pairs_in_int16(self):
        # Which of the two depends on the CPU: x86 without VNNI adds two products in int16.
        rng = np.random.default_rng(0)
        a, b = rng.integers(0, 256, (16, 32)), rng.integers(-128, 128, (32, 8))
        theirs = self.run("MatMulInteger", [a.astype(np.uint8), b.astype(np.int8)], np.int32)
        exact = matmul_integer(a, b)
        pairs = np.matmul(a.reshape(16, 16, 1, 2).swapaxes(0, 1), b.reshape(16, 1, 2, 8))
        saturated = np.clip(pairs[:, :, 0], -(2**15), 2**15 - 1).sum(axis=0)
        assert not np.array_equal(exact, saturated)
        assert any(np.array_equal(theirs, y) for y in (exact, saturated))
