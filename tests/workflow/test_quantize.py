"""`refquant quantize`: files that run elsewhere, methods in their order, kills and wrong input."""

import io
import os
import re
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest

from refquant.cli import run
from refquant.interop.onnx_export import export_onnx
from refquant.nn.data import digits
from refquant.nn.models import trained_digits_cnn
from refquant.workflow._quantize import read_inputs
from refquant.workflow.quantize import batches_of, compare, observe, quantize_layers
from refquant.workflow.weights import by_gptq, nearest

onnx = pytest.importorskip("onnx")
from refquant.interop.onnx_float import open_float  # noqa: E402

pytestmark = pytest.mark.peer
MODEL = trained_digits_cnn()
CONTENT = export_onnx(MODEL.nodes, MODEL.values, {"x": (np.float32, ("batch", 8, 8, 1))},
                      ["logits"])
X = digits().x_train[:96]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models")
    (path / "model.onnx").write_bytes(CONTENT)
    np.savez(path / "data.npz", x=X)
    return path


def command(folder, tmp_path, *arguments, data=True):
    out = tmp_path / "out.onnx"
    call = ["quantize", str(folder / "model.onnx"), "-o", str(out)]
    call += ["--calibration", str(folder / "data.npz")] if data else []
    return run([*call, *arguments]), out


@pytest.mark.parametrize("arguments", [
    (), ("--bits", "4"), ("--bits", "3", "--method", "clip"), ("--activations",),
    ("--bits", "4", "--method", "gptq", "--group", "16"),
    ("--bits", "4", "--method", "awq"), ("--method", "smoothquant", "--activations"),
    ("--budget", "0.02"), ("--keep", "fc.weight", "--bits", "2"),
], ids=" ".join)
def test_the_file_runs_and_agrees_with_the_model(folder, tmp_path, capsys, arguments):
    status, out = command(folder, tmp_path, *arguments)
    printed = capsys.readouterr().out
    assert status == 0
    assert "on data it did not learn from: cosine" in printed
    (found,) = compare(open_float(CONTENT), out.read_bytes(), batches_of({"x": X[72:]}, 32))
    bits = arguments[arguments.index("--bits") + 1] if "--bits" in arguments else "8"
    assert found.cosine > {"2": 0.75, "3": 0.85}.get(bits, 0.97)
    assert f"cosine {found.cosine:.5f}" in printed
    assert out.stat().st_size < 0.4 * len(CONTENT) or "--keep" in arguments
    again = tmp_path / "again.onnx"
    run(["quantize", str(folder / "model.onnx"), "-o", str(again), "--calibration",
         str(folder / "data.npz"), *arguments])
    assert again.read_bytes() == out.read_bytes()


def test_a_budget_is_kept_and_used(folder, tmp_path):
    sizes = {}
    for budget in ("0.016", "0.02", "0.03"):
        status, out = command(folder, tmp_path, "--budget", budget)
        assert status == 0
        proto = onnx.load(out)
        sizes[budget] = sum(len(t.raw_data) for t in proto.graph.initializer
                            if ".weight" in t.name and "dw" not in t.name)
        assert sizes[budget] <= float(budget) * 1e6
    assert sizes["0.016"] < sizes["0.02"] < sizes["0.03"]


def test_a_budget_out_of_reach_names_the_least(folder, tmp_path, capsys):
    status, out = command(folder, tmp_path, "--budget", "0.001")
    assert status == 2
    assert "the least possible is" in capsys.readouterr().err
    assert not out.exists()


def test_gptq_beats_nearest_on_the_outputs_of_layers():
    model = open_float(CONTENT)
    seen = observe(model, batches_of({"x": X}, 32), rng=np.random.default_rng(0))
    bits = dict.fromkeys(seen, 3)
    by = {m: quantize_layers(model, m, bits=bits, group_size=None, seen=seen).errors
          for m in (nearest, by_gptq)}
    ratios = [by[by_gptq][n] / by[nearest][n] for n in seen]
    assert np.exp(np.mean(np.log(ratios))) < 0.6


def test_without_data_the_weights_alone_are_quantized(folder, tmp_path, capsys):
    status, out = command(folder, tmp_path, "--bits", "4", data=False)
    assert status == 0
    assert "nothing was compared" in capsys.readouterr().out
    assert out.stat().st_size < 0.3 * len(CONTENT)


@pytest.mark.parametrize(("arguments", "message"), [
    (("--bits", "1"), "`--bits` must lie in [2, 8]; got 1"),
    (("--method", "magic"), "`--method` must be one of nearest, clip, gptq"),
    (("--group", "1"), "`--group` must be at least 2; got 1"),
    (("--budget", "-1"), "`--budget` must be above 0; got -1.0"),
    (("--keep", "nothing"), "`--keep` must name a layer; got nothing"),
])
def test_wrong_arguments_get_one_line_and_status_2(folder, tmp_path, capsys, arguments, message):
    status, out = command(folder, tmp_path, *arguments)
    captured = capsys.readouterr()
    assert status == 2
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize("method", ["gptq", "adaround", "awq", "smoothquant"])
def test_methods_that_learn_ask_for_data(folder, tmp_path, capsys, method):
    status, _ = command(folder, tmp_path, "--method", method, data=False)
    assert status == 2
    assert f"`--method {method}` must have data" in capsys.readouterr().err


