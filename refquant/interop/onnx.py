"""Run a quantized ONNX model as its runtime would, every named value in view.

A model is a list of nodes that read and write named arrays; running it is one loop, and a
*tap* sees every value, as in `refquant.nn.network`. Two shapes of quantized models exist:

* *QOperator*: QLinearConv, QLinearMatMul, MatMulInteger, ConvInteger compute on codes.
  Everything between the quantization of the input and the last dequantization is integers
  and one float32 product per output, and has one right answer, bit for bit.
* *QDQ*: float operators stand between DequantizeLinear and QuantizeLinear. Taken at its
  word this is a computation in floats, whose sums depend on their order. What runtimes
  really execute is the fusion of both sides: `fuse_qdq` writes it down, and is then exact.

Values keep ONNX's types (uint8, int8, ...), since an operator's answer depends on them; the
products widen them first. `onnx` itself is needed only to read the file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from refquant._types import Array
from refquant._validate import short
from refquant.interop._external import bring_in
from refquant.interop._onnx_nodes import NODES, TYPES
from refquant.interop.onnx_float import settings_of
from refquant.nn.network import Tap, untouched

__all__ = ["OnnxModel", "OnnxNode", "fuse_qdq", "read_onnx", "run_onnx"]

OLDEST, STANDARD, MICROSOFT = 13, ("", "ai.onnx"), "com.microsoft"


class OnnxNode(NamedTuple):
    """One operator: what it is, the names it reads and writes, its settings.

    Attributes
    ----------
    op : str
        Such as ``QLinearConv``.
    domain : str
        Empty for the standard's operators.
    inputs, outputs : tuple of str
        Names; empty for one left out.
    attributes : mapping of str to int, float, bytes or list

    References
    ----------
    ONNX specification, "Nodes".

    Examples
    --------
    >>> OnnxNode("Relu", "", ("x",), ("y",), {}).outputs
    ('y',)
    """

    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


class OnnxModel(NamedTuple):
    """Nodes in the order of their execution, and the arrays that the file holds.

    Attributes
    ----------
    nodes : tuple of OnnxNode
    constants : mapping of str to ndarray
        Weights, scales, zero points.
    inputs : mapping of str to (dtype, tuple)
        Element type and shape of what must be given; None where a size is open.
    outputs : tuple of str

    References
    ----------
    ONNX specification, "Graphs".

    Examples
    --------
    >>> relu = OnnxNode("Relu", "", ("x",), ("y",), {})
    >>> model = OnnxModel((relu,), {}, {"x": (np.dtype(np.float32), (None,))}, ("y",))
    >>> run_onnx(model, {"x": np.array([-1, 2], np.float32)})["y"]
    array([0., 2.], dtype=float32)
    """

    nodes: tuple[OnnxNode, ...]
    constants: Mapping[str, Array]
    inputs: Mapping[str, tuple[np.dtype[Any], tuple[int | None, ...]]]
    outputs: tuple[str, ...]


def read_onnx(file: Path | str | bytes) -> OnnxModel:
    """Model of a file.

    Parameters
    ----------
    file : path or bytes
        Where the model lies, or what it is. Weights may lie in files beside it.

    Returns
    -------
    OnnxModel

    Raises
    ------
    ValueError
        If this is no ONNX model, or one with operators, element types or an opset that are
        not run here, or with weights outside of its folder.
    ModuleNotFoundError
        If the package `onnx` is not installed.

    References
    ----------
    ONNX specification, "Models".

    Examples
    --------
    >>> read_onnx(b"not a model")                           # doctest: +SKIP
    Traceback (most recent call last):
    ValueError: `file` must be an ONNX model; got something else
    """
    try:
        import onnx
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "reading .onnx needs the package onnx: pip install onnx", name="onnx") from None
    path = None if isinstance(file, bytes) else Path(file)
    content = file if isinstance(file, bytes) else Path(file).read_bytes()
    try:
        proto = onnx.load_model_from_string(content)
        has_graph = bool(proto.graph.node)
    except Exception:                       # protobuf has its own, and others beside them
        has_graph = False
    if not has_graph:
        raise ValueError("`file` must be an ONNX model; got something else")
    bring_in(proto, None if path is None else path.parent, len(content))
    for opset in proto.opset_import:
        if opset.domain in STANDARD and opset.version < OLDEST:
            raise ValueError(f"`file` must have opset {OLDEST} or newer; got {opset.version}")
    constants = {t.name: _array(t) for t in proto.graph.initializer}
    nodes = []
    for raw in proto.graph.node:
        settings = settings_of(raw)
        if not raw.output:
            raise ValueError(f"`file` must have nodes with outputs; got {short(raw.op_type)} "
                             "without")
        if raw.op_type == "Constant" and "value" in settings:
            constants[raw.output[0]] = _array(settings["value"])
            continue
        domain = "" if raw.domain in STANDARD else raw.domain
        if (domain, raw.op_type) not in NODES:
            raise ValueError(f"`file` must use operators known here; got "
                             f"{short(raw.op_type)!r} of {short(domain or 'ai.onnx')!r} "
                             f"in node {short(raw.name)!r}")
        nodes.append(OnnxNode(raw.op_type, domain, tuple(raw.input), tuple(raw.output), settings))
    inputs = {}
    for given in proto.graph.input:
        if given.name in constants:
            continue
        kind = given.type.tensor_type
        if kind.elem_type not in TYPES:
            raise ValueError(f"`file` must have inputs of known types; got {kind.elem_type}")
        shape = tuple(d.dim_value or None for d in kind.shape.dim)
        inputs[given.name] = (np.dtype(TYPES[kind.elem_type]), shape)
    return OnnxModel(tuple(nodes), constants, inputs, tuple(o.name for o in proto.graph.output))


def run_onnx(
    model: OnnxModel, inputs: Mapping[str, Array], *, tap: Tap = untouched
) -> dict[str, Array]:
    """Every named value of a model, its outputs among them.

    Parameters
    ----------
    model : OnnxModel
    inputs : mapping of str to ndarray
        By name, in the types and shapes of ``model.inputs``.
    tap : callable, (name, value) -> value
        Sees every input and every value computed, and may replace it.

    Returns
    -------
    dict of str to ndarray
        Inputs, constants and values of all nodes.

    Raises
    ------
    ValueError
        If an input is missing, unknown or of another shape, or a node cannot be computed:
        the message names it.
    TypeError
        If an input has another element type.

    Notes
    -----
    Integers are exact. Floats are those of onnxruntime for elementwise operators; their sums
    are rounded once, where a runtime rounds often.

    References
    ----------
    ONNX operators QLinearConv, QLinearMatMul, MatMulInteger, ConvInteger,
    DynamicQuantizeLinear, QuantizeLinear and DequantizeLinear.

    Examples
    --------
    >>> node = OnnxNode("MatMulInteger", "", ("a", "b"), ("y",), {})
    >>> kind = (np.dtype(np.uint8), (None, None))
    >>> model = OnnxModel((node,), {"b": np.array([[2], [3]], np.int8)}, {"a": kind}, ("y",))
    >>> run_onnx(model, {"a": np.array([[10, 100]], np.uint8)})["y"]
    array([[320]], dtype=int32)
    """
    values: dict[str, Array] = dict(model.constants)
    for name in inputs:
        if name not in model.inputs:
            raise ValueError(f"`inputs` must be among {sorted(model.inputs)}; got {name!r}")
    for name, (dtype, shape) in model.inputs.items():
        if name not in inputs:
            raise ValueError(f"`inputs` must hold {name!r}; got {sorted(inputs)}")
        values[name] = np.asarray(tap(name, _checked(name, inputs[name], dtype, shape)))
    for node in model.nodes:
        where = f"node {node.op} of {node.outputs[0] if node.outputs else '?'!r}"
        missing = [name for name in node.inputs if name and name not in values]
        if missing:
            raise ValueError(f"{where} must read known names; got {missing[0]!r}")
        read = [values[name] if name else None for name in node.inputs]
        try:
            found = NODES[node.domain, node.op](node.attributes, *read)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError,
                MemoryError) as err:
            raise ValueError(f"{where} cannot be computed: {err}") from err
        for name, value in zip(node.outputs, found if isinstance(found, tuple) else (found,),
                               strict=False):
            if name:
                values[name] = np.asarray(tap(name, np.asarray(value)))
    for name in model.outputs:
        if name not in values:
            raise ValueError(f"`model` must compute its output {name!r}")
    return values


def fuse_qdq(model: OnnxModel) -> OnnxModel:
    """The model with its QDQ groups written as operators on codes, as runtimes execute them.

    A Conv, MatMul or Gemm whose inputs are dequantized and whose output is quantized becomes
    QLinearConv, QLinearMatMul or QGemm; Add and GlobalAveragePool become QLinearAdd and
    QLinearGlobalAveragePool. A Relu before a QuantizeLinear whose zero point is the smallest
    code does what its saturation does, and goes.

    Parameters
    ----------
    model : OnnxModel

    Returns
    -------
    OnnxModel
        Of the same inputs and outputs. Groups that do not fit stay as they are.

    Notes
    -----
    onnxruntime fuses more: AveragePool and Softmax between QDQ pairs become operators of its
    own, whose codes lie one apart from those of the floats here, now and then.

    References
    ----------
    ONNX Runtime, "Quantize ONNX models", tensor-oriented (QDQ) representation.

    Examples
    --------
    >>> fuse_qdq(OnnxModel((), {}, {}, ())).nodes
    ()
    """
    nodes = list(model.nodes)
    nodes = _without_relus(nodes, model)
    makers = {name: node for node in nodes for name in node.outputs}
    readers: dict[str, list[OnnxNode]] = {}
    for node in nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    replaced: dict[str, OnnxNode] = {}      # output of QuantizeLinear -> the fused node
    for node in nodes:
        if node.op != "QuantizeLinear" or len(node.inputs) < 3:
            continue
        core = makers.get(node.inputs[0])
        if core is None or len(readers[node.inputs[0]]) > 1 or node.inputs[0] in model.outputs:
            continue
        fused = _fused(core, node, makers)
        if fused is not None:
            replaced[node.outputs[0]] = fused
    done = [replaced.get(node.outputs[0], node) if node.outputs else node for node in nodes]
    return model._replace(nodes=tuple(_needed(done, model.outputs)))


def _without_relus(nodes: list[OnnxNode], model: OnnxModel) -> list[OnnxNode]:
    """Relu, then QuantizeLinear with the smallest code for zero: the saturation is the Relu."""
    relus = {n.outputs[0]: n.inputs[0] for n in nodes if n.op == "Relu"}
    kept = []
    for node in nodes:
        if node.op == "QuantizeLinear" and len(node.inputs) > 2 and node.inputs[0] in relus:
            zero = model.constants.get(node.inputs[2])
            if zero is not None and (zero == np.iinfo(zero.dtype).min).all():
                node = node._replace(inputs=(relus[node.inputs[0]], *node.inputs[1:]))
        kept.append(node)
    return _needed(kept, model.outputs)


def _fused(core: OnnxNode, quantize: OnnxNode, makers: Mapping[str, OnnxNode]) -> OnnxNode | None:
    """The operator on codes that does the work of `core` between its neighbours."""
    sources = [makers.get(name) for name in core.inputs]
    triples = [s.inputs for s in sources if s is not None and s.op == "DequantizeLinear"
               and len(s.inputs) == 3]
    output = tuple(quantize.inputs[1:3])
    two = 1 if core.op == "GlobalAveragePool" else 2
    if core.domain or len(triples) < two or len(triples) != len(core.inputs):
        # a bias is dequantized without a zero point, or with one of zero
        bias = sources[-1] if len(core.inputs) == 3 and len(triples) == 2 else None
        if core.domain or bias is None or bias.op != "DequantizeLinear":
            return None
        rest: tuple[str, ...] = (bias.inputs[0],)
    else:
        rest = (triples[2][0],) if len(triples) == 3 else ()
    settings, codes = dict(core.attributes), (quantize.outputs[0],)
    pair = tuple(name for triple in triples[:two] for name in triple)
    if core.op == "Conv":
        return OnnxNode("QLinearConv", "", (*pair, *output, *rest), codes, settings)
    if core.op == "MatMul":
        return OnnxNode("QLinearMatMul", "", (*pair, *output), codes, {})
    if core.op == "Gemm" and settings.pop("beta", 1.0) == 1.0:
        inputs = (*pair, *(rest or ("",)), *output)
        return OnnxNode("QGemm", MICROSOFT, inputs, codes, settings)
    if core.op in ("Add", "GlobalAveragePool"):
        return OnnxNode(f"QLinear{core.op}", MICROSOFT, (*pair, *output), codes, {})
    return None


def _needed(nodes: list[OnnxNode], outputs: tuple[str, ...]) -> list[OnnxNode]:
    """Without nodes whose outputs nobody reads."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted & set(node.outputs):
            wanted |= set(node.inputs)
            kept.append(node)
    return kept[::-1]


def _array(tensor: Any) -> Array:
    """Numbers of a tensor of the file, its type known."""
    import onnx

    if not isinstance(tensor, onnx.TensorProto) or tensor.data_type not in TYPES:
        got = (f"{tensor.data_type} in {short(tensor.name)!r}"
               if isinstance(tensor, onnx.TensorProto) else type(tensor).__name__)
        raise ValueError(f"`file` must hold tensors of known types; got {got}")
    try:
        return np.asarray(onnx.numpy_helper.to_array(tensor))
    except Exception as err:
        raise ValueError(f"`file` must hold whole tensors; got {short(tensor.name)!r}: "
                         f"{short(err, 200)}") from None


def _checked(
    name: str, x: Array, dtype: np.dtype[Any], shape: tuple[int | None, ...]
) -> Array:
    x = np.asarray(x)
    if x.dtype != dtype:
        raise TypeError(f"`inputs` must hold {name!r} as {dtype}; got {x.dtype}")
    fits = len(x.shape) == len(shape) and all(
        want in (None, got) for want, got in zip(shape, x.shape, strict=True))
    if shape and not fits:
        raise ValueError(f"`inputs` must hold {name!r} of shape {shape}; got {x.shape}")
    return x
