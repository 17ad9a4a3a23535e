"""Vectors: read the corpus of questions and answers, every number a pattern of bits.

A file holds one operation on given types. Its groups share parameters, its cases ask one
question each; a case carries the answer of the file's base dialect and of every dialect
that departs from it. Nothing in a file is decimal:

==============  ======================================================================
in the file     here
==============  ======================================================================
``"3f800000"``  a uint32 array of shape (): the bits of 1.0 as float32
array object    an array of unsigned integers of that shape; one byte for types below 8
                bits, whose negative numbers are stored in two's complement of the byte
parameters      floats as bits, whole numbers as int or int64 arrays, words as str
==============  ======================================================================

`values` turns bits into numbers and `bits` numbers into bits. An answer that is None is
unspecified: any will do. The id of a case is a hash of what it asks, hence the same in any
order, file and version.
"""

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np

from refquant._types import Array
from refquant.oracle._schema import first_error

__all__ = [
    "DTYPES",
    "Case",
    "Group",
    "VectorFile",
    "bits",
    "cases",
    "load",
    "load_table",
    "names",
    "read",
    "table_names",
    "values",
]

#: Bytes that an element of each type takes in these files.
DTYPES = MappingProxyType({
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2,
    "int64": 8, "int32": 4, "uint32": 4, "int16": 2, "uint16": 2, "int8": 1, "uint8": 1,
    "int4": 1, "uint4": 1, "int2": 1, "uint2": 1,
    "float8_e4m3fn": 1, "float8_e5m2": 1, "float8_e4m3fnuz": 1, "float8_e5m2fnuz": 1,
    "float6_e3m2fn": 1, "float6_e2m3fn": 1, "float4_e2m1fn": 1, "float8_e8m0fnu": 1,
})  # fmt: skip

#: Names of what goes in or comes out, each with its bits.
Named: TypeAlias = Mapping[str, Array]

_NATIVE = {"float64": "f8", "float32": "f4", "float16": "f2", "int64": "i8", "int32": "i4",
           "int16": "i2", "int8": "i1", "int4": "i1", "int2": "i1"}  # fmt: skip
DATA = Path(str(resources.files("refquant.oracle"))) / "data"


@dataclass(frozen=True, eq=False)
class Case:
    """One question and its answers.

    Attributes
    ----------
    id : str
        Ten hexadecimal digits, a hash of the question.
    file : str
        Name of the vector file.
    op : str
        Operation, e.g. ``quantize_affine``.
    params : mapping of str to ndarray, int or str
        Shared by the group.
    inputs : mapping of str to ndarray of unsigned integers
        Bits, by name of the input.
    flags : tuple of str
        What is special about the case: keys of the file's notes.
    status : str
        ``defined``, ``unspecified`` (any answer will do), ``reject`` (an error is the only
        right answer) or ``withdrawn``.
    base : mapping of str to ndarray, or None
        Bits of the base dialect's answer, by name of the output.
    differs : mapping of str to (mapping or None)
        The answers of the dialects that depart from it; None is unspecified.
    dialects : tuple of str
        Those that the file covers.
    reason : str
        Why it is rejected or withdrawn.

    References
    ----------
    C2SP Wycheproof, the format of its vector files.

    Examples
    --------
    >>> case = cases("quantize_affine", dialect="onnx", flag="TieOddZp")[0]
    >>> values(case.inputs["x"], "float32"), case.params["zero_point"]
    (array(0.5, dtype=float32), 1)
    """

    id: str
    file: str
    op: str
    params: Mapping[str, Any]
    inputs: Named
    flags: tuple[str, ...]
    status: str
    base: Named | None
    differs: Mapping[str, Named | None]
    dialects: tuple[str, ...]
    reason: str = ""

    def answer(self, dialect: str) -> Named | None:
        """Bits that a dialect must give.

        Parameters
        ----------
        dialect : str

        Returns
        -------
        mapping of str to ndarray of unsigned integers, or None
            None where any answer will do, and for a case to be rejected.

        Raises
        ------
        ValueError
            If the file does not cover the dialect.

        Examples
        --------
        >>> case = cases("quantize_affine", flag="TieOddZp")[0]
        >>> int(case.answer("onnx")["q"]), int(case.answer("torch.fbgemm")["q"])
        (1, 2)
        """
        if dialect not in self.dialects:
            raise ValueError(
                f"`dialect` must be one of {', '.join(self.dialects)} in {self.file}; "
                f"got {dialect!r}"
            )
        return self.differs.get(dialect, self.base)


