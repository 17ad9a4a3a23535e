"""Packing: which code goes to which bits, odd lengths, and bits that must not matter."""

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np

from refquant._types import Array
from refquant.kernels import packing
from refquant.oracle._document import Derivation, Draft, Drafts, Named, Operation, document

#: Layout and bits -> codes, ascending; all that the layout can hold.
UNSIGNED = [("low_first", b) for b in (1, 2, 3, 4)] + [("high_first", b) for b in (1, 2, 4)] + [
    ("gptq", b) for b in (2, 3, 4)] + [("awq", 4), ("ggml", 4)]  # fmt: skip
SIGNED = [("low_first", 2), ("low_first", 3), ("low_first", 4), ("high_first", 4), ("trits", 2),
          ("bitnet", 2)]  # fmt: skip
AWQ = (0, 2, 4, 6, 1, 3, 5, 7)


def _place(layout: str, bits: int, j: int, n: int) -> int:
    """Position of the lowest bit of code j in a little-endian row of bits."""
    if layout == "high_first":
        per = 8 // bits
        return j // per * 8 + 8 - bits * (j % per + 1)
    if layout == "awq":
        return j // 8 * 32 + 4 * AWQ.index(j % 8)
    if layout == "ggml":
        return j // 32 * 128 + j % 16 * 8 + 4 * (j % 32 // 16)
    if layout == "bitnet":
        quarter = -(-n // 4)
        return j % quarter * 8 + 2 * (j // quarter)
    return j * bits


def number_of_bytes(layout: str, bits: int, n: int) -> int:
    """Bytes that n codes take."""
    if layout == "bitnet":
        return -(-n // 4)
    return -(-n // 5) if layout == "trits" else -(-n * bits // 8)


def _pack_slowly(params: Mapping[str, Any], inputs: Named) -> Named:
    """A row of bits as one large integer."""
    layout, bits = params["layout"], params["bits"]
    signed = inputs["codes"].astype(np.int64)
    codes = [int(c) - 256 if params["signed"] and c >= 128 else int(c) for c in signed]
    n = len(codes)
    if layout == "trits":
        rows = [codes[i : i + 5] for i in range(0, n, 5)]
        found = [sum((c + 1) * 3**i for i, c in enumerate(row + [0] * (5 - len(row))))
                 for row in rows]
        return {"bytes": np.array(found, "u1")}
    shifted = [c + 1 if layout == "bitnet" else c % 2**bits for c in codes]
    whole = sum(c << _place(layout, bits, j, n) for j, c in enumerate(shifted))
    raw = whole.to_bytes(number_of_bytes(layout, bits, n), "little")
    return {"bytes": np.frombuffer(raw, "u1")}


def _unpack_slowly(params: Mapping[str, Any], inputs: Named) -> Named:
    layout, bits, n = params["layout"], params["bits"], params["length"]
    raw = inputs["bytes"].tobytes()
    if layout == "trits":
        codes = [raw[j // 5] // 3 ** (j % 5) % 3 - 1 for j in range(n)]
    else:
        whole = int.from_bytes(raw, "little")
        codes = [whole >> _place(layout, bits, j, n) & (2**bits - 1) for j in range(n)]
        if layout == "bitnet":
            codes = [c - 1 for c in codes]
        elif params["signed"]:
            codes = [c - 2**bits if c >= 2 ** (bits - 1) else c for c in codes]
    return {"codes": np.array([c % 256 for c in codes], "u1")}


def _words(words: Array) -> Array:
    return words.astype("<u4").view("u1")


def _pack_fast(params: Mapping[str, Any], inputs: Named) -> Named:
    layout, bits = params["layout"], params["bits"]
    codes = inputs["codes"].view("i1" if params["signed"] else "u1")
    if layout == "gptq":
        return {"bytes": _words(packing.gptq_words(codes, bits=bits))}
    if layout == "awq":
        return {"bytes": _words(packing.awq_nibbles(codes))}
    if layout == "ggml":
        return {"bytes": packing.ggml_nibbles(codes)}
    if layout == "trits":
        return {"bytes": packing.pack_trits(codes)}
    if layout == "bitnet":
        return {"bytes": packing.bitnet_pairs(codes.reshape(-1, 1)).reshape(-1)}
    return {"bytes": packing.pack(codes, bits=bits, signed=bool(params["signed"]),
                                  high_first=layout == "high_first")}


def _unpack_fast(params: Mapping[str, Any], inputs: Named) -> Named:
    layout, bits, n = params["layout"], params["bits"], params["length"]
    raw = np.ascontiguousarray(inputs["bytes"])
    if layout == "gptq":
        codes = packing.ungptq_words(raw.view("<u4").astype(np.uint32), bits=bits)
    elif layout == "awq":
        codes = packing.unawq_nibbles(raw.view("<u4").astype(np.uint32))
    elif layout == "ggml":
        codes = packing.unggml_nibbles(raw)
    elif layout == "trits":
        codes = packing.unpack_trits(raw, n)
    elif layout == "bitnet":
        codes = packing.unbitnet_pairs(raw.reshape(-1, 1), n).reshape(-1)
    else:
        codes = packing.unpack(raw, n, bits=bits, signed=bool(params["signed"]),
                               high_first=layout == "high_first")
    return {"codes": np.asarray(codes).astype(np.int64).astype("u1")}


@cache
def derivations(op: str) -> dict[str, Derivation]:
    """The layout is a parameter: one answer."""
    slow: Callable[..., Named | None] = _pack_slowly if op == "pack" else _unpack_slowly
    fast = _pack_fast if op == "pack" else _unpack_fast
    return {"exact": Derivation("as the layout says", "see refquant.kernels.packing",
                                {"pack": "a parameter"}, slow, fast)}


def code_range(layout: str, bits: int, signed: bool) -> tuple[int, int]:
    """Ends of what a layout can hold."""
    if layout in ("trits", "bitnet"):
        return -1, 1
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def _lengths(layout: str, bits: int) -> list[int]:
    """Whole words where the layout has words; else also what leaves bits over."""
    whole = {"gptq": 32, "awq": 8, "ggml": 32}.get(layout)
    return [whole, 2 * whole] if whole else [0, 1, 2, 3, 5, 7, 8, 9, 16, 17]


def _codes(low: int, high: int, n: int, kind: int) -> list[int]:
    if kind == 0:                                       # each position holds another code
        return [low + j % (high - low + 1) for j in range(n)]
    if kind == 1:                                       # a permutation that is not monotone
        return [low + (j * j + 2 * j + j // 5) % (high - low + 1) for j in range(n)]
    return [(high, low)[j % 2] for j in range(n)]


def _groups(op: str, layouts: list[tuple[str, int]], signed: bool) -> Iterator[Drafts]:
    for layout, bits in layouts:
        low, high = code_range(layout, bits, signed)
        for n in _lengths(layout, bits):
            params = {"layout": layout, "bits": bits, "signed": int(signed), "length": n}
            group = Drafts(params, f"{n} codes of {bits} bits, {layout}")
            for kind in range(3):
                codes = np.array([c % 256 for c in _codes(low, high, n, kind)], "u1")
                flags = ["Layout"] if n > 1 else ["EmptyInput"] if not n else ["Basic"]
                per = 5 if layout == "trits" else 4 if layout == "bitnet" else None
                left = n % per if per else n * bits % 8
                flags += ["OddLength"] if left else []
                if op == "pack":
                    group.cases.append(Draft({"codes": codes}, flags))
                    continue
                data = _pack_slowly(params, {"codes": codes})["bytes"]
                group.cases.append(Draft({"bytes": data}, flags))
                dirty = _with_dirty_bits(data, layout, bits, n)
                if dirty is not None:
                    group.cases.append(Draft({"bytes": dirty}, [*flags, "PadBits"]))
            yield group
        if op == "pack" and layout in ("low_first", "trits"):
            wrong = Drafts({"layout": layout, "bits": bits, "signed": int(signed), "length": 1},
                           "a code that does not fit")
            wrong.cases.append(Draft({"codes": np.array([(high + 1) % 256], "u1")}, ("BadCode",),
                                     "reject", "the code does not fit the bits"))
            yield wrong
        if op == "unpack" and layout in ("low_first", "high_first", "trits"):
            short = Drafts({"layout": layout, "bits": bits, "signed": int(signed), "length": 17},
                           "fewer bytes than the codes take")
            least = number_of_bytes(layout, bits, 17) - 1
            short.cases += [Draft({"bytes": np.zeros(n, "u1")}, ("BadShape",), "reject",
                                  "bytes are missing") for n in (least, 0)]
            yield short


def _with_dirty_bits(data: Array, layout: str, bits: int, n: int) -> Array | None:
    """The same bytes with all bits that hold no code set."""
    if layout in ("trits", "bitnet") or not n * bits % 8:
        return None
    used = sum((2**bits - 1) << _place(layout, bits, j, n) for j in range(n))
    whole = int.from_bytes(data.tobytes(), "little") | (256 ** len(data) - 1) & ~used
    return np.frombuffer(whole.to_bytes(len(data), "little"), "u1")


def packing_document(op: str, *, signed: bool) -> dict[str, Any]:
    """Vectors of one direction."""
    dtype = "int8" if signed else "uint8"
    params = {"layout": "text", "bits": "int", "signed": "int", "length": "int"}
    ends = {"codes": dtype}, {"bytes": "uint8"}
    inputs, outputs = ends if op == "pack" else ends[::-1]
    operation = Operation(op, inputs, params, outputs)
    return document(f"{op}.{dtype}", operation, derivations(op), "exact",
                    _groups(op, SIGNED if signed else UNSIGNED, signed))


def documents() -> Iterator[dict[str, Any]]:
    """Both directions, with and without sign."""
    for op in ("pack", "unpack"):
        for signed in (False, True):
            yield packing_document(op, signed=signed)
