"""Damage to files: from a bit that flipped to a header written by someone who means harm.

Every function takes a source of chance (`random.Random`, or hypothesis's) and the bytes of a
sound file, and gives other bytes. Nothing here reads `refquant`.
"""

import copy
import io
import json
import pickle
import random
import struct
import warnings
import zipfile

import numpy as np

#: Numbers at the ends of their types, where checks go wrong.
EDGES = (0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 2**24, 2**31 - 1, 2**31,
         2**32 - 1, 2**32, 2**40, 2**48, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
HOW_MANY = (1, 1, 1, 2, 3)                      # wounds of one file


def damaged(chance, content, other=b""):
    """Some wounds of any kind."""
    for _ in range(chance.choice(HOW_MANY)):
        content = chance.choice(WOUNDS)(chance, bytearray(content), other or content)
    return bytes(content)


def flip(chance, content, other):
    for _ in range(chance.randint(1, 4)):
        if content:
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    return content


def byte(chance, content, other):
    if content:
        content[chance.randrange(len(content))] = chance.choice((0, 1, 0x7F, 0x80, 0xFF))
    return content


def cut(chance, content, other):
    return content[: chance.randint(0, len(content))]


def number(chance, content, other):
    """An integer of 2, 4 or 8 bytes becomes one from the ends of its type, or one near the size."""
    width = chance.choice((2, 4, 8))
    if len(content) >= width:
        at = chance.randint(0, len(content) - width)
        at -= at % width if chance.random() < 0.7 else 0
        value = chance.choice((*EDGES, len(content), len(content) + 1, len(content) - at))
        content[at : at + width] = (value % 2 ** (8 * width)).to_bytes(width, "little")
    return content


def splice(chance, content, other):
    """A piece of a file, put over or between."""
    if not other or not content:
        return content
    start = chance.randrange(len(other))
    piece = other[start : start + chance.choice((1, 4, 8, 32, 256))]
    at = chance.randrange(len(content))
    content[at : at + chance.choice((0, len(piece)))] = piece
    return content


def erase(chance, content, other):
    if content:
        at = chance.randrange(len(content))
        size = chance.choice((1, 4, 16, 64))
        content[at : at + size] = bytes(min(size, len(content) - at))
    return content


def drop(chance, content, other):
    if content:
        at = chance.randrange(len(content))
        del content[at : at + chance.choice((1, 2, 4, 16))]
    return content


def append(chance, content, other):
    return content + bytes(chance.choice((1, 7, 64))) + other[: chance.choice((0, 16))]


WOUNDS = (flip, byte, cut, number, number, splice, erase, drop, append)

#: What may stand anywhere in JSON, and nearly never should.
STRANGE = (None, True, False, -1, 0, 1, 2**31, 2**53 + 1, 2**63, 2**64, 10**30, 1.5, -0.0, 1e308,
           float("nan"), float("inf"), "", "x", "a\nb", "\0", "\ud800", "../x", "F32", "9" * 50,
           "x" * 2000, [], {}, [[]], [0], [2**40, 2**40], {"a": 1}, [1] * 100)


def json_damaged(chance, content):
    """The same JSON, some of its nodes others; or damaged as text."""
    if chance.random() < 0.2:
        return chance.choice((
            lambda: damaged(chance, content), lambda: b"[" * 50_000, lambda: b"9" * 6000,
            lambda: b'{"a":' * 3000, lambda: content.replace(b'"', b"'"),
            lambda: content.replace(b",", b", ,", 1), lambda: b"\xef\xbb\xbf" + content,
            lambda: content.replace(b":", b":-", 3), lambda: b"1e999"))()
    tree = [json.loads(content)]
    for _ in range(chance.choice(HOW_MANY)):
        places = [(holder, key) for holder in _holders(tree) for key in (
            list(holder) if isinstance(holder, dict) else range(len(holder)))]
        if not places:
            break
        holder, key = chance.choice(places)
        what = chance.randrange(6)
        if what == 0 and isinstance(holder, dict):
            holder[chance.choice(("", "x", "__metadata__", "y" * 300, "shape"))] = holder.pop(key)
        elif what == 1:
            del holder[key]
        elif what == 2:
            other, there = chance.choice(places)
            holder[key] = copy.deepcopy(other[there])
        else:
            holder[key] = copy.deepcopy(chance.choice(STRANGE))
    text = json.dumps(tree[0] if tree else None)
    if chance.random() < 0.1 and text.startswith("{") and len(text) > 2:
        text = "{" + text[1:-1] + "," + text[1:-1] + "}"        # every name twice
    return text.encode("utf-8", "surrogatepass")


def _holders(tree):
    yield tree
    for value in tree.values() if isinstance(tree, dict) else tree:
        if isinstance(value, (dict, list)):
            yield from _holders(value)


def safetensors_damaged(chance, content):
    """A header that lies and has the right length, or bytes that are damaged."""
    if chance.random() < 0.3:
        return damaged(chance, content)
    length = int.from_bytes(content[:8], "little")
    header = json_damaged(chance, content[8 : 8 + length])
    said = len(header) if chance.random() < 0.95 else chance.choice(EDGES)
    return (said % 2**64).to_bytes(8, "little") + header + content[8 + length :]


DESCRS = (
    "'<f4'", "'>f4'", "'<f8'", "'|u1'", "'<c16'", "'<U4'", "'|S10'", "'|O'", "'O'", "'<M8[s]'",
    "'|V4'", "'<f3'", "'<f4096'", "'|V999999999999'", "[('a', '<f4'), ('b', '>i2')]", "[]",
    "[('a', '|O')]", "('<f4', (2**3,))", "('<f4', (3,))", "None", "3", "'<i8,<f4'",
    "{'names': ['a'], 'formats': ['<f4'], 'offsets': [10]}", "__import__('os').getcwd()",
    "'<g16'", "'?'", "'<S0'", "'|V0'")
SHAPES = ("()", "(3,)", "(2, 3)", "(0,)", "(0, 10**30)", f"(0, {2**62}, {2**62})", "(-1,)",
          f"({2**31},)", f"({2**63},)", f"({10**18},)", f"({2**32}, {2**32})", "[2, 3]", "6",
          "(2.0,)", "(True,)", "('a',)", "(1,) * 3", "(" + "1, " * 70 + ")", "None", "(3",
          "((2,),)", "(2L, 3L)")
ORDERS = ("False", "True", "0", "None", "'F'")


def npy(chance, content=None):
    """An array as a file, its header made of choices."""
    descr = chance.choice(DESCRS) if chance.random() < 0.7 else "'<f4'"
    shape = chance.choice(SHAPES) if chance.random() < 0.7 else "(6,)"
    order = chance.choice(ORDERS) if chance.random() < 0.3 else "False"
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"
    if chance.random() < 0.1:
        text = chance.choice(("(" * 200, "{" * 3000, "'\\d'", text[:-3], "x" * 70_000, "1_0", "[]",
                              text.replace("'shape'", "'shapes'"), text + text, "\xff" * 20,
                              "{**{}}", "-" * 5000 + "1", "'" + "a" * 9000 + "'"))
    text += " " * (-(len(text) + 11) % 64) + "\n"
    version = chance.choice(((1, 0), (1, 0), (2, 0), (3, 0), (9, 0)))
    raw = text.encode("latin1")
    said = len(raw) if chance.random() < 0.9 else chance.choice(EDGES)
    head = b"\x93NUMPY" + bytes(version) + (
        struct.pack("<H", said % 2**16) if version[0] == 1 else struct.pack("<I", said % 2**32))
    return head + raw + bytes(chance.choice((0, 1, 8, 24, 48, 4096)))


class Trap:
    """Unpickled, it would leave a trace: `sprung` of the module that `damage` is."""

    def __reduce__(self):
        return (exec, ("import os; os.environ['REFQUANT_TRAP'] = 'sprung'",))


def _pickled():
    file = io.BytesIO()
    np.save(file, np.array([Trap()], object), allow_pickle=True)
    return file.getvalue()


PICKLED = _pickled()
_NAMES = ("w.npy", "x.npy", "../x.npy", "/x.npy", "a/b.npy", ".npy", "x", "w.npy/", "x.npy.npy",
          "__metadata__.npy", "w.codes.npy", "\n.npy", "é.npy", "y" * 200 + ".npy", "C:\\x.npy")


def npz_damaged(chance, content):
    """An archive written anew from strange members, or damaged bytes."""
    if chance.random() < 0.4:
        return damaged(chance, content)
    members = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {n: archive.read(n) for n in archive.namelist()}
    for name in list(members):
        if chance.random() < 0.5:
            members[name] = chance.choice((
                lambda: npy(chance), lambda: npy(chance),
                lambda n=name: damaged(chance, members[n]), lambda: PICKLED,
                lambda: pickle.dumps(Trap()), lambda: b"", lambda: bytes(2**20)))()
    file, twice = io.BytesIO(), chance.random() < 0.1
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as archive:
        warnings.simplefilter("ignore")         # of names that stand twice
        for name, member in members.items():
            called = chance.choice(_NAMES) if chance.random() < 0.2 else name
            method = chance.choice((0, 8, 8, 12, 14))
            for _ in range(1 + twice):
                archive.writestr(called, member, compress_type=method)
    made = file.getvalue()
    return _records_damaged(chance, bytearray(made)) if chance.random() < 0.4 else made


def _records_damaged(chance, content):
    """A field of a directory entry, of a local header or of the end becomes another."""
    mark = chance.choice((b"PK\1\2", b"PK\1\2", b"PK\3\4", b"PK\5\6"))
    places = [i for i in range(len(content) - 4) if content[i : i + 4] == mark]
    if places:
        at = chance.choice(places) + chance.choice((4, 6, 8, 10, 12, 16, 20, 24, 26, 28, 30, 42))
        width = chance.choice((2, 4))
        content[at : at + width] = (chance.choice(EDGES) % 2 ** (8 * width)).to_bytes(
            width, "little")
    return bytes(content)


def protobuf_damaged(chance, content, message):
    """Fields of a message, anywhere below it, become others: by the schema, so that it parses."""
    if chance.random() < 0.3:
        return damaged(chance, content)
    message = message()
    message.ParseFromString(content)
    for _ in range(chance.choice(HOW_MANY)):
        places = list(_messages(message))
        one = chance.choice(places)
        fields = [f for f, _ in one.ListFields()]
        field = chance.choice(fields if fields and chance.random() < 0.8
                              else list(one.DESCRIPTOR.fields))
        many = field.is_repeated if hasattr(field, "is_repeated") else field.label == 3
        if callable(many):
            many = many()
        what = chance.randrange(4)
        if what == 0:
            one.ClearField(field.name)
        elif many:
            held = getattr(one, field.name)
            if what == 1 and len(held):
                del held[chance.randrange(len(held))]
            elif field.type == field.TYPE_MESSAGE:
                if len(held):
                    held.add().CopyFrom(chance.choice(held))
                else:
                    held.add()
            elif len(held) and what == 2:
                held[chance.randrange(len(held))] = _scalar(chance, field)
            else:
                held.append(_scalar(chance, field))
        elif field.type == field.TYPE_MESSAGE:
            same = [p for p in places if p.DESCRIPTOR is field.message_type]
            if same:
                copy = type(same[0])()
                copy.CopyFrom(chance.choice(same))
                getattr(one, field.name).CopyFrom(copy)
        else:
            setattr(one, field.name, _scalar(chance, field))
        if message.ByteSize() > 2**18:              # doubled too often
            break
    return message.SerializeToString()


def _messages(message):
    yield message
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for one in ([value] if hasattr(value, "ListFields") else value):
                yield from _messages(one)


def _scalar(chance, field):
    if field.type in (field.TYPE_STRING, field.TYPE_BYTES):
        text = chance.choice(("", "x", "y", "w", "../x", "a" * 300, "MatMul", "Gemm", "Conv",
                              "Constant", "SAME_UPPER", "\0", "\n", "location", "é"))
        return text if field.type == field.TYPE_STRING else text.encode()
    if field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return chance.choice((0.0, -1.0, 1e38, float("nan"), float("inf"), 1e-45))
    if field.type == field.TYPE_ENUM:
        return chance.choice([v.number for v in field.enum_type.values])
    if field.type == field.TYPE_BOOL:
        return chance.random() < 0.5
    value = chance.choice((*EDGES, -1, -2, -(2**31), 4, 5, 16, 100))
    if field.type == field.TYPE_INT32:
        return (value + 2**31) % 2**32 - 2**31
    if field.type == field.TYPE_UINT64:
        return value % 2**64
    return (value + 2**63) % 2**64 - 2**63


def chance_of(seed):
    """A source of chance for long runs."""
    return random.Random(seed)
