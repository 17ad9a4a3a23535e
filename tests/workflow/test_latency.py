"""The command `refquant latency`: its table, its file, and wrong arguments."""

import pytest

from refquant.cli import run
from refquant.mixed_precision.latency_table import Shape, from_json


def test_the_table_of_the_shipped_network_is_printed_and_saved(tmp_path, capsys):
    out = tmp_path / "table.json"
    assert run(["latency", "--seconds", "0", "--output", str(out)]) == 0
    printed = capsys.readouterr().out
    assert all(layer in printed for layer in ("stem", "dw2", "fc", "W4A32", "n/a"))
    assert "one after the other" in printed
    table = from_json(out.read_text())
    assert (Shape(64, 144, 16), 8, 8) in table.seconds
    assert [p.name for p in tmp_path.iterdir()] == ["table.json"]


def test_shapes_of_ones_own_are_measured(capsys):
    assert run(["latency", "--seconds", "0", "--shape", "2x16x8", "--shape", "1x4x4"]) == 0
    printed = capsys.readouterr().out
    assert "2x16x8" in printed
    assert "1, 4, 4" in printed


@pytest.mark.parametrize(("arguments", "message"), [
    (["--shape", "1x0x3"], "`--shape` must be ROWSxINPUTSxOUTPUTS, as 1x4096x4096; got 1x0x3"),
    (["--shape", "1x2"], "must be ROWSxINPUTSxOUTPUTS"),
    (["--shape", "1x1000000x1000000"], "must have matrices of at most 2**28 numbers"),
    (["--seconds", "-1"], "`--seconds` must lie in [0, 60]; got -1.0"),
    (["--seconds", "nan"], "`--seconds` must lie in [0, 60]; got nan"),
    (["--output", "/nowhere/x.json"], "`--output` must lie in an existing folder"),
])
def test_wrong_arguments_get_one_line_and_status_2(arguments, message, capsys):
    assert run(["latency", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not captured.out
