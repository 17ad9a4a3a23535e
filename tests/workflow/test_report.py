"""The report of a file: figures against their definitions, memory, formats and wrong input."""

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joblib import parallel_config

from refquant.cli import run
from refquant.interop import safetensors
from refquant.quantizer import bits_per_element, fake_quantize
from refquant.quantizers.uniform import symmetric
from refquant.workflow.report import (
    SCHEMES,
    Loss,
    Scheme,
    TensorReport,
    examine,
    examine_all,
    suggestion,
)
from refquant.workflow.tensors import Stored, tensors_of

RNG = np.random.default_rng(0)
W = RNG.standard_normal((96, 256)).astype(np.float32)


@settings(max_examples=30)
@given(st.integers(2, 9), st.sampled_from([2, 9, 32, 64, 128]), st.integers(0, 99),
       st.sampled_from([np.float16, np.float32, np.float64]))
def test_every_loss_is_that_of_the_scheme_on_the_whole_tensor(out, n, seed, dtype):
    w = np.random.default_rng(seed).standard_normal((out, n)).astype(dtype)
    report = examine("w", w)
    work = w if dtype != np.float16 else w.astype(np.float32)
    for scheme in SCHEMES:
        if scheme.group > 0 and n % scheme.group:
            assert scheme.name not in report.losses
            continue
        size = scheme.group if scheme.group > 0 else n
        blocks = work.reshape(out, n // size, size)
        q = symmetric(np.abs(work).max(), bits=8) if scheme.group < 0 else scheme.fit(blocks)
        error = np.square(np.subtract(blocks, fake_quantize(blocks, q), dtype=np.float64)).sum()
        loss = report.losses[scheme.name]
        assert np.isclose(loss.mse * w.size, error, rtol=1e-6)
        power = np.square(work, dtype=np.float64).sum()
        assert np.isclose(loss.sqnr, 10 * np.log10(power / error), rtol=1e-6)
        assert np.isclose(loss.bits, bits_per_element(q, blocks.shape, float_bits=16), rtol=1e-9)


def test_chunks_change_nothing(monkeypatch):
    from refquant.workflow import report

    whole = examine("w", W)
    monkeypatch.setattr(report, "CHUNK", 3 * W.shape[1])
    parts = examine("w", W)
    assert whole[3:6] == pytest.approx(parts[3:6])
    for name, loss in whole.losses.items():
        assert np.isclose(loss.mse, parts.losses[name].mse, rtol=1e-9)
        assert np.isclose(loss.bits, parts.losses[name].bits, rtol=1e-9)


def test_outliers_peak_and_clip():
    w = W.copy()
    w[0, :5] = 50
    report = examine("w", w)
    assert report.largest == 50
    assert report.outliers == 5 / w.size
    assert report.clip < 0.2
    assert examine("w", W).outliers == 0
    assert examine("w", W).clip > 0.5


def test_six_deviations_make_an_outlier_and_whole_numbers_need_no_clip():
    signs = np.tile([-1.0, 1.0], (100, 50))
    for size, count in ((5.7, 0), (6.3, 2)):
        signs[0, :2] = -size, size                  # the deviation stays 1 to a hundredth
        assert examine("w", signs).outliers == count / signs.size
    levels = np.tile(np.arange(-7.0, 8), (4, 2))
    assert examine("w", levels).clip == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize(("array", "reason"), [
    (np.ones(8, np.float32), "no matrix"), (np.ones((8, 1), np.float32), "no matrix"),
    (np.zeros((0, 4)), "no matrix"), (np.array(1.0), "no matrix"),
    (np.ones((2, 3), int), "int64: no floats"), (np.full((2, 3), np.nan), "not finite"),
    (np.full((2, 3), np.inf, np.float32), "not finite"), (np.zeros((2, 3)), "all zero"),
])
def test_what_is_not_looked_at_says_why(array, reason):
    report = examine("x", array)
    assert reason in report.kept
    assert not report.losses
    assert suggestion(report) is None


@given(st.floats(0, 60))
def test_the_suggestion_has_the_fewest_bits_of_those_that_do(sqnr):
    report = examine("w", W[:8])
    name = suggestion(report, sqnr=sqnr)
    good = [x for x in report.losses.values() if x.sqnr >= sqnr]
    assert (name is None) == (not good)
    if name:
        assert report.losses[name].bits == min(x.bits for x in good)


def test_extremes_stay_finite():
    for scale in (1e-30, 1e30):
        report = examine("w", (W[:4] * scale).astype(np.float32))
        assert all(np.isfinite(x.mse) for x in report.losses.values())
    assert isinstance(report.losses["int8 row"], Loss)
    assert isinstance(SCHEMES[0], Scheme)
    assert isinstance(report, TensorReport)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "w.safetensors"
    safetensors.write(path, {"layer.weight": W, "layer.bias": W[0], "ids": np.arange(3)})
    return path


def test_table_html_and_json_say_the_same(file, tmp_path, capsys):
    page = tmp_path / "r.html"
    assert run(["report", str(file), "-o", str(page)]) == 0
    printed = capsys.readouterr().out
    assert run(["report", str(file), "--json", "-o", str(page)]) == 0
    data = json.loads(capsys.readouterr().out)
    first = page.read_bytes()
    (tensor,) = [t for t in data["tensors"] if "schemes" in t]
    assert tensor["name"] == "layer.weight"
    assert tensor["suggested"] in printed
    assert f"{tensor['schemes']['int4 g32']['sqnr']:.1f}" in printed
    assert f"{tensor['schemes']['int4 g32']['sqnr']:.1f}".encode() in first
    assert [t["kept"] for t in data["tensors"] if "kept" in t]
    run(["report", str(file), "-o", str(page)])
    assert page.read_bytes() == first
    assert b"http://" not in first.replace(b"http://www.w3.org", b"").replace(
        b"http://purl.org", b"").replace(b"http://creativecommons.org", b"")


@pytest.mark.parametrize(("arguments", "message"), [
    (["nowhere.npz"], "`FILE` must be a file; got nowhere.npz"),
    (["pyproject.toml"], "`FILE` must end in .onnx"),
    (["w", "--sqnr", "nan"], "`--sqnr` must be finite; got nan"),
    (["w", "--jobs", "0"], "`--jobs` must lie in [1, 256]; got 0"),
    (["w", "--jobs", "-2"], "`--jobs` must lie in [1, 256]; got -2"),
    (["w", "-o", "w"], "`--output` must not be the file itself"),
    (["w", "-o", "/nowhere/x.html"], "must lie in an existing folder"),
])
def test_wrong_arguments_get_one_line_and_status_2(file, capsys, arguments, message):
    assert run(["report", *[str(file) if a == "w" else a for a in arguments]]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_an_empty_file_is_refused(tmp_path, capsys):
    path = tmp_path / "x.npz"
    np.savez(path)
    assert run(["report", str(path)]) == 2
    assert "`FILE` must hold tensors; got none" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [".npz", ".safetensors",
                                  pytest.param(".onnx", marks=pytest.mark.peer)])
def test_no_backend_changes_a_report(tmp_path, kind):
    path = tmp_path / f"w{kind}"
    arrays = {f"w{i}": W[: 8 * i + 1] for i in range(5)}
    if kind == ".npz":
        np.savez(path, **arrays)
    elif kind == ".safetensors":
        safetensors.write(path, arrays)
    else:
        onnx = pytest.importorskip("onnx")
        graph = onnx.helper.make_graph(
            [onnx.helper.make_node("Identity", ["w0"], ["y"])], "g", [],
            [onnx.helper.make_tensor_value_info("y", 1, None)],
            [onnx.numpy_helper.from_array(w, n) for n, w in arrays.items()])
        path.write_bytes(onnx.helper.make_model(graph).SerializeToString())
    stored = tensors_of(path)
    alone = examine_all(stored)
    assert alone == [examine(n, w) for n, w in arrays.items()]
    for backend in ("threading", "loky"):
        heard = []
        with parallel_config(backend, n_jobs=2):
            assert examine_all(stored, progress=heard.append) == alone
        assert sorted(r.name for r in heard) == sorted(arrays)


def test_the_largest_tensors_come_first_and_reports_in_the_order_of_the_file():
    read = []

    def of(name, rows):
        return Stored(name, (rows, 256), lambda: (read.append(name), W[:rows])[1])

    found = examine_all([of("small", 2), of("large", 64), of("middle", 8)])
    assert read == ["large", "middle", "small"]
    assert [r.name for r in found] == ["small", "large", "middle"]


def test_a_file_that_is_not_there_any_more_is_said(file):
    stored = tensors_of(file)
    file.unlink()
    with pytest.raises(ValueError, match=r"`layer\.weight` must lie in a file that can"):
        examine_all(stored)


def test_jobs_change_no_byte(file, tmp_path, capsys):
    pages = []
    for jobs in ("1", "2", "5"):
        page = tmp_path / f"{jobs}.html"
        assert run(["report", str(file), "--json", "-o", str(page), "--jobs", jobs]) == 0
        pages.append((capsys.readouterr().out, page.read_bytes()))
    assert pages[0] == pages[1] == pages[2]


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_what_fails_in_a_job_is_one_line(tmp_path, capsys, jobs):
    path = tmp_path / "w.npz"
    np.savez(path, good=W, bad=W)
    content = bytearray(path.read_bytes())
    content[-30_000] ^= 255                         # one of the numbers of the second
    path.write_bytes(content)
    assert run(["report", str(path), "--jobs", jobs]) == 2
    captured = capsys.readouterr()
    assert "`bad.npy` must be a .npy array; got Bad CRC-32" in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("jobs", [1, 3])
def test_memory_is_bounded_by_the_largest_tensor_of_each_job(
    file, tmp_path, monkeypatch, capsys, jobs
):
    many, one = tmp_path / "many.safetensors", 2**20
    safetensors.write(many, {f"w{i}": np.full((512, 512), i + 1, np.float32) for i in range(16)})
    for name, value in (("SCHEMES", SCHEMES[:1]), ("CHUNK", 2**14), ("CLIP_SAMPLE", 2**12)):
        monkeypatch.setattr(f"refquant.workflow.report.{name}", value)
    peaks = []
    for path in (file, many):                           # the first time, modules are loaded
        tracemalloc.start()
        try:
            assert run(["report", str(path), "--json", "--jobs", str(jobs)]) == 0
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] < (1.5 * jobs + 1) * one             # of 16