@dataclass(frozen=True, eq=False)
class Group:
    """Cases that share parameters.

    Attributes
    ----------
    params : mapping of str to ndarray, int or str
        Floats as bits, whole numbers as numbers.
    comment : str
    cases : tuple of Case

    References
    ----------
    C2SP Wycheproof, the format of its vector files.

    Examples
    --------
    >>> load("quantize_affine.float32.int8").groups[0].comment
    'unit scale, zero point 0'
    """

    params: Mapping[str, Any]
    comment: str
    cases: tuple[Case, ...]


@dataclass(frozen=True, eq=False)
class VectorFile:
    """One operation on given types.

    Attributes
    ----------
    name : str
        File name without its ending.
    kind : str
        ``normative``: derived twice from the definition; or ``observed``: what a package
        did, on one day and one machine.
    op : str
    inputs, params, outputs : mapping of str to str
        Type of each; parameters may also be ``int`` or ``text``.
    dialects : mapping of str to mapping
        Of each, ``formula``, ``followedBy`` and ``axes``, the choices it consists of.
    base_dialect : str
    notes : mapping of str to mapping
        Of each flag, ``bugType``, ``description``, ``links`` and ``kills``: the wrong
        implementations that cases with this flag find out.
    groups : tuple of Group
    sha256 : str
    document : mapping
        The file as it stands.

    References
    ----------
    C2SP Wycheproof, the format of its vector files.

    Examples
    --------
    >>> file = load("quantize_affine.float32.int8")
    >>> file.op, file.outputs["q"], file.base_dialect
    ('quantize_affine', 'int8', 'onnx')
    """

    name: str
    kind: str
    op: str
    inputs: Mapping[str, str]
    params: Mapping[str, str]
    outputs: Mapping[str, str]
    dialects: Mapping[str, Mapping[str, Any]]
    base_dialect: str
    notes: Mapping[str, Mapping[str, Any]]
    groups: tuple[Group, ...]
    sha256: str
    document: Mapping[str, Any]

    def __iter__(self) -> Iterator[Case]:
        """Cases of all groups, in order."""
        return (case for group in self.groups for case in group.cases)

    def __len__(self) -> int:
        """Number of cases."""
        return sum(len(group.cases) for group in self.groups)


def names(*, observed: bool = False) -> list[str]:
    """Names of the files that ship with the package.

    Parameters
    ----------
    observed : bool
        Those of observed answers instead of the normative ones.

    Returns
    -------
    list of str
        Sorted.

    References
    ----------
    C2SP Wycheproof, one file per operation and class of parameters.

    Examples
    --------
    >>> "quantize_affine.float32.int8" in names()
    True
    """
    folder = DATA / ("observed" if observed else "normative")
    return sorted(path.name.removesuffix(".json") for path in folder.glob("*.json"))


@cache
def load(name: str) -> VectorFile:
    """Vector file that ships with the package, checked.

    Parameters
    ----------
    name : str
        One of `names`, normative or observed.

    Returns
    -------
    VectorFile

    Raises
    ------
    ValueError
        If there is no such file, or it is damaged: by its schema, its own checksum or that
        of the manifest.

    References
    ----------
    JSON Schema, draft 2020-12.

    Examples
    --------
    >>> len(load("quantize_affine.float32.int8")) > 57
    True
    """
    for folder in ("normative", "observed"):
        path = DATA / folder / f"{name}.json"
        if "/" not in name and path.is_file():
            require_listed(path)
            return read(path)
    raise ValueError(f"`name` must be a vector file, see `names`; got {name!r}")


