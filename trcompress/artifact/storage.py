"""How a tensor's values lie in a file: halves, or integers beside one float16 scale per row.

A stored tensor is ordinary tensors under its own key and a suffix: `<key>.int8` or `<key>.int4` and `<key>.scale`.
A new storage type is one entry in `STORAGE`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Protocol

import torch
from torch import Tensor

from trcompress.errors import InputFileError, UsageError, nearest

SCALE = "scale"
LEAST_SCALE = 2.0**-24
"""The smallest positive float16; a row of zeros gets it."""

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}
"""What a stored tensor may expand to."""

Shape = tuple[int, ...]


class Storage(Protocol):
    """What a storage type knows of itself."""

    @property
    def kind(self) -> str:
        """Its key in `STORAGE`."""

    def layout(self, shape: Shape) -> dict[str, tuple[torch.dtype, Shape]]:
        """Say which tensors a tensor of this shape becomes, by suffix; "" is the key itself."""

    def encode(self, tensor: Tensor, step: float | None = None) -> dict[str, Tensor]:
        """Round to the nearest values that can be stored; integers at levels of a distance, see `Rounding`."""

    def decode(self, parts: Mapping[str, Tensor], shape: Shape, dtype: torch.dtype) -> Tensor:
        """Give the values back."""


@dataclass(frozen=True)
class Half:
    """Values as two-byte floating point, under their own key."""

    kind: str
    dtype: torch.dtype

    def layout(self, shape: Shape) -> dict[str, tuple[torch.dtype, Shape]]:
        """One tensor of the same shape."""
        return {"": (self.dtype, shape)}

    def encode(self, tensor: Tensor, step: float | None = None) -> dict[str, Tensor]:
        """Cast, values beyond the type's range held at its ends."""
        most = torch.finfo(self.dtype).max
        return {"": tensor.detach().clamp(-most, most).to(self.dtype)}

    def decode(self, parts: Mapping[str, Tensor], shape: Shape, dtype: torch.dtype) -> Tensor:
        """Cast back; exact."""
        return parts[""].to(dtype)


@dataclass(frozen=True)
class Integers:
    """Integers and one float16 scale a row: value = (code + offset) * scale.

    A row is what the first index selects (of a core with a bond of one, the second); a vector is one row. The grid
    of int4 has sixteen levels and no zero (-7.5 .. 7.5), that of int8 has 255 levels, zero among them.
    """

    kind: str
    lowest: int
    highest: int
    offset: float

    @property
    def top(self) -> float:
        """The largest value at scale 1."""
        return self.highest + self.offset

    def layout(self, shape: Shape) -> dict[str, tuple[torch.dtype, Shape]]:
        """Codes of the tensor's shape, and (rows,) scales."""
        return {self.kind: (torch.int8, shape), SCALE: (torch.float16, (rows_of(shape),))}

    def encode(self, tensor: Tensor, step: float | None = None) -> dict[str, Tensor]:
        """Round to the nearest, at the scale of each row that leaves the least squared error, or at a step's."""
        values = as_rows(tensor.detach().double())
        scale = self.scales(values) if step is None else self.stepped(values, step)
        return self.pack(self.codes(values, scale), scale, tuple(tensor.shape))

    def decode(self, parts: Mapping[str, Tensor], shape: Shape, dtype: torch.dtype) -> Tensor:
        """Multiply codes by the scales of their rows."""
        codes = self.unpack(parts[self.kind], shape)
        return self.values(codes, parts[SCALE].to(dtype)).to(dtype).reshape(shape)

    def pack(self, codes: Tensor, scale: Tensor, shape: Shape) -> dict[str, Tensor]:
        """Lay codes (rows, n) and scales (rows,) out as they are stored."""
        return {self.kind: codes.to(torch.int8).reshape(shape), SCALE: scale.to(torch.float16)}

    def unpack(self, stored: Tensor, shape: Shape) -> Tensor:
        """Give codes (rows, n) back."""
        return as_rows(stored)

    def codes(self, values: Tensor, scale: Tensor) -> Tensor:
        """Return the nearest codes to (rows, n) values at (rows,) scales, as floating point."""
        return (values / scale.unsqueeze(1) - self.offset).round_().clamp_(self.lowest, self.highest)

    def values(self, codes: Tensor, scale: Tensor) -> Tensor:
        """Return the values that (rows, n) codes stand for."""
        return (codes.to(scale.dtype) + self.offset) * scale.unsqueeze(1)

    def stepped(self, values: Tensor, step: float) -> Tensor:
        """Return scales of so many root mean squares of each row, or what reaches its largest value."""
        wanted = values.square().mean(1).sqrt() * step
        return stored_scale(torch.maximum(wanted, values.abs().amax(1) / self.top))

    def scales(self, values: Tensor, energy: Tensor | None = None, tries: int = 24) -> Tensor:
        """Search the scale of each row with the least squared error, as float16 holds it.

        Args:
            values: (rows, n).
            energy: (n,) weights of the columns' squared errors; equal by default.
            tries: scales tried, between 0.35 and 1.05 of the one that reaches the row's largest value.
        """
        full = stored_scale(values.abs().amax(1) / self.top)
        best, least = full, torch.full_like(full, torch.inf)
        lowest = 0.35 if self.highest < 100 else 0.8  # clipping pays only where levels are few
        shares = torch.linspace(lowest, 1.05, tries).tolist()
        whole = torch.ones_like(full)  # keeps small integers, one-hot rows for instance, as they are
        for scale in (whole, *(stored_scale(full * share) for share in shares)):
            wrong = (values - self.values(self.codes(values, scale), scale)).square_()
            error = wrong.sum(1) if energy is None else wrong @ energy
            best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
        return best


