"""The corpus as others read it: bits, ids, checksums, and what a damaged file says."""

import copy
import json
import random
from importlib import resources

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.oracle import _document, vectors
from refquant.oracle._schema import KNOWN, first_error
from refquant.oracle.vectors import (
    DTYPES,
    bits,
    cases,
    load,
    load_table,
    names,
    read,
    table_names,
    values,
)

NAME = "quantize_affine.float32.int8"
every_file = pytest.mark.parametrize("name", names())


def document(name: str = NAME) -> dict:
    return copy.deepcopy(dict(load(name).document))


def resealed(changed: dict) -> dict:
    return {**changed, "sha256": vectors.checksum(changed)}


def written(path, changed: dict):
    path.write_text(json.dumps(changed))
    return path


class TestFiles:
    @every_file
    def test_every_file_loads_and_every_answer_has_the_type_of_its_output(self, name):
        file = load(name)
        assert len(file) > 0
        for case in file:
            assert set(case.inputs) == set(file.inputs)
            assert set(case.flags) <= set(file.notes)
            for dialect in case.dialects:
                answer = case.answer(dialect)
                assert answer is None or set(answer) == set(file.outputs)
            for key, pattern in (case.base or {}).items():
                assert pattern.dtype.kind == "u"
                assert pattern.itemsize == DTYPES[file.outputs[key]]

    def test_ids_are_unique_in_the_whole_corpus(self):
        ids = [case.id for case in cases()]
        assert len(ids) == len(set(ids)) > 5000

    @every_file
    def test_each_dialect_is_described_on_axes_and_each_flag_by_a_note(self, name):
        file = load(name)
        for about in file.dialects.values():
            assert about["formula"]
            assert about["axes"]
        assert {flag for case in file for flag in case.flags} == set(file.notes)

    @every_file
    def test_the_twin_in_tabs_says_the_same(self, name):
        file = load(name)
        path = vectors.DATA / "normative" / f"{name}.tsv"
        rows = [r.split("\t") for r in path.read_text().splitlines() if not r.startswith("#")]
        assert [row[0] for row in rows] == [case.id for case in file]
        assert path.read_bytes() == _document.as_tsv(file.document)

    def test_the_shipped_corpus_stays_below_five_megabytes(self):
        whole = sum(p.stat().st_size for p in vectors.DATA.rglob("*") if p.is_file())
        assert whole < 5_000_000
        listed = vectors.manifest()["files"]
        found = {p.relative_to(vectors.DATA).as_posix() for p in vectors.DATA.rglob("*")
                 if p.is_file()}
        assert found == {*listed, "MANIFEST.json"}

    def test_the_data_are_part_of_the_package(self):
        assert resources.files("refquant.oracle").joinpath("data/schema.json").is_file()

    @every_file
    def test_no_decimal_fraction_is_in_any_question_or_answer(self, name):
        def leaves(value):
            if isinstance(value, dict):
                for part in value.values():
                    yield from leaves(part)
            elif isinstance(value, list):
                for part in value:
                    yield from leaves(part)
            else:
                yield value

        assert not any(isinstance(v, float) for v in leaves(load(name).document["groups"]))


class TestIds:
    def test_order_and_new_cases_change_no_id(self):
        file = document()
        before = {case["id"] for group in file["groups"] for case in group["cases"]}
        random.Random(0).shuffle(file["groups"])
        for group in file["groups"]:
            random.Random(1).shuffle(group["cases"])
        again = vectors.from_document(resealed(file))
        assert {case.id for case in again} == before

    def test_an_id_is_the_hash_of_operation_types_parameters_and_input(self):
        file = document()
        group = file["groups"][0]
        assert group["cases"][0]["id"] == vectors.case_id(
            file["op"], group["params"], group["cases"][0]["in"])

    def test_a_changed_question_is_found_by_its_id(self):
        file = document()
        file["groups"][0]["cases"][0]["in"]["x"] = "40400001"
        with pytest.raises(ValueError, match="is not the hash of its question"):
            vectors.from_document(resealed(file))


