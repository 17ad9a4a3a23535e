"""Observed answers: stamped, apart from the normative ones, and only what differs."""

import numpy as np
import pytest

from refquant.oracle import _observe, vectors
from refquant.oracle._document import as_json
from refquant.oracle._observe import cpu, home, main, observe
from refquant.oracle.adapters import Refquant, Reject
from refquant.oracle.vectors import load, names, read

NAME = "quantize_affine.float32.int2"


class Clumsy(Refquant):
    """Right but for NaN, which it takes for the largest code; refuses infinities."""

    def run(self, op, types, params, inputs):
        x = vectors.values(inputs["x"], "float32")
        if np.isinf(x).any():
            raise Reject("no infinities")
        answer = super().run(op, types, params, inputs)
        return {"q": np.where(np.isnan(x), 1, answer["q"]).astype("u1")}


def test_a_record_holds_what_differs_or_is_open_and_says_who_and_where():
    found = observe(Clumsy("onnx"), load(NAME))
    file = vectors.from_document(found)
    assert file.kind == "observed"
    assert {case.flags for case in file} == {("NaN",), ("NaN", "NaNPayload")}
    assert {int(case.base["q"]) for case in file} == {1}
    assert found["observation"]["version"] == Clumsy("onnx").version
    assert found["observation"]["cpu"] == cpu()
    asked = {case.id: case for case in load(NAME)}
    assert all(case.id in asked for case in file)


def test_another_dialect_differs_where_the_normative_file_says_so(monkeypatch):
    monkeypatch.setitem(_observe.HOME_DIALECT, "refquant.torch.fbgemm", "onnx")
    found = vectors.from_document(observe(Refquant("torch.fbgemm"), load(NAME)))
    expected = {case.id for case in load(NAME)
                if case.differs.get("torch.fbgemm") is not None}
    assert expected <= {case.id for case in found}


def test_who_speaks_its_dialect_differs_in_what_that_leaves_open():
    found = vectors.from_document(observe(Refquant("torch.fbgemm"), load(NAME)))
    asked = {case.id: case for case in load(NAME)}
    assert all(asked[case.id].status == "unspecified"
               or asked[case.id].answer("torch.fbgemm") is None for case in found)


def test_a_stranger_is_expected_to_speak_the_base_dialect():
    assert home("litert.xnnpack", load(NAME)) == "xnnpack"
    assert home("somebody", load(NAME)) == "onnx"
    assert home("gguf", load(NAME)) == "onnx"


def test_an_adapter_that_supports_nothing_leaves_no_record():
    class Nothing(Refquant):
        def supports(self, op, types, params):
            return "nothing"

    assert observe(Nothing("onnx"), load(NAME)) is None


def test_files_are_written_for_what_is_installed(tmp_path, monkeypatch, capsys):
    from refquant.oracle.adapters import Missing

    def loaded(name):
        if name == "absent":
            raise Missing("absent needs a library")
        return Clumsy("onnx")

    monkeypatch.setattr(_observe, "load_adapter", loaded)
    monkeypatch.setattr(_observe, "names", lambda: [NAME, "pack.int8"])
    main(["absent", "clumsy"], tmp_path)
    assert "absent needs a library" in capsys.readouterr().out
    [path] = tmp_path.iterdir()
    assert read(path).kind == "observed"
    assert path.read_bytes() == as_json(read(path).document)


@pytest.mark.parametrize("name", names(observed=True))
def test_what_ships_is_stamped_and_asks_only_known_questions(name):
    file = load(name)
    assert file.kind == "observed"
    assert set(file.document["observation"]) == {"package", "version", "cpu", "platform"}
    base = load(name.removesuffix("." + file.base_dialect))
    known = {case.id: case for case in base}
    dialect = home(file.base_dialect, base)
    for case in file:
        asked = known[case.id]
        normative = asked.answer(dialect) if asked.status == "defined" else None
        assert normative is None or any(
            not np.array_equal(case.base[key], normative[key]) for key in normative)


def test_rows_of_the_disagreement_table_are_on_record():
    """C2, C4, C13, C15, C16 (casts) and Q5, Q6, Q8 (quantize), as measured here."""
    def of(name):
        return {int(case.inputs["x"]): int(next(iter(case.base.values()))) for case in load(name)}

    assert of("cast.float32.float8_e4m3fn.onnxruntime")[0x43F00000] == 0x7E         # C2: 480
    assert of("cast.float32.float8_e5m2.onnxruntime")[0x47700000] == 0x7F           # C4: a NaN
    reference = of("cast.float32.float8_e8m0fnu.onnx.reference")
    assert reference[0x7F800000] == 0xFF                                            # C13
    assert reference[0x005FFFFF] == 0x01                                            # C15
    assert reference[0x00400000] == 0x01                                            # C16
    assert of("quantize_affine.float32.int8.onnx.reference")[0x4F32D05E] == 0x80    # Q5
    assert of("quantize_affine.float32.int8.onnx.reference")[0x7F800000] in (0x80, 0x7F)   # Q6
    assert of("quantize_affine.float32.int4.onnx.reference")[0x7F800000] == 0xF8    # Q8
