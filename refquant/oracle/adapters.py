"""Adapters: let any library answer the oracle's questions, bits in and bits out.

A library is held against the corpus through an object of three members, see `Adapter`. It
gets unsigned integers, the bit patterns of its inputs, and gives unsigned integers back: it
needs no eight-bit float of its own, and no number is printed or parsed on the way::

    class Mine:
        name, version = "mine", "1.0"

        def supports(self, op, types, params):
            return op == "quantize_affine" or f"no {op}"

        def run(self, op, types, params, inputs):
            x = values(inputs["x"], types["x"])
            ...
            return {"q": bits(codes)}

Then ``refquant oracle check --impl my.module:Mine --dialect onnx``. Those that come with
the package are found by a short name, see `ADAPTERS`; each needs its library installed and
says what it does not support.
"""

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Protocol, TypeAlias

import numpy as np

from refquant import __version__
from refquant._types import Array
from refquant.oracle._derivations import OPERATIONS, derivations
from refquant.oracle.vectors import DTYPES, Named, load, names, values

__all__ = ["ADAPTERS", "Adapter", "Missing", "Refquant", "Reject", "load_adapter"]

#: Type of each input, parameter and output, by name.
Types: TypeAlias = Mapping[str, str]
#: Parameters of a group: floats as bits, whole numbers as numbers, words as words.
Params: TypeAlias = Mapping[str, Any]


class Reject(Exception):
    """A deliberate refusal of one question, with the reason.

    Not a failure of the library: a subnormal scale that it documents as invalid, say.

    References
    ----------
    NIST ACVP, responses of an implementation under test.

    Examples
    --------
    >>> Reject("the scale must be normal").args
    ('the scale must be normal',)
    """


class Missing(Exception):
    """The library that an adapter needs is not installed.

    References
    ----------
    NIST ACVP, capability registration.

    Examples
    --------
    >>> str(Missing("needs onnxruntime"))
    'needs onnxruntime'
    """


class Adapter(Protocol):
    """What answers questions.

    Attributes
    ----------
    name : str
    version : str
        Of the library behind it.

    References
    ----------
    NIST ACVP, capability registration and responses.

    Examples
    --------
    >>> adapter: Adapter = Refquant("onnx")
    >>> adapter.name
    'refquant.onnx'
    """

    name: str
    version: str

    def supports(self, op: str, types: Types, params: Params) -> bool | str:
        """Whether it can answer such questions; a str is the reason why not.

        Parameters
        ----------
        op : str
            Operation, e.g. ``quantize_affine``.
        types : mapping of str to str
            Type of each input, parameter and output.
        params : mapping of str to ndarray, int or str
            Floats as bits.

        Returns
        -------
        bool or str
        """

    def run(self, op: str, types: Types, params: Params, inputs: Named) -> Named:
        """Answers in bits.

        Parameters
        ----------
        op : str
        types : mapping of str to str
        params : mapping of str to ndarray, int or str
        inputs : mapping of str to ndarray of unsigned integers
            For operations element by element, many cases in one array; it may be strided,
            unaligned or read-only.

        Returns
        -------
        mapping of str to ndarray of unsigned integers
            By name of the output; one byte for types below 8 bits.

        Raises
        ------
        Reject
            To refuse on purpose.
        """


class Refquant:
    """Adapter of this library, speaking one dialect.

    Parameters
    ----------
    dialect : str
        One that a vector file covers.

    Raises
    ------
    ValueError
        If no file covers the dialect.

    References
    ----------
    See `refquant.integer.dialects`.

    Examples
    --------
    >>> from refquant.oracle.vectors import bits
    >>> tie = {"x": bits(np.array([0.5, 1.5], np.float32))}
    >>> unit = {"scale": bits(np.float32(1)), "zero_point": 1, "qmin": -128, "qmax": 127}
    >>> types = {"x": "float32", "q": "int8"}
    >>> for dialect in ("onnx", "torch.fbgemm"):
    ...     print(Refquant(dialect).run("quantize_affine", types, unit, tie)["q"])
    [1 3]
    [2 2]
    """

    version = __version__

    def __init__(self, dialect: str = "exact") -> None:
        # All files are read only for a name that the most common operation does not know.
        common = derivations("quantize_affine", {"x": "float32", "q": "int8"}, {})
        known = sorted(common)
        if dialect not in known:
            known = sorted({d for name in names() for d in load(name).dialects})
        if dialect not in known:
            raise ValueError(f"`dialect` must be one of {', '.join(known)}; got {dialect!r}")
        self.name = "refquant" if dialect == "exact" else f"refquant.{dialect}"
        self.dialect = dialect

    def supports(self, op: str, types: Types, params: Params) -> bool | str:
        """Whether `run` has this operation: see `Adapter.supports`.

        Parameters
        ----------
        op : str
        types : mapping of str to str
        params : mapping

        Returns
        -------
        bool or str

        Examples
        --------
        >>> Refquant().supports("softmax", {}, {})
        'refquant has no softmax'
        """
        if op not in OPERATIONS:
            return f"refquant has no {op}"
        spoken = derivations(op, types, params)
        return self.dialect in spoken or f"{self.dialect} says nothing of {op}"

    def run(self, op: str, types: Types, params: Params, inputs: Named) -> Named:
        """Answers in bits: see `Adapter.run`.

        Parameters
        ----------
        op : str
        types : mapping of str to str
        params : mapping
        inputs : mapping of str to ndarray of unsigned integers

        Returns
        -------
        mapping of str to ndarray of unsigned integers

        Raises
        ------
        Reject
            Where the library raises ValueError or TypeError.

        Examples
        --------
        >>> from refquant.oracle.vectors import bits
        >>> one = {"x": bits(np.array([1.0], np.float32))}
        >>> to = {"x": "float32", "y": "float8_e4m3fn"}
        >>> policy = {"overflow": "saturate", "rounding": "even"}
        >>> hex(Refquant().run("cast", to, policy, one)["y"][0])
        '0x38'
        """
        try:
            if "scale" in params and "zero_point" in params and "qmin" in params:
                _require_grid(types.get("scale", "float32"), params)
            if "low" in inputs and _is_swapped(inputs["low"], inputs["high"]):
                raise ValueError("`low` must not exceed `high`")
            with np.errstate(all="ignore"):     # a cast of NaN is open, and so is its code
                return derivations(op, types, params)[self.dialect].fast(params, inputs)
        except (ValueError, TypeError) as err:
            raise Reject(str(err)) from err