def test_the_model_is_never_its_own_output(folder, capsys):
    model = str(folder / "model.onnx")
    assert run(["quantize", model, "-o", model]) == 2
    assert "must not be the model itself" in capsys.readouterr().err
    assert (folder / "model.onnx").read_bytes() == CONTENT


def npz(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def npy(array=None, *, shape=None, descr="'<f4'"):
    file = io.BytesIO()
    if array is not None:
        np.save(file, array, allow_pickle=True)
        return file.getvalue()
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    header += " " * (-(len(header) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()


@pytest.mark.parametrize(("members", "message"), [
    ({}, "must hold the inputs x; got no x"),
    ({"y.npy": npy(X)}, "got no x"),
    ({"x.npy": b"nothing"}, "`x.npy` must be a .npy array"),
    ({"x.npy": npy(np.array([{"a": 1}], object))}, "must hold numbers; got Python objects"),
    ({"x.npy": npy(shape=(10**9, 8, 8, 1))}, "that it declares"),
    ({"x.npy": npy(shape=(-5, 8, 8, 1))}, "`x"),
    ({"x.npy": npy(X.astype(int))}, "`x` must be float32; got int64"),
    ({"x.npy": npy(X[:, :4])}, r"`x` must have shape \('any', 8, 8, 1\); got \(96, 4, 8, 1\)"),
    ({"x.npy": npy(X[:0])}, "at least one"),
    ({"x.npy": npy(np.zeros((2**18, 8, 8, 1), np.float32))}, "times as large unpacked"),
])
def test_hostile_data_are_refused_before_they_are_unpacked(tmp_path, members, message):
    path = npz(tmp_path / "data.npz", members)
    with pytest.raises(ValueError, match=message) as caught:
        read_inputs(path, open_float(CONTENT))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"x" * 100])
def test_what_is_no_archive_is_refused(tmp_path, content):
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"must be a \.npz file"):
        read_inputs(path, open_float(CONTENT))


def test_data_of_a_real_npz_come_back(folder):
    assert np.array_equal(read_inputs(folder / "data.npz", open_float(CONTENT))["x"], X)


@pytest.mark.parametrize("delay", [0.3, 1.5, 2.5])
def test_a_killed_run_leaves_no_part_of_an_output(folder, tmp_path, delay):
    out = tmp_path / "out.onnx"
    out.write_bytes(b"what was there")
    process = subprocess.Popen(
        [sys.executable, "-m", "refquant", "quantize", str(folder / "model.onnx"), "-o", str(out),
         "--method", "adaround", "--bits", "4", "--calibration", str(folder / "data.npz")],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ})
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()
    content = out.read_bytes()
    assert content == b"what was there" or len(open_float(content).proto.graph.node) > 10


EITHER = (np.int64, ("batch", "length"))


@pytest.fixture(scope="module")
def minilm_folder(tmp_path_factory):
    from pydoc_data.topics import topics

    from refquant.interop.minilm import minilm, tokenize

    pytest.importorskip("onnxruntime")
    pytest.importorskip("tokenizers")
    path = tmp_path_factory.mktemp("minilm")
    try:
        model = minilm()
    except (ModuleNotFoundError, FileNotFoundError) as err:
        pytest.skip(str(err))
    content = export_onnx(model.nodes, model.values, {"tokens": EITHER, "mask": EITHER},
                          ["embedding"])
    (path / "minilm.onnx").write_bytes(content)
    texts = [p for t in sorted(topics) for p in topics[t].split("\n\n") if 40 < len(p) < 400]
    tokens = tokenize(texts[:96], longest=48)
    np.savez(path / "texts.npz", tokens=tokens.tokens, mask=tokens.mask)
    return path


def cosine(folder, capsys, *arguments):
    assert run(["quantize", str(folder / "minilm.onnx"), "-o", str(folder / "out.onnx"),
                "--calibration", str(folder / "texts.npz"), *arguments]) == 0
    return float(re.search(r"cosine (\S+),", capsys.readouterr().out)[1])


def test_eight_and_four_bits_keep_the_embeddings(minilm_folder, capsys):
    assert cosine(minilm_folder, capsys) >= 0.999
    before, after = (minilm_folder / f"{n}.onnx" for n in ("minilm", "out"))
    assert after.stat().st_size < 0.66 * before.stat().st_size
    assert cosine(minilm_folder, capsys, "--bits", "4", "--group", "32") >= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("bits", ["4", "3"])
def test_gptq_is_better_than_nearest(minilm_folder, capsys, bits):
    plain, repaired = (cosine(minilm_folder, capsys, "--bits", bits, "--group", "32", "--method", m)
                       for m in ("nearest", "gptq"))
    assert repaired > plain + 0.01
