"""The corpus made anew: the same bytes, all or nothing."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from refquant.oracle import generate, vectors
from refquant.oracle.generate import build, export


def tree(folder) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*")
            if p.is_file()}


@pytest.mark.slow
class TestBuild:
    def test_what_ships_is_what_the_definitions_give_twice(self, tmp_path):
        assert build(check=True) == []
        build(tmp_path)
        shipped = tree(vectors.DATA)
        assert {p: c for p, c in tree(tmp_path).items() if p != "MANIFEST.json"} == {
            p: c for p, c in shipped.items()
            if p != "MANIFEST.json" and not p.startswith(("observed/", "baselines/"))}


class TestBuildOfSome:
    """The same, of a few files, so that it is quick."""

    @pytest.fixture(autouse=True)
    def few(self, monkeypatch):
        from refquant.oracle import _gradients, _stochastic

        monkeypatch.setattr(generate, "GROUPS", (_stochastic, _gradients))
        monkeypatch.setattr(generate._casts, "tables", lambda: iter([("some", b"1")]))

    def test_made_twice_the_bytes_are_the_same_and_those_that_ship(self):
        made = generate.corpus()
        assert made == generate.corpus()
        shipped = tree(vectors.DATA)
        assert all(shipped[path] == content for path, content in made.items() if "some" not in path)
        assert len(made) == 7

    def test_check_names_what_would_change_and_changes_nothing(self, tmp_path):
        first = build(tmp_path)
        assert "MANIFEST.json" in first
        assert build(tmp_path, check=True) == []
        path = tmp_path / "normative" / "fake_quantize.float32.tsv"
        path.write_text("x")
        (tmp_path / "normative" / "old.json").write_text("{}")
        assert build(tmp_path, check=True) == ["normative/fake_quantize.float32.tsv",
                                               "normative/old.json"]
        assert path.read_text() == "x"
        assert build(tmp_path) == ["normative/fake_quantize.float32.tsv", "normative/old.json"]
        assert build(tmp_path, check=True) == []

    def test_observed_files_stay(self, tmp_path):
        (tmp_path / "observed").mkdir()
        (tmp_path / "observed" / "a.json").write_text("{}")
        build(tmp_path)
        assert (tmp_path / "observed" / "a.json").read_text() == "{}"


class TestExport:
    def test_two_exports_are_the_same_bytes_and_those_of_the_package(self, tmp_path):
        one, two = tmp_path / "one", tmp_path / "two"
        listed = export(one)
        assert export(two) == listed == sorted(listed)
        assert tree(one) == tree(two) == tree(vectors.DATA)

    def test_the_corpus_stays_below_5_megabytes(self):
        assert sum(map(len, tree(vectors.DATA).values())) < 5_000_000

    def test_a_clone_with_other_line_ends_holds_the_same_bytes(self, tmp_path):
        """As on Windows: git turns line ends around in every text file but these."""
        root = Path(__file__).parents[2]
        if shutil.which("git") is None or not (root / ".git").exists():
            pytest.skip("no git, or not a checkout")
        subprocess.run(["git", "clone", "--quiet", "--depth=1", "-c", "core.autocrlf=true",
                        f"file://{root}", str(tmp_path / "clone")], check=True)
        assert b"\r\n" in (tmp_path / "clone" / "README.md").read_bytes()
        data = tmp_path / "clone" / "refquant" / "oracle" / "data"
        listing = (data / "MANIFEST.json").read_bytes()
        assert b"\r" not in listing
        for path, facts in json.loads(listing)["files"].items():
            content = (data / path).read_bytes()
            assert (len(content), hashlib.sha256(content).hexdigest()) == (
                facts["bytes"], facts["sha256"]), path

    def test_an_earlier_export_is_replaced_and_nothing_else(self, tmp_path):
        target = tmp_path / "out"
        export(target)
        (target / "normative" / "stale.json").write_text("{}")
        export(target)
        assert not (target / "normative" / "stale.json").exists()
        assert [p.name for p in tmp_path.iterdir()] == ["out"]
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.txt").write_text("x")
        with pytest.raises(ValueError, match="`directory` must be new, empty or an earlier"):
            export(tmp_path / "mine")
        (tmp_path / "file").write_text("x")
        with pytest.raises(ValueError, match="`directory` must be new"):
            export(tmp_path / "file")
        assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"

    def test_damage_in_the_package_leaves_the_target_alone(self, tmp_path, monkeypatch):
        data, target = tmp_path / "data", tmp_path / "out"
        export(data)
        export(target)
        before = tree(target)
        monkeypatch.setattr(vectors, "DATA", data)
        (data / "schema.json").write_text("{}")
        with pytest.raises(ValueError, match=r"schema\.json is damaged"):
            export(target)
        assert tree(target) == before
        assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "out"]
