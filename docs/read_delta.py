"""Reads a delta file of version 2, 3 or 4 with NumPy alone, as delta-format.md says. It trusts the file: no checks."""

import hashlib
import json
import zlib
from pathlib import Path

import numpy as np

TYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I8": "i1", "I32": "<i4", "U8": "u1"}


def read_delta(path):
    """Parameter -> what is added to it, in its shape; the head's weight `(classes, features)` and bias; the header; the
    tensors of version 3's sections by name. A transductive head answers from these: weight and bias are then None."""
    content = Path(path).read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    listed = json.loads(content[8:start])
    header = json.loads(listed.pop("__metadata__")["header"])
    tensors = {name: tensor(content[start:], **entry) for name, entry in listed.items()}
    delta, shapes = {}, header["shapes"]
    sizes = {name: int(np.prod(shape)) for name, shape in shapes.items()}
    spelled = [f if isinstance(f, list) else [f] if f == "dense" else ["sparse", f] for f in header["forms"]]
    forms = dict(zip(shapes, spelled, strict=True))
    places = {n: drawn(n, sizes[n], *f[1:]) if f[0] == "drawn" else np.arange(sizes[n]) for n, f in forms.items()}
    for i in {form[1] for form in forms.values() if form[0] == "sparse"}:
        names = [name for name in forms if forms[name] == ["sparse", i]]
        begins = np.cumsum([0] + [sizes[name] for name in names])
        found = places_in(tensors[f"positions/{i}"].tobytes(), int(begins[-1]))
        places |= {n: found[(a <= found) & (found < a + sizes[n])] - a for n, a in zip(names, begins, strict=False)}
    numbers, factors = (tensors.get(name, np.empty(0, "u1")) for name in ("values", "factors"))
    numbers = np.unpackbits(numbers) * 2.0 - 1 if header["values"] == "1bit" else numbers.astype("f4")
    scales = iter(tensors.get("scales", [1] * 2 * len(forms)))
    for name in sorted(forms, key=lambda name: forms[name][0] == "low rank"):  # these come last
        if forms[name][0] == "low rank":
            (rows, *_), rank = shapes[name] or [1], forms[name][1]
            left, right, factors = np.split(factors.astype("f4"), [rows * rank, (rows + sizes[name] // rows) * rank])
            change = left.reshape(rows, rank) * next(scales) @ right.reshape(rank, sizes[name] // rows) * next(scales)
        else:
            (part, numbers), change = np.split(numbers, [len(places[name])]), np.zeros(sizes[name], "f4")
            change[places[name]] = part * next(scales)
        delta[name] = change.reshape(shapes[name])
    sections = {name: values for name, values in tensors.items() if name.startswith(("graft/", "support."))}
    if header.get("transductive"):
        return delta, None, None, header, sections
    weight = tensors["head.weight"]
    if weight.ndim == 1:
        folded = whole(np.frombuffer(zlib.decompress(weight.tobytes(), -15), np.uint8))
        weight = (folded >> 1 ^ -(folded & 1)).reshape(len(header["classes"]), -1)
    weight = weight.astype("f4") * tensors.get("head.scales", np.ones(1, "f4"))[:, None]
    return delta, weight, tensors["head.bias"], header, sections


def labels_of(logits, header):
    """The labels of a picture with logits `(classes,)`: of version 4 all above their threshold, else the likeliest."""
    has = 1 / (1 + np.exp(-logits)) > header["thresholds"] if "thresholds" in header else logits == logits.max()
    return [name for name, its in zip(header["classes"], has, strict=True) if its]


def tensor(data, dtype, shape, data_offsets):
    values = np.frombuffer(data[slice(*data_offsets)], TYPES[dtype]).reshape(shape)
    return (values.astype("<u4") << 16).view("<f4") if dtype == "BF16" else values


def places_in(code, size):
    form, low, count = code[4], code[5], int.from_bytes(code[6:14], "little")
    listed = count if form == 0 else size - count
    planes = low * -(-listed // 8)  # of a bitmap low is 0
    stream = np.frombuffer(zlib.decompress(code[14 + planes :], -15), np.uint8)
    if form == 2:
        return np.flatnonzero(np.unpackbits(stream, count=size))
    gaps = whole(stream) << low
    for bit, plane in enumerate(np.frombuffer(code, np.uint8, planes, 14).reshape(low, -1) if low else ()):
        gaps += np.unpackbits(plane, count=listed).astype("i8") << bit
    places = np.cumsum(gaps + 1) - 1
    return places if form == 0 else np.setdiff1d(np.arange(size), places)


def whole(stream):
    return np.diff(np.cumsum(stream, dtype="i8")[stream != 255], prepend=0)


def drawn(name, size, seed, count):
    bits = np.random.PCG64(int.from_bytes(hashlib.sha256(f"{seed} 0 {name}".encode()).digest(), "big"))
    chosen, few = np.empty(0, "u8"), min(count, size - count)
    while len(chosen) < few:
        words = (bits.random_raw(few - len(chosen)) >> np.uint64(32)) * np.uint64(size)
        chosen = np.unique(np.append(chosen, words >> np.uint64(32)))
    return chosen.astype("i8") if few == count else np.setdiff1d(np.arange(size), chosen)
