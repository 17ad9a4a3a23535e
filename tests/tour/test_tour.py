"""The tour: its claims hold, can fail, and the report is a file like any other output."""

import itertools
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from refquant.calibration.minmax import absmax
from refquant.calibration.mse import optimal_scale
from refquant.quantizers.uniform import Uniform, symmetric
from refquant.tour import blocks, whole
from refquant.tour.figures import FIGURES, draw
from refquant.tour.guide import GROUPS, Group, Measured, measure, take_tour
from refquant.tour.report import page, write_report
from refquant.tour.subject import Claim, Row, Subject, decibels
from refquant.tour.table import cells, print_table

ROWS = [(group, row) for group in GROUPS for row in group.rows]


@pytest.fixture(scope="session")
def subject():
    return Subject.make(quick=True)


@pytest.fixture(scope="session")
def measured(subject):
    return [Measured(g.title, g.intro, [row(subject) for row in g.rows]) for g in GROUPS]


def test_every_claim_of_every_row_holds(measured):
    rows = [row for group in measured for row in group.rows]
    assert [claim.sentence for row in rows for claim in row.claims if not claim.holds] == []
    assert all(row.claims or row.source for row in rows), "a row must claim or explain something"


def test_names_of_rows_are_short_and_differ(measured):
    for group in measured:
        names = [row.name for row in group.rows]
        assert len(names) == len(set(names))
        assert max(map(len, names)) <= 27


def test_bits_count_the_parameters(measured):
    bits = {row.name: row.bits for group in measured for row in group.rows}
    assert bits["symmetric, 4 bits"] == 4 + 32 / 256**2
    assert bits["asymmetric, 4 bits"] == 4 + (32 + 4) / 256**2
    assert bits["per channel"] == 4 + 32 / 256
    assert bits["blocks of 32"] == 5


def test_a_figure_that_theory_does_not_expect_fails():
    row = Row("doctored", sqnr=20.0)
    assert row.expect(20.05, "theory").claims[0].holds
    assert not row.expect(20.2, "theory").claims[0].holds
    assert not Row("no figure").expect(20.0, "theory").claims[0].holds


def test_rounding_down_is_found_out(subject):
    from refquant.rounding import floor
    from refquant.tour.rounding import rounded

    row = rounded(subject, "half even?", floor, noise=1 / 12, source="s²/12")
    assert [claim.holds for claim in row.claims] == [False, False]      # bias and noise


def test_a_scale_that_is_not_optimal_is_found_out(subject, monkeypatch):
    from refquant.tour import calibration

    def too_wide(x, qmin, qmax):
        best = optimal_scale(x, qmin, qmax)
        return Uniform(best.scale * 1.2, best.zero_point, qmin, qmax)

    assert all(claim.holds for claim in calibration.exact_row(subject).claims)
    monkeypatch.setattr(calibration, "optimal_scale", too_wide)
    assert not any(claim.holds for claim in calibration.exact_row(subject).claims)


def test_a_dialect_that_breaks_ties_otherwise_is_found_out(subject):
    from refquant.integer.dialects import LITERT_REFERENCE
    from refquant.tour.integer import dialect_row

    row = dialect_row(subject, name="onnxruntime?", dialect=LITERT_REFERENCE, differing=0)
    assert [claim.holds for claim in row.claims] == [True, True, False]


def test_views_keep_the_elements_and_blocks_divide_any_weight():
    for shape in [(16, 3, 3, 1), (16, 3, 3, 16), (10, 64), (64, 1, 1, 32)]:
        x = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
        for seen in (whole(x), blocks(x, size=32), blocks(x, size=128)):
            assert np.array_equal(seen.reshape(-1), x.reshape(-1))
            assert len(seen) == shape[0]
        assert blocks(x, size=32).shape[-1] <= max(32, 9)


def test_decibels_of_no_noise_are_infinite():
    assert decibels(1.0, 0.0) == math.inf
    assert decibels(1.0, 0.01) == pytest.approx(20)


def test_equal_weights_are_judged_once(subject):
    before = len(subject.judged)
    fit = lambda x: symmetric(absmax(x), bits=7)            # noqa: E731
    first, second = subject.weights("one", fit), subject.weights("two", fit)
    assert first.accuracy == second.accuracy
    assert len(subject.judged) == before + 1


def test_the_table_is_at_most_100_columns_wide_and_cuts_nothing(measured):
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_table(console, measured, 0.99)
    console.file.close()
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    for group in measured:
        assert group.title in text
        for row in group.rows:
            assert row.name in text