def read(path: Path) -> VectorFile:
    """Vector file at a path, checked against its schema and its own checksum.

    Parameters
    ----------
    path : pathlib.Path

    Returns
    -------
    VectorFile

    Raises
    ------
    ValueError
        If the file is missing or damaged, in one line.

    References
    ----------
    JSON Schema, draft 2020-12.

    Examples
    --------
    >>> read(DATA / "normative" / "quantize_affine.float32.int8.json").op
    'quantize_affine'
    """
    try:
        document = json.loads(Path(path).read_text("ascii"))
    except FileNotFoundError:
        raise ValueError(f"`path` must be a vector file; {path} does not exist") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON: {str(error).splitlines()[0]}") from None
    problem = first_error(document, schema())
    if problem:
        raise ValueError(f"{path} does not keep to the schema: {problem}")
    if document["sha256"] != checksum(document):
        raise ValueError(f"{path} is damaged: its checksum is not that of its content")
    return from_document(document)


def cases(op: str | None = None, *, dialect: str | None = None, flag: str | None = None,
          status: str | None = None) -> list[Case]:
    """Cases of the normative files that meet all conditions.

    Parameters
    ----------
    op : str, optional
        Operation, or the name of a file.
    dialect : str, optional
        Only files that cover it.
    flag : str, optional
        Only cases that carry it.
    status : str, optional
        Only cases of this status.

    Returns
    -------
    list of Case

    Raises
    ------
    ValueError
        If no file has the operation or covers the dialect.

    References
    ----------
    C2SP Wycheproof, flags of cases.

    Examples
    --------
    >>> {case.status for case in cases("quantize_affine.float32.int8", flag="NaN")}
    {'unspecified'}
    """
    files = [load(name) for name in names()]
    if op is not None:
        files = [file for file in files if op in (file.op, file.name)]
        if not files:
            raise ValueError(f"`op` must be an operation or file of the corpus; got {op!r}")
    if dialect is not None:
        files = [file for file in files if dialect in file.dialects]
        if not files:
            raise ValueError(f"`dialect` must be covered by a file; got {dialect!r}")
    return [
        case for file in files for case in file
        if (flag is None or flag in case.flags) and (status is None or status == case.status)
    ]


def table_names() -> list[str]:
    """Names of the conversion tables that ship with the package.

    Returns
    -------
    list of str
        Format and policy, e.g. ``float8_e4m3fn.saturate``.

    References
    ----------
    See `load_table`.

    Examples
    --------
    >>> "float8_e4m3fn.saturate" in table_names()
    True
    """
    return sorted(p.name.removesuffix(".tab.z") for p in (DATA / "normative").glob("*.tab.z"))


def load_table(name: str) -> Array:
    """Conversion table of float32: the code for each top half and sticky bit.

    The entry for the bits u of a float32 is ``2 * (u >> 16) + ((u & 0xffff) != 0)``: all
    midpoints between codes have 16 zero bits at the end, so the table answers for all 2**32
    inputs. The file is the 131,072 bytes compressed by zlib.

    Parameters
    ----------
    name : str
        One of `table_names`.

    Returns
    -------
    ndarray of uint8, shape (131072,)
        In formats without a NaN, the entries of NaN are 0 and mean nothing.

    Raises
    ------
    ValueError
        If there is no such table, or it is damaged.

    References
    ----------
    IEEE 754-2019, section 4.3.1; RFC 1950 (zlib).

    Examples
    --------
    >>> hex(load_table("float8_e4m3fn.saturate")[2 * 0x7F80])       # +Inf
    '0x7e'
    """
    path = DATA / "normative" / f"{name}.tab.z"
    if "/" in name or not path.is_file():
        raise ValueError(f"`name` must be a table, see `table_names`; got {name!r}")
    require_listed(path)
    return np.frombuffer(zlib.decompress(path.read_bytes()), np.uint8)


