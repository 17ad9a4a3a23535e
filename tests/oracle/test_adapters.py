"""Adapters: ours is right under every dialect; those of others are right, or say what they lack."""

import numpy as np
import pytest

from refquant.oracle.adapters import ADAPTERS, Missing, Refquant, Reject, load_adapter
from refquant.oracle.conformance import HOME_DIALECT, check, matrix
from refquant.oracle.run import Outcome
from refquant.oracle.vectors import bits, load, names

INT8 = "quantize_affine.float32.int8"
UINT8 = "quantize_affine.float32.uint8"
DIALECTS = list(load(INT8).dialects)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_refquant_is_right_under_each_dialect_that_it_speaks(dialect):
    report = check(Refquant(dialect), dialect, ops=[INT8, "quantize_affine.float32.uint4",
                                                    "quantize_affine.float32.int8.granular"])
    assert report.failures() == []
    assert report.counts()["match"] > 500


def test_refquant_is_right_under_exact_in_every_file():
    report = check(Refquant(), "exact")
    assert [(r.case.id, r.detail) for r in report.failures()] == []
    assert {r.case.file for r in report.results} == {
        name for name in names() if "exact" in load(name).dialects}


def test_an_unknown_dialect_is_one_line():
    with pytest.raises(ValueError, match=r"`dialect` must be one of .*; got 'klingon'"):
        Refquant("klingon")


def test_refquant_refuses_a_grid_that_is_none():
    one = {"x": bits(np.zeros(1, np.float32))}
    grid = {"scale": bits(np.array(1, np.float32)), "zero_point": 0, "qmin": -128, "qmax": 127,
            "granularity": "per_tensor"}
    types = {"x": "float32", "q": "int8"}
    for change in ({"scale": bits(np.array(0, np.float32))}, {"zero_point": 128}):
        with pytest.raises(Reject, match="must be"):
            Refquant().run("quantize_affine", types, {**grid, **change}, one)


def test_what_refquant_does_not_speak_it_says():
    types = {"x": "float32", "q": "int8"}
    assert Refquant("ggml").supports("quantize_affine", types, {}) == (
        "ggml says nothing of quantize_affine")
    assert Refquant().supports("softmax", {}, {}) == "refquant has no softmax"


@pytest.mark.parametrize(("name", "message"), [
    ("nobody", "`impl` must be module:adapter or one of refquant, "),
    ("no.such.module:Thing", "`impl` must be importable; no.such.module:Thing: No module named"),
    ("_oracles.wrong_quantizers:Nobody", "`impl` must exist;"),
    ("_oracles.wrong_quantizers:Incomplete", "`impl` must have name, version, supports and run;"),
])
def test_a_bad_name_is_one_line(name, message):
    with pytest.raises(ValueError, match="`impl` must") as caught:
        load_adapter(name)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_an_adapter_may_be_a_class_or_an_object():
    assert load_adapter("_oracles.wrong_quantizers:TiesAway").name == "TiesAway"
    assert load_adapter("refquant").name == "refquant"


def test_a_library_that_is_missing_is_said_to_be(monkeypatch):
    import refquant.oracle._adapters._common as common
    import refquant.oracle._adapters.float_formats as formats

    def gone(name):
        raise ImportError(f"No module named {name!r}")

    for module in (common, formats):
        monkeypatch.setattr(module, "library", gone)
    with pytest.raises(Missing, match=r"ml_dtypes needs a library that is not installed: No mod"):
        load_adapter("ml_dtypes")
    assert set(HOME_DIALECT) == set(ADAPTERS)


#: Library, files, and how many of their cases do not match; measured, see the notes below.
PEERS = [
    ("onnxruntime", "onnxruntime", [INT8, UINT8, "quantize_affine.float32.int8.granular",
                                    "dequantize_affine.int8.float32"], set()),
    ("onnx", "onnx.reference", [INT8], {"HugeInput", "Infinite"}),
    ("torch", "torch.fbgemm", [INT8, UINT8, "dequantize_affine.int8.float32"], set()),
    ("torch", "torch.fake_quantize", [INT8, "quantize_affine.float32.int4"], set()),
    ("torch", "torch.decomposed", [INT8, "quantize_affine.float32.int16"], set()),
    ("torchao", "torchao", [INT8], set()),
    ("ai_edge_litert", "litert.reference", [INT8], {"HugeInput", "Infinite"}),
    ("ai_edge_litert", "litert.xnnpack", [INT8],
     {"SubnormalScale"}),
]


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("library", "impl", "files", "flags"), PEERS, ids=[p[1] for p in PEERS])
def test_peers_differ_only_where_they_are_known_to(library, impl, files, flags):
    """onnx and LiteRT reference convert to int32 before clipping; XNNPACK crashes where the
    scale is subnormal."""
    pytest.importorskip(library)
    for file in files:
        [report] = matrix([impl], ops=[file])
        assert not isinstance(report, str)
        assert report.counts()["match"] > 200 or "granular" in file
        odd = [r.case.id for r in report.failures() if not set(r.case.flags) & flags]
        assert odd == []


@pytest.mark.peer
def test_litert_builtin_depends_on_the_place():
    pytest.importorskip("ai_edge_litert")
    report = check("litert.builtin", "tflite.reference", ops=["quantize_affine.float32.uint8"],
                   sweep=True)
    moved = [r for r in report.results if r.outcome is Outcome.PLACEMENT]
    assert any("Tie" in r.case.flags for r in moved)


@pytest.mark.peer
@pytest.mark.parametrize("file", ["quantize_affine.float32.int4", "quantize_affine.float32.uint4"])
def test_onnxruntime_saturates_the_last_of_an_odd_number_to_the_wrong_end(file):
    """Four bits: infinity in the last element of an odd length becomes the lowest code."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    report = check("onnxruntime", "onnx", ops=[file], sweep=True)
    moved = [r for r in report.results if r.outcome is Outcome.PLACEMENT]
    assert moved
    assert all({"Infinite", "HugeInput"} & set(r.case.flags) for r in moved if r.case.flags != (
        "NaN",) and "NaN" not in r.case.flags)
