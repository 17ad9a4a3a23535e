"""The command line: exit status, one line for bad input, nothing half-written."""

import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest

from refquant import __version__, _concepts
from refquant._concepts import Concept, UnknownTerm, find, load
from refquant.cli import run

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tour", "--output", "nowhere/report.html"], "`--output` must lie in an existing folder"),
        (["tour", "--output", "."], "`--output` must be a file"),
        (["tour", "--qick"], "No such option: --qick"),
        (["tour", "--output"], "requires an argument"),
        (["tour", "extra"], "unexpected extra argument"),
        (["bench", "fast"], "`action` must be one of quick, full, compare"),
        (["bench", "full", "--quick"], "`--quick` must stand alone"),
        (["bench", "compare", "--factor", "1"], "`--factor` must be above 1; got 1.0"),
        (["bench", "compare", "--factor", "x"], "Invalid value for '--factor'"),
        (["concepts", "quantille"], "`term` must occur in a concept; got quantille (close: "),
        (["toru"], "No such command 'toru'"),
    ],
)
def test_bad_input_is_one_line_on_stderr_and_status_2(arguments, message, capsys):
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("refquant: ")
    assert message in err


# Models: refquant run, refquant explain-difference.


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A model of one layer, inputs for it, and files that are none, in the working folder."""
    import numpy as np
    from _oracles.tflite_builder import Operator, Tensor, constant, model

    tensors = [Tensor((1, 6), "int8", 0.02, -3),
               constant(np.arange(-12, 12).reshape(4, 6) % 7 - 3, "int8", 0.2),
               constant([1, -2, 3, 4], "int32", 0.004), Tensor((1, 4), "int8", 0.02, 5)]
    step = Operator("FULLY_CONNECTED", [0, 1, 2], [3], {}, 4)
    monkeypatch.chdir(tmp_path)
    Path("m.tflite").write_bytes(model(tensors, [step], [0], [3]))
    Path("cut.tflite").write_bytes(model(tensors, [step], [0], [3])[:300])
    Path("text.npy").write_text("no numbers")
    rng = np.random.default_rng(0)
    np.save("x.npy", rng.integers(-128, 128, (1, 6), np.int8))
    np.save("many.npy", rng.integers(-50, 50, (40, 6), np.int8))
    np.save("float.npy", np.zeros((1, 6)))
    np.save("wide.npy", np.zeros((1, 7), np.int8))
    np.save("none.npy", np.zeros((0, 6), np.int8))
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run m.tflite", "Missing option '--input'"),
        ("run no.tflite --input x.npy", "no.tflite must be a file that can be read"),
        ("run cut.tflite --input x.npy", "cut.tflite: "),
        ("run x.npy --input x.npy", "must have TFL3 at offset 4"),
        ("run m.tflite --input no.npy", "no.npy must be a file that can be read"),
        ("run m.tflite --input text.npy", "text.npy must be a whole .npy file of numbers"),
        ("run m.tflite --input m.tflite", "m.tflite must be a whole .npy file of numbers"),
        ("run m.tflite --input float.npy", "the input must be int8; got float64"),
        ("run m.tflite --input wide.npy", "the input must have the shape (1, 6), or many"),
        ("run m.tflite --input none.npy", "`--input` must hold at least one run"),
        ("run m.tflite --input x.npy --input x.npy", "`--input` must be given 1 times"),
        ("run m.tflite --input x.npy --engine onnx", "`--engine` must be one of tflm, litert_ref"),
        ("run m.tflite --input x.npy --engine=", "`--engine` must be one of tflm, litert_ref"),
        ("run m.tflite --input x.npy --output m.tflite", "`--output` must be a file of its own"),
        ("run m.tflite --input x.npy --output x.npy", "`--output` must be a file of its own"),
        ("run m.tflite --input x.npy --output a.npy --output a.npy", "a file of its own"),
        ("run m.tflite --input x.npy --output no/y.npy", "`--output` must lie in an existing"),
        ("run m.tflite --input x.npy --output a.npy --output b.npy", "`--output` must be given 1"),
        ("run m.tflite --input x.npy --dump-all x.npy", "`--dump-all` must be a folder"),
        ("explain-difference m.tflite --input x.npy --engines tflm", "`--engines` must be two of"),
        ("explain-difference m.tflite --input x.npy --engines tflm,x", "`--engines` must be two"),
        ("explain-difference m.tflite --input x.npy --engines tflm,tflm", "`--engines` must be"),
        ("explain-difference m.onnx --input x.npy", "only .tflite models have engines to compare"),
        ("explain-difference m.tflite --input wide.npy", "the input must have the shape (1, 6)"),
        ("explain-difference no.tflite --input x.npy", "no.tflite must be a file that can be"),
    ],
)
def test_bad_models_and_arrays_are_one_line_and_status_2(files, arguments, message, capsys):
    assert run(arguments.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert message in err
    assert sorted(p.name for p in files.iterdir()) == [
        "cut.tflite", "float.npy", "m.tflite", "many.npy", "none.npy", "text.npy", "wide.npy",
        "x.npy"]


def test_one_input_gives_one_output_and_many_give_many(files, capsys):
    import numpy as np

    assert run(["run", "m.tflite", "--input", "x.npy", "--output", "y.npy"]) == 0
    assert "output 0  int8 (1, 4)" in capsys.readouterr().out
    assert np.load("y.npy").shape == (1, 4)
    assert run(["run", "m.tflite", "--input", "many.npy", "--output", "y.npy", "--dump-all",
                "all", "--engine", "xnnpack"]) == 0
    y, x = np.load("y.npy"), np.load("many.npy")
    assert (y.shape, y.dtype) == ((40, 4), np.int8)
    weight = np.arange(-12, 12).reshape(4, 6) % 7 - 3
    acc = (x.astype(int) + 3) @ weight.T + [1, -2, 3, 4]
    exact = np.clip(np.rint(acc * 0.2) + 5, -128, 127)
    assert np.abs(y - exact).max() <= 1
    dumped = {p.name: np.load(p) for p in (files / "all").iterdir()}
    assert sorted(dumped) == ["0000_t0.npy", "0003_t3.npy"]
    assert (dumped["0003_t3.npy"][:, 0] == y).all()


def test_a_difference_is_explained_on_stdout(files, capsys):
    assert run(["explain-difference", "m.tflite", "--input", "many.npy", "--engines",
                "tflm,litert_x86"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "each layer fed with the values of tflm, then end to end"
    assert lines[2].split()[:3] == ["0", "FULLY_CONNECTED", "160"]
    assert any(line.startswith("  DA on tflm: M = ") for line in lines)


@pytest.mark.peer
def test_onnx_models_run_too(files, capsys):
    import numpy as np

    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["y"])], "g",
        [helper.make_tensor_value_info("a", 3, [None, 6])],
        [helper.make_tensor_value_info("y", 6, None)],
        [onnx.numpy_helper.from_array(np.ones((6, 2), np.int8), "b")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    Path("m.onnx").write_bytes(model.SerializeToString())
    assert run(["run", "m.onnx", "--input", "many.npy", "--output", "y.npy"]) == 0
    assert (np.load("y.npy") == np.load("many.npy").astype(int).sum(1, keepdims=True)).all()
    Path("bad.onnx").write_bytes(b"no model")
    capsys.readouterr()
    assert run(["run", "bad.onnx", "--input", "many.npy"]) == 2
    assert "must be an ONNX model" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused_before_the_work(tmp_path, capsys):
    tmp_path.chmod(0o500)
    assert run(["tour", "--output", str(tmp_path / "report.html")]) == 2
    assert "you may write to" in capsys.readouterr().err


def test_version_and_help_go_to_stdout(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"
    for arguments in ([], ["--help"], ["tour", "--help"]):
        assert run(arguments) == 0
        out, err = capsys.readouterr()
        assert "Usage: refquant" in out
        assert err == ""


def test_the_tour_gets_what_was_asked(monkeypatch, tmp_path):
    asked = {}
    monkeypatch.setattr("refquant.tour.take_tour", lambda **settings: asked.update(settings) or 1)
    assert run(["tour", "--quick", "--output", str(tmp_path / "x.html")]) == 1
    assert asked == {"quick": True, "output": tmp_path / "x.html"}


def test_an_interrupted_tour_says_so_in_one_line(monkeypatch, capsys):
    def interrupted(**settings):
        raise KeyboardInterrupt

    monkeypatch.setattr("refquant.tour.take_tour", interrupted)
    assert run(["tour"]) == 130
    assert capsys.readouterr().err == "refquant: interrupted\n"


def test_a_missing_file_of_weights_is_one_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("refquant.nn.models.WEIGHTS", tmp_path / "none.npz")
    assert run(["tour", "--output", str(tmp_path / "report.html")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "the weights must be at" in err
    assert list(tmp_path.iterdir()) == []


def test_damaged_weights_are_one_line(monkeypatch, capsys, tmp_path):
    (tmp_path / "cut.npz").write_bytes(b"PK")
    monkeypatch.setattr("refquant.nn.models.WEIGHTS", tmp_path / "cut.npz")
    assert run(["tour", "--output", str(tmp_path / "report.html")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "must have the SHA-256" in err
    assert [path.name for path in tmp_path.iterdir()] == ["cut.npz"]


def test_an_output_that_cannot_be_replaced_is_refused(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, message in [
        ("pipe", "must be a regular file"),
        ("a" * 250, "must have a name of at most"),
        ("a" * 300, "`--output` must be a path of this system"),
        ("a/" * 3000, "`--output` must be a path of this system"),
        ("loop", "`--output` must be a path of this system"),
    ]:
        assert run(["tour", "--output", str(tmp_path / name)]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert message in err
    assert (tmp_path / "pipe").is_fifo()


def test_the_file_behind_a_link_is_written(monkeypatch, tmp_path):
    asked = {}
    monkeypatch.setattr("refquant.tour.take_tour", lambda **settings: asked.update(settings) or 0)
    (tmp_path / "link.html").symlink_to(tmp_path / "real.html")
    assert run(["tour", "--output", str(tmp_path / "link.html")]) == 0
    assert asked["output"] == (tmp_path / "real.html").resolve()


def test_a_defect_is_not_hidden(monkeypatch):
    def broken(**settings):
        raise ZeroDivisionError

    monkeypatch.setattr("refquant.tour.take_tour", broken)
    with pytest.raises(ZeroDivisionError):
        run(["tour"])


def test_ctrl_c_in_the_middle_leaves_no_file(tmp_path):
    tour = subprocess.Popen(
        [sys.executable, "-m", "refquant", "tour"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell lets its background jobs ignore Ctrl-C, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with tour:
        try:
            assert tour.stderr.readline().startswith("tour: ")      # at work
            time.sleep(0.2)
            tour.send_signal(signal.SIGINT)
            out, err = tour.communicate(timeout=60)
        finally:
            tour.kill()
    assert tour.returncode == 130
    assert err.splitlines()[-1] == "refquant: interrupted"
    assert "Traceback" not in err
    assert out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_closed_pipe_is_no_error(tmp_path):
    done = shell("(PYTHON -m refquant concepts; echo $? >status) | head -n 1", tmp_path)
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def test_a_closed_pipe_is_no_failed_claim(tmp_path):
    done = shell("(PYTHON -u -m refquant concepts; echo $? >status) | true", tmp_path)
    assert done.stderr == ""
    assert (tmp_path / "status").read_text() == "141\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("arguments", ["concepts", "--help", "--version"])
def test_a_full_device_is_one_line(tmp_path, arguments):
    done = shell(f"PYTHON -m refquant {arguments} >/dev/full; echo $?", tmp_path)
    assert done.stdout == "2\n"
    assert done.stderr.startswith("refquant: stdout must take what is written; got ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["quantize w.npz -o out.npz", "report w.npz -o out.html"])
def test_an_output_without_room_is_named_and_not_there(tmp_path, command):
    np.savez(tmp_path / "w.npz", w=np.random.default_rng(0).standard_normal((300, 300)))
    done = shell(f"ulimit -f 8; PYTHON -m refquant {command} >log; echo $?", tmp_path)
    assert done.stdout == "2\n"
    assert re.fullmatch(r"refquant: \S*out\.\w+ must take what is written; got .*\n", done.stderr)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "w.npz"]


def test_no_stdout_at_all_is_no_error(tmp_path):
    done = shell("PYTHON -m refquant concepts >&-; echo $?", tmp_path)
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_a_locale_without_the_characters_gets_a_mark_for_each(tmp_path):
    code = "import sys; from refquant import cli; cli.run = lambda a: print('1 – 2'); cli.main()"
    done = shell(f'PYTHONIOENCODING=ascii PYTHON -c "{code}"', tmp_path)
    assert (done.stdout, done.stderr) == ("1 ? 2\n", "")


def shell(command, folder):
    return subprocess.run(
        ["sh", "-c", command.replace("PYTHON -", f"'{sys.executable}' -")],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )


def test_the_concept_list_names_every_row_and_what_is_missing(capsys):
    assert run(["concepts"]) == 0
    out = capsys.readouterr().out
    rows = tomllib.loads((ROOT / "textbook" / "concepts.toml").read_text())["concept"]
    listed = {line.split()[0]: line for line in out.splitlines() if line.startswith("  ")}
    assert set(listed) == {row["id"] for row in rows}
    for row in rows:
        if row["modules"]:
            assert row["modules"][0] in listed[row["id"]]
            assert row["chapter"] in listed[row["id"]]
        else:
            assert "does not exist yet" in listed[row["id"]]
    assert out.splitlines()[-1].startswith(f"{len(rows)} concepts: ")


@pytest.mark.parametrize("term", ["Per-Channel", "channelwise", "per channel", "granularity"])
def test_a_term_finds_its_concept_however_it_is_spelled(term):
    assert "granularity" in [concept.id for concept in find(load(), term)]


def test_a_term_shows_the_text_and_the_benchmark(capsys):
    assert run(["concepts", "stochastic-rounding"]) == 0
    out = capsys.readouterr().out
    assert "round up with probability" in out
    assert "benchmarks rounding.Rounding" in out


def test_a_module_that_is_not_there_does_not_exist_yet():
    concept = Concept("x", "part", "text", ("rounding", "no.such"), "", ())
    assert concept.existing == ["rounding"]


def test_an_unknown_term_without_a_neighbour_gets_no_hint():
    with pytest.raises(UnknownTerm, match=r"got zzzzzz$"):
        find(load(), "zzzzzz")


def test_an_installed_package_reads_its_own_list(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(_concepts, "PACKAGE", tmp_path / "refquant")
    assert run(["concepts"]) == 2
    assert "the concept list must be at" in capsys.readouterr().err
    (tmp_path / "refquant").mkdir()
    row = '[[concept]]\nid = "a"\npart = "P"\ntext = "t"\nmodules = []\nchapter = ""\n'
    (tmp_path / "refquant" / "concepts.toml").write_text(row)
    assert [concept.id for concept in load()] == ["a"]


def test_importing_the_package_loads_no_command_line():
    code = "import sys, refquant; print(sorted({'typer', 'rich', 'sklearn'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=True,
    )
    assert done.stdout == "[]\n"


def test_a_folder_of_values_appears_whole_or_not_at_all(files, capsys, monkeypatch):
    arguments = ["run", "m.tflite", "--input", "many.npy", "--dump-all", "all"]
    monkeypatch.setattr("refquant.interop._run._Progress.step", lambda self, done: 1 / (done - 5))
    with pytest.raises(ZeroDivisionError):
        run(arguments)
    assert not any(p.name.startswith((".all", "all")) for p in files.iterdir())
    monkeypatch.undo()
    monkeypatch.chdir(files)
    assert run(arguments) == 0
    capsys.readouterr()
    assert run(arguments) == 2
    assert "`--dump-all` must be a new folder or an empty one" in capsys.readouterr().err


def test_progress_of_long_runs_goes_to_stderr(capsys):
    from refquant.interop._run import _Progress

    progress = _Progress(3)
    progress.last -= 100
    progress.step(1)
    progress.step(2)
    progress.step(3)
    assert capsys.readouterr() == ("", "1 of 3 runs\n")
