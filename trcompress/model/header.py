"""The self-description of an artifact: one JSON object in the safetensors metadata, typed and strict.

Everything in it comes from an untrusted file when read: sizes are bounded, unknown keys refused, and nothing
in it is ever imported, evaluated or opened.
"""

from __future__ import annotations

import base64
import json
import zlib
from math import prod
from typing import Annotated, Any, Literal

from pydantic import Field, GetCoreSchemaHandler, GetPydanticSchema, ValidationError, field_validator
from pydantic_core import core_schema

from trcompress.errors import InputFileError, ShapeError, one_of
from trcompress.formats import FORMATS, Format
from trcompress.model.grammar import MAX_SIZE
from trcompress.model.kinds import KINDS
from trcompress.model.layer import ROLES, Layer
from trcompress.model.weight_plan import WeightPlan
from trcompress.util.bounded_json import check_parts, faults_of
from trcompress.util.strict import StrictModel
from trcompress.util.text import encodable

METADATA_KEY = "trcompress"
VERSION = 2
"""The newest version that is read. Written where a tensor is stored in few bits or a pass is recorded, else 1."""

DETACHED = {"source", "metrics"}
"""Fields of the history that a compact header leaves out; of the lineage it keeps how the checkpoint was read."""

READ = "read"  # the verb of a step that only tells how the checkpoint was read

COMPRESSED = "zlib:"
"""What a compressed header begins with, followed by base85."""

MAX_HEADER, MAX_PARTS = 64 * 2**20, 300_000

Size = Annotated[int, Field(ge=1, lt=MAX_SIZE)]
Modes = Annotated[tuple[Size, ...], Field(min_length=1, max_length=64)]


class _LayerRecord(StrictModel):
    """A layer as version 1 spells it."""

    stack: str
    kind: str
    layer: Annotated[int, Field(ge=0, lt=10_000)]
    reverse: bool = False
    cell: bool = False
    input_size: Size
    hidden_size: Size
    proj_size: Annotated[int, Field(ge=0, lt=MAX_SIZE)] = 0
    nonlinearity: Literal["tanh", "relu"] = "tanh"
    batch_first: bool = False
    dropout: Annotated[float, Field(ge=0, le=1)] = 0.0
    keys: dict[str, str]

    @field_validator("kind")
    @classmethod
    def _known_kind(cls, kind: str) -> str:
        return one_of("kind", kind, KINDS)

    @field_validator("keys")
    @classmethod
    def _known_roles(cls, keys: dict[str, str]) -> dict[str, str]:
        if "weight_ih" not in keys or set(keys) - set(ROLES):
            raise ValueError(f"keys must be weight_ih and others of {', '.join(ROLES)}: got {', '.join(keys)}")
        return keys

    @classmethod
    def of(cls, layer: Layer) -> dict[str, Any]:
        """Plain values of a layer, for JSON."""
        same = {name: getattr(layer, name) for name in cls.model_fields if name not in ("layer", "keys")}
        return cls(**same, layer=layer.index, keys=dict(layer.keys)).model_dump(mode="json")

    def to_layer(self) -> Layer:
        """Return the layer that the record describes."""
        return Layer(index=self.layer, **self.model_dump(exclude={"layer"}))


def _layer_schema(_: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
    """Read a `Layer` from its record in JSON, take it as it is in Python, and write the record again."""
    record = handler(_LayerRecord)
    return core_schema.json_or_python_schema(
        json_schema=core_schema.no_info_after_validator_function(_LayerRecord.to_layer, record),
        python_schema=core_schema.is_instance_schema(Layer),
        serialization=core_schema.plain_serializer_function_ser_schema(_LayerRecord.of),
    )


class Weight(StrictModel):
    """One compressed weight: its structure, and how its cores were found."""

    name: str
    format: str
    in_modes: Modes
    out_modes: Modes
    ranks: Modes
    blocks: Annotated[int, Field(ge=1, lt=10_000)] = 1
    per_gate: bool = False
    gate_order: str
    init: str
    error: float | None = None
    bound: float | None = None
    notes: tuple[str, ...] = ()
    dtype: str
    candidates: tuple[dict[str, Any], ...] = ()

    @classmethod
    def of(cls, plan: WeightPlan, **found: Any) -> Weight:
        """Describe one compressed weight; `found` are the fields that say how its cores came about."""
        structure = plan.structure
        fields: dict[str, Any] = {
            "name": plan.name,
            "format": structure.kind,
            "in_modes": structure.in_modes,
            "out_modes": structure.out_modes,
            "ranks": structure.ranks,
            "blocks": structure.blocks,
            "per_gate": plan.per_gate,
            "gate_order": KINDS[plan.matrix.kind].gate_order if plan.matrix.kind else "",
        }
        return cls(**(fields | found))

    @property
    def structure(self) -> Format:
        """The format with its modes and ranks.

        Raises:
            ShapeError: they do not fit together, or are not written out in full.
        """
        structure = FORMATS[self.format].from_ranks(self.in_modes, self.out_modes, self.ranks, self.blocks)
        if structure.ranks != self.ranks:
            raise ShapeError(f"a header writes all ranks of a {self.format}, {structure.ranks}: got {self.ranks}")
        return structure

    @field_validator("format")
    @classmethod
    def _known_format(cls, format: str) -> str:
        return one_of("format", format, FORMATS)


class SourceFile(StrictModel):
    """The dense checkpoint that was compressed."""

    file: str
    sha256: str
    size_bytes: Annotated[int, Field(ge=0)]
    format: str
    tensor_bytes: Annotated[int, Field(ge=0)]
    notes: tuple[str, ...] = ()


class Step(StrictModel):
    """One command of the artifact's history."""

    verb: str
    command: str
    seed: int | None = None
    version: str
    parent_sha256: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)