_PEERS = "refquant.oracle._adapters"

#: Short name of each adapter that ships -> its place, ``module:name``.
ADAPTERS: Mapping[str, str] = MappingProxyType({
    "refquant": "refquant.oracle.adapters:Refquant",
    "onnx.reference": f"{_PEERS}.onnx_family:OnnxReference",
    "onnxruntime": f"{_PEERS}.onnx_family:OnnxRuntime",
    "onnxruntime.tool": f"{_PEERS}.onnx_family:OnnxRuntimeTool",
    "torch.fbgemm": f"{_PEERS}.torch_family:Fbgemm",
    "torch.fake_quantize": f"{_PEERS}.torch_family:FakeQuantize",
    "torch.decomposed": f"{_PEERS}.torch_family:Decomposed",
    "torchao": f"{_PEERS}.torch_family:TorchAo",
    "torchao.formats": f"{_PEERS}.torch_family:TorchAoFormats",
    "torchao.floor": f"{_PEERS}.torch_family:TorchAoFloor",
    "torchao.rceil": f"{_PEERS}.torch_family:TorchAoRceil",
    "torchao.ceil": f"{_PEERS}.torch_family:TorchAoCeil",
    "torchao.even": f"{_PEERS}.torch_family:TorchAoEven",
    "torch.cast": f"{_PEERS}.torch_family:TorchCast",
    "litert.reference": f"{_PEERS}.litert:Reference",
    "litert.builtin": f"{_PEERS}.litert:Builtin",
    "litert.xnnpack": f"{_PEERS}.litert:Xnnpack",
    "ml_dtypes": f"{_PEERS}.float_formats:MlDtypes",
    "gfloat": f"{_PEERS}.float_formats:Gfloat",
    "gfloat.mx": f"{_PEERS}.float_formats:GfloatBlocks",
    "gguf": f"{_PEERS}.gguf:Gguf",
    "brevitas": f"{_PEERS}.simulators:Brevitas",
    "aimet.torch": f"{_PEERS}.simulators:AimetTorch",
    "aimet.onnx": f"{_PEERS}.simulators:AimetOnnx",
})


def load_adapter(name: str) -> Adapter:
    """Adapter of a name, ready to be asked.

    Parameters
    ----------
    name : str
        A key of `ADAPTERS`; ``refquant.`` and a dialect; or ``module:name`` of a class
        without arguments, a function that returns an adapter, or an adapter.

    Returns
    -------
    Adapter

    Raises
    ------
    ValueError
        If there is no such thing, or it is no adapter.
    Missing
        If the library behind it is not installed.

    References
    ----------
    The entry points of Python packages, ``module:name``.

    Examples
    --------
    >>> load_adapter("refquant.torch.fbgemm").name
    'refquant.torch.fbgemm'
    """
    if name.startswith("refquant."):
        return Refquant(name.removeprefix("refquant."))
    module, colon, attribute = ADAPTERS.get(name, name).partition(":")
    if not (module and colon and attribute) or module.startswith("."):
        raise ValueError(f"`impl` must be module:adapter or one of {', '.join(ADAPTERS)}; "
                         f"got {name!r}")
    try:
        found = getattr(importlib.import_module(module), attribute)
        made = found() if callable(found) else found
    except ImportError as err:
        if name in ADAPTERS:
            raise Missing(f"{name} needs a library that is not installed: {err}") from None
        raise ValueError(f"`impl` must be importable; {name}: {err}") from None
    except AttributeError as err:
        raise ValueError(f"`impl` must exist; {name}: {err}") from None
    lacking = [m for m in ("name", "version", "supports", "run") if not hasattr(made, m)]
    if lacking:
        raise ValueError(f"`impl` must have name, version, supports and run; {name} lacks "
                         f"{', '.join(lacking)}")
    return made


def _is_swapped(low: Array, high: Array) -> bool:
    return bool(values(low, "float32") > values(high, "float32"))


def _require_grid(kind: str, params: Params) -> None:
    scale, zero = values(params["scale"], kind), np.asarray(params["zero_point"])
    if not (np.isfinite(scale) & (scale > 0)).all():
        raise ValueError(f"`scale` must be positive and finite; got {scale.min()}")
    if ((zero < params["qmin"]) | (zero > params["qmax"])).any():
        raise ValueError(f"`zero_point` must be a code; got {zero.min()} to {zero.max()}")


def codes_as_bits(codes: Array, dtype: str) -> Array:
    """Whole numbers in two's complement, as the corpus has them."""
    width = DTYPES[dtype]
    return (np.asarray(codes).astype(np.int64) & (256**width - 1)).astype(f"u{width}")
