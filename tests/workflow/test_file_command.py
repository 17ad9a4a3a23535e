"""`refquant workflow` on a model of one's own: the story, the file, the status, wrong input."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from refquant.cli import run
from refquant.interop.onnx_export import export_onnx
from refquant.nn.data import digits
from refquant.nn.models import trained_digits_cnn

onnx = pytest.importorskip("onnx")
from refquant.interop.onnx_float import open_float  # noqa: E402
from refquant.workflow._file_command import _Examples, _largest_batch, _Subject  # noqa: E402
from refquant.workflow._story import ACCURACY, Story, _verdict  # noqa: E402
from refquant.workflow.fairness import Interval  # noqa: E402
from refquant.workflow.judging import Drop  # noqa: E402
from refquant.workflow.ladder import Step  # noqa: E402
from refquant.workflow.onnx_ladder import output_of  # noqa: E402

pytestmark = pytest.mark.peer
NET, DATA = trained_digits_cnn(), digits()
CONTENT = export_onnx(NET.nodes, NET.values, {"x": (np.float32, ("n", 8, 8, 1))}, ["logits"])
X, Y = DATA.x_test[:240], DATA.y_test[:240]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models")
    (path / "model.onnx").write_bytes(CONTENT)
    np.savez(path / "data.npz", x=X, labels=Y, hand=np.where(np.arange(240) % 3, 1, 7),
             wrong=Y + 20, half=Y / 2, short=Y[:5], both=np.stack([Y, Y], 1))
    np.savez(path / "images.npz", x=X)
    np.savez(path / "few.npz", x=X[:20])
    np.savez(path / "brighter.npz", x=2 * X[:50], labels=Y[:50])
    return path


def call(folder, *arguments, data="data.npz", model="model.onnx"):
    return run(["workflow", str(folder / model), "--data", str(folder / data), *arguments])


def test_the_file_that_is_written_is_the_one_that_was_judged(folder, tmp_path, capsys):
    out, page = tmp_path / "out.onnx", tmp_path / "page.html"
    arguments = ("--bits", "4", "--groups", "hand", "--shifted", str(folder / "brighter.npz"))
    assert call(folder, *arguments, "-o", str(out), "--report", str(page), "--json") == 0
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert told["judge"] == "accuracy"
    assert told["examples"] == {"to fit to": 80, "to choose by": 80, "to judge by": 80}
    assert told["reached"]
    assert told["rungs"][-1]["name"] == told["kept"]
    assert told["rungs"][-1]["size"] == out.stat().st_size < 0.3 * len(CONTENT)
    assert told["rungs"][-1]["bits"] == 4
    assert {g["name"] for g in told["groups"]} == {"group 1", "group 7"}
    assert sum(g["n"] for g in told["groups"]) == 80
    for part, whole in (("before", "float"), ("after", "quantized")):
        assert sum(g["n"] * g[part] for g in told["groups"]) / 80 == pytest.approx(
            told["judged"][whole])
    assert len(told["layers"]) == 10
    gains = [layer["gain"] for layer in told["layers"]]
    assert gains == sorted(gains, reverse=True)
    assert told["shifted"]["values"]["stem.conv/0"]["clipped"] > 0.1
    assert told["shifted"]["float"] < told["float"]["score"]
    # The parts are drawn first of all: the third of them judged this file.
    model = open_float(CONTENT)
    judged = np.random.default_rng(0).permutation(240)[160:]
    answers = output_of(model, out.read_bytes(), [{"x": X[judged]}], "logits").argmax(1)
    assert told["judged"]["quantized"] == (answers == Y[judged]).mean()
    assert "GPTQ" not in {step["name"] for step in told["rungs"]}       # it stopped
    assert "<table>" in page.read_text("utf-8")
    assert "http" not in page.read_text("utf-8").replace("http://www.w3.org", "").replace(
        "http://purl.org", "").replace("http://creativecommons.org", "").replace(
        "https://matplotlib.org", "")
    again = tmp_path / "again.onnx"
    assert call(folder, *arguments, "-o", str(again)) == 0
    assert again.read_bytes() == out.read_bytes()
    printed = capsys.readouterr().out
    for part in ("judged by accuracy", "no example in two of them", "Stopped at",
                 "Examples that chose nothing", "most would be gained", "On brighter.npz",
                 "outside of its range most"):
        assert part in printed


def test_without_labels_agreement_with_the_float_model_judges(folder, capsys):
    assert call(folder, "--bits", "8", data="images.npz") == 0
    printed = capsys.readouterr().out
    assert ("judged by same answer as float, for there are no labels and `logits` looks like "
            "class scores") in printed
    assert "answer 3" in printed
    assert call(folder, "--bits", "8", "--judge", "cosine", data="images.npz", ) == 0
    assert "judged by cosine to float, as asked" in capsys.readouterr().out
    assert call(folder, "--bits", "8", "--judge", "same", "--groups", "hand", "--shifted",
                str(folder / "few.npz")) == 0
    printed = capsys.readouterr().out
    assert "same answer as float, as asked" in printed
    assert "On few.npz (20 examples): same answer as float" in printed


def written(path, nodes, constants, *, batch="n", count=120):
    """A model of one input, 8 wide, whose outputs have length 1, in a file; and examples."""
    make, rng = onnx.helper, np.random.default_rng(7)
    graph = make.make_graph(
        [make.make_node(kind, inputs, [out], **settings) for kind, inputs, out, settings in nodes],
        "g", [make.make_tensor_value_info("x", 1, [batch, 8])],
        [make.make_tensor_value_info("y", 1, None)],
        [onnx.numpy_helper.from_array(np.float32(v), k) for k, v in constants.items()])
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 21)])
    model.ir_version = 10
    (path / "model.onnx").write_bytes(model.SerializeToString())
    np.savez(path / "data.npz", x=rng.standard_normal((count, 8)).astype(np.float32),
             who=np.arange(count) % 2)


W = np.random.default_rng(1).standard_normal((8, 8))
UNIT = [("MatMul", ["x", "w"], "a", {}), ("LpNormalization", ["a"], "y", {"axis": -1})]


def test_embeddings_are_judged_by_their_cosine_and_groups_by_means(tmp_path, capsys):
    written(tmp_path, UNIT, {"w": W})
    assert call(tmp_path, "--bits", "4", "--groups", "who", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["judge"] == "cosine to float"
    assert "length 1" in told["why"]
    assert told["float"]["score"] == pytest.approx(1)
    assert [g["flips"] for g in told["groups"]] == [None, None]
    assert told["groups"][0]["drop"] >= told["groups"][1]["drop"]
    assert all(g["low"] <= g["drop"] <= g["high"] for g in told["groups"])


def test_a_drop_below_a_point_is_told_from_its_target(tmp_path, capsys):
    written(tmp_path, UNIT, {"w": W})
    assert call(tmp_path, "--bits", "4", "--max-drop", "0.01", "--json") == 1
    told = json.loads(capsys.readouterr().out)
    drop = min(100 * step["drop"] for step in told["rungs"])
    assert call(tmp_path, "--bits", "4", "--max-drop", "0.01") == 1
    assert f"{drop:.2g} points below" in capsys.readouterr().out
    assert 0.01 < drop < 1


def test_a_number_without_a_row_of_its_own_is_judged_as_one_with(tmp_path, capsys):
    """What `squeeze(-1)` leaves: as many numbers as examples."""
    nodes, told = [("Gemm", ["x", "w"], "a", {}), ("Relu", ["a"], "r", {})], []
    for last in ([("Gemm", ["r", "v"], "y", {})],
                 [("Gemm", ["r", "v"], "h", {}), ("Squeeze", ["h"], "y", {})]):
        written(tmp_path, [*nodes, *last], {"w": W, "v": np.abs(W[:, :1])})
        call(tmp_path, "--bits", "3", "--max-drop", "0.01", "--json")
        told.append(json.loads(capsys.readouterr().out))
    assert told[1]["judge"] == "variance explained"
    for name in ("nearest", "GPTQ"):
        one, two = (next(s for s in t["rungs"] if s["name"] == name) for t in told)
        assert two["score"] == pytest.approx(one["score"], abs=1e-6)


def test_a_single_number_is_judged_by_what_is_explained_of_it(tmp_path, capsys):
    """The cosine of two numbers is their sign: it would be content with anything."""
    written(tmp_path, [("Gemm", ["x", "w", "b"], "a", {}), ("Relu", ["a"], "r", {}),
                       ("MatMul", ["r", "v"], "y", {})],
            {"w": W, "b": W[0] + 1, "v": np.abs(W[:, :1])})
    assert call(tmp_path, "--bits", "8", "--groups", "who", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["judge"] == "variance explained"
    assert told["why"] == "for there are no labels and `y` is one number"
    assert 0.98 < told["judged"]["quantized"] < 1
    assert len(told["groups"]) == 2


@pytest.mark.parametrize("batch", [1, 4, 24])
def test_a_model_with_a_batch_of_its_own_gets_whole_batches(tmp_path, capsys, batch):
    written(tmp_path, UNIT, {"w": W}, batch=batch)
    out = tmp_path / "out.onnx"
    status = call(tmp_path, "-o", str(out), "--shifted", str(tmp_path / "data.npz"), "--json")
    told = json.loads(capsys.readouterr().out)
    assert status == 0
    assert all(n % batch == 0 and n >= 8 for n in told["examples"].values())


def test_what_has_no_quantized_form_is_named_and_left_in_float(tmp_path, capsys):
    written(tmp_path, [("Einsum", ["x", "v"], "e", {"equation": "nk,km->nm"}),
                       ("MatMul", ["e", "w"], "a", {}),
                       ("LpNormalization", ["a"], "y", {"axis": -1})], {"w": W, "v": W})
    out = tmp_path / "out.onnx"
    assert call(tmp_path, "-o", str(out), "--bits", "8") == 0
    assert "left in float: e: Einsum has a constant matrix" in capsys.readouterr().out
    names = {t.name for t in onnx.load(out).graph.initializer}
    assert "v" in names
    assert "w" not in names


def test_names_with_brackets_are_printed_as_they_are(tmp_path, capsys):
    written(tmp_path, [("MatMul", ["x", "[red]w[/]"], "a", {}),
                       ("LpNormalization", ["a"], "y", {"axis": -1})], {"[red]w[/]": W})
    assert call(tmp_path, "--bits", "2", "--max-drop", "0") == 1
    assert " [red]w[/] " in capsys.readouterr().out


def test_a_weight_read_twice_and_both_ways_up_keeps_its_meaning(tmp_path):
    written(tmp_path, [("Gemm", ["x", "w"], "a", {"transB": 1}), ("Relu", ["a"], "r", {}),
                       ("MatMul", ["r", "w"], "y", {})], {"w": W})
    assert call(tmp_path, "--bits", "8", "--max-drop", "5", "--judge", "cosine") == 0


def test_what_is_not_reached_has_status_1_the_best_file_and_advice(folder, tmp_path, capsys):
    """No model of two bits agrees with the float model to the last decimal."""
    written(tmp_path, UNIT, {"w": W})
    out = tmp_path / "out.onnx"
    assert call(tmp_path, "--bits", "2", "--max-drop", "0", "-o", str(out)) == 1
    printed = capsys.readouterr().out
    assert "No rung is within 0 points of float; the best is" in printed
    assert "although it is not good enough" in printed
    assert "Next: more bits (--bits 3);" in printed
    assert "quantization-aware training where the model was made" in printed
    assert "Not tried: trained: y: LpNormalization has no way back here." in printed
    assert out.stat().st_size > 100


def test_points_are_hundredths_of_the_score(tmp_path, capsys):
    written(tmp_path, UNIT, {"w": W})
    call(tmp_path, "--bits", "3", "--max-drop", "0.5", "--json")
    told = json.loads(capsys.readouterr().out)
    *before, last = [rung["drop"] for rung in told["rungs"]]
    assert before
    assert min(before) > 0.005
    assert told["reached"] == (last <= 0.005)


def test_the_story_of_a_climb_that_failed_is_of_its_best_rung_and_one_of_luck_says_so():
    def story(drop, reached):
        steps = [Step(n, 0.9 - d, d, 4.0, 1, 0.0) for n, d in (("a", 0.1), ("b", 0.2))]
        return Story("m", ACCURACY, "by the labels", {}, 1, 1.0, 0.9, steps, reached,
                     Drop(0.9, 0.9 - drop, drop, Interval(0, 2 * drop)), 10.0, [], [], None, [], [])

    assert (story(0.1, False).best.name, story(0.1, True).best.name) == ("a", "b")
    assert "the best is a, 10.0 points below" in story(0.1, False).stopped
    kinder = "the examples that chose were kinder, or too few"
    assert [any(kinder in line for line in _verdict(story(*case)))
            for case in ((0.03, True), (0.005, True), (0.03, False))] == [True, False, False]


def test_a_batch_for_moments_is_as_large_as_memory_allows(tmp_path, monkeypatch):
    written(tmp_path, UNIT, {"w": W})
    subject = _Subject(open_float(tmp_path / "model.onnx"), "y", None)
    examples = _Examples({"x": np.zeros((9, 8), np.float32)}, None, None)
    assert _largest_batch(subject, examples) == 256
    for most, wanted in ((80, 10), (4, 1)):         # 8 numbers enter a layer
        monkeypatch.setattr("refquant.workflow._file_command.MOST_AT_ONCE", most)
        assert _largest_batch(subject, examples) == wanted


def test_points_too_fine_for_the_examples_are_told(folder, capsys):
    assert call(folder, "--bits", "8", "--max-drop", "0.5") == 0
    printed = capsys.readouterr().out
    assert "One of the 80 examples that choose is 1.2 points" in printed


@pytest.mark.parametrize(("arguments", "message"), [
    (("--bits", "9"), "`--bits` must lie in [2, 8]; got 9"),
    (("--max-drop", "101"), "`--max-drop` must lie in [0, 100]"),
    (("--group", "1"), "`--group` must be at least 2; got 1"),
    (("--seed", "-1"), "`--seed` must be at least 0; got -1"),
    (("--judge", "me"), "`--judge` must be one of labels, same, cosine, explained; got me"),
    (("--labels", "nothing"), "`--labels` must name an array of `--data`; got nothing"),
    (("--groups", "nothing"), "`--groups` must name an array of `--data`; got nothing"),
    (("--labels", "wrong"), "labels must lie in [0, 10), the columns of `logits`; got 20 to 29"),
    (("--labels", "half"), "`half` must hold whole numbers for each of 240 examples"),
    (("--labels", "short"), "`short` must hold whole numbers for each of 240 examples"),
    (("--labels", "both"), "`logits` must have a column for each class"),
    (("--groups", "both"), "`both` must hold one whole number for each of 240 examples"),
    (("--groups", "half"), "`half` must hold one whole number"),
    (("--shifted", "nowhere.npz"), "`--shifted` must be a file; got nowhere.npz"),
    (("-o", "/no/such/folder/out.onnx"), "`--output` must lie in an existing folder"),
    (("--report", "/no/such/folder/r.html"), "`--report` must lie in an existing folder"),
])
def test_wrong_arguments_get_one_line_and_status_2(folder, capsys, arguments, message):
    assert call(folder, *arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not captured.out


def test_too_few_examples_and_a_missing_input_are_told_in_one_line(folder, tmp_path, capsys):
    assert call(folder, data="few.npz") == 2
    assert "`data` must hold at least 24 examples" in capsys.readouterr().err
    np.savez(tmp_path / "data.npz", z=X)
    assert run(["workflow", str(folder / "model.onnx"), "--data", str(tmp_path / "data.npz")]) == 2
    assert "`--data` must hold the inputs x; got no x" in capsys.readouterr().err
    np.savez(tmp_path / "data.npz", x=np.full_like(X, np.nan))
    assert run(["workflow", str(folder / "model.onnx"), "--data", str(tmp_path / "data.npz")]) == 2
    assert "must" in capsys.readouterr().err


def test_labels_are_no_classes_of_a_single_number(tmp_path, capsys):
    written(tmp_path, [("MatMul", ["x", "v"], "y", {})], {"v": W[:, :1]})
    x = np.load(tmp_path / "data.npz")["x"]
    np.savez(tmp_path / "data.npz", x=x, labels=np.zeros(len(x), int))
    assert call(tmp_path) == 2
    assert "`y` must have a column for each class" in capsys.readouterr().err


def test_a_model_needs_data_and_data_need_a_model(folder, tmp_path, capsys):
    assert run(["workflow", str(folder / "model.onnx")]) == 2
    assert "got no `--data`" in capsys.readouterr().err
    for option in ("--data", "--shifted"):
        assert run(["workflow", option, str(folder / "data.npz")]) == 2
        assert f"`{option}` must have a MODEL.onnx; got none" in capsys.readouterr().err
    assert run(["workflow", "--jobs", "2"]) == 2
    assert "`--jobs` must have a MODEL.onnx; got none" in capsys.readouterr().err
    model = str(folder / "model.onnx")
    assert call(folder, "-o", model) == 2
    assert "`--output` must not be MODEL.onnx" in capsys.readouterr().err
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    assert run(["workflow", str(tmp_path / "bad.onnx"), "--data", str(folder / "data.npz")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert (folder / "model.onnx").read_bytes() == CONTENT


@pytest.mark.parametrize(("kind", "delay"), [(signal.SIGKILL, 1.5), (signal.SIGINT, 1.0)])
def test_a_run_that_is_ended_leaves_what_was_there(folder, tmp_path, kind, delay):
    out = tmp_path / "out.onnx"
    out.write_bytes(b"what was there")
    process = subprocess.Popen(
        [sys.executable, "-m", "refquant", "workflow", str(folder / "model.onnx"), "--data",
         str(folder / "data.npz"), "-o", str(out), "--bits", "2", "--max-drop", "0"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ})
    time.sleep(delay)
    process.send_signal(kind)
    _, told = process.communicate()
    content = out.read_bytes()
    assert content == b"what was there" or len(open_float(content).proto.graph.node) > 10
    assert len(list(tmp_path.iterdir())) == 1
    if kind == signal.SIGINT and process.returncode == 130:
        assert told == b"refquant: interrupted\n"


def test_the_shipped_network_tells_its_story_as_data(capsys):
    assert run(["workflow", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["kept"] == "per channel"
    assert told["rungs"][-1]["bits"] < 8
    gains = [layer["gain"] for layer in told["layers"]]
    assert gains == sorted(gains, reverse=True)
    assert told["examples"] == {"to fit to": 898, "to choose by": 449, "to judge by": 450}


EITHER = (np.int64, ("batch", "length"))


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "best"), [("8", "nearest"), ("4", "AWQ")])
def test_minilm_without_labels_keeps_its_embeddings(tmp_path, capsys, bits, best):
    """Weights and what enters the layers in codes; a cosine of 0.99 on texts that chose nothing."""
    from pydoc_data.topics import topics

    from refquant.interop.minilm import minilm, tokenize

    pytest.importorskip("onnxruntime")
    pytest.importorskip("tokenizers")
    try:
        model = minilm()
    except (ModuleNotFoundError, FileNotFoundError) as err:
        pytest.skip(str(err))
    (tmp_path / "model.onnx").write_bytes(export_onnx(
        model.nodes, model.values, {"tokens": EITHER, "mask": EITHER}, ["embedding"]))
    texts = [p for t in sorted(topics) for p in topics[t].split("\n\n") if 40 < len(p) < 400]
    tokens = tokenize(texts[:192], longest=48)
    np.savez(tmp_path / "data.npz", tokens=tokens.tokens, mask=tokens.mask)
    groups = () if bits == "8" else ("--group", "32")
    out = tmp_path / "out.onnx"
    assert call(tmp_path, "--bits", bits, *groups, "-o", str(out), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["judge"] == "cosine to float"
    assert [s["name"] for s in told["rungs"]][-1] == best
    assert told["judged"]["quantized"] > 0.988
    assert out.stat().st_size < 0.66 * (tmp_path / "model.onnx").stat().st_size