StoredShape = Annotated[tuple[Annotated[int, Field(ge=0, lt=MAX_SIZE)], ...], Field(max_length=64)]
StorageRecord = tuple[str, str, StoredShape]
"""How one tensor is stored: kind, dtype that it is expanded to, shape."""


class PassRecord(StrictModel):
    """What one pass did to one tensor or module."""

    kind: str
    name: str
    before: str
    after: str
    damage: float | None = None


class Header(StrictModel):
    """All that an artifact says about itself.

    Version 2 adds `storage` (tensors in few bits, by key), `packed` (codec and bytes of each entropy-coded stream),
    `passes`, and `original` (the shape that a tensor had before a pass resized it, by key).
    """

    version: Literal[1, 2] = 1
    layers: tuple[Annotated[Layer, GetPydanticSchema(_layer_schema)], ...]
    weights: tuple[Weight, ...]
    source: SourceFile | None = None
    shared: tuple[tuple[str, ...], ...] = ()
    lineage: tuple[Step, ...] = ()
    metrics: dict[str, Any] = Field(default_factory=dict)
    storage: dict[str, StorageRecord] = Field(default_factory=dict)
    packed: tuple[tuple[str, Annotated[int, Field(ge=0)]], ...] = ()
    passes: tuple[PassRecord, ...] = ()
    original: dict[str, StoredShape] = Field(default_factory=dict)

    @property
    def has_history(self) -> bool:
        """Whether the file tells where it came from, as a compact header does not."""
        return bool(self.source or self.metrics or any(one.verb != READ for one in self.lineage))

    def weight_plans(self) -> dict[str, WeightPlan]:
        """Return the structure of every compressed weight, by its key.

        Raises:
            InputFileError: a weight belongs to no layer, or its modes cannot hold the layer's sizes.
        """
        matrices = {matrix.key: matrix for layer in self.layers for matrix in layer.matrices}
        plans = {}
        for weight in self.weights:
            if weight.name not in matrices:
                raise InputFileError(
                    f"damaged artifact: compressed weight {weight.name!r} belongs to no layer in it"
                )
            try:
                plans[weight.name] = WeightPlan(matrices[weight.name], weight.structure, weight.per_gate)
            except ShapeError as error:
                raise InputFileError(f"damaged artifact: {weight.name}: {error}") from error
            _check_sizes(plans[weight.name])
        return plans

    def to_json(self, *, compact: bool = False) -> str:
        """Serialise with sorted keys, so that equal headers are equal bytes.

        Args:
            compact: leave out the history and every default, and compress what is left: for small files.
        """
        new = bool(self.storage or self.packed or self.passes or self.original)
        left_out = DETACHED if compact else set() if new else {"storage", "packed", "passes", "original"}
        lean = self.model_copy(update=_lean(self)) if compact else self
        values = lean.model_dump(mode="json", exclude=left_out, exclude_defaults=compact)
        values = encodable(values | {"version": VERSION if new else 1})
        text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return COMPRESSED + base64.b85encode(zlib.compress(text.encode(), 9)).decode() if compact else text


def parse_header(text: str) -> Header:
    """Read a header, strictly.

    Raises:
        InputFileError: not JSON, an unknown or newer version, or any field that does not fit; all are named.
    """
    if len(text) > MAX_HEADER:
        raise InputFileError(f"an artifact header must be under 64 MiB: got {len(text):,} characters")
    try:
        text = _decompressed(text) if text.startswith(COMPRESSED) else text
        check_parts(text, MAX_PARTS)
        return Header.model_validate_json(text)
    except ValidationError as error:
        raise InputFileError(
            f"this is not an artifact that trcompress header version {VERSION} can read: {faults_of(error, 10)}"
        ) from error
    except ValueError as error:
        raise InputFileError(f"damaged artifact: its header cannot be read: {error}") from error


def _decompressed(text: str) -> str:
    reader = zlib.decompressobj()
    try:
        found = reader.decompress(base64.b85decode(text.removeprefix(COMPRESSED)), MAX_HEADER)
        if not reader.eof:
            raise ValueError("it is cut off, or above 64 MiB")
        return found.decode()
    except (ValueError, zlib.error) as error:
        raise InputFileError(f"damaged artifact: its compressed header cannot be read: {error}") from error


def _lean(header: Header) -> dict[str, Any]:
    """The structure of each weight without how it was found, the passes that changed sizes, how it was read."""
    history = {"candidates": (), "notes": (), "error": None, "bound": None}
    weights = tuple(one.model_copy(update=history) for one in header.weights)
    read = [one.settings["reading"] for one in header.lineage if one.settings.get("reading")]
    return {
        "weights": weights,
        "passes": tuple(one for one in header.passes if one.kind != "rounding"),
        "lineage": tuple(Step(verb=READ, command="", version="", settings={"reading": one}) for one in read),
    }


def _check_sizes(plan: WeightPlan) -> None:
    matrix = plan.matrix
    modes = prod(plan.structure.out_modes)
    fits = matrix.gate_rows <= plan.padded_hidden < 2 * matrix.gate_rows
    fits = fits and (plan.per_gate or modes % matrix.gates == 0)
    if plan.padded_input < matrix.columns or not fits:
        raise InputFileError(
            f"damaged artifact: the modes of {plan.name} ({plan.padded_input:,} : {modes:,}) "
            f"do not hold its layer ({matrix.describe()})"
        )
