"""Networks of ours as ONNX: the same values at every name, on two runtimes."""

import numpy as np
import pytest

from refquant.interop.onnx_export import OPSET, export_onnx
from refquant.nn.data import digits
from refquant.nn.models import trained_digits_cnn
from refquant.nn.network import Node, run
from refquant.nn.operations import average_pool, flatten, max_pool
from refquant.nn.small_models import PLAIN, SEPARABLE6, trained
from refquant.nn.transformer import encoder

onnx = pytest.importorskip("onnx")
pytestmark = pytest.mark.peer
IMAGE = {"x": (np.float32, ("batch", 8, 8, 1))}


def runners():
    from onnx.reference import ReferenceEvaluator

    yield "onnx", lambda content, feeds: ReferenceEvaluator(content).run(None, feeds)
    try:
        import onnxruntime
    except ImportError:
        return
    yield "onnxruntime", lambda content, feeds: onnxruntime.InferenceSession(
        content, providers=["CPUExecutionProvider"]).run(None, feeds)


RUNNERS = dict(runners())


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("model", [trained_digits_cnn(), trained(PLAIN), trained(SEPARABLE6)])
def test_every_node_keeps_its_name_and_value(model, runner):
    x = digits().x_test[:3]
    names = [n.name for n in model.nodes]
    content = export_onnx(model.nodes, model.values, IMAGE, names)
    onnx.checker.check_model(content, full_check=True)
    ours = run(model.nodes, {"x": x, **model.values}).values
    for name, theirs in zip(names, RUNNERS[runner](content, {"x": x}), strict=True):
        scale = np.abs(ours[name]).max()
        assert theirs.shape == ours[name].shape
        assert np.allclose(theirs, ours[name], rtol=1e-4, atol=1e-5 * scale), name


@pytest.mark.parametrize("runner", RUNNERS)
def test_an_encoder_of_open_length(runner):
    rng = np.random.default_rng(0)
    nodes = encoder(layers=2, heads=2)
    width, words = 8, 11
    values = {"words": rng.standard_normal((words, width)),
              "positions": rng.standard_normal((9, width)), "kind": rng.standard_normal((2, width))}
    for name in {n for node in nodes for n in node.inputs} - set(values):
        if name.endswith(".weight"):
            out, n = {"wide": (16, 8), "narrow": (8, 16)}.get(name.split(".")[1], (8, 8))
            values[name] = rng.standard_normal((out, n)) / 3
            values[name.replace("weight", "bias")] = rng.standard_normal(out)
        elif name.endswith(".gain"):
            values[name] = rng.standard_normal(width)
            values[name.replace("gain", "bias")] = rng.standard_normal(width)
    values = {k: v.astype(np.float32) for k, v in values.items()}
    either = dict.fromkeys(("tokens", "mask"), (np.int64, ("batch", "length")))
    content = export_onnx(nodes, values, either, ["layer0.weights", "layer1.gelu", "embedding"])
    onnx.checker.check_model(content, full_check=True)
    for length in (1, 5, 9):
        tokens = rng.integers(0, words, (3, length))
        mask = np.ones_like(tokens)
        mask[1, 1:] = 0
        ours = run(nodes, {"tokens": tokens, "mask": mask, **values}).values
        theirs = RUNNERS[runner](content, {"tokens": tokens, "mask": mask})
        for name, value in zip(("layer0.weights", "layer1.gelu", "embedding"), theirs, strict=True):
            assert np.allclose(value, ours[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("op", [max_pool, average_pool])
def test_pools(op):
    from functools import partial

    x = np.random.default_rng(0).standard_normal((2, 8, 8, 1)).astype(np.float32)
    nodes = [Node("y", partial(op, size=2, stride=3), ("x",)), Node("z", flatten, ("y",))]
    theirs = RUNNERS["onnx"](export_onnx(nodes, {}, IMAGE, ["y", "z"]), {"x": x})
    ours = run(nodes, {"x": x}).values
    assert np.allclose(theirs[0], ours["y"], atol=1e-6)
    assert np.array_equal(theirs[1].shape, ours["z"].shape)


def test_the_file_is_a_function_of_the_network():
    model = trained(PLAIN)
    first, second = (export_onnx(model.nodes, model.values, IMAGE, ["logits"]) for _ in "12")
    assert first == second
    assert onnx.load_from_string(first).opset_import[0].version == OPSET


def test_what_has_no_counterpart_is_named():
    model = trained_digits_cnn()
    with pytest.raises(ValueError, match="`nodes` must have counterparts in ONNX; got odd by"):
        export_onnx([Node("odd", lambda x: (x, None), ("x",))], {}, IMAGE, ["odd"])
    with pytest.raises(ValueError, match="`x` must be an input, a value or an earlier node"):
        export_onnx(model.nodes, model.values, {}, ["logits"])
    with pytest.raises(ValueError, match="`outputs` must name nodes; got 'nothing'"):
        export_onnx(model.nodes, model.values, IMAGE, ["nothing"])
