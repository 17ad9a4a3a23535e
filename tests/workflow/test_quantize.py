"""`refquant quantize`: files that run elsewhere, methods in their order, kills and wrong input."""

import io
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from functools import partial

import numpy as np
import pytest
from joblib import parallel_config
from threadpoolctl import threadpool_limits

from refquant.cli import run
from refquant.interop.onnx_export import export_onnx
from refquant.nn.data import digits
from refquant.nn.models import trained_digits_cnn
from refquant.workflow import quantize as quantizing
from refquant.workflow._quantize import read_inputs
from refquant.workflow.quantize import (
    activation_plan,
    batches_of,
    choose_bits,
    compare,
    observe,
    quantize_layers,
    scales_by_awq,
    scales_by_smoothquant,
)
from refquant.workflow.weights import by_adaround, by_gptq, nearest

onnx = pytest.importorskip("onnx")
from refquant.interop.onnx_float import open_float  # noqa: E402

pytestmark = pytest.mark.peer
MODEL = trained_digits_cnn()
CONTENT = export_onnx(MODEL.nodes, MODEL.values, {"x": (np.float32, ("batch", 8, 8, 1))},
                      ["logits"])
X = digits().x_train[:96]
QUICK = partial(by_adaround, steps=5)


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


def written(path, nodes, outputs, constants, *, batch="n", listed=(), ir=8, extra=()):
    """A model of one input, 8 wide, in a file; and 16 examples."""
    make, rng = onnx.helper, np.random.default_rng(7)
    graph = make.make_graph(
        [make.make_node(kind, inputs, [out], **settings) for kind, inputs, out, settings in nodes],
        "g", [make.make_tensor_value_info("x", 1, [batch, 8]),
              *(make.make_tensor_value_info(n, 1, s) for n, s in extra),
              *(make.make_tensor_value_info(n, 1, constants[n].shape) for n in listed)],
        [make.make_tensor_value_info(n, 1, None) for n in outputs],
        [onnx.numpy_helper.from_array(v.astype(np.float32), k) for k, v in constants.items()])
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 13)])
    model.ir_version = ir
    (path / "model.onnx").write_bytes(model.SerializeToString())
    np.savez(path / "data.npz", x=rng.standard_normal((16, 8)).astype(np.float32))


W = np.random.default_rng(1).standard_normal((8, 8))
ONE = [("MatMul", ["x", "w"], "y", {})]
TWICE = [("MatMul", ["x", "w"], "a", {}), ("Relu", ["a"], "r", {}), ("MatMul", ["r", "w"], "y", {})]
TIED = [("Gemm", ["x", "w"], "a", {"transB": 1}), ("Relu", ["a"], "r", {}),
        ("Gemm", ["r", "w"], "y", {})]
READ = [*ONE, ("Identity", ["w"], "z", {})]


@pytest.mark.parametrize("arguments", [
    (), ("--activations",), ("--method", "smoothquant", "--activations"), ("--method", "awq"),
    ("--method", "gptq"), ("--budget", "0.001")], ids=" ".join)
@pytest.mark.parametrize(("nodes", "settings"), [
    (ONE, {}), (ONE, {"batch": 1}), (ONE, {"batch": 4}), (ONE, {"batch": 8}),
    (ONE, {"listed": ["w"], "ir": 3}), (TWICE, {}), (TIED, {}), (READ, {})],
    ids=["only the input is read", "batch of 1", "batch of 4", "batch of 8",
         "weight listed as input", "weight read twice", "weight read both ways up",
         "weight read by others"])
def test_odd_models_keep_their_outputs_at_8_bits(tmp_path, nodes, settings, arguments):
    outputs = ["y", "z"] if nodes is READ else ["y"]
    written(tmp_path, nodes, outputs, {"w": W}, **settings)
    status, out = command(tmp_path, tmp_path, *arguments)
    assert status == 0
    model, x = open_float(tmp_path / "model.onnx"), np.load(tmp_path / "data.npz")["x"]
    batches = batches_of({"x": x}, settings.get("batch", 16))
    found = compare(model, out.read_bytes(), batches)
    assert all(one.sqnr > 15 for one in found)      # outputs that are wrong have 5 dB and less
    assert "w" not in {i.name for i in onnx.load(out).graph.input}


