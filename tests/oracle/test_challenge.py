"""Challenge: fresh, repeatable, answered twice; and the pipe reads back what it wrote."""

import pytest
from _oracles.wrong_quantizers import Quantizer, Reciprocal, TiesAway

from refquant.oracle.challenge import Line, challenge, prompts, splitmix64, verified
from refquant.oracle.run import Outcome, run
from refquant.oracle.vectors import cases, load

INT8 = "quantize_affine.float32.int8"


def test_splitmix64_gives_the_published_words():
    words = splitmix64(1234567)
    assert [next(words) for _ in range(5)] == [
        6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431,
        16408922859458223821]


def test_the_same_seed_asks_the_same_and_another_seed_others():
    first, again, other = (challenge(s, groups=2, each=6) for s in (5, 5, 6))
    assert first.document == again.document
    assert not {c.id for c in first} & {c.id for c in other}
    assert not {c.id for c in first} & {c.id for c in cases(INT8)}


@pytest.mark.parametrize("wrong", [TiesAway, Reciprocal])
def test_a_right_implementation_passes_and_a_wrong_one_does_not(wrong):
    file = challenge(1, groups=6)
    assert all(r.outcome is Outcome.MATCH for r in run(Quantizer(), file, "onnx"))
    assert any(r.outcome is Outcome.MISMATCH for r in run(wrong(), file, "onnx"))


@pytest.mark.parametrize("out", ["uint8", "int4", "int16"])
def test_other_types_have_challenges(out):
    assert len(challenge(3, groups=1, each=4, out=out)) == 4


@pytest.mark.parametrize("settings", [{"groups": 0}, {"each": 0}, {"out": "int3"}])
def test_bad_input_is_one_line(settings):
    with pytest.raises(ValueError, match="must be"):
        challenge(1, **settings)


class TestPipe:
    file = load(INT8)

    def test_questions_do_not_hold_answers(self):
        head, first, *_ = prompts(self.file)
        assert "q" not in head.split("\t")
        assert len(first.split("\t")) == len(head.split("\t"))
        assert len(list(prompts(self.file))) == len(self.file) + 1

    def test_right_answers_are_right(self):
        lines = []
        for case in self.file:
            if case.status == "reject":
                lines.append(f"{case.id}\t!")
            elif case.status == "defined":
                lines.append(f"{case.id}\t{int(case.answer('onnx')['q']):02x}")
            else:
                lines.append(f"{case.id} whatever")
        assert {line.right for line in verified(lines, self.file, "onnx")} == {True}
        assert not all(line.right for line in verified(lines, self.file, "torch.fbgemm"))

    @pytest.mark.parametrize(("line", "verdict"), [
        ("", None), ("# comment", None), ("zzz 03", False), ("{id} 04", False), ("{id}", False),
        ("{id} 03 04", False), ("{id} !", False),
    ])
    def test_every_other_line_is_skipped_or_wrong(self, line, verdict):
        case = next(iter(self.file))
        found = list(verified([line.format(id=case.id)], self.file, "onnx"))
        assert [f.right for f in found] == ([] if verdict is None else [verdict])

    def test_what_is_not_supported_is_neither(self):
        case = next(iter(self.file))
        assert list(verified([f"{case.id} -"], self.file, "onnx")) == [
            Line(case.id, None, "not supported")]

    def test_arrays_are_written_with_their_shape(self):
        granular = load("quantize_affine.float32.int8.granular")
        lines = list(prompts(granular))
        assert any("4x3:" in line for line in lines)
        array = next(c for c in granular if c.inputs["x"].ndim == 2 and c.inputs["x"].size)
        shape = "x".join(map(str, array.inputs["x"].shape))
        digits = array.answer("onnx")["q"].tobytes().hex()
        [found] = verified([f"{array.id} {shape}:{digits}"], granular, "onnx")
        assert found.right
