"""Programs: real models on four engines, element by element, and what is refused."""

import os
from pathlib import Path

import numpy as np
import pytest
from _oracles.tflite_builder import Operator, Tensor, constant, model
from _oracles.tflite_cases import cases
from hypothesis import given, settings
from hypothesis import strategies as st

from refquant.integer.engines import ENGINES, TFLM
from refquant.interop._tflite_operators import LAYERS, Node
from refquant.interop.tflite import read_tflite
from refquant.interop.tflite_program import prepare, run

DATA = Path(os.environ.get("REFQUANT_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
MODELS = sorted((DATA / "tflite").glob("*int8*.tflite"))
SEANET = sorted((DATA / "seanet").glob("*.tflite"))
needs_models = pytest.mark.skipif(not MODELS, reason="no models: set REFQUANT_DATA")


def structured(shape: tuple[int, ...], dtype: str, count: int, seed: int = 0):
    """Random, constant, walking and clustered codes in turn."""
    rng = np.random.default_rng(seed)
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    for k in range(count):
        x = [
            lambda: rng.integers(low, high + 1, shape),
            lambda: np.full(shape, rng.integers(low, high + 1)),
            lambda: np.cumsum(rng.integers(-9, 10, int(np.prod(shape)))).reshape(shape),
            lambda: rng.normal(0, (high - low) / 8, shape),
        ][k % 4]()
        yield np.clip(x, low, high).astype(dtype)


def litert(content: bytes, engine: str):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    kinds = interpreter.OpResolverType
    resolver = {"litert_ref": kinds.BUILTIN_REF, "xnnpack": kinds.AUTO,
                "litert_x86": kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES}[engine]
    theirs = interpreter.Interpreter(
        model_content=content, experimental_op_resolver_type=resolver, num_threads=1,
        experimental_preserve_all_tensors=True)
    theirs.allocate_tensors()
    return theirs


def differences(content: bytes, engine: str, count: int) -> tuple[int, int]:
    """Elements that differ and elements compared, over outputs and what tensors one can see."""
    ours = prepare(read_tflite(content), ENGINES[engine])
    (given,) = ours.model.inputs
    tensor = ours.model.tensors[given]
    if engine == "tflm":
        micro = pytest.importorskip("tflite_micro").runtime.Interpreter.from_bytes(content)
    else:
        theirs = litert(content, engine)
    wrong = compared = 0
    for x in structured(tensor.shape, tensor.dtype, count):
        seen: dict[int, np.ndarray] = {}
        outputs = run(ours, [x], tap=seen.__setitem__).outputs
        if engine == "tflm":
            micro.set_input(x, 0)
            micro.invoke()
            pairs = [(y, micro.get_output(i)) for i, y in enumerate(outputs)]
        else:
            theirs.set_tensor(given, x)
            theirs.invoke()
            pairs = [(y, theirs.get_tensor(k)) for k, y in seen.items()]
        wrong += sum(int(np.count_nonzero(y != z)) for y, z in pairs)
        compared += sum(y.size for y, _ in pairs)
    return wrong, compared


@needs_models
@pytest.mark.peer
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_every_element_of_every_tensor_is_that_of_the_engine(path, engine):
    wrong, compared = differences(path.read_bytes(), engine, 8)
    assert compared
    assert wrong == 0


@needs_models
@pytest.mark.slow
@pytest.mark.peer
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_three_hundred_inputs_differ_in_no_element(path, engine):
    assert differences(path.read_bytes(), engine, 300)[0] == 0


@pytest.mark.skipif(not SEANET, reason="no models: set REFQUANT_DATA")
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("path", SEANET, ids=lambda p: p.stem)
def test_seanet_comes_out_as_its_authors_stored_it(path, engine):
    ours = prepare(read_tflite(path.read_bytes()), ENGINES[engine])

    def stored(kind: str, index: int) -> np.ndarray:
        (file,) = path.parent.glob(f"{path.stem}_{kind}_*.csv")
        tensor = ours.model.tensors[index]
        return np.loadtxt(file, np.int64, delimiter=",").astype(tensor.dtype).reshape(tensor.shape)

    inputs = [stored(f"input{i}", k) for i, k in enumerate(ours.model.inputs)]
    assert (run(ours, inputs).outputs[0] == stored("golden", ours.model.outputs[0])).all()


@pytest.mark.parametrize("kind", ["CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD", "MUL",
                                  "MEAN", "STRIDED_SLICE", "CONCATENATION", "LEAKY_RELU"])
@pytest.mark.parametrize("engine", ENGINES)
def test_single_operators_run_and_keep_shape_and_type(kind, engine):
    for case in cases(kind, "int8", 3):
        ours = prepare(read_tflite(case.content), ENGINES[engine])
        for inputs in case.runs:
            (y,) = run(ours, inputs).outputs
            tensor = ours.model.tensors[ours.model.outputs[0]]
            assert (y.shape, y.dtype) == (tensor.shape, tensor.dtype)


def value(shape, scale=0.5, zero=0, dtype="int8"):
    return Tensor(shape, dtype, scale, zero)


def one(tensors, operator):
    return read_tflite(model(tensors, [operator], [0], list(operator.outputs)))


def test_data_moves_as_in_numpy():
    x = np.arange(24, dtype=np.int8).reshape(2, 3, 4)
    parts = [value((2, 3, 4)), value((4, 2, 3)), constant(np.int32([2, 0, 1]), "int32")]
    got = run(prepare(one(parts, Operator("TRANSPOSE", [0, 2], [1])), TFLM), [x])
    assert (got.outputs[0] == x.transpose(2, 0, 1)).all()
    parts = [value((2, 3, 4)), value((6, 4))]
    got = run(prepare(one(parts, Operator("RESHAPE", [0], [1])), TFLM), [x])
    assert (got.outputs[0] == x.reshape(6, 4)).all()


def test_large_sums_of_codes_come_from_a_table_and_are_the_same():
    rng = np.random.default_rng(0)
    shape = (1, 79, 83)                 # no multiple of 16: the last places stand apart
    a, b = rng.integers(-128, 128, (2, *shape), np.int8)
    parts = [value(shape, 0.1, -41), value(shape, 0.08, -52), value(shape, 0.2, -67)]
    for kind, name in (("ADD", "add"), ("SUB", "subtract"), ("MUL", "multiply")):
        content = model(parts, [Operator(kind, [0, 1], [2])], [0, 1], [2])
        for engine in ENGINES.values():
            ours = prepare(read_tflite(content), engine)
            from refquant.interop._tflite_operators import quantizer

            q = [quantizer(t) for t in ours.model.tensors]
            (got,) = run(ours, [a, b]).outputs
            assert (got == getattr(engine, name)(a, b, *q)).all()


WIDTHS = [("FULLY_CONNECTED", "tflm", "short"), ("FULLY_CONNECTED", "litert_x86", "short"),
          ("CONV_2D", "tflm", "short"), ("TRANSPOSE_CONV", "litert_ref", "short"),
          ("TRANSPOSE_CONV", "tflm", "bare")]


@pytest.mark.parametrize(("kind", "engine", "width"), WIDTHS)
def test_without_a_bias_the_options_say_how_wide_the_sums_are(kind, engine, width):
    x, y = value((1, 2, 2, 4), 0.1, dtype="int16"), value((1, 2, 2, 3), 0.4, dtype="int16")
    shape = (3, 4) if kind == "FULLY_CONNECTED" else (3, 1, 1, 4)
    w = constant(np.ones(shape), "int8", 0.5)
    ins = [3, 1, 0] if kind == "TRANSPOSE_CONV" else [0, 1, -1]
    tensors = [x, w, y, constant([1, 2, 2, 3], "int32")]
    places = {"padding": 0, "stride_w": 1, "stride_h": 1}
    field = {"FULLY_CONNECTED": "fully_connected", "CONV_2D": "convolution",
             "TRANSPOSE_CONV": "transposed"}[kind]
    sums = getattr(ENGINES[engine], field)
    for code, expected in ((0, sums.bare), (2, getattr(sums, width)), (4, sums.wide)):
        options = {"bias_type": code} | ({} if kind == "FULLY_CONNECTED" else places)
        if kind == "CONV_2D":
            options |= {"dilation_w": 1, "dilation_h": 1}
        loaded = one(tensors, Operator(kind, ins, [2], options))
        assert LAYERS[kind](Node(loaded, loaded.operators[0], ENGINES[engine])).rule is \
            expected.rule


def test_a_bias_that_an_engine_reads_beyond_is_refused():
    x, y = value((1, 2, 2, 4), 0.1, dtype="int16"), value((1, 2, 2, 4), 0.4, dtype="int16")
    w, b = constant(np.ones((1, 1, 1, 4)), "int8", 0.5), constant(np.ones(4), "int32", 0.05)
    options = {"padding": 0, "stride_w": 1, "stride_h": 1, "multiplier": 1,
               "dilation_w": 1, "dilation_h": 1}
    loaded = one([x, w, b, y], Operator("DEPTHWISE_CONV_2D", [0, 1, 2], [3], options))
    for engine in ENGINES.values():
        with pytest.raises(ValueError, match=r"the bias must have 64 bits in .*; got 32"):
            prepare(loaded, engine)


def test_taps_see_inputs_and_everything_written():
    seen = {}
    ours = prepare(one([value((3,)), value((3,))], Operator("RELU", [0], [1])), TFLM)
    (y,) = run(ours, [np.int8([-1, 0, 1])], tap=seen.__setitem__).outputs
    assert {k: v.tolist() for k, v in seen.items()} == {0: [-1, 0, 1], 1: [0, 0, 1]}
    assert y.dtype == np.int8


def test_states_start_at_zero_and_go_on_where_they_are_handed_on():
    """Zero is the zero point: an int8 state of 5s stands for nothing."""
    tensors = [value((1, 2), 1.0), constant(np.int8([[1, 2]]), "int8", 1.0),
               constant(np.int8([[1, 1, 1]]), "int8", 1.0), constant(np.int32([0]), "int32", 1.0),
               Tensor((1, 3), "int8", 1.0, 5, variable=True), value((1, 1), 1.0)]
    content = model(tensors, [Operator("SVDF", [0, 1, 2, 3, 4], [5], {"rank": 1, "fused": 0})],
                    [0], [5])
    ours, x = prepare(read_tflite(content), TFLM), np.int8([[3, 1]])
    first = run(ours, [x])
    assert first.outputs[0] == 5
    assert first.state[4].tolist() == [[5, 5, 10]]
    second = run(ours, [x], state=first.state)
    assert second.outputs[0] == 10
    assert run(ours, [x]).outputs[0] == 5
    assert first.state[4].tolist() == [[5, 5, 10]]


@pytest.mark.parametrize(("tensors", "operator", "message"), [
    ([value((3,)), value((3,))], Operator("RELU", [-1], [1]), "input 0 must be there"),
    ([Tensor((1, 4, 4, 1), "float32"), Tensor((1, 4, 4, 1), "float32"),
      constant(np.zeros((1, 1, 1, 1), np.float32), "float32")],
     Operator("CONV_2D", [0, 2], [1], {"stride_w": 1, "stride_h": 1}),
     r"operator 0 \(CONV_2D\): float models are not integer programs; got float32"),
    ([value((1, 4, 4, 1)), value((1, 4, 4, 1)),
      constant(np.zeros((1, 1, 1, 1), np.int8), "int8", 0.1)],
     Operator("CONV_2D", [0, 2], [1]), "strides, dilations and kernel"),
    ([value((1, 2, 2, 1)), value((1, 9, 9, 1)),
      constant(np.zeros((1, 1, 1, 3), np.int8), "int8", 0.1)],
     Operator("CONV_2D", [0, 2], [1], {"stride_w": 1, "stride_h": 1}), "must divide 1 channels"),
    ([value((3,)), value((4,))], Operator("RESHAPE", [0], [1]), "same elements"),
    ([value((3,)), value((3,), 0.25, 0, "int16")], Operator("RESHAPE", [0], [1]),
     "share their type"),
    ([value((2, 2)), value((2, 2)), constant(np.int32([0, 0]), "int32")],
     Operator("TRANSPOSE", [0, 2], [1]), "name each once"),
    ([value((1, 2, 2, 1)), value((1, 1, 1, 1), 0.25)],
     Operator("MAX_POOL_2D", [0], [1], {"stride_w": 1, "stride_h": 1, "filter_width": 2,
                                       "filter_height": 2}), "same scale"),
    ([value((2, 3)), value((2,)), constant(np.int32([5]), "int32")],
     Operator("MEAN", [0, 2], [1]), "axes must lie"),
    ([value((3,)), value((3,))], Operator("SOFTMAX", [0], [1], {"beta": 1.0}), "operator 0"),
])
def test_operators_that_do_not_fit_are_named(tensors, operator, message):
    loaded = read_tflite(model(tensors, [operator], [0], [1]))
    with pytest.raises(ValueError, match=message):
        run(prepare(loaded, TFLM), [np.zeros(tensors[0].shape, tensors[0].dtype)])


def test_inputs_that_do_not_fit_are_refused():
    ours = prepare(one([value((3,)), value((3,))], Operator("RELU", [0], [1])), TFLM)
    with pytest.raises(ValueError, match=r"input 0 must have shape \(3,\); got \(4,\)"):
        run(ours, [np.zeros(4, np.int8)])
    with pytest.raises(TypeError, match="input 0 must be int8; got int64"):
        run(ours, [np.zeros(3, int)])
    with pytest.raises(ValueError, match="`inputs` must be 1; got 2"):
        run(ours, [np.zeros(3, np.int8)] * 2)


def test_too_many_elements_in_all_are_refused():
    tensors = [value((2**24,)) for _ in range(5)]
    with pytest.raises(ValueError, match="the tensors must have at most"):
        prepare(one(tensors, Operator("RELU", [0], [1])), TFLM)


def test_too_many_products_in_all_are_refused_before_any_is_taken():
    image, weight = value((1, 256, 256, 64)), constant(
        np.ones((64, 9, 9, 64), np.int8), "int8", 0.1)
    tensors = [image, weight, *[image] * 3]
    steps = [Operator("CONV_2D", [k, 1], [k + 1 if k else 2], {"stride_w": 1, "stride_h": 1})
             for k in (0, 2, 3)]
    loaded = read_tflite(model(tensors, steps, [0], [4]))
    with pytest.raises(ValueError, match=r"operator 1 \(CONV_2D\): up to here the model must take"):
        prepare(loaded, TFLM)


@needs_models
def test_float_models_are_refused_in_one_line():
    for path in sorted((DATA / "tflite").glob("*float*.tflite")):
        with pytest.raises(ValueError, match="float models are not integer programs"):
            prepare(read_tflite(path.read_bytes()), TFLM)


def complaint(content: bytes) -> str:
    """What reading and running says; nothing where it works."""
    try:
        ours = prepare(read_tflite(content), TFLM)
        tensors = [ours.model.tensors[k] for k in ours.model.inputs]
        run(ours, [np.zeros(t.shape, t.dtype) for t in tensors])
    except ValueError as err:
        return str(err)
    return ""


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_operators_are_refused_or_run(data):
    """Shapes, options and constants changed at random: an answer or one clear error."""
    kind = data.draw(st.sampled_from(["CONV_2D", "DEPTHWISE_CONV_2D", "PAD", "STRIDED_SLICE",
                                      "AVERAGE_POOL_2D", "FULLY_CONNECTED", "MEAN", "ADD"]))
    (case,) = cases(kind, "int8", 1, data.draw(st.integers(0, 20)))
    damaged = bytearray(case.content)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(8, len(damaged) - 1))
        damaged[at] = data.draw(st.sampled_from([0, 1, 2, 127, 128, 255]))
    assert len(complaint(bytes(damaged))) < 500