def test_a_weight_that_a_branch_reads_too_stays_for_it(tmp_path):
    make = onnx.helper
    y, w = make.make_tensor_value_info("t", 1, None), make.make_tensor_value_info("e", 1, None)
    branches = {f"{name}_branch": make.make_graph([make.make_node(kind, inputs, [v.name])], name,
                                                  [], [v])
                for name, kind, inputs, v in (("then", "MatMul", ["x", "w"], y),
                                              ("else", "Add", ["x", "x"], w))}
    written(tmp_path, [("ReduceSum", ["x"], "s", {"keepdims": 0}),
                       ("Greater", ["s", "zero"], "c", {}),
                       ("If", ["c"], "i", branches), ("MatMul", ["i", "w"], "y", {})],
            ["y"], {"w": W, "zero": np.array(0.0)})
    status, out = command(tmp_path, tmp_path, data=False)
    assert status == 0
    x = np.load(tmp_path / "data.npz")["x"]
    model = open_float(tmp_path / "model.onnx")
    for sign in (1, -1):
        (found,) = compare(model, out.read_bytes(), [{"x": sign * np.abs(x)}])
        assert found.sqnr > 30


@pytest.mark.parametrize("method", ["smoothquant", "awq"])
@pytest.mark.parametrize("keep", [(), ("--keep", "w"), ("--keep", "v")], ids=" ".join)
def test_a_layer_that_is_kept_makes_up_for_the_division_of_what_it_reads(tmp_path, method, keep):
    written(tmp_path, [("MatMul", ["x", "w"], "a", {}), ("MatMul", ["x", "v"], "b", {}),
                       ("Add", ["a", "b"], "y", {})], ["y"], {"w": W, "v": W[::-1]})
    x = np.load(tmp_path / "data.npz")["x"] * np.float32([100, 10, 1, 1, 1, 1, 0.1, 0.01])
    np.savez(tmp_path / "data.npz", x=x)
    status, out = command(tmp_path, tmp_path, "--method", method, *keep)
    assert status == 0
    (found,) = compare(open_float(tmp_path / "model.onnx"), out.read_bytes(), [{"x": x}])
    assert found.sqnr > 35


def test_a_batch_that_is_not_whole_and_a_single_number_are_refused(tmp_path, capsys):
    written(tmp_path, ONE, ["y"], {"w": W}, batch=5)
    assert command(tmp_path, tmp_path)[0] == 2
    assert "`--calibration` must hold whole batches of 5" in capsys.readouterr().err
    written(tmp_path, [("MatMul", ["x", "w"], "a", {}), ("Mul", ["a", "s"], "y", {})],
            ["y"], {"w": W}, extra=[("s", [])])
    assert command(tmp_path, tmp_path, data=False)[0] == 0
    np.savez(tmp_path / "data.npz", x=np.zeros((16, 8), np.float32), s=np.float32(1))
    assert command(tmp_path, tmp_path)[0] == 2
    assert "`s` must have an axis of examples" in capsys.readouterr().err


def test_what_cannot_be_quantized_is_named(tmp_path, capsys):
    written(tmp_path, ONE, ["y"], {"w": np.full((8, 8), np.nan)})
    assert command(tmp_path, tmp_path, data=False)[0] == 2
    assert "got y: its weight w is not finite" in capsys.readouterr().err


def test_a_budget_is_kept_and_used(folder, tmp_path):
    sizes = {}
    for budget in ("0.016", "0.02", "0.03"):
        status, out = command(folder, tmp_path, "--budget", budget)
        assert status == 0
        proto = onnx.load(out)
        sizes[budget] = sum(len(t.raw_data) for t in proto.graph.initializer
                            if ".weight" in t.name)
        assert sizes[budget] <= float(budget) * 1e6
    assert sizes["0.016"] < sizes["0.02"] < sizes["0.03"]


def test_a_budget_out_of_reach_names_the_least(folder, tmp_path, capsys):
    status, out = command(folder, tmp_path, "--budget", "0.001")
    assert status == 2
    told = re.search(r"`--budget` must be at least ([0-9.]+) megabytes, the least that 4 "
                     r"bits allow; got 0\.001", capsys.readouterr().err)
    assert not out.exists()
    assert command(folder, tmp_path, "--budget", told[1])[0] == 0
    assert command(folder, tmp_path, "--budget", f"{float(told[1]) - 1e-6:.6f}")[0] == 2


def test_gptq_beats_nearest_on_the_outputs_of_layers():
    model = open_float(CONTENT)
    seen = observe(model, batches_of({"x": X}, 32), rng=np.random.default_rng(0))
    bits = dict.fromkeys(seen, 3)
    by = {m: quantize_layers(model, m, bits=bits, group_size=None, seen=seen).errors
          for m in (nearest, by_gptq)}
    ratios = [by[by_gptq][n] / by[nearest][n] for n in seen]
    assert np.exp(np.mean(np.log(ratios))) < 0.6


def four_bits(model, seen, names, method=by_gptq, **settings):
    return quantize_layers(model, method, bits=dict.fromkeys(names, 4), group_size=None,
                           seen=seen, **settings)


