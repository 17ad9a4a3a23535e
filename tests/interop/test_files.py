"""Files on the command line: which arrays are one input and which are many; files whole or not."""

import numpy as np
import pytest

from refquant.interop._files import load_array, runs_of, save

INT8, F32 = np.dtype(np.int8), np.dtype(np.float32)


@pytest.mark.parametrize(("slot", "shape", "many", "each"), [
    ((1, 4), (1, 4), False, (1, 4)),
    ((1, 4), (7, 4), True, (1, 4)),
    ((1, 4), (7, 1, 4), True, (1, 4)),
    ((3, 4), (5, 3, 4), True, (3, 4)),
    ((None, 4), (7, 4), False, (7, 4)),         # an open batch: all at once
    ((None, 4), (5, 7, 4), True, (7, 4)),
    ((), (), False, ()),
    ((), (9,), True, ()),
])  # fmt: skip
def test_arrays_are_one_input_or_many(slot, shape, many, each):
    x = np.arange(np.prod(shape)).reshape(shape).astype(np.int8)
    found = runs_of([(INT8, slot)], [x])
    runs = list(found.inputs)
    assert found.size == len(runs)
    assert (found.many, len(runs), runs[0][0].shape) == (many, shape[0] if many else 1, each)
    assert np.array_equal(np.concatenate([r[0].ravel() for r in runs]), x.ravel())


def test_inputs_have_as_many_runs_each():
    slots, x = [(INT8, (1, 4)), (F32, (2,))], np.zeros((7, 4), np.int8)
    runs = runs_of(slots, [x, np.zeros((7, 2), np.float32)])
    assert (runs.many, runs.joined, len(list(runs.inputs))) == (True, False, 7)
    with pytest.raises(ValueError, match=r"equally many runs; got \[7, 8\]"):
        runs_of(slots, [x, np.zeros((8, 2), np.float32)])


def test_outputs_come_together_as_the_inputs_did():
    y = [np.zeros((1, 3), np.int8)] * 7
    batch, stack = np.zeros((7, 4), np.int8), np.zeros((7, 1, 4), np.int8)
    assert runs_of([(INT8, (1, 4))], [batch]).together(y).shape == (7, 3)
    assert runs_of([(INT8, (1, 4))], [stack]).together(y).shape == (7, 1, 3)
    assert runs_of([(INT8, (1, 4))], [stack[0]]).together(y[:1]).shape == (1, 3)
    assert runs_of([(INT8, (1, 4))], [batch]).together([np.zeros(2)] * 7).shape == (7, 2)
    with pytest.raises(ValueError, match="at least one run"):
        runs_of([(INT8, (1, 4))], [batch[:0]])


@pytest.mark.parametrize("x", [np.array(["a"]), np.zeros(3, "S0"), np.zeros(2, "V4"),
                               np.zeros(2, "M8[s]"), np.zeros(2, [("a", "f4")])])
def test_a_file_of_no_numbers_is_refused(tmp_path, x):
    """Elements without bytes once ended the process, in `numpy.memmap`."""
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(ValueError, match=r"whole \.npy file of numbers; got `x\.npy` must"):
        load_array(tmp_path / "x.npy")


@pytest.mark.parametrize("x", [np.zeros((0, 3)), np.float32(2), np.asfortranarray(np.eye(3)),
                               np.arange(3, dtype=">i2")], ids=str)
def test_arrays_of_all_orders_and_sizes_come_back(tmp_path, x):
    np.save(tmp_path / "x.npy", x)
    found = load_array(tmp_path / "x.npy")
    assert np.array_equal(found, x)
    assert found.dtype == x.dtype
    with (tmp_path / "x.npy").open("rb+") as file:
        file.truncate((tmp_path / "x.npy").stat().st_size - 1 if x.size else 20)
    with pytest.raises(ValueError, match=r"must be a whole \.npy file"):
        load_array(tmp_path / "x.npy")


def test_a_file_is_whole_or_not_there(tmp_path):
    class Full:
        def __array__(self, dtype=None, copy=None):
            raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        save(tmp_path / "y.npy", Full())
    assert list(tmp_path.iterdir()) == []
    save(tmp_path / "y.npy", np.arange(3))
    assert load_array(tmp_path / "y.npy").tolist() == [0, 1, 2]
    assert [p.name for p in tmp_path.iterdir()] == ["y.npy"]
    (tmp_path / "other").touch()
    assert (tmp_path / "y.npy").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_of_several_inputs_the_one_that_does_not_fit_is_named():
    slots, x = [(INT8, (1, 4)), (F32, (2,))], np.zeros((1, 4), np.int8)
    with pytest.raises(ValueError, match=r"input 1 must be float32; got int8"):
        runs_of(slots, [x, x])
    with pytest.raises(ValueError, match=r"input 1 must have the shape \(2,\)"):
        runs_of(slots, [x, x.astype(np.float32)[0]])


def test_a_header_that_lies_takes_no_memory(tmp_path):
    """The header of four terabytes, and no numbers behind it."""
    np.save(tmp_path / "x.npy", np.zeros((1, 10**6), np.int8))
    raw = (tmp_path / "x.npy").read_bytes()[:300]
    (tmp_path / "x.npy").write_bytes(raw.replace(b"(1, 1000000)", b"(4, 10**12) "[:12]))
    with pytest.raises(ValueError, match=r"must be a whole \.npy file"):
        load_array(tmp_path / "x.npy")
    (tmp_path / "x.npy").write_bytes(raw.replace(b"1, 1000000", b"9999999999"))
    with pytest.raises(ValueError, match=r"must be a whole \.npy file"):
        load_array(tmp_path / "x.npy")
