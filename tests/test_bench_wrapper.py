"""`refquant bench`: distinct exit status, and the scripts behind it."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from refquant import _bench
from refquant.cli import run

SUITE = Path(__file__).resolve().parent.parent / "asv_benchmarks"


def script(name):
    spec = importlib.util.spec_from_file_location(f"asv_{name}", SUITE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


bench, offline, summary = script("bench"), script("offline"), script("summary")


@pytest.mark.parametrize(
    ("status", "out", "expected"),
    [
        (0, "· Running 6 total benchmarks (1 commits)\n[50%] ··· a.B.time_c  ok\n", 0),
        (1, "· Running 6 total benchmarks\nPERFORMANCE DECREASED.\n", 1),
        (2, "· Running 6 total benchmarks\n", 2),
        (0, "· Running 6 total benchmarks\n[50%] ··· a.B.time_c   failed\n", 2),
        (0, "· Running 6 total benchmarks\n[50%] ··· a.B.time_c   2/6 failed\n", 2),
        (1, "No module named numpy\n", 3),
        (0, "· No benchmarks selected\n", 3),
        (0, "· Running 0 total benchmarks\n", 3),
        (0, "", 3),
    ],
)
def test_the_verdict_tells_apart_what_asv_does_not(status, out, expected, capsys):
    assert bench.verdict(status, out) == expected
    err = capsys.readouterr().err
    assert ("nothing was measured" in err) == (expected == 3)
    assert ("failed: " in err) == (expected == 2)


def test_a_broken_benchmark_is_named(capsys):
    bench.verdict(0, "Running 2 total benchmarks\n[50%] ··· a.B.time_c   1/2 failed\n")
    assert capsys.readouterr().err == "failed: a.B.time_c\n"


def test_without_asv_it_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert bench.main(["quick"]) == 3
    assert 'pip install -e ".[bench]"' in capsys.readouterr().err


def test_outside_a_checkout_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(_bench, "__file__", str(tmp_path / "refquant" / "_bench.py"))
    assert run(["bench", "--quick"]) == 3
    err = capsys.readouterr().err
    assert "run them from a checkout" in err
    assert err.count("\n") == 1


def test_the_wrapper_hands_everything_on(monkeypatch):
    commands = []

    class Process:
        def __init__(self, command):
            commands.append(command)

        def wait(self):
            return 2

    monkeypatch.setattr(subprocess, "Popen", Process)
    assert run(["bench", "compare", "v1", "-b", "track_", "-f", "1.5"]) == 2
    assert commands[0][0] == sys.executable
    assert commands[0][2:] == ["compare", "v1", "--factor", "1.5", "--bench", "track_"]


def test_an_interrupted_benchmark_waits_for_the_child(monkeypatch):
    class Process:
        waits = 0

        def __init__(self, command): ...

        def wait(self):
            Process.waits += 1
            if Process.waits == 1:
                raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", Process)
    assert run(["bench"]) == 130
    assert Process.waits == 2


@pytest.mark.parametrize("ref", ["HEAD", "no-such-commit"])
def test_nothing_to_compare_is_nothing_measured(ref, capsys):
    assert bench.compare(ref, "1.25", []) == 3
    assert "nothing was measured: " in capsys.readouterr().err


def test_publishing_before_measuring_is_nothing_measured(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench, "HERE", tmp_path)
    assert bench.publish() == 3
    assert "refquant bench full" in capsys.readouterr().err


def test_every_file_of_the_dashboard_is_here_with_its_licence():
    licences = (SUITE / "vendor" / "LICENSES").read_text()
    names = set(offline.FILES.values())
    assert len(offline.FILES) == len(names) == 10
    for name in names:
        assert (SUITE / "vendor" / name).stat().st_size > 1000
        assert name in licences
    total = sum(file.stat().st_size for file in (SUITE / "vendor").iterdir())
    assert total < 400_000


def test_the_page_of_asv_needs_nothing_remote_afterwards(tmp_path):
    asv = importlib.util.find_spec("asv")
    if asv is None:
        pytest.skip("asv is not installed")
    index = Path(asv.origin).parent / "www" / "index.html"
    page, needed = offline.localize(index.read_text())
    assert sorted(needed) == sorted(offline.FILES.values())
    assert not re.search(r"<(script|link)[^>]*//", page)
    assert "integrity" not in page


def test_a_file_it_does_not_know_stops_the_publishing(tmp_path):
    (tmp_path / "index.html").write_text('<script src="https://example.org/new.js"></script>')
    done = subprocess.run(
        [sys.executable, str(SUITE / "offline.py"), str(tmp_path)],
        capture_output=True, text=True, check=False,
    )
    assert done.returncode == 2
    assert "must load only files of vendor/; got https://example.org/new.js" in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["index.html"]


def store(folder, commit, date, value):
    """One result file as asv writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = ["result", "params", "version"]
    results = {
        "a.B.track_c": [[value, None], [["'x'", "'y'"]], "v"],
        "a.B.time_c": [[0.002], [], "v"],
    }
    record = {"commit_hash": commit * 40, "date": date, "result_columns": columns,
              "results": results}
    (folder / f"{commit * 8}-env.json").write_text(json.dumps(record))


def test_the_summary_shows_values_jumps_and_what_became_worse(tmp_path):
    results = tmp_path / "results"
    store(results / "machine", "a", 1, 0.5)
    store(results / "machine", "b", 2, 1.0)
    units = {"a.B.track_c": {"unit": "error rate"}, "a.B.time_c": {"unit": "seconds"}}
    (results / "benchmarks.json").write_text(json.dumps(units))
    out = tmp_path / "out"
    command = [sys.executable, str(SUITE / "summary.py"), str(results), "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "2 series, 1 worse" in done.stdout
    text = (out / "summary.md").read_text()
    row = "| `a.B.track_c` | x | 1 (0.0% right) | 0.5 (50.0% right) | **×2** | bbbbbbbb ×2 |"
    assert row in text
    assert "2 ms" in text
    html = (out / "index.html").read_text()
    assert "<polyline" in html
    assert not re.search(r'(src|href)="', html)
    assert "1 worse" in (out / "badge.svg").read_text()


def test_a_summary_of_nothing_is_one_line(tmp_path):
    command = [sys.executable, str(SUITE / "summary.py"), str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr.startswith("`results` must hold results of asv; got ")


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0123, "seconds", "12.3 ms"),
        (2.5e-9, "seconds", "2.5 ns"),
        (3 * 2**20, "bytes", "3.0 MiB"),
        (0.02, "error rate", "0.02 (98.0% right)"),
        (0.01, "noise/signal", "0.01 (20.00 dB)"),
        (4.125, "bits/weight", "4.125 bits/weight"),
    ],
)
def test_numbers_are_told_as_a_reader_wants_them(value, unit, text):
    assert summary.human(value, unit) == text