def everything(model, seen):
    """Whatever goes through joblib, as bytes and numbers."""
    drawn = four_bits(model, seen, seen, QUICK, rng=np.random.default_rng(5))
    return [four_bits(model, seen, seen).content, drawn.content, drawn.errors,
            {k: v.tolist() for k, v in scales_by_awq(model, seen, bits=4, group_size=16).items()},
            [np.array(x).tolist() for x in choose_bits(model, nearest, seen, choices=(4, 8),
                                                       group_size=None)]]


def test_no_backend_changes_a_byte():
    model = open_float(CONTENT)
    seen = observe(model, [{"x": X[:32]}], rng=np.random.default_rng(0))
    with threadpool_limits(1, "blas"):              # or sums would go in another order
        alone = everything(model, seen)
        with parallel_config("threading", n_jobs=2):
            assert everything(model, seen) == alone
        with parallel_config("loky", n_jobs=2, inner_max_num_threads=1):
            assert everything(model, seen) == alone


@pytest.mark.parametrize("arguments", [
    ("--bits", "4", "--method", "gptq"), ("--method", "awq", "--budget", "0.02")], ids=" ".join)
def test_jobs_change_no_byte(folder, tmp_path, arguments):
    files = []
    for jobs in ("1", "2"):
        status, out = command(folder, tmp_path, "--jobs", jobs, *arguments)
        assert status == 0
        files.append(out.read_bytes())
    assert files[0] == files[1]


def test_what_fails_in_a_job_is_one_line_and_leaves_no_file(folder, tmp_path, capsys, monkeypatch):
    def broken(*of_layer):
        raise ValueError("`weight` must be another")

    monkeypatch.setattr("refquant.workflow._quantize.nearest", broken)
    status, out = command(folder, tmp_path, "--jobs", "2")
    assert status == 2
    assert capsys.readouterr().err == "refquant: `weight` must be another\n"
    assert not out.exists()


def test_what_a_layer_draws_does_not_depend_on_the_others():
    model = open_float(CONTENT)
    seen = observe(model, [{"x": X[:32]}], rng=np.random.default_rng(0))
    *_, last = seen
    whole, one = (four_bits(model, seen, names, QUICK, rng=np.random.default_rng(5))
                  for names in (seen, [last]))
    assert np.array_equal(whole.weights[last].codes, one.weights[last].codes)
    other = four_bits(model, seen, [last], QUICK, rng=np.random.default_rng(6))
    assert not np.array_equal(other.weights[last].codes, one.weights[last].codes)


def test_progress_hears_of_each_layer_in_the_order_of_the_model():
    model, heard = open_float(CONTENT), []
    with parallel_config("threading", n_jobs=2):
        four_bits(model, {}, model.by_weight, nearest, progress=heard.append)
    assert heard == list(model.by_weight)


def test_smoothquant_balances_magnitudes_of_either_sign_against_those_of_all_readers(tmp_path):
    v = 3 * W[::-1]
    written(tmp_path, [("MatMul", ["x", "w"], "a", {}), ("MatMul", ["x", "v"], "b", {}),
                       ("Add", ["a", "b"], "y", {})], ["y"], {"w": W, "v": v})
    model = open_float(tmp_path / "model.onnx")
    x = -np.abs(np.load(tmp_path / "data.npz")["x"]) * np.float32(10) ** np.arange(-2, 6)
    x[:, 3] *= -1
    seen = observe(model, [{"x": x}], rng=np.random.default_rng(0))
    (scale,) = scales_by_smoothquant(model, seen, alpha=0.75).values()
    largest = np.maximum(np.abs(W).max(1), np.abs(v).max(1))
    assert scale == pytest.approx(np.abs(x).max(0) ** 0.75 / largest**0.25, rel=1e-4)


def test_what_a_kept_layer_reads_is_not_rounded(tmp_path):
    written(tmp_path, [("MatMul", ["x", "w"], "a", {}), ("MatMul", ["x", "v"], "b", {}),
                       ("Add", ["a", "b"], "y", {})], ["y"], {"w": W, "v": W[::-1]})
    for keep, count in (((), 1), (("--keep", "v"), 0)):
        status, out = command(tmp_path, tmp_path, "--activations", *keep)
        assert status == 0
        kinds = [node.op_type for node in onnx.load(out).graph.node]
        assert kinds.count("QuantizeLinear") == count


def test_of_a_single_number_no_largest_is_compared(tmp_path):
    for width, answers in ((1, False), (2, True)):
        written(tmp_path, ONE, ["y"], {"w": W[:, :width]})
        model = open_float(tmp_path / "model.onnx")
        (found,) = compare(model, (tmp_path / "model.onnx").read_bytes(),
                           [{"x": np.load(tmp_path / "data.npz")["x"]}])
        assert (found.same == 1) == answers
        assert np.isnan(found.same) != answers