class TestGolden:
    """Answers of the design's own example, by the input's bits: spec/oracle.md, 3.3."""

    @pytest.mark.parametrize(
        ("scale", "zero_point", "x", "answers"),
        [
            ("3f800000", 0, "40200000", {"onnx": 0x02, "tflite.reference": 0x03}),
            ("3f800000", 1, "3f000000", {"onnx": 1, "torch.fbgemm": 2, "brevitas": 2}),
            ("3f800000", 1, "3fc00000", {"onnx": 3, "torch.fbgemm": 2, "tflite.reference": 3}),
            ("3f800000", 0, "4f32d05e", {"onnx": 0x7F, "exact": 0x7F}),
            ("3f800000", 0, "ff800000", {"onnx": 0x80}),
            ("3f800000", -128, "437f8000", {"onnx": 0x7F}),
            ("00000001", 0, "00000003", {"onnx": 3, "torch.fbgemm": 0x7F, "xnnpack": None}),
            ("00000001", 0, "00000000", {"onnx": 0, "torch.decomposed": None}),
        ],
    )
    def test_example(self, scale, zero_point, x, answers):
        found = [
            case for group in load(NAME).groups for case in group.cases
            if int(group.params["scale"]) == int(scale, 16)
            and group.params["zero_point"] == zero_point and int(case.inputs["x"]) == int(x, 16)]
        assert len(found) == 1
        for dialect, code in answers.items():
            answer = found[0].answer(dialect)
            assert (answer if code is None else int(answer["q"])) == code

    @pytest.mark.parametrize(
        ("table", "x", "code"),
        [
            ("float8_e4m3fn.saturate", 464.00003, 0x7E), ("float8_e4m3fn.ieee", 464.00003, 0x7F),
            ("float8_e4m3fn.ieee", 464.0, 0x7E), ("float8_e5m2.ieee", np.inf, 0x7C),
            ("float8_e5m2.saturate", np.inf, 0x7B), ("float8_e4m3fnuz.ieee", 1e9, 0x80),
            ("float4_e2m1fn.saturate", 7.0, 7), ("float8_e8m0fnu.saturate", 3.0, 0x80),
            ("float8_e8m0fnu.saturate.half_up", 3.0, 0x81),
            ("float8_e8m0fnu.saturate", np.uint32(0x00500000).view(np.float32), 0x00),
            ("float8_e8m0fnu.saturate.up", np.uint32(0x00400000).view(np.float32), 0x00),
            ("float8_e8m0fnu.saturate.up", np.inf, 0xFE),
        ],
    )
    def test_rows_c1_to_c16_of_the_conversion_tables(self, table, x, code):
        u = int(np.float32(x).view(np.uint32))
        assert load_table(table)[2 * (u >> 16) + ((u & 0xFFFF) != 0)] == code


class TestSelecting:
    def test_conditions_narrow_the_cases(self):
        ties = cases("quantize_affine", dialect="torch.fbgemm", flag="TieOddZp")
        assert 0 < len(ties) < len(cases("quantize_affine"))
        assert all("TieOddZp" in case.flags for case in ties)
        assert {case.status for case in cases(NAME, status="reject")} == {"reject"}
        assert cases(NAME, flag="no such flag") == []

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: load("no.such"), "`name` must be a vector file"),
            (lambda: load("../schema"), "`name` must be a vector file"),
            (lambda: load_table("e9m9"), "`name` must be a table"),
            (lambda: cases("no_such"), "`op` must be an operation or file"),
            (lambda: cases(dialect="fortran"), "`dialect` must be covered"),
            (lambda: load(NAME).groups[0].cases[0].answer("fortran"), "`dialect` must be one of"),
            (lambda: values(np.uint8(0), "float7"), "`dtype` must be one of"),
        ],
    )
    def test_what_does_not_exist_is_one_line(self, call, message):
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)

    def test_tables_are_there_for_every_short_format(self):
        assert len(table_names()) == 14
        assert all(load_table(name).shape == (2**17,) for name in table_names())


