"""The ladder: stops where it should, and reaches a point of float with few bits."""

import numpy as np
import pytest

from refquant.apply.rewrite import fold_batch_norms
from refquant.apply.simulate import static, weight_names
from refquant.cli import run as command
from refquant.metrics import sqnr
from refquant.nn.data import digits
from refquant.nn.models import trained_digits_cnn
from refquant.nn.network import Node, run, untouched
from refquant.nn.operations import linear
from refquant.workflow.ladder import Candidate, Climb, Step, climb, rungs_for, silent

DATA = digits()
MODEL = trained_digits_cnn()
NODES, VALUES = fold_batch_norms(MODEL.nodes, MODEL.values)


def logits(candidate):
    tap = static(candidate.plan) if candidate.plan else untouched
    return run(candidate.nodes, {"x": DATA.x_test, **candidate.values}, tap=tap).values["logits"]


def accuracy(candidate):
    return float((logits(candidate).argmax(1) == DATA.y_test).mean())


def scored(**scores):
    """Rungs that have only a score, and who was asked."""
    asked = []

    def rung(name):
        asked.append(name)
        return Candidate([], {}, {}, scores[name])

    return {name: lambda name=name: rung(name) for name in scores}, asked


def test_it_stops_at_the_first_rung_that_is_good_enough_and_makes_no_other():
    rungs, asked = scored(a=0.5, b=0.89, c=0.91, d=0.99)
    heard = []
    made = climb(rungs, lambda c: c.bits, baseline=1.0, max_drop=0.1,
                 progress=lambda *args: heard.append(args))
    assert isinstance(made, Climb)
    assert asked == [step.name for step in made.steps] == ["a", "b", "c"]
    assert made.reached
    assert made.candidate.bits == 0.91
    assert heard == [(0, 4, "a"), (1, 4, "b"), (2, 4, "c")]
    assert all(isinstance(s, Step) and s.drop == 1 - s.score and s.seconds >= 0
               for s in made.steps)


def test_where_none_is_good_enough_the_best_is_kept():
    rungs, asked = scored(a=0.5, b=0.8, c=0.7)
    made = climb(rungs, lambda c: c.bits, baseline=1.0, max_drop=0.1, progress=silent)
    assert not made.reached
    assert asked == ["a", "b", "c"]
    assert made.candidate.bits == 0.8


def test_the_best_of_all_is_kept_and_of_equals_the_first():
    scores = {"a": 0.5, "b": 0.8, "c": 0.6, "d": 0.7, "e": 0.8}
    rungs = {n: lambda n=n: Candidate([], {n: np.ones(1)}, {}, scores[n]) for n in scores}
    made = climb(rungs, lambda c: c.bits, baseline=1.0, max_drop=0.1)
    assert list(made.candidate.values) == ["b"]


def test_a_drop_that_is_just_allowed_is_good_enough():
    rungs, asked = scored(a=0.25, b=0.5, c=1.0)
    assert climb(rungs, lambda c: c.bits, baseline=1.0, max_drop=0.5).reached
    assert asked == ["a", "b"]


@pytest.mark.parametrize(("bits", "last"), [(4, "per channel"), (2, "mixed")])
def test_a_point_of_float_is_reached_with_fewer_bits_than_uniform_int8(bits, last):
    """The digits network in 4 bits by a better scale, in 3 by repair and a program."""
    float_ = accuracy(Candidate(NODES, VALUES, {}, 32))
    rungs = rungs_for(NODES, VALUES, {"x": DATA.x_train[:300]}, bits=bits,
                      labels=DATA.y_train[:300])
    made = climb(rungs, accuracy, baseline=float_, max_drop=0.01)
    assert made.reached
    assert made.steps[-1].bits < 4.01
    assert last in rungs
    assert list(rungs).index(made.steps[-1].name) <= list(rungs).index(last)
    assert made.steps[0].drop > 0.01            # nearest rounding was not enough


def test_weights_have_the_levels_that_their_bits_allow():
    rungs = rungs_for(NODES, VALUES, {"x": DATA.x_train[:64]}, bits=3,
                      labels=DATA.y_train[:64], steps=3)
    assert list(rungs) == ["nearest", "per channel", "repaired", "moments", "GPTQ", "mixed",
                           "trained"]
    for name in ("nearest", "GPTQ", "trained"):
        made = rungs[name]()
        for weight in weight_names(NODES):
            rows = made.values[weight].reshape(len(made.values[weight]), -1)
            assert max(len(np.unique(row)) for row in rows) <= 7
            assert made.values[weight].dtype == np.float32
    mixed = rungs["mixed"]()
    assert 3 < mixed.bits <= 4
    assert set(mixed.plan) == set(made.plan)


def test_each_rung_of_three_bits_is_a_decibel_nearer_to_the_float_logits_than_the_one_before():
    """5.9, 9.9, 12.5, 16.0, 18.1 and, of one bit more in the mean, 25.1 dB."""
    exact = logits(Candidate(NODES, VALUES, {}, 32))
    rungs = rungs_for(NODES, VALUES, {"x": DATA.x_train[:64]}, bits=3)
    found = {name: sqnr(exact, logits(rung())) for name, rung in rungs.items()}
    assert list(found) == ["nearest", "per channel", "repaired", "moments", "GPTQ", "mixed"]
    assert min(np.diff(list(found.values()))) > 1


def test_moments_bring_two_bits_from_a_third_to_nine_tenths():
    """No label, no gradient: what measuring batch norms again does."""
    rungs = rungs_for(NODES, VALUES, {"x": DATA.x_train[:300]}, bits=2)
    plain, means, both = (accuracy(rungs[n]()) for n in ("per channel", "repaired", "moments"))
    assert plain < 0.5
    assert means < 0.9
    assert both > 0.93


def test_bytes_are_those_of_the_codes():
    count = sum(VALUES[n].size for n in weight_names(NODES))
    made = Candidate(NODES, VALUES, {}, 4)
    assert made.size == count / 2
    assert climb({"a": lambda: made}, lambda c: 1.0, baseline=1.0,
                 max_drop=0.0).steps[0].size == made.size


def test_nothing_is_trained_without_labels_and_nothing_made_too_early():
    net, values = [Node("logits", linear, ("x", "fc.weight"))], {"fc.weight": np.ones((2, 3))}
    assert "trained" not in rungs_for(net, values, {"x": np.ones((4, 3))}, bits=4)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="`rungs` must hold at least one rung"):
        climb({}, lambda c: 0, baseline=1, max_drop=0)
    with pytest.raises(TypeError, match="`max_drop` must be a real number"):
        climb({}, lambda c: 0, baseline=1, max_drop="1%")
    with pytest.raises(ValueError, match="`bits` must be at least 2; got 1"):
        rungs_for(NODES, VALUES, {"x": DATA.x_train[:4]}, bits=1)


def test_the_command_tells_what_was_tried_and_where_it_stopped(capsys):
    assert command(["workflow", "--bits", "4"]) == 0
    told = capsys.readouterr().out
    assert "Stopped at per channel" in told
    for part in ("nearest", "float", "Most lost: digit", "most would be gained"):
        assert part in told


@pytest.mark.parametrize(("arguments", "message"), [
    (["--bits", "1"], "`--bits` must lie in [2, 8]; got 1"),
    (["--max-drop", "-1"], "`--max-drop` must lie in [0, 100]; got -1.0"),
])
def test_the_command_refuses_in_one_line(arguments, message, capsys):
    assert command(["workflow", *arguments]) == 2
    assert capsys.readouterr().err == f"refquant: {message}\n"
