"""Ways to damage a file: its bytes, or the parts of its format, put together again so that readers get further."""

from __future__ import annotations

import io
import json
import random
import re
import struct
import zipfile
from typing import Any

TEXTS = (
    "",
    "x" * 300,
    "\x1b[31mred\x1b]0;title\x07",
    "[bold]x[/bold][link=file:///x]y",
    "\u202eabc",
    "a\x00b",
    "\ud800",
    "weight_ih_l0",
    "../../x",
    "[/]",
    "%s{}\\",
    "\r\n\t",
    "é" * 50,
    "nan",
    "os.system",
)
WHOLE = (-1, 0, 1, 2, 3, 255, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**30, -(2**63), 10**4000)
BROKEN = (0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf"), float("-inf"))
INTERESTING = tuple(
    struct.pack(code, value)
    for code, values in {
        "<B": (0, 1, 127, 128, 255),
        "<H": (0, 1, 32767, 32768, 65535),
        "<I": (0, 1, 2**31 - 1, 2**31, 2**32 - 1),
        "<Q": (0, 1, 2**31, 2**63 - 1, 2**63, 2**64 - 1),
        ">I": (1, 2**31, 2**32 - 2),
    }.items()
    for value in values
)
_TOKEN = re.compile(rb"-?\d+\.?\d*|\"[^\"\n]*\"|'[^'\n]*'|\[[^\]\n]*\]|true|false|[A-Za-z_]\w*")


def mutate(data: bytes, suffix: str, rng: random.Random) -> bytes:
    """Return a damaged copy of a file.

    Args:
        data: a whole file.
        suffix: its ending, which tells what it is made of.
        rng: decides everything.
    """
    structural = STRUCTURES.get(suffix)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        try:
            data = structural(data, rng) if structural and rng.random() < 0.7 else mutate_bytes(data, rng)
        except Exception:  # an earlier step left nothing to take apart
            data = mutate_bytes(data, rng)
    return data


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Change, cut, repeat or insert bytes anywhere."""
    at = rng.randrange(len(data) + 1)
    size = min(len(data) - at, rng.choice((1, 1, 2, 4, 8, 64, 1024)))
    kind = rng.randrange(6)
    if kind == 0 and data:
        flipped = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 8))):
            flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return bytes(flipped)
    if kind == 1:
        return data[:at] + data[at + size :]
    if kind == 2:
        return data[:at] + data[at : at + size] * rng.choice((2, 3, 50)) + data[at + size :]
    if kind == 3:
        value = rng.choice(INTERESTING)
        return data[:at] + value + data[at + len(value) :]
    if kind == 4:
        return data[:at]
    return data[:at] + rng.randbytes(rng.choice((1, 4, 16))) + data[at:]


def mutate_json(value: Any, rng: random.Random) -> Any:
    """Change one place of a JSON value: another value, another key, one more, one less."""
    places = list(_places(value))
    if not places:
        return _odd(rng)
    parent, key = rng.choice(places)
    kind = rng.randrange(7)
    inner = parent[key]
    if isinstance(inner, str) and inner[:1] in "{[" and rng.random() < 0.8:
        parent[key] = json.dumps(mutate_json(json.loads(inner), rng))
    elif kind == 0:
        del parent[key]
    elif kind == 1 and isinstance(parent, dict):
        parent[rng.choice((*TEXTS, *parent))] = inner
    elif kind == 2 and isinstance(parent, list):
        parent.extend([inner] * rng.choice((1, 2, 300)))
    elif kind == 3:
        other, place = rng.choice(places)
        parent[key] = other[place] if place in other or isinstance(other, list) else inner
    elif kind == 4 and isinstance(inner, int | float):
        parent[key] = inner + rng.choice((-1, 1, 0.5, 1000))
    else:
        parent[key] = _odd(rng)
    return value


def _places(value: Any, depth: int = 0) -> Any:
    if depth > 30:
        return
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield value, key
        yield from _places(inner, depth + 1)


def _odd(rng: random.Random) -> Any:
    deep: Any = 1
    for _ in range(rng.choice((3, 200))):
        deep = [deep]
    return rng.choice(
        (rng.choice(TEXTS), rng.choice(WHOLE + BROKEN), None, True, [], {}, [1] * 9, {"a": {"b": []}}, deep)
    )


def _json(data: bytes, rng: random.Random) -> bytes:
    return _dumped(mutate_json(json.loads(data), rng))


def _dumped(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


def _safetensors(data: bytes, rng: random.Random) -> bytes:
    (size,) = struct.unpack("<Q", data[:8])
    header, rest = data[8 : 8 + size], data[8 + size :]
    changed = _dumped(mutate_json(json.loads(header), rng))
    return struct.pack("<Q", len(changed)) + changed + rest


def _archive(data: bytes, rng: random.Random) -> bytes:
    """Damage one member, its name, or their order; the archive itself stays whole."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    place = rng.randrange(len(members))
    name, content = members[place]
    kind = rng.randrange(8)
    if kind == 0:
        del members[place]
    elif kind == 1:
        members.append((name, rng.choice(members)[1]))
    elif kind == 2:
        members[place] = (name.rpartition("/")[0] + "/" + rng.choice(TEXTS).replace("\ud800", ""), content)
    else:
        members[place] = (name, _member(name, content, rng))
    out = io.BytesIO()
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content)
    return out.getvalue()


def _member(name: str, content: bytes, rng: random.Random) -> bytes:
    if name.endswith(".npy"):
        head, _, values = content.partition(b"\n")
        return _text(head, rng) + b"\n" + values if rng.random() < 0.7 else mutate_bytes(content, rng)
    return _text(content, rng) if name.endswith(".py") else mutate_bytes(content, rng)


def _text(data: bytes, rng: random.Random) -> bytes:
    """Replace, remove or repeat one token or line of a text."""
    found = list(_TOKEN.finditer(data))
    if not found or rng.random() < 0.2:
        lines = data.split(b"\n")
        place = rng.randrange(len(lines))
        lines[place : place + 1] = rng.choice(([], [lines[place]] * 2, [rng.choice(lines)]))
        return b"\n".join(lines)
    token = rng.choice(found)
    odd = _odd(rng)
    new = rng.choice((json.dumps(odd).encode(), str(odd).encode("utf-8", "replace"), b"", rng.choice(found)[0]))
    return data[: token.start()] + new + data[token.end() :]


STRUCTURES = {
    ".json": _json,
    ".safetensors": _safetensors,
    ".npz": _archive,
    ".pt": _archive,
    ".toml": _text,
    ".txt": _text,
}