class TestDamage:
    def test_a_changed_answer_is_found_by_the_checksum(self, tmp_path):
        file = document()
        file["groups"][0]["cases"][0]["out"]["q"] = "04"
        with pytest.raises(ValueError, match="is damaged: its checksum"):
            read(written(tmp_path / "a.json", file))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda d: d.pop("groups"), "lacks 'groups'"),
            (lambda d: d.update(surplus=1), "unknown field 'surplus'"),
            (lambda d: d.update(format="other"), "must be 'refquant-vectors'"),
            (lambda d: d.update(groups={}), "must be of type array"),
            (lambda d: d["groups"][0]["cases"][0].update(id="xyz"), "must match"),
            (lambda d: d["groups"][0]["cases"][0].update(flags=[]), "wrong number of items"),
            (lambda d: d["groups"][0]["cases"][0].update(status="acceptable"), "must be one of"),
            (lambda d: d.update(numberOfCases=-1), "must be at least 0"),
            (lambda d: d.update(numberOfCases=True), "must be of type integer"),
        ],
    )
    def test_what_breaks_the_schema_says_where(self, tmp_path, change, message):
        file = document()
        change(file)
        with pytest.raises(ValueError, match=message) as caught:
            read(written(tmp_path / "a.json", file))
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda d: d.update(numberOfCases=1), "`numberOfCases`"),
            (lambda d: d.update(baseDialect="x"), "`baseDialect`"),
            (lambda d: d["groups"][0]["cases"][0].update(flags=["Odd"]), "names 'Odd'"),
            (lambda d: d["groups"][0]["cases"][0].pop("out"), "must have an answer"),
            (lambda d: d["groups"][0]["cases"][0].update(status="reject"), "must not have"),
            (lambda d: d["groups"][0]["cases"][0]["out"].update(q="123"), "must have 2 digits"),
            (lambda d: d["groups"][0]["cases"][0].update(out={"y": "00"}), "a case must have"),
        ],
    )
    def test_what_the_schema_cannot_see(self, tmp_path, change, message):
        file = document()
        change(file)
        with pytest.raises(ValueError, match=message) as caught:
            read(written(tmp_path / "a.json", resealed(file)))
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1]", b"3"])
    def test_what_is_no_vector_file_is_one_line(self, tmp_path, content):
        (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.json") as caught:
            read(tmp_path / "a.json")
        assert "\n" not in str(caught.value)

    def test_a_missing_file(self, tmp_path):
        with pytest.raises(ValueError, match="does not exist"):
            read(tmp_path / "none.json")

    def test_a_file_that_the_manifest_does_not_know(self, tmp_path, monkeypatch):
        folder = tmp_path / "normative"
        folder.mkdir()
        (folder / "a.json").write_text("{}")
        monkeypatch.setattr(vectors, "DATA", tmp_path)
        with pytest.raises(ValueError, match="is not in the manifest"):
            load.__wrapped__("a")


class TestSchema:
    def words(self, rule):
        if isinstance(rule, dict):
            for key, value in rule.items():
                if key in ("properties", "$defs"):
                    for part in value.values():
                        yield from self.words(part)
                else:
                    yield key
                    if key in ("items", "additionalProperties"):
                        yield from self.words(value)

    def test_the_own_checker_knows_every_word_that_the_schema_uses(self):
        assert set(self.words(vectors.schema())) <= KNOWN

    @every_file
    def test_files_keep_to_the_schema(self, name):
        assert first_error(load(name).document, vectors.schema()) is None

    @pytest.mark.peer
    def test_a_general_validator_agrees(self):
        jsonschema = pytest.importorskip("jsonschema")
        checker = jsonschema.Draft202012Validator(vectors.schema())
        jsonschema.Draft202012Validator.check_schema(vectors.schema())
        for name in names():
            checker.validate(load(name).document)
        broken = document()
        broken["groups"][0]["cases"][0]["surplus"] = 1
        assert not checker.is_valid(broken)
        assert first_error(broken, vectors.schema())


class TestBits:
    @given(u=st.integers(0, 2**32 - 1))
    def test_bits_invert_values(self, u):
        pattern = np.array(u, np.uint32)
        for dtype in ("float32", "int32", "uint32"):
            assert bits(values(pattern, dtype)) == pattern

    @pytest.mark.parametrize("dtype", list(DTYPES))
    @given(raw=st.lists(st.integers(0, 2**64 - 1), max_size=4))
    def test_arrays_survive_the_file(self, dtype, raw):
        width = DTYPES[dtype]
        pattern = np.array([u % 256**width for u in raw], f"u{width}")
        assert np.array_equal(vectors.decoded(vectors.encoded(pattern, dtype), dtype), pattern)
        for one in pattern:
            assert vectors.decoded(vectors.encoded(one, dtype), dtype) == one

    def test_bfloat16_is_the_top_of_a_float32(self):
        assert values(np.array(0x3FC0, np.uint16), "bfloat16") == 1.5

    def test_negative_whole_numbers_are_in_twos_complement(self):
        assert values(np.array(0xF8, np.uint8), "int4") == -8
        assert values(np.array([0xFFFE], np.uint16), "int16").tolist() == [-2]