def values(pattern: Array, dtype: str) -> Array:
    """Numbers that bits stand for, in a type that NumPy has.

    Parameters
    ----------
    pattern : ndarray of unsigned integers
    dtype : str
        A key of `DTYPES`. bfloat16 becomes float32; 8 bits or fewer of floating point stay
        codes, see `refquant.quantizers.minifloat`.

    Returns
    -------
    ndarray, shape of `pattern`

    Raises
    ------
    ValueError
        If the type is not known.

    References
    ----------
    IEEE 754-2019, section 3.4.

    Examples
    --------
    >>> values(np.array([0x3F800000, 0x80000000], np.uint32), "float32")
    array([ 1., -0.], dtype=float32)
    """
    width = _width(dtype)
    pattern = np.asarray(pattern)
    if dtype == "bfloat16":
        return (pattern.astype(np.uint32) << 16).view(np.float32)
    return pattern.astype(f"u{width}", copy=False).view(_NATIVE.get(dtype, f"u{width}"))


def bits(numbers: Array) -> Array:
    """Bits of floats or integers, as unsigned integers of the same width.

    Parameters
    ----------
    numbers : ndarray

    Returns
    -------
    ndarray of unsigned integers, shape of `numbers`

    References
    ----------
    IEEE 754-2019, section 3.4.

    Examples
    --------
    >>> hex(bits(np.float32(1)))
    '0x3f800000'
    """
    numbers = np.asarray(numbers)
    return numbers.view(f"u{numbers.dtype.itemsize}")


# What follows serves the modules that write vector files.


def encoded(pattern: Array, dtype: str) -> Any:
    """A value as it stands in a file: digits for a scalar, an object for an array."""
    width, pattern = _width(dtype), np.asarray(pattern)
    digits = pattern.astype(f">u{width}").tobytes().hex()
    return digits if not pattern.ndim else {
        "dtype": dtype, "shape": list(pattern.shape), "hex": digits}


def decoded(value: Any, dtype: str) -> Any:
    """Bits of a value in a file; whole numbers and words as they are."""
    if dtype == "text" or isinstance(value, int):
        return value
    shape, digits = (), value
    if isinstance(value, dict):
        dtype, shape, digits = value["dtype"], tuple(value["shape"]), value["hex"]
    width = _width(dtype)
    try:
        raw = np.frombuffer(bytes.fromhex(digits), f">u{width}").reshape(shape)
    except ValueError:
        raise ValueError(f"a value of type {dtype} must have {2 * width} digits an element; "
                         f"got {digits[:20]!r}") from None
    return raw.astype(f"u{width}")