def test_a_range_is_that_of_all_who_read_a_value():
    """A convolution with a stride sees a quarter of the pixels, the other one all."""
    make = onnx.helper
    pixels = np.zeros((2, 3, 4, 4), np.float32)
    pixels[0, 0, 1, 1], pixels[1, 2, 3, 2], pixels[0, 1, 0, 2] = 9, -5, 1
    for order in (("all", "few"), ("few", "all")):
        graph = make.make_graph(
            [make.make_node("Conv", ["x", f"{n}.w"], [n], strides=[s, s]) for n, s in (
                (order[0], 1 + (order[0] == "few")), (order[1], 1 + (order[1] == "few")))],
            "g", [make.make_tensor_value_info("x", 1, ["n", 3, 4, 4])],
            [make.make_tensor_value_info(n, 1, None) for n in order],
            [onnx.numpy_helper.from_array(np.ones((2, 3, 1, 1), np.float32), f"{n}.w")
             for n in order])
        model = open_float(make.make_model(
            graph, opset_imports=[make.make_opsetid("", 21)]).SerializeToString())
        plan = activation_plan(model, observe(model, [{"x": pixels}],
                                              rng=np.random.default_rng(0)))
        low, high = ((end - plan["x"].zero_point) * plan["x"].scale
                     for end in (plan["x"].qmin, plan["x"].qmax))
        assert (low, high) == pytest.approx((-5, 9), abs=0.06)


def test_without_data_a_file_that_no_runtime_loads_is_not_written(
        folder, tmp_path, capsys, monkeypatch):
    pytest.importorskip("onnxruntime")
    right = quantizing.with_codes

    def wrong(*arguments):
        proto = onnx.ModelProto.FromString(right(*arguments))
        proto.graph.node[-1].input[0] = "nobody"
        return proto.SerializeToString()

    monkeypatch.setattr(quantizing, "with_codes", wrong)
    status, out = command(folder, tmp_path, data=False)
    assert status == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not out.exists()


def test_without_data_the_weights_alone_are_quantized(folder, tmp_path, capsys):
    status, out = command(folder, tmp_path, "--bits", "4", data=False)
    assert status == 0
    assert "nothing was compared" in capsys.readouterr().out
    assert out.stat().st_size < 0.3 * len(CONTENT)


@pytest.mark.parametrize(("arguments", "message"), [
    (("--jobs", "0"), "`--jobs` must lie in [1, 256]; got 0"),
    (("--bits", "1"), "`--bits` must lie in [2, 8]; got 1"),
    (("--method", "magic"), "`--method` must be one of nearest, clip, "),
    (("--group", "1"), "`--group` must be at least 2; got 1"),
    (("--budget", "-1"), "`--budget` must be above 0; got -1.0"),
    (("--budget", "inf"), "`--budget` must be at most 1e+09 megabytes; got inf"),
    (("--budget", "1e300"), "`--budget` must be at most 1e+09 megabytes; got 1e+300"),
    (("--seed", "-1"), "`--seed` must be at least 0; got -1"),
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


@pytest.mark.parametrize("suffix", [".npz", ".onnx"])
def test_the_data_are_never_the_output(folder, tmp_path, capsys, suffix):
    data = tmp_path / f"data{suffix}"
    data.write_bytes((folder / "data.npz").read_bytes())
    call = ["quantize", str(folder / "model.onnx"), "-o", str(data), "--calibration", str(data)]
    assert run(call) == 2
    assert "`--output` must not be the calibration data; got " in capsys.readouterr().err
    assert data.read_bytes() == (folder / "data.npz").read_bytes()


@pytest.mark.parametrize("arguments", [
    ("quantize", "model.onnx", "-o", "w.bin"), ("report", "model.onnx", "-o", "w.bin"),
    ("workflow", "model.onnx", "--data", "data.npz", "-o", "w.bin"),
    ("workflow", "model.onnx", "--data", "data.npz", "--report", "w.bin")], ids=" ".join)
def test_weights_beside_the_model_are_never_the_output(
        folder, tmp_path, capsys, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    onnx.save_model(onnx.load_from_string(CONTENT), "model.onnx", save_as_external_data=True,
                    location="w.bin", size_threshold=0)
    np.savez("data.npz", x=X)
    before = (tmp_path / "w.bin").read_bytes()
    assert run([*arguments]) == 2
    assert "must not hold weights of the model; got w.bin" in capsys.readouterr().err
    assert (tmp_path / "w.bin").read_bytes() == before


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
    ({"x.npy": npy(np.where(X.max() == X, np.nan, X).astype(np.float32))}, "got a NaN in x"),
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
