"""Two networks in one, QKD's phases, and what the table of the experiment may claim."""

from functools import partial

import numpy as np
import pytest

from refquant.apply._experiment_distillation import ROWS, classroom, main, measure, read_table
from refquant.apply.distill import TEACHER, beside, enrolled, named, qkd, taught
from refquant.apply.train import resume, shuffled, start, train
from refquant.nn.data import digits
from refquant.nn.models import (
    Model,
    digits_cnn,
    initial_parameters,
    initial_statistics,
    predict,
    with_loss,
)
from refquant.nn.network import backward, run
from refquant.nn.optimizers import constant, cosine
from refquant.qat.distillation import co_study, hinton

DATA = digits(seed=5)
STUDENT = initial_parameters(rng=np.random.default_rng(0), width=4)
TEACHER_MODEL = Model(
    digits_cnn(), initial_parameters(rng=np.random.default_rng(1), width=8),
    initial_statistics(width=8))
TRAINING = digits_cnn(training=True)


def batches(size=16):
    arrays = {"x": DATA.x_train, "labels": DATA.y_train}
    return shuffled(arrays, size, rng=np.random.default_rng(2))


def begin():
    return enrolled(STUDENT, initial_statistics(width=4), TEACHER_MODEL)


def moved(before, after):
    """Names whose values changed."""
    return {k for part in ("parameters", "statistics") for k, v in getattr(after, part).items()
            if not np.array_equal(v, getattr(before, part)[k])}


def test_two_networks_side_by_side_answer_as_they_do_alone():
    both = beside(digits_cnn(), digits_cnn())
    statistics = initial_statistics(width=4) | named(TEACHER_MODEL.statistics)
    values = {"x": DATA.x_test[:5], **STUDENT, **named(TEACHER_MODEL.parameters), **statistics}
    found = run(both, values).values
    alone = Model(digits_cnn(), STUDENT, initial_statistics(width=4))
    assert np.array_equal(found["logits"], predict(alone, DATA.x_test[:5]))
    assert np.array_equal(found["teacher.logits"], predict(TEACHER_MODEL, DATA.x_test[:5]))


def test_logits_that_come_with_the_batch_do_what_a_fixed_teacher_does():
    loss = partial(hinton, temperature=3.0)
    inputs = {"x": DATA.x_train[:8], "labels": DATA.y_train[:8], **STUDENT}
    fixed = {**named(TEACHER_MODEL.values), **inputs}
    a = backward(run(taught(beside(TRAINING, digits_cnn()), loss), fixed), {"loss": 1.0})
    logits = named({"logits": predict(TEACHER_MODEL, DATA.x_train[:8])})
    b = backward(run(taught(TRAINING, loss), inputs | logits), {"loss": 1.0})
    assert all(np.array_equal(a[k], b[k]) for k in STUDENT)
    assert not any(k.startswith(TEACHER) for k in a)


def test_co_study_moves_both_and_keeps_the_averages_of_both():
    nodes = taught(beside(TRAINING, TRAINING), co_study)
    after = train(nodes, begin(), batches(), steps=1, rate=constant(1e-3))
    names = moved(begin(), after)
    assert "stem.weight" in names
    assert "teacher.stem.weight" in names
    assert {"stem.mean", "teacher.stem.mean", "teacher.pw2.variance"} <= names


@pytest.mark.parametrize(("ends", "student", "teacher"), [
    ((2, 2, 2), True, False),           # self-study
    ((0, 2, 2), True, True),            # co-studying
    ((0, 0, 2), True, False),           # tutoring
    ((0, 0, 0), False, False),
])
def test_each_phase_moves_whom_it_should(ends, student, teacher):
    after = qkd(TRAINING, TRAINING, digits_cnn(), begin(), batches(), ends=ends,
                rate=constant(1e-3))
    names = moved(begin(), after)
    assert any(not n.startswith(TEACHER) for n in names) == student
    assert any(n.startswith(TEACHER) for n in names) == teacher
    assert after.step == ends[2]


