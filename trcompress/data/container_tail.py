"""Whether a video file ends before its own structure says: lost bytes that decoding may not notice."""

from __future__ import annotations

from pathlib import Path

_TAIL_BYTES = 2**18
_PACK, _END = 0xBA, 0xB9


def ends_early(path: str | Path) -> bool:
    """Return whether an AVI is shorter than its header says, or an MPEG program stream ends inside a packet.

    False for every other kind of file.
    """
    with Path(path).open("rb") as stream:
        head = stream.read(12)
        size = stream.seek(0, 2)
        stream.seek(max(0, size - _TAIL_BYTES))
        tail = stream.read()
    if head[:4] == b"RIFF" and head[8:] == b"AVI ":
        return size < 8 + int.from_bytes(head[4:8], "little")
    if head[:4] == b"\0\0\1\xba":
        return _ends_inside_packet(tail)
    return False


def _ends_inside_packet(tail: bytes) -> bool:
    """Walk packet by packet from the first pack header; unknown bytes end the walk without a finding."""
    place = tail.find(b"\0\0\1\xba")
    while 0 <= place < len(tail):
        code = tail[place + 3] if tail[place : place + 3] == b"\0\0\1" and place + 3 < len(tail) else None
        if code is None or code == _END or code < _END:
            return False
        length = _pack_bytes(tail, place) if code == _PACK else _packet_bytes(tail, place)
        if length is None:
            return True
        place += length
    return place > len(tail)


def _packet_bytes(tail: bytes, place: int) -> int | None:
    size = tail[place + 4 : place + 6]
    return 6 + int.from_bytes(size, "big") if len(size) == 2 else None


def _pack_bytes(tail: bytes, place: int) -> int | None:
    """MPEG-1 pack headers have 12 bytes; MPEG-2 ones 14 and as many as the last of these says."""
    head = tail[place : place + 14]
    if len(head) < 12:
        return None
    if head[4] >> 6 != 0b01:
        return 12
    return 14 + (head[13] & 7) if len(head) == 14 else None