class PackedIntegers(Integers):
    """Codes of four bits, two in a byte, the earlier column in the lower half; rows begin on a byte."""

    def layout(self, shape: Shape) -> dict[str, tuple[torch.dtype, Shape]]:
        """(rows, ceil(n / 2)) bytes, and (rows,) scales."""
        rows = rows_of(shape)
        columns = prod(shape) // max(1, rows)
        return {self.kind: (torch.uint8, (rows, (columns + 1) // 2)), SCALE: (torch.float16, (rows,))}

    def pack(self, codes: Tensor, scale: Tensor, shape: Shape) -> dict[str, Tensor]:
        """Two codes a byte."""
        codes = codes.to(torch.uint8)
        if codes.shape[1] % 2:
            codes = torch.nn.functional.pad(codes, (0, 1))
        return {self.kind: codes[:, ::2] | codes[:, 1::2] << 4, SCALE: scale.to(torch.float16)}

    def unpack(self, stored: Tensor, shape: Shape) -> Tensor:
        """Split bytes into codes."""
        codes = torch.stack((stored & 15, stored >> 4), -1).flatten(1)
        return codes[:, : prod(shape) // max(1, rows_of(shape))]


STORAGE: dict[str, Storage] = {
    "float16": Half("float16", torch.float16),
    "bfloat16": Half("bfloat16", torch.bfloat16),
    "int8": Integers("int8", -127, 127, 0.0),
    "int4": PackedIntegers("int4", 0, 15, -7.5),
}
"""Every way of storing a tensor other than as it is."""


def storage(kind: str) -> Storage:
    """Look a storage type up.

    Raises:
        UsageError: there is none of that name; the nearest is named.
    """
    if kind not in STORAGE:
        raise UsageError(f"storage must be one of {', '.join(STORAGE)}: got {kind!r}{nearest(kind, list(STORAGE))}")
    return STORAGE[kind]


@dataclass(frozen=True)
class Rounding:
    """How a tensor is rounded whenever its values have changed.

    Args:
        kind: a key of `STORAGE`.
        step: distance of the levels of a row relative to the row's root mean square, so that entropy-coded integers
            stay as coarse as they were; None: the scale with the least error.
    """

    kind: str
    step: float | None = None

    def of(self, tensor: Tensor) -> Stored:
        """Round to the nearest."""
        return Stored(self.kind, storage(self.kind).encode(tensor, self.step), tuple(tensor.shape), tensor.dtype)


@dataclass(frozen=True)
class Stored:
    """One tensor in its stored form.

    Args:
        kind: a key of `STORAGE`.
        parts: what is written, by suffix.
        shape: of the tensor itself.
        dtype: that it is expanded to.

    Example:
        >>> stored = Stored.of(torch.eye(2), "int8")
        >>> stored.parts["int8"].tolist(), stored.nbytes, stored.expand().tolist()
        ([[1, 0], [0, 1]], 8, [[1.0, 0.0], [0.0, 1.0]])
    """

    kind: str
    parts: Mapping[str, Tensor]
    shape: Shape
    dtype: torch.dtype

    @staticmethod
    def of(tensor: Tensor, kind: str) -> Stored:
        """Round a tensor to the nearest values of a storage type."""
        return Rounding(kind).of(tensor)

    def rounding(self, packed: bool) -> Rounding:
        """Return how to round other values for the same file.

        Args:
            packed: the file is entropy-coded, so that the distance of the levels decides its size.
        """
        grid = storage(self.kind)
        if not packed or not isinstance(grid, Integers) or not self.parts[SCALE].numel():
            return Rounding(self.kind)
        size = as_rows(self.expand().double()).square().mean(1).sqrt()
        steps = (self.parts[SCALE].double() / size)[size > 0]
        return Rounding(self.kind, float(steps.median()) if len(steps) else None)

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.nbytes for part in self.parts.values())

    def expand(self) -> Tensor:
        """Return the values, in the tensor's own shape and dtype."""
        return storage(self.kind).decode(self.parts, self.shape, self.dtype)

    def named(self, key: str) -> dict[str, Tensor]:
        """Name the parts as a file holds them."""
        return {f"{key}.{suffix}" if suffix else key: part for suffix, part in self.parts.items()}


def stored_in(key: str, kind: str, dtype: str, shape: Shape, tensors: Mapping[str, Tensor]) -> Stored:
    """Gather the parts of a stored tensor from a file's tensors, checked.

    Args:
        key: of the tensor.
        kind: a key of `STORAGE`.
        dtype: that it is expanded to: "float32", "float64", "float16" or "bfloat16".
        shape: of the tensor.
        tensors: of the file.

    Raises:
        InputFileError: a part is missing, has another shape or type than the storage asks, or is not finite.
    """
    if kind not in STORAGE:
        raise InputFileError(f"damaged artifact: {key} is stored as {kind!r}, one of {', '.join(STORAGE)} expected")
    if dtype not in DTYPES:
        raise InputFileError(f"damaged artifact: {key} expands to {dtype!r}, one of {', '.join(DTYPES)} expected")
    parts = {}
    for suffix, (want, size) in STORAGE[kind].layout(shape).items():
        name = f"{key}.{suffix}" if suffix else key
        part = tensors.get(name)
        if part is None or part.dtype != want or tuple(part.shape) != size:
            found = "is missing" if part is None else f"is {part.dtype} {tuple(part.shape)}"
            raise InputFileError(f"damaged artifact: {name} {found}; its header asks {want} {size}")
        if part.is_floating_point() and not torch.isfinite(part).all():
            raise InputFileError(f"damaged artifact: {name} holds NaN or Inf")
        parts[suffix] = part
    return Stored(kind, parts, tuple(shape), DTYPES[dtype])


def as_rows(tensor: Tensor) -> Tensor:
    """View a tensor as (rows, n); see `rows_of`."""
    rows = rows_of(tuple(tensor.shape))
    return tensor.reshape(rows, tensor.numel() // rows if rows else 0)


def rows_of(shape: Shape) -> int:
    """Count the rows, and so scales, of a tensor: its first size, of a core (1, n, r) its second, of a vector 1."""
    while len(shape) > 2 and shape[0] == 1:
        shape = shape[1:]
    return shape[0] if len(shape) > 1 else 1


def stored_scale(scale: Tensor) -> Tensor:
    """Round scales to what float16 holds, never to zero or infinity."""
    held = scale.clamp(LEAST_SCALE, torch.finfo(torch.float16).max).to(torch.float16)
    return held.to(scale.dtype)
