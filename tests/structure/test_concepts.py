"""The map `textbook/concepts.toml` is complete, and what it names exists."""

import tomllib

import pytest
from structure._tree import ROOT, benchmark_classes, chapters, concepts, dotted

IDS = """
rounding-nearest stochastic-rounding stochastic-binarization uniform-affine symmetric-asymmetric
granularity fixed-point-qmn minifloat block-formats ggml-formats log-quantization apot codebook
kmeans-quantization hessian-kmeans lloyd-max normal-float binary-code binary-weights
ternary-weights vector-quantization bit-packing huffman error-metrics

minmax percentile mse-clipping entropy-clipping aciq static-dynamic calibration-data

bn-folding bias-correction cross-layer-equalization outlier-channel-splitting adaround adaquant
obq-gptq awq smoothquant llm-int8 quip-rotation hqq

ste dorefa-pact learned-range lsq qil-lqnets-n2uq non-ste regularizers quant-noise
low-precision-training distillation

data-free-level-1 distilled-data gan-data data-free-level-2

sensitivity hawq ilp-allocation dnas haq-rl learned-bitwidth latency-table target-constraints

requantization integer-layers integer-transformer simulated-vs-integer deployed-models int-gemm
binary-kernel ternary-kernel lut-kernel mixed-gemm

pruning low-rank deep-compression workflow quantization-debugger fairness task-sensitivity
diffusion
""".split()  # noqa: SIM905
KEYS = {"id", "part", "text", "modules", "chapter", "benchmarks", "vectors"}
ROWS = tomllib.loads((ROOT / "textbook" / "concepts.toml").read_text("utf-8"))["concept"]
ROW_IDS = [row.get("id", "?") for row in ROWS]


def test_every_concept_of_the_list_has_its_row_in_order():
    missing, unknown = sorted({*IDS} - {*ROW_IDS}), sorted({*ROW_IDS} - {*IDS})
    assert not missing, f"add rows to concepts.toml for {missing}"
    assert not unknown, f"concepts.toml has rows that no list knows: {unknown}"
    assert ROW_IDS == IDS


@pytest.mark.parametrize("row", ROWS, ids=ROW_IDS)
def test_row_has_the_known_keys(row):
    assert set(row) == KEYS
    assert row["text"]
    assert isinstance(row["chapter"], str)
    assert all(isinstance(row[k], list) for k in ("modules", "benchmarks", "vectors"))


@pytest.mark.parametrize("row", ROWS, ids=ROW_IDS)
def test_every_target_exists(row):
    known = {dotted(m) for m in concepts()}
    gone = [f"module refquant.{m}" for m in row["modules"] if m not in known]
    gone += [f"benchmark {b}" for b in row["benchmarks"] if b not in benchmark_classes()]
    gone += [f"vectors {v}" for v in row["vectors"] if not (ROOT / v).exists()]
    if row["chapter"] and row["chapter"] not in chapters():
        gone.append(f"chapter {row['chapter']}")
    assert not gone, f"concept {row['id']} names what does not exist: {gone}"


@pytest.mark.parametrize("row", [r for r in ROWS if r["modules"]],
                         ids=[r["id"] for r in ROWS if r["modules"]])
def test_a_concept_that_exists_has_chapter_and_benchmark(row):
    assert row["chapter"], f"concept {row['id']} has no chapter: name it in concepts.toml"
    assert row["benchmarks"], f"concept {row['id']} has no benchmark: name it in concepts.toml"


#: Infrastructure that carries concepts without being one; the oracle and `testing` hold
#: implementations of any concept against each other, and teach none of the list.
CARRIERS = ("nn.", "kernels.elementwise", "kernels.histogram", "apply.", "oracle.", "testing.",
            "interop.safetensors", "interop.minilm")


@pytest.mark.parametrize("module", [dotted(m) for m in concepts()])
def test_every_module_serves_a_concept(module):
    if module.startswith(CARRIERS):
        return
    named = {m for row in ROWS for m in row["modules"]}
    assert module in named, (
        f'{module} serves no concept: add "{module}" to the modules of its row in concepts.toml')
