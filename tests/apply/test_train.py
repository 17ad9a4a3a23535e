"""The loop against a hand-written one, and against every way to interrupt it."""

import os
import signal
import subprocess
import sys
import time
import zipfile
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refquant.apply.train import ADAM, SGD, Optimizer, resume, save, shuffled, start, train
from refquant.nn.data import digits, shifted
from refquant.nn.models import (
    digits_cnn,
    initial_parameters,
    initial_statistics,
    with_loss,
)
from refquant.nn.network import Node, backward, run
from refquant.nn.normalization import updated_statistics
from refquant.nn.optimizers import adam, adam_start, constant, cosine, sgd

SPLIT = digits(seed=3)
NODES = with_loss(digits_cnn(training=True))


def augment(inputs, rng):
    return inputs | {"x": shifted(inputs["x"], rng=rng)}


def digit_batches(seed=0, size=16):
    arrays = {"x": SPLIT.x_train, "labels": SPLIT.y_train}
    return shuffled(arrays, size, rng=np.random.default_rng(seed), augment=augment)


def digit_start(optimizer=ADAM):
    rng = np.random.default_rng(0)
    return start(initial_parameters(rng=rng), initial_statistics(), optimizer)


def half_square(w):
    return np.asarray((w * w).sum() / 2, w.dtype), lambda g: (g * w,)


BOWL = [Node("loss", half_square, ("w",))]
W = {"w": np.array([1.0, -2.0]), "other": np.ones(3)}


def roll(state=None, steps=3, **settings):
    """A few steps of plain gradient descent in a bowl, where a step is w <- (1 - rate) w."""
    settings.setdefault("optimizer", SGD._replace(step=partial(sgd, momentum=0.0)))
    settings.setdefault("rate", constant(0.5))
    state = start(W, {}, settings["optimizer"]) if state is None else state
    return train(BOWL, state, lambda step: {}, steps=steps, **settings)


def same(a, b):
    """Whether two states are equal to the bit, dtypes and order of names included."""
    def flat(state):
        parts = (state.parameters, state.statistics, *state.optimizer)
        return [state.step, *(
            [(k, v.dtype, v.shape, v.tobytes()) for k, v in part.items()]
            if isinstance(part, dict) else part for part in parts)]
    return flat(a) == flat(b)