def test_the_teacher_walks_at_its_own_pace():
    def step(pace):
        after = qkd(TRAINING, TRAINING, digits_cnn(), begin(), batches(), ends=(0, 1, 1),
                    rate=constant(1e-3), pace=pace)
        return after.parameters["teacher.stem.weight"] - TEACHER_MODEL.parameters["stem.weight"]

    assert np.allclose(step(0.1), step(1.0) / 10, atol=1e-6)
    assert not step(0.0).any()


def test_self_study_is_training_on_the_labels():
    a = qkd(TRAINING, TRAINING, digits_cnn(), begin(), batches(), ends=(3, 3, 3),
            rate=constant(1e-3))
    b = train(with_loss(TRAINING), start(STUDENT, initial_statistics(width=4)), batches(),
              steps=3, rate=constant(1e-3))
    assert all(np.array_equal(a.parameters[k], v) for k, v in b.parameters.items())


def test_a_run_killed_in_any_phase_goes_on_from_there(tmp_path):
    path = tmp_path / "state.npz"
    settings = {"ends": (2, 4, 6), "rate": cosine(1e-2, 6)}
    networks = TRAINING, TRAINING, digits_cnn()
    whole = qkd(*networks, begin(), batches(), **settings)

    def die(step, loss):
        if step == last:
            raise KeyboardInterrupt

    for last in (1, 3, 4, 5):
        loop = partial(train, checkpoint=path, every=1, progress=die)
        with pytest.raises(KeyboardInterrupt):
            qkd(*networks, begin(), batches(), **settings, loop=loop)
        assert resume(path).step == last
        again = qkd(*networks, resume(path), batches(), **settings)
        assert not moved(whole, again)


def test_phases_do_not_run_backwards():
    with pytest.raises(ValueError, match=r"`ends` must not fall; got \(3, 2, 5\)"):
        qkd(TRAINING, TRAINING, digits_cnn(), begin(), batches(), ends=(3, 2, 5),
            rate=constant(1e-3))


# --- the table of the experiment ---

def paired(bits, rate, lesson, baseline="labels"):
    """Differences of accuracy and of surprise to the baseline, seed by seed."""
    table = read_table()
    a, b = table[bits, rate, lesson], table[bits, rate, baseline]
    assert a.keys() == b.keys()
    assert len(a) >= 3
    return (np.array([a[s].accuracy - b[s].accuracy for s in a]),
            np.array([a[s].nll - b[s].nll for s in a]))


@pytest.mark.parametrize("bits", [2, 3])
def test_a_teacher_lowers_the_surprise_at_the_same_schedule_and_keeps_the_accuracy(bits):
    accuracy, nll = paired(bits, "0.001, long", "teacher, T=4")
    assert nll.mean() < 0
    assert accuracy.mean() >= -0.005


def test_the_table_holds_every_row_for_the_same_seeds():
    table = read_table()
    assert {*ROWS} < {*table}
    assert len({tuple(scores) for scores in table.values()}) == 1


def test_a_row_of_the_table_comes_out_again():
    """Its student is trained in float and with quantizers; no teacher is needed for labels."""
    row = 3, "0.001, long", "labels"
    again, listed = measure(classroom(0, TEACHER_MODEL), *row), read_table()[row][0]
    assert abs(again.accuracy - listed.accuracy) < 0.03     # equal on the machine that wrote it
    assert abs(again.nll - listed.nll) < 0.1


@pytest.mark.whole
def test_the_script_writes_the_table_again(tmp_path):
    main(["--out", str(tmp_path / "again.csv")])
    again, listed = read_table(tmp_path / "again.csv"), read_table()
    assert again.keys() == listed.keys()
    for row in listed:
        means = [np.mean([s.nll for s in t[row].values()]) for t in (again, listed)]
        assert abs(means[0] - means[1]) < 0.05, row
