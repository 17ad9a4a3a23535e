"""Certify: every input of the range is compared, once, and stops can be resumed."""

import numpy as np
import pytest

from refquant.oracle.adapters import Refquant
from refquant.oracle.certify import BLOCK, certify
from refquant.oracle.vectors import load_table, table_names

E4M3 = "float8_e4m3fn.saturate"


@pytest.mark.parametrize("table", table_names())
def test_refquant_agrees_with_each_table_on_a_sample(table):
    found = certify(Refquant(), table, step=99_991)
    assert (found.mismatches, found.examples) == (0, ())
    assert found.last == 2**32


class OneWrong:
    """The table, but for one input."""

    name, version = "one wrong", "1"

    def __init__(self, bad):
        self.bad, self.asked = bad, []

    def supports(self, op, types, params):
        return True

    def run(self, op, types, params, inputs):
        u = inputs["x"]
        self.asked.append((int(u[0]), u.size))
        codes = load_table(E4M3)[2 * (u >> 16).astype(int) + ((u & 0xFFFF) != 0)]
        return {"y": np.where(u == self.bad, codes + 1, codes).astype(np.uint8)}


def test_a_single_wrong_input_is_found_in_a_reduced_range():
    bad = 0x3F812345
    adapter = OneWrong(bad)
    found = certify(adapter, E4M3, first=bad - 10, last=bad + 10)
    assert (found.mismatches, found.nans, found.last) == (1, 0, bad + 10)
    assert found.examples[0][0] == bad
    assert adapter.asked == [(bad - 10, 20)]


def test_blocks_join_without_gap_or_overlap():
    adapter, told = OneWrong(0), []
    certify(adapter, E4M3, first=5, last=2 * BLOCK + 6, progress=told.append)
    assert adapter.asked == [(5, BLOCK), (5 + BLOCK, BLOCK), (5 + 2 * BLOCK, 1)]
    assert told == [5 + BLOCK, 5 + 2 * BLOCK, 2 * BLOCK + 6]


def test_an_interrupted_run_says_how_far_it_came():
    def stop(at):
        raise KeyboardInterrupt

    found = certify(OneWrong(0), E4M3, first=1, last=2**24, progress=stop)
    assert (found.last, found.mismatches) == (1 + BLOCK, 0)


def test_nan_is_counted_and_not_asked():
    found = certify(Refquant(), "float8_e5m2.ieee", first=0x7F800000, last=0x7F800010)
    assert (found.mismatches, found.nans) == (0, 15)


@pytest.mark.parametrize(("table", "settings", "message"), [
    ("float8.nothing", {}, "`table` must be one of .*; got 'float8.nothing'"),
    (E4M3, {"first": 5, "last": 5}, "`first` and `last` must be a range"),
    (E4M3, {"last": 2**32 + 1}, "`first` and `last` must be a range"),
    (E4M3, {"step": 0}, "`step` positive"),
])
def test_bad_input_is_one_line(table, settings, message):
    with pytest.raises(ValueError, match=message):
        certify(Refquant(), table, **settings)


def test_an_adapter_that_cannot_or_fails_is_one_line():
    with pytest.raises(ValueError, match="`impl` must support this cast; ggml says nothing of"):
        certify(Refquant("ggml"), E4M3, last=16)

    class Fails(OneWrong):
        def run(self, op, types, params, inputs):
            raise RuntimeError("kaput")

    with pytest.raises(ValueError, match="`impl` must answer; from 00000000 on: RuntimeError"):
        certify(Fails(0), E4M3, last=16)


@pytest.mark.peer
def test_ml_dtypes_across_the_pipe():
    pytest.importorskip("ml_dtypes")
    found = certify("ml_dtypes", "float8_e5m2.ieee", step=99_991)
    assert (found.mismatches, found.impl.split()[0]) == (0, "ml_dtypes")