def test_the_loop_is_the_one_written_out_by_hand():
    batch, rate = digit_batches(), cosine(0.01, 4)
    expected, statistics = dict(digit_start().parameters), initial_statistics()
    memory = adam_start(expected)
    for step in range(4):
        trace = run(NODES, {**batch(step), **expected})
        gradients = backward(trace, {"loss": 1.0})
        expected, memory = adam(expected, gradients, memory, rate=rate(step))
        statistics = updated_statistics(trace, statistics)
    state = train(NODES, digit_start(), batch, steps=4, rate=rate)
    for found, wanted in ((state.parameters, expected), (state.statistics, statistics),
                          (state.optimizer.second, memory.second)):
        assert found.keys() == wanted.keys()
        assert all(np.array_equal(found[k], wanted[k]) for k in wanted)
    assert state.step == state.optimizer.steps == 4
    assert {v.dtype for v in state.parameters.values()} == {np.dtype(np.float32)}


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 60), st.integers(0, 9))
def test_an_epoch_of_batches_holds_each_example_once_and_any_batch_can_be_had_again(
        n, size, step, seed):
    size = min(size, n)
    arrays = {"x": np.arange(n), "labels": np.arange(n) * 2}
    batch = shuffled(arrays, size, rng=np.random.default_rng(seed))
    epoch = range(step * (n // size), (step + 1) * (n // size))
    seen = np.concatenate([batch(k)["x"] for k in epoch])
    assert len({*seen.tolist()}) == len(seen) == n // size * size
    again = shuffled(arrays, size, rng=np.random.default_rng(seed))
    assert np.array_equal(again(step)["x"], batch(step)["x"])
    assert np.array_equal(batch(step)["labels"], 2 * batch(step)["x"])


def test_augmentation_has_a_generator_of_the_step():
    batch = digit_batches()
    first = batch(7)["x"]
    batch(8)
    assert np.array_equal(batch(7)["x"], first)
    assert not np.array_equal(batch(8)["x"], first)
    noise = shuffled({"x": np.zeros(8)}, 2, rng=np.random.default_rng(0),
                     augment=lambda inputs, rng: {"x": rng.random(2)})
    assert len({noise(k)["x"].tobytes() for k in range(50)}) == 50


def test_batches_refuse_lengths_that_differ():
    with pytest.raises(ValueError, match=r"`arrays` must be of one length; got"):
        shuffled({"x": np.zeros(3), "y": np.zeros(4)}, 2, rng=np.random.default_rng(0))


def test_rates_by_suffix_take_the_longest_that_fits():
    p = {"a.w": np.ones(1), "a.w.scale": np.ones(1), "b.scale": np.ones(1)}
    nodes = [Node(f"{k}.e", half_square, (k,)) for k in p]
    nodes += [Node("loss", lambda *e: (np.asarray(sum(e)), lambda g: (g,) * len(e)),
                   tuple(n.name for n in nodes))]
    settings = {"optimizer": SGD, "rate": constant(0.5), "steps": 1}
    state = train(nodes, start(p, {}, SGD), lambda step: {},
                  factors={".scale": 0.1, ".w.scale": 0.0}, **settings)
    assert {k: float(v[0]) for k, v in state.parameters.items()} == {
        "a.w": 0.5, "a.w.scale": 1.0, "b.scale": 0.95}
    by_function = train(nodes, start(p, {}, SGD), lambda step: {},
                        factors=lambda name: 0.0 if name.startswith("a") else 1.0, **settings)
    assert {k: float(v[0]) for k, v in by_function.parameters.items()} == {
        "a.w": 1.0, "a.w.scale": 1.0, "b.scale": 0.5}
    with pytest.raises(ValueError, match=r"`factors` must fit parameters; got '\.scal'"):
        train(nodes, start(p, {}, SGD), lambda step: {}, factors={".scal": 1.0}, **settings)


def test_frozen_parameters_and_those_without_a_gradient_stay():
    moved = roll()
    assert np.array_equal(moved.parameters["w"], W["w"] / 8)
    assert moved.parameters["other"] is W["other"]
    assert np.array_equal(roll(frozen={"w"}).parameters["w"], W["w"])
    with pytest.raises(ValueError, match=r"`frozen` must name parameters; got 'v'"):
        roll(frozen={"v"})


def test_a_penalty_adds_its_value_and_its_gradients():
    heard = []

    def penalty(parameters, step):
        p = parameters["other"]
        return (p * p).sum(), {"other": 2 * p, "w": -parameters["w"]}   # cancels that of the bowl

    state = roll(steps=1, rate=constant(0.25), penalty=penalty,
                 progress=lambda step, loss: heard.append((step, loss)))
    assert np.array_equal(state.parameters["w"], W["w"])
    assert np.array_equal(state.parameters["other"], np.full(3, 0.5))
    assert heard == [(1, 2.5 + 3.0)]
    frozen = roll(steps=1, penalty=penalty, frozen={"other"})
    assert np.array_equal(frozen.parameters["other"], np.ones(3))


def test_after_is_a_projection_that_hears_the_step():
    steps = []

    def clip(parameters, step):
        steps.append(step)
        return {k: np.clip(v, -0.5, 0.5) for k, v in reversed(parameters.items())}

    state = roll(steps=2, after=clip)
    assert np.array_equal(state.parameters["w"], [0.25, -0.25])
    assert steps == [0, 1]
    assert list(state.parameters) == ["other", "w"]


@pytest.mark.parametrize(("change", "message"), [
    (lambda p: {"w": p["w"]}, r"keep the names; got \['other'\]"),
    (lambda p: p | {"w": p["w"][:1]}, r"keep 'w' float64 of shape \(2,\); got float64 of shape"),
    (lambda p: p | {"w": np.float32(p["w"])}, r"keep 'w' float64 .* got float32"),
])
def test_after_must_keep_names_shapes_and_dtypes(change, message):
    with pytest.raises(ValueError, match="`after` must " + message):
        roll(after=lambda p, step: change(p))


def test_a_tap_is_a_straight_through_estimator():
    """The loss sees round(w), the gradient of the bowl is that at round(w), w itself moves."""
    state = roll(start({"w": np.array([0.7, -1.2])}, {}, SGD), steps=1,
                 tap=lambda name, v: np.rint(v) if name == "w" else v)
    assert np.allclose(state.parameters["w"], [0.7 - 0.5, -1.2 + 0.5])


def test_statistics_are_constants_of_nodes_in_evaluation_form():
    batch, nodes = digit_batches(), with_loss(digits_cnn())
    state = train(nodes, digit_start(), batch, steps=2, rate=constant(1e-3))
    assert all(np.array_equal(v, state.statistics[k]) for k, v in initial_statistics().items())
    moving = train(NODES, digit_start(), batch, steps=1, rate=constant(1e-3), momentum=1.0)
    trace = run(NODES, {**batch(0), **digit_start().parameters})
    assert np.allclose(moving.statistics["stem.mean"], trace.values["stem.conv"].mean((0, 1, 2)),
                       atol=1e-6)


# --- when it goes wrong ---

def test_a_loss_that_is_not_finite_names_its_step_and_keeps_the_checkpoint(tmp_path):
    path = tmp_path / "state.npz"

    def poison(w, x):
        return np.asarray(w.sum() + x), lambda g: (g * np.ones_like(w), None)

    nodes = [Node("loss", poison, ("w", "x"))]
    with pytest.raises(ValueError, match=rf"`loss` must stay finite; got nan at step 5: "
                                         rf"the last checkpoint, {path}, stays"):
        train(nodes, start({"w": np.ones(2)}, {}), lambda step: {"x": np.array(
            np.nan if step == 5 else 0.0)}, steps=9, rate=constant(0.1), checkpoint=path, every=2)
    assert resume(path).step == 4


def test_a_step_that_diverges_is_an_error_and_is_not_saved(tmp_path):
    path = tmp_path / "state.npz"
    with pytest.raises(ValueError, match=r"`loss` must stay finite; got inf at step \d+: nothing"):
        roll(steps=10_000, rate=constant(100.0))
    roll(steps=2, checkpoint=path)
    with pytest.raises(ValueError, match=r"`parameters` must stay finite; got (-?inf|nan) in 'w' "
                                         r"after step 2: the last checkpoint"):
        roll(resume(path, SGD), rate=constant(float("inf")), checkpoint=path)
    assert resume(path, SGD).step == 2


@pytest.mark.parametrize(("large", "message"), [
    (1e25, r"`statistics` must stay finite; got inf in 'stem\.variance' after step 2"),
    (1e-25, r"`second` must stay finite; got inf in 'fc\.bias' after step 2")])
def test_averages_and_moments_that_overflow_are_an_error_although_the_loss_is_finite(
        tmp_path, large, message):
    path, batch = tmp_path / "state.npz", digit_batches()

    def odd(step):
        inputs = batch(step)
        return {**inputs, "x": inputs["x"] * np.float32(large)} if step == 2 else inputs

    def steep(parameters, step):
        more = np.full(10, 1e20 if step == 2 and large < 1 else 0, np.float32)
        return 0.0, {"fc.bias": more}

    with pytest.raises(ValueError, match=message):
        train(NODES, digit_start(), odd, steps=4, rate=constant(1e-3), penalty=steep,
              checkpoint=path, every=1)
    assert resume(path).step == 2


# --- checkpoints ---

@pytest.mark.parametrize("optimizer", [ADAM, SGD], ids=["adam", "sgd"])
@given(total=st.integers(1, 9), every=st.integers(1, 4), data=st.data())
@settings(max_examples=15)
def test_a_run_in_two_parts_ends_in_the_same_bits(tmp_path_factory, optimizer, total, every, data):
    path = tmp_path_factory.mktemp("run") / "state.npz"
    part = data.draw(st.integers(0, total))
    rate = cosine(0.3, total)
    whole = roll(steps=total, rate=rate, optimizer=optimizer)
    roll(steps=part, rate=rate, optimizer=optimizer, checkpoint=path, every=every)
    if part:
        middle = resume(path, optimizer)
        assert middle.step == part
        assert same(roll(middle, steps=total, rate=rate, optimizer=optimizer), whole)
    else:
        assert not path.exists()


def test_a_checkpoint_holds_the_state_to_the_bit(tmp_path):
    state = train(NODES, digit_start(), digit_batches(), steps=1, rate=constant(1e-3))
    odd = {"nan": np.array([np.nan, -0.0]), "a/b": np.float32(3), "c.npy": np.zeros((2, 0))}

    def ordered(names):
        return dict(sorted((names | odd).items()))

    memory = state.optimizer
    state = state._replace(
        parameters=ordered(state.parameters),
        optimizer=memory._replace(first=ordered(memory.first), second=ordered(memory.second)))
    save(state, tmp_path / "state.npz")
    assert same(resume(tmp_path / "state.npz"), state)
    assert [p.name for p in tmp_path.iterdir()] == ["state.npz"]


SCRIPT = """
import sys, time
from pathlib import Path
from apply.test_train import NODES, digit_batches, digit_start
from refquant.apply.train import train
from refquant.nn.optimizers import cosine
train(NODES, digit_start(), digit_batches(), steps=40, rate=cosine(0.01, 40),
      checkpoint=Path(sys.argv[1]), every=1, progress=lambda *a: time.sleep(0.01))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_run_that_was_killed_resumes_to_the_same_bits(tmp_path):
    path = tmp_path / "state.npz"
    tests = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    child = subprocess.Popen([sys.executable, "-c", SCRIPT, str(path)], cwd=os.path.dirname(tests),
                             env={**os.environ, "PYTHONPATH": tests})
    deadline = time.monotonic() + 60
    try:
        while not (path.exists() and resume(path).step >= 3):
            assert child.poll() is None, "the child ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    middle = resume(path)
    assert 3 <= middle.step < 40
    settings = {"steps": 40, "rate": cosine(0.01, 40)}
    resumed = train(NODES, middle, digit_batches(), **settings)
    assert same(resumed, train(NODES, digit_start(), digit_batches(), **settings))


def test_a_file_cut_short_anywhere_is_an_error_of_one_line(tmp_path):
    path, cut = tmp_path / "state.npz", tmp_path / "cut.npz"
    roll(checkpoint=path)
    content = path.read_bytes()
    for length in range(len(content)):
        cut.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"`path` must be a whole checkpoint; got") as err:
            resume(cut, SGD)
        assert "\n" not in str(err.value)
        assert str(cut) in str(err.value)
        assert cut.stat().st_size == length
    cut.write_bytes(content)
    assert same(resume(cut, SGD), resume(path, SGD))


@given(st.data())
@settings(max_examples=100)
def test_a_changed_byte_is_an_error_or_changes_nothing(tmp_path_factory, data):
    """Arrays have a checksum; a few bytes of the headers say nothing that is read."""
    folder = tmp_path_factory.getbasetemp() / "changed"
    folder.mkdir(exist_ok=True)
    path, changed = folder / "state.npz", folder / "changed.npz"
    state = roll(checkpoint=path)
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    changed.write_bytes(bytes(content))
    try:
        found = resume(changed, SGD)
    except ValueError:
        return
    assert same(found, state)


def test_other_files_and_other_optimizers_are_told_apart(tmp_path):
    np.savez(tmp_path / "other.npz", w=np.ones(2))
    with pytest.raises(ValueError, match=r"whole checkpoint; got .*other\.npz \('?.*step"):
        resume(tmp_path / "other.npz")
    np.save(tmp_path / "one.npy", np.ones(2))
    with pytest.raises(ValueError, match="whole checkpoint"):
        resume(tmp_path / "one.npy")
    with pytest.raises(FileNotFoundError):
        resume(tmp_path / "no.npz")
    save(start(W, {}, SGD), tmp_path / "sgd.npz")
    with pytest.raises(ValueError, match=r"`optimizer` must be the one of .*sgd\.npz; got Adam"):
        resume(tmp_path / "sgd.npz")
    save(start(W, {}, ADAM), tmp_path / "adam.npz")
    with pytest.raises(ValueError, match=r"got SgdState, but the file has \['first', 'second'"):
        resume(tmp_path / "adam.npz", SGD)


@pytest.mark.parametrize(("change", "message"), [
    ({"step": np.array([1, 2])}, r"`step` must be a whole number; got int64 of shape \(2,\)"),
    ({"step": np.array(2.7)}, "`step` must be a whole number; got float64"),
    ({"step": np.array(-5)}, "`step` must be a whole number; got"),
    ({"optimizer.steps": np.array(0.5)}, "`optimizer.steps` must be a whole number; got float64"),
    ({"optimizer.first/w": None}, "whole checkpoint; got .*no 'optimizer.first/w' of shape"),
    ({"optimizer.second/w": np.zeros(())}, "no 'optimizer.second/w' of shape"),
])
def test_a_checkpoint_of_wrong_parts_is_refused(tmp_path, change, message):
    """Read as it is, the scalar memory would train, and 2.7 steps would be two."""
    save(start(W, {}), tmp_path / "state.npz")
    with np.load(tmp_path / "state.npz") as file:
        arrays = {**file, **change}
    np.savez(tmp_path / "other.npz", **{k: v for k, v in arrays.items() if v is not None})
    with pytest.raises(ValueError, match=message) as err:
        resume(tmp_path / "other.npz")
    assert "\n" not in str(err.value)


def test_whatever_unpacking_says_of_a_broken_file_is_an_error_of_one_line(tmp_path):
    """Encrypted members, streams that do not unpack, headers that no memory could hold."""
    path = tmp_path / "state.npz"
    save(start(W, {}), path)
    content = bytearray(path.read_bytes())
    content[content.find(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "encrypted.npz").write_bytes(bytes(content))
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (10**15,)}"
    for name, text in (("large", header.replace(b"10**15", b"1" + b"0" * 15)), ("odd", b"(" * 99)):
        array = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
        with zipfile.ZipFile(tmp_path / f"{name}.npz", "w") as archive:
            for member, data in {**members, "parameters/w.npy": array}.items():
                archive.writestr(member, data)
    with zipfile.ZipFile(tmp_path / "packed.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    content = bytearray((tmp_path / "packed.npz").read_bytes())
    content[60:80] = b"\xff" * 20
    (tmp_path / "packed.npz").write_bytes(bytes(content))
    for name in ("encrypted", "large", "odd", "packed"):
        with pytest.raises(ValueError, match="`path` must be a whole checkpoint; got") as err:
            resume(tmp_path / f"{name}.npz")
        assert "\n" not in str(err.value)


def test_a_state_of_another_optimizer_is_told_before_the_first_step():
    with pytest.raises(ValueError, match="`optimizer` must be the one of `state`; got SgdState "
                                         "for AdamState"):
        roll(start(W, {}), optimizer=SGD)


def test_a_penalty_on_a_name_that_is_not_there_is_no_silence():
    with pytest.raises(ValueError, match="`penalty` must name parameters; got 'typo'"):
        roll(penalty=lambda parameters, step: (0.0, {"typo": np.ones(2)}))


def test_a_start_takes_lists_and_refuses_masks():
    assert roll(start({"w": [1.0, -2.0]}, {}, SGD)).parameters["w"].tolist() == [0.125, -0.25]
    with pytest.raises(TypeError, match="`w` must not be masked; got a MaskedArray"):
        start({"w": np.ma.masked_array([1.0, 2.0], [1, 0])}, {})


def test_a_start_that_failed_to_be_written_leaves_the_last_one(tmp_path, monkeypatch):
    path = tmp_path / "state.npz"
    roll(steps=2, checkpoint=path)
    monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        roll(resume(path, SGD), checkpoint=path)
    assert resume(path, SGD).step == 2


def test_steps_count_from_the_first_and_nothing_is_left_to_do_at_the_end():
    state = roll(steps=3)
    assert roll(state, steps=3) is state
    with pytest.raises(ValueError, match="`steps` must be at least 3; got 2"):
        roll(state, steps=2)


def test_an_optimizer_of_ones_own_is_two_functions():
    own = Optimizer(SGD.start, lambda p, g, state, *, rate: (
        {k: v - rate(k) * np.sign(g.get(k, 0 * v)) for k, v in p.items()}, state))
    assert np.array_equal(roll(steps=1, optimizer=own).parameters["w"], [0.5, -1.5])
