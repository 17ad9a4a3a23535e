"""Lists of known differences: every entry is a case of the corpus, with a reason."""

import json

import pytest

from refquant.oracle import _baselines, vectors
from refquant.oracle._baselines import FOLDER, IMPLS, explained, main, shipped
from refquant.oracle.adapters import ADAPTERS, Missing, Refquant
from refquant.oracle.conformance import HOME_DIALECT, check
from refquant.oracle.vectors import load, names

SHIPPED = {impl: json.loads(shipped(impl, HOME_DIALECT[impl]).read_text("ascii")) for impl in IMPLS}
BY_ID = {case.id: case for name in names() for case in load(name)}


@pytest.mark.parametrize("impl", IMPLS)
def test_every_entry_is_a_case_with_a_reason_and_a_version(impl):
    dialect = HOME_DIALECT[impl]
    for identity, reason in SHIPPED[impl].items():
        assert dialect in BY_ID[identity].dialects
        assert reason.startswith(f"{impl} ")
        assert len(reason.split(": ", 1)[1]) > 10


def test_there_is_a_list_for_each_adapter_named_and_no_other():
    assert set(IMPLS) <= set(ADAPTERS)
    assert {p.name for p in FOLDER.iterdir()} == {
        f"{impl}.{HOME_DIALECT[impl]}.json" for impl in IMPLS}


def test_what_must_not_differ_does_not():
    """onnxruntime in casts alone, torch nowhere, XNNPACK where the scale is subnormal."""
    assert {BY_ID[i].file for i in SHIPPED["onnxruntime"]} == {
        "cast.float32.float8_e4m3fn", "cast.float32.float8_e5m2"}
    torch = {"torch.fbgemm", "torch.fake_quantize", "torch.decomposed", "torch.cast", "torchao"}
    assert all(SHIPPED[impl] == {} for impl in torch)
    assert all("SubnormalScale" in BY_ID[i].flags for i in SHIPPED["litert.xnnpack"])


def test_a_list_that_does_not_ship_is_one_line():
    wanted = r"`baseline` must be a file where none ships for mine under onnx; there are .*time"
    with pytest.raises(ValueError, match=wanted):
        shipped("mine", "onnx")


def test_what_has_a_reason_is_listed_and_what_has_none_is_named(monkeypatch):
    ties = _baselines._of("quantize_affine", "Tie")
    monkeypatch.setitem(_baselines.REASONS, "mine", ((ties, "ties go away from zero"),))
    report = check(Refquant("tflite.reference"), "onnx", ops=["quantize_affine.float32.int2"])
    known, unknown = explained(report, "mine")
    assert known
    assert all("Tie" in BY_ID[i].flags and "ties go away" in text for i, text in known.items())
    assert {r.case.id for r in unknown} == {r.case.id for r in report.failures()} - set(known)
    assert explained(report, "somebody")[0] == {}


def test_lists_are_written_for_what_is_installed(tmp_path, monkeypatch, capsys):
    def examine(impl, dialect, *, sweep):
        if impl == "gguf":
            raise Missing("gguf needs a library")
        return check(Refquant("tflite.reference"), "onnx", ops=["quantize_affine.float32.int2"])

    monkeypatch.setattr(_baselines, "check", examine)
    main(["gguf", "onnxruntime"], tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["onnxruntime.onnx.json"]
    out, err = capsys.readouterr()
    assert "gguf needs a library" in err
    assert "0 explained" in out
    assert "NearTie" in out


def test_a_list_that_was_changed_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(vectors, "DATA", tmp_path)
    monkeypatch.setattr(_baselines, "FOLDER", tmp_path / "baselines")
    (tmp_path / "baselines").mkdir()
    (tmp_path / "baselines" / "onnxruntime.onnx.json").write_text("{}")
    monkeypatch.setattr(vectors, "manifest", lambda: {"files": {
        "baselines/onnxruntime.onnx.json": {"sha256": "0" * 64}}})
    with pytest.raises(ValueError, match="is damaged"):
        shipped("onnxruntime", "onnx")