def canonical(document: Any) -> bytes:
    """The one way to write a document: sorted keys, no spaces, ASCII."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode("ascii")


def checksum(document: Mapping[str, Any]) -> str:
    """SHA-256 of a document without its own checksum."""
    body = {key: value for key, value in document.items() if key != "sha256"}
    return hashlib.sha256(canonical(body)).hexdigest()


def case_id(op: Mapping[str, Any], params: Mapping[str, Any], inputs: Mapping[str, Any]) -> str:
    """First ten digits of SHA-256 over operation, types, parameters and input."""
    types = {"in": op["in"], "out": op["out"]}
    return hashlib.sha256(canonical([op["name"], types, params, inputs])).hexdigest()[:10]


def from_document(document: Mapping[str, Any]) -> VectorFile:
    """Records of a document that keeps to the schema; ids and names are checked here."""
    op, name = document["op"], document["file"].removesuffix(".json")
    inputs, params, outputs = (dict(op[part]) for part in ("in", "params", "out"))
    dialects = tuple(document["dialects"])

    def named(raw: Mapping[str, Any] | None, types: Mapping[str, str]) -> Named | None:
        if raw is None:
            return None
        if set(raw) != set(types):
            raise ValueError(f"{name}: a case must have {sorted(types)}; got {sorted(raw)}")
        return {key: decoded(value, types[key]) for key, value in raw.items()}

    def case_of(raw: Mapping[str, Any], group: Mapping[str, Any], shared: Any) -> Case:
        if raw["id"] != case_id(op, group["params"], raw["in"]):
            raise ValueError(f"{name}: the id {raw['id']} is not the hash of its question")
        unknown = sorted(set(raw["flags"]) - set(document["notes"]))
        unknown += sorted(set(raw.get("differs", {})) - set(dialects))
        if unknown:
            raise ValueError(f"{name}: case {raw['id']} names {unknown[0]!r}, which is not defined")
        status = raw.get("status", "defined")
        if (status == "defined") != ("out" in raw):
            raise ValueError(f"{name}: case {raw['id']} is {status} and must "
                             f"{'' if status == 'defined' else 'not '}have an answer")
        return Case(
            raw["id"], name, op["name"], shared, named(raw["in"], inputs) or {},
            tuple(raw["flags"]), status, named(raw.get("out"), outputs),
            {key: named(value, outputs) for key, value in raw.get("differs", {}).items()},
            dialects, raw.get("reason", ""))

    groups = []
    for group in document["groups"]:
        shared = MappingProxyType({
            key: _parameter(value, params.get(key, "text"))
            for key, value in group["params"].items()})
        groups.append(Group(shared, group["comment"],
                            tuple(case_of(raw, group, shared) for raw in group["cases"])))
    file = VectorFile(name, document["kind"], op["name"], inputs, params, outputs,
                      document["dialects"], document["baseDialect"], document["notes"],
                      tuple(groups), document["sha256"], document)
    if len(file) != document["numberOfCases"] or file.base_dialect not in dialects:
        raise ValueError(f"{name}: `numberOfCases` or `baseDialect` does not fit the content")
    return file


def require_listed(path: Path) -> None:
    """ValueError unless the manifest lists these bytes."""
    entry = manifest()["files"].get(path.relative_to(DATA).as_posix())
    if entry is None:
        raise ValueError(f"{path.name} is not in the manifest")
    if hashlib.sha256(path.read_bytes()).hexdigest() != entry["sha256"]:
        raise ValueError(f"{path.name} is damaged: its checksum is not that of the manifest")


@cache
def manifest() -> Mapping[str, Any]:
    """Sizes and checksums of all files that ship."""
    try:
        found = json.loads((DATA / "MANIFEST.json").read_text("ascii"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"MANIFEST.json is damaged: {str(error).splitlines()[0]}") from None
    if not isinstance(found, dict) or not isinstance(found.get("files"), dict):
        raise ValueError("MANIFEST.json is damaged: it lists no files")
    return found


def require_complete() -> None:
    """ValueError if a normative file is gone: its questions would be passed over in silence."""
    gone = [name for name in manifest()["files"]
            if name.startswith("normative/") and not (DATA / name).is_file()]
    if gone:
        raise ValueError(f"{gone[0]} must be there; the manifest lists it")


@cache
def schema() -> Mapping[str, Any]:
    """JSON Schema of a vector file."""
    return json.loads((DATA / "schema.json").read_text("ascii"))


def _parameter(value: Any, dtype: str) -> Any:
    """Floats as bits, whole numbers as numbers."""
    if isinstance(value, dict):
        dtype = value["dtype"]
    found = decoded(value, dtype)
    whole = isinstance(found, np.ndarray) and "int" in dtype
    return values(found, dtype).astype(np.int64) if whole else found


def _width(dtype: str) -> int:
    try:
        return DTYPES[dtype]
    except KeyError:
        raise ValueError(f"`dtype` must be one of {', '.join(DTYPES)}; got {dtype!r}") from None
