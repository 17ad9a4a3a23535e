"""A narrow terminal folds the words of the table and keeps its figures whole."""

import io

import pytest
from rich.console import Console

from refquant.tour.guide import Measured, _piped_width
from refquant.tour.subject import Row
from refquant.tour.table import cells, print_table


def test_at_80_columns_every_figure_is_whole():
    row = Row("stochastic, 8 random bits", bits=4.001, mse=0.0741, sqnr=11.3, expected=11.18,
              source="arXiv:2504.20634", outliers=-22.26, accuracy=0.9897, seconds=0.012)
    out = io.StringIO()
    print_table(Console(width=80, file=out), [Measured("Rounding", "", [row])], 0.99)
    assert max(map(len, out.getvalue().splitlines())) <= 80
    assert "…" not in out.getvalue()
    for figure in [*cells(row)[1:5], *cells(row)[6:]]:
        assert figure in out.getvalue()


@pytest.mark.parametrize(("columns", "width"),
                         [("120", 120), ("", 100), ("0", 100), ("²", 100), ("-3", 100)])
def test_the_width_of_a_pipe_is_100_unless_columns_says_a_number(monkeypatch, columns, width):
    monkeypatch.setenv("COLUMNS", columns)
    assert _piped_width() == width