def test_a_cell_that_does_not_apply_is_a_dash():
    assert set(cells(Row("empty"))[1:]) == {"–", ""}
    assert cells(Row("timed", seconds=0.0123))[-1] == "12 ms"
    assert cells(Row("slow", seconds=2.5))[-1] == "2.5 s"
    assert len(cells(Row("untimed"), timed=False)) == len(cells(Row("timed"))) - 1


class Links(HTMLParser):
    """Every attribute that could make a browser ask for something, and the balance of tags."""

    void = ("meta", "br", "path", "rect", "use", "img", "link")

    def __init__(self):
        super().__init__()
        self.asked, self.ids, self.open = [], [], []

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "srcset", "data", "action"):
                self.asked.append(value)
            if name == "id":
                self.ids.append(value)
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.void:
            assert self.open.pop() == tag


def some_rows():
    good = Row("good", bits=4.0, sqnr=1.0).expect(1.0, "s²/12 <Bennett>")
    return [Measured("Group", "intro & more", [good])]


def test_the_report_is_complete_in_itself(measured, subject):
    pytest.importorskip("matplotlib")
    text = page(measured, draw(subject), 0.99, quick=True)
    links = Links()
    links.feed(text)
    assert links.open == []
    assert all(link.startswith("#") for link in links.asked)
    assert len(links.ids) == len(set(links.ids)), "ids of several figures must differ"
    assert {link[1:] for link in links.asked} <= set(links.ids)
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert "<script" not in text
    assert text.count('role="img" aria-label="') == len(FIGURES)
    assert "prefers-color-scheme:dark" in text
    assert text.count("currentColor") > 10, "axes and texts of figures take the page's colour"
    assert "#808080" not in text


def test_the_report_is_the_same_bytes_every_time(subject, tmp_path):
    pytest.importorskip("matplotlib")
    paths = [tmp_path / "a.html", tmp_path / "b.html"]
    for path, seconds in zip(paths, (0.1, 7.0), strict=True):
        rows = [Measured(g.title, g.intro, [r._replace(seconds=seconds) for r in g.rows])
                for g in some_rows()]
        assert write_report(path, rows, subject, 0.99)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.html", "b.html"]


def test_without_matplotlib_the_report_says_so(subject, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    path = tmp_path / "report.html"
    assert not write_report(path, some_rows(), subject, 0.99)
    assert "pip install -e &quot;.[plot]&quot;" in path.read_text()
    assert "s²/12 &lt;Bennett&gt;" in path.read_text()
    assert "<Bennett>" not in path.read_text()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_write_leaves_no_file(subject, tmp_path, monkeypatch, error):
    from pathlib import Path

    def interrupted(self, target):
        raise error

    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(error):
        write_report(tmp_path / "report.html", some_rows(), subject, 0.99)
    assert list(tmp_path.iterdir()) == []


def one_group(claims):
    return [Group("Only", "", [lambda subject: Row("one", claims=tuple(claims))])]


@pytest.fixture
def short_tour(monkeypatch, subject):
    def arrange(*claims):
        monkeypatch.setattr("refquant.tour.guide.GROUPS", one_group(claims))
        monkeypatch.setattr(Subject, "make", classmethod(lambda cls, quick: subject))
        monkeypatch.setattr("refquant.tour.report.draw", lambda subject: [])

    return arrange


def test_the_tour_returns_0_if_all_claims_hold(short_tour, tmp_path, capsys):
    short_tour(Claim("two is even", True))
    assert take_tour(quick=True, output=tmp_path / "report.html") == 0
    out, err = capsys.readouterr()
    assert "All 1 claims hold." in out
    assert err.splitlines() == ["tour: Only, 1 rows"]


def test_the_tour_returns_1_and_prints_what_failed(short_tour, tmp_path, capsys):
    short_tour(Claim("two is even", True), Claim("two is odd [sic]", False))
    assert take_tour(quick=True, output=tmp_path / "report.html") == 1
    out = capsys.readouterr().out
    assert "FAILED  two is odd [sic]" in out
    assert "1 of 2 claims do not hold." in out
    assert "FAILED two is odd [sic]" in (tmp_path / "report.html").read_text()


def test_a_terminal_sees_a_bar(subject, monkeypatch, capsys):
    monkeypatch.setattr(Subject, "make", classmethod(lambda cls, quick: subject))
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    groups, _ = measure(one_group([]), quick=True)
    assert [row.name for group in groups for row in group.rows] == ["one"]
    assert "tour:" not in capsys.readouterr().err


def test_rows_are_functions_of_the_subject_alone():
    assert all(callable(row) for _, row in ROWS)
    assert len(ROWS) == len(list(itertools.chain.from_iterable(g.rows for g in GROUPS)))
