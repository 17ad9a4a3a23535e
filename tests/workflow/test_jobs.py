"""On a local dask cluster of processes, whatever goes through joblib gives the same."""

from functools import partial

import numpy as np
import pytest
from joblib import parallel_config
from threadpoolctl import threadpool_limits

from refquant.apply.layerwise import parallel
from refquant.apply.mixed import candidates, divergences
from refquant.apply.simulate import weight_names
from refquant.calibration.minmax import absmax
from refquant.calibration.second_moment import SecondMoment
from refquant.interop import safetensors
from refquant.interop.onnx_export import export_onnx
from refquant.nn.data import digits
from refquant.nn.models import trained_digits_cnn
from refquant.ptq.gptq import gptq
from refquant.quantizers.uniform import symmetric
from refquant.workflow.quantize import observe, quantize_layers
from refquant.workflow.report import examine_all
from refquant.workflow.tensors import tensors_of
from refquant.workflow.weights import by_adaround, by_gptq

distributed = pytest.importorskip("dask.distributed", reason="there is no dask to start")

pytestmark = pytest.mark.peer
MODEL, X = trained_digits_cnn(), digits().x_train[:32]
NAMES = [name for name in weight_names(MODEL.nodes) if not name.startswith("dw")]


@pytest.fixture(scope="module")
def cluster():
    with (distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
          as local, distributed.Client(local) as client):
        yield client


def alone_and_on(cluster, work):
    """What the work returns here, and there, where dask allows BLAS one thread."""
    with threadpool_limits(1, "blas"):
        alone = work()
    with parallel_config("dask"), distributed.get_task_stream(cluster) as tasks:
        there = work()
    assert len(tasks.data) > 1                      # it was there
    return alone, there


def three_bits(weight, inputs):
    return gptq(weight, inputs.hessian, lambda w: symmetric(absmax(w, axis=1), bits=3))


def test_reports_of_a_file_that_the_workers_read(cluster, tmp_path):
    safetensors.write(tmp_path / "w.safetensors", {
        f"w{i}": np.random.default_rng(i).standard_normal((64, 32 * i + 32)) for i in range(6)})
    heard = []
    stored = tensors_of(tmp_path / "w.safetensors")
    alone, there = alone_and_on(cluster, lambda: examine_all(stored, progress=heard.append))
    assert alone == there
    assert sorted(r.name for r in heard) == sorted(2 * [t.name for t in stored])


def test_an_error_of_a_worker_comes_back(cluster, tmp_path):
    path = tmp_path / "w.safetensors"
    safetensors.write(path, {"w": np.ones((64, 64))})
    stored = tensors_of(path)
    path.write_bytes(path.read_bytes()[:-8])
    with parallel_config("dask"), pytest.raises(ValueError, match="must hold 4096 numbers"):
        examine_all(stored)


@pytest.mark.parametrize(("method", "draws"), [(by_gptq, False),
                                               (partial(by_adaround, steps=5), True)])
def test_layers_of_an_onnx_model(cluster, method, draws):
    open_float = pytest.importorskip("refquant.interop.onnx_float").open_float
    pytest.importorskip("onnx")
    model = open_float(export_onnx(MODEL.nodes, MODEL.values,
                                   {"x": (np.float32, ("n", 8, 8, 1))}, ["logits"]))
    seen = observe(model, [{"x": X}], rng=np.random.default_rng(0))
    alone, there = alone_and_on(cluster, lambda: quantize_layers(
        model, method, bits=dict.fromkeys(seen, 4), group_size=None, seen=seen,
        rng=np.random.default_rng(1) if draws else None))
    assert alone.content == there.content
    assert alone.errors == there.errors


def test_layers_of_a_network(cluster):
    alone, there = alone_and_on(cluster, lambda: parallel(
        MODEL.nodes, MODEL.values, [{"x": X}], SecondMoment.of, three_bits, names=NAMES))
    for name in NAMES:
        assert np.array_equal(alone.results[name].codes, there.results[name].codes)


def test_entries_of_a_table(cluster):
    fits = [lambda w, b=b: symmetric(absmax(w), bits=b) for b in (2, 4)]
    weights = candidates(MODEL.values, NAMES, fits)
    alone, there = alone_and_on(cluster, lambda: divergences(
        MODEL.nodes, {**MODEL.values, "x": X}, NAMES[:3], weights))
    assert np.allclose(alone, there, rtol=1e-5, atol=0)     # arrays lie elsewhere in memory
