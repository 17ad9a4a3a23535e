"""Vectors for pytest: one test per case, run here in a suite of their own."""

import re
import textwrap

import numpy as np
import pytest

import refquant.testing as rqt
from refquant.oracle.vectors import load
from refquant.testing.cases import Question, assert_bits, vectors

pytest_plugins = ["pytester"]
INT8 = "quantize_affine.float32.int8"
FILE = load(INT8)

SUITE = """
    import numpy as np
    import pytest
    import refquant.testing as rqt

    def quantize(x, s, z, low, high):
        with np.errstate(all="ignore"):
            return np.clip(np.rint(x / s) + z, low, high)

    {decorator}
    def test_quantize(case):
        codes = quantize(case.x, case.scale, np.float32(case.zero_point), case.qmin, case.qmax)
        rqt.assert_bits(case, codes.astype(np.int32), dialect="{dialect}")
"""


def suite(pytester, decorator, dialect="onnx"):
    text = textwrap.dedent(SUITE).format(decorator=decorator, dialect=dialect)
    pytester.makepyfile(text)
    return pytester.runpytest_inprocess("-q", "-p", "no:cacheprovider", "-rA")


@pytest.fixture
def pytester_quiet(pytester):
    return pytester


def test_a_right_quantizer_passes_once_for_each_case(pytester):
    result = suite(pytester, f'@rqt.vectors("{INT8}", dialect="onnx", flags=["Tie", "HugeInput"])')
    count = sum(bool({"Tie", "HugeInput"} & set(c.flags)) and c.status == "defined" for c in FILE)
    result.assert_outcomes(passed=count)
    first = next(c for c in FILE if "Tie" in c.flags)
    assert f"test_quantize[{first.id}-{'-'.join(first.flags)}]" in result.stdout.str()


def test_a_wrong_one_fails_and_says_where_to_look(pytester):
    result = suite(pytester, f'@rqt.vectors("{INT8}", dialect="brevitas", flags=["TieOddZp"])',
                   dialect="brevitas")
    assert result.ret == 1
    assert re.search(r"`q` must be 02, got 01; see: refquant oracle explain [0-9a-f]{10}",
                     result.stdout.str())


def test_a_baseline_expects_failures_strictly(pytester):
    wrong = [c.id for c in FILE if "TieOddZp" in c.flags and "brevitas" in c.differs]
    right = [c.id for c in FILE if "TieOddZp" in c.flags and "brevitas" not in c.differs]
    result = suite(pytester, f'@rqt.vectors("{INT8}", dialect="brevitas", flags=["TieOddZp"], '
                             f'baseline={wrong + right[:1]!r})', dialect="brevitas")
    result.assert_outcomes(xfailed=len(wrong), failed=1, passed=len(right) - 1)
    assert "XPASS(strict)" in result.stdout.str()


def test_the_example_of_the_docstring_runs(pytester):
    """Five lines, copied from the package's docstring."""
    block = re.search(r"::\n\n(.*?)\n\n`strategies`", rqt.__doc__, re.S)[1]
    example = textwrap.dedent(block)
    assert len([line for line in example.splitlines() if line.strip()]) <= 5
    pytester.makepyfile(textwrap.dedent("""
        import numpy as np

        def quantize(x, scale, zero_point):
            with np.errstate(all="ignore"):
                return np.clip(np.rint(x / scale) + np.float32(zero_point), -128, 127).astype(int)
    """) + example)
    result = pytester.runpytest_inprocess("-q", "-p", "no:cacheprovider")
    counts = result.parseoutcomes()
    assert counts == {"passed": sum(c.status == "defined" for c in FILE)}


def test_the_flags_in_the_names_select_with_k(pytester):
    """Why there is no option of our own."""
    pytester.makepyfile(f"""
        import refquant.testing as rqt

        @rqt.vectors("{INT8}", dialect="onnx")
        def test_nothing(case):
            pass
    """)
    result = pytester.runpytest_inprocess("-q", "-p", "no:cacheprovider", "-k", "TieOddZp")
    wanted = sum("TieOddZp" in c.flags and c.status == "defined" for c in FILE)
    assert result.parseoutcomes()["passed"] == wanted > 0


def test_ids_are_unique_and_begin_with_the_case():
    parameters = vectors("quantize_affine", dialect="onnx").args[1]
    ids = [p.id for p in parameters]
    assert all(p.values[0].case.id == p.id[:10] for p in parameters)
    assert len(set(ids)) > 1500


def test_flags_to_skip_are_skipped():
    kept = vectors(INT8, dialect="onnx", skip=["Tie"]).args[1]
    assert kept
    assert not any("Tie" in p.values[0].case.flags for p in kept)


def test_a_test_that_would_test_nothing_is_an_error():
    with pytest.raises(ValueError, match="`op` must leave cases to test; got 'softmax'"):
        vectors("softmax")
    with pytest.raises(ValueError, match="`op` must leave cases"):
        vectors(INT8, flags=["NaN"])


class TestQuestion:
    question = Question(FILE.groups[1].cases[0], FILE)

    def test_names_are_those_of_the_file(self):
        assert self.question.x.dtype == np.float32
        assert (self.question.zero_point, self.question.qmin) == (1, -128)
        assert self.question.granularity == "per_tensor"
        with pytest.raises(AttributeError, match="quantize_affine has no 'y'"):
            _ = self.question.y

    def test_scales_of_channels_are_arrays(self):
        file = load("quantize_affine.float32.int8.granular")
        question = Question(next(iter(file)), file)
        assert question.scale.dtype == np.float32
        assert question.scale.shape == question.zero_point.shape == (4,)


class TestAssertBits:
    case = next(c for c in FILE if int(c.base["q"]) == 0xF9)
    question = Question(case, FILE)

    @pytest.mark.parametrize("answer", [np.int8(-7), np.int32(-7), -7, np.uint8(0xF9),
                                        {"q": np.int64(-7)}])
    def test_numbers_and_bits_of_any_width_are_understood(self, answer):
        assert_bits(self.question, answer, dialect="onnx")

    @pytest.mark.parametrize("answer", [np.int8(-6), np.int8([-7]), np.float32(-7)])
    def test_other_bits_shapes_and_types_fail(self, answer):
        with pytest.raises(AssertionError, match="`q` must be f9, got"):
            assert_bits(self.question, answer, dialect="onnx")

    @pytest.mark.parametrize("answer", [249, np.int32(249 - 512), np.uint16(0x1F9)])
    def test_whole_numbers_beyond_the_type_are_not_wrapped_into_it(self, answer):
        with pytest.raises(AssertionError, match="must fit int8; got"):
            assert_bits(self.question, answer, dialect="onnx")

    def test_unspecified_takes_anything_and_reject_nothing(self):
        nan = next(c for c in FILE if c.status == "unspecified")
        assert_bits(Question(nan, FILE), np.int8(99), dialect="onnx")
        bad = next(c for c in FILE if c.status == "reject")
        with pytest.raises(AssertionError, match="must be rejected: the scale"):
            assert_bits(Question(bad, FILE), np.int8(0), dialect="onnx")

    def test_floats_are_compared_by_bits(self):
        file = load("dequantize_affine.int8.float32")
        case = next(c for c in file if not c.base["x"].ndim and int(c.base["x"]) == 0)
        assert_bits(Question(case, file), np.float32(0.0), dialect="onnx")
        with pytest.raises(AssertionError, match="must be 00000000, got 80000000"):
            assert_bits(Question(case, file), np.float32(-0.0), dialect="onnx")
