"""Adapters: ours is right under every dialect; those of others are right, or say what they lack."""

import json

import numpy as np
import pytest

from refquant.oracle._baselines import FOLDER, shipped
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


@pytest.mark.parametrize("dialect", sorted({d for name in names() for d in load(name).dialects}))
def test_refquant_is_right_under_each_dialect_of_the_corpus_outside_quantize_affine(dialect):
    """Of that, the test above asks three files."""
    files = [n for n in names() if dialect in load(n).dialects and not n.startswith("quantize_aff")]
    if files:
        assert check(Refquant(dialect), dialect, ops=files).failures() == []


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
    ("onnxruntime", "onnxruntime", ["qlinear_matmul", "qlinear_conv", "matmul_integer",
                                    "conv_integer", "dynamic_quantize", "requantize_affine"],
     {"PairOverflow"}),
    ("ai_edge_litert", "litert.reference", [INT8], {"HugeInput", "Infinite"}),
    ("ai_edge_litert", "litert.xnnpack", [INT8],
     {"SubnormalScale"}),
]


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("library", "impl", "files", "flags"), PEERS,
                         ids=[f"{p[1]}-{p[2][0]}" for p in PEERS])
def test_peers_differ_only_where_they_are_known_to(library, impl, files, flags):
    """onnx and LiteRT reference convert to int32 before clipping; XNNPACK crashes where the
    scale is subnormal; onnxruntime adds pairs in int16 on some processors."""
    pytest.importorskip(library)
    for file in files:
        [report] = matrix([impl], ops=[file])
        assert not isinstance(report, str)
        assert report.counts()["match"] > (
            8 if "granular" in file or library == "onnxruntime" else 200)
        odd = [r.case.id for r in report.failures() if not set(r.case.flags) & flags]
        assert odd == []


@pytest.mark.peer
def test_litert_builtin_depends_on_the_place():
    pytest.importorskip("ai_edge_litert")
    report = check("litert.builtin", "tflite.reference", ops=["quantize_affine.float32.uint8"],
                   sweep=True)
    moved = [r for r in report.results if r.outcome is Outcome.PLACEMENT]
    assert any("Tie" in r.case.flags for r in moved)


#: Asked everything; LiteRT makes a model for each question, and is asked less.
QUICK = ("onnxruntime", "onnx.reference", "onnxruntime.tool", "torch.fbgemm", "torch.decomposed",
         "torchao.formats", "torchao.floor", "torchao.rceil", "torchao.ceil", "torchao.even",
         "torch.cast", "gfloat.mx", "gguf", "ml_dtypes")  # fmt: skip


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("impl", sorted(p.name.rsplit(".json")[0] for p in FOLDER.glob("*.json")))
def test_what_installed_libraries_miss_is_on_the_list_that_ships(impl):
    """Without the sweep; of the version on the list, or one whose differences are fewer."""
    impl = next(name for name in sorted(ADAPTERS, key=len, reverse=True)
                if impl.startswith(f"{name}."))
    [report] = matrix([impl], ops=[] if impl in QUICK else ["quantize_affine.float32.int8"])
    if isinstance(report, str):
        pytest.skip(report)
    known = json.loads(shipped(impl, HOME_DIALECT[impl]).read_text("ascii"))
    new = [(r.case.id, r.case.file, r.detail) for r in report.new(known)]
    older = impl == "onnxruntime" and report.version.startswith("1.31.")
    assert older or new == []
    assert report.counts()["match"] > 0
