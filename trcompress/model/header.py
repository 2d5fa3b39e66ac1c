"""The self-description of an artifact: one JSON object in the safetensors metadata, typed and strict.

Everything in it comes from an untrusted file when read: sizes are bounded, unknown keys refused, and nothing
in it is ever imported, evaluated or opened.
"""

from __future__ import annotations

from math import prod
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trcompress.errors import InputFileError, ShapeError
from trcompress.formats import BlockTerm, Format, TensorRing, TensorTrain
from trcompress.model.grammar import MAX_SIZE
from trcompress.model.plan import WeightPlan
from trcompress.model.slots import GATES, WeightSlot

METADATA_KEY = "trcompress"
VERSION: Literal[1] = 1

Size = Annotated[int, Field(ge=1, lt=MAX_SIZE)]
Modes = Annotated[tuple[Size, ...], Field(min_length=1, max_length=64)]
GATE_ORDERS = {"lstm": "i,f,g,o", "gru": "r,z,n", "rnn": ""}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Layer(_Strict):
    """One recurrent layer in one direction, compressed or not: what it takes to build it again."""

    stack: str
    kind: Literal["lstm", "gru", "rnn"]
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

    @property
    def slot(self) -> WeightSlot:
        """The layer's input-to-hidden weight, as plans name it."""
        return WeightSlot(
            name=self.keys["weight_ih"],
            kind=self.kind,
            input_size=self.input_size,
            gates=GATES[self.kind],
            hidden_size=self.hidden_size,
            stack=self.stack,
            layer=self.layer,
            reverse=self.reverse,
        )


class Weight(_Strict):
    """One compressed weight: its structure, and how its cores were found."""

    name: str
    format: Literal["tensor-ring", "tensor-train", "block-term"]
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

    @property
    def structure(self) -> Format:
        """The format with its modes and ranks."""
        if self.format == TensorRing.kind:
            return TensorRing(self.in_modes, self.out_modes, self.ranks)
        if self.format == TensorTrain.kind:
            return TensorTrain(self.in_modes, self.out_modes, self.ranks)
        return BlockTerm(self.in_modes, self.out_modes, self.ranks[0], self.blocks)


class Source(_Strict):
    """The dense checkpoint that was compressed."""

    file: str
    sha256: str
    size_bytes: Annotated[int, Field(ge=0)]
    format: str
    tensor_bytes: Annotated[int, Field(ge=0)]
    notes: tuple[str, ...] = ()


class Step(_Strict):
    """One command of the artifact's history."""

    verb: str
    command: str
    seed: int | None = None
    version: str
    parent_sha256: str | None = None
    settings: dict[str, Any] = {}


class Header(_Strict):
    """All that an artifact says about itself."""

    version: Literal[1] = VERSION
    layers: tuple[Layer, ...]
    weights: tuple[Weight, ...]
    source: Source | None = None
    shared: tuple[tuple[str, ...], ...] = ()
    lineage: tuple[Step, ...] = ()
    metrics: dict[str, Any] = {}

    def weight_plans(self) -> dict[str, WeightPlan]:
        """The structure of every compressed weight, by its key.

        Raises:
            InputFileError: a weight belongs to no layer, or its modes cannot hold the layer's sizes.
        """
        slots = {layer.keys.get("weight_ih"): layer.slot for layer in self.layers if "weight_ih" in layer.keys}
        plans = {}
        for weight in self.weights:
            if weight.name not in slots:
                raise InputFileError(
                    f"damaged artifact: compressed weight {weight.name!r} belongs to no layer in it"
                )
            try:
                plans[weight.name] = WeightPlan(slots[weight.name], weight.structure, weight.per_gate)
            except ShapeError as error:
                raise InputFileError(f"damaged artifact: {weight.name}: {error}") from error
            _check_sizes(plans[weight.name])
        return plans

    def to_json(self) -> str:
        """Serialise with sorted keys, so that equal headers are equal bytes."""
        import json

        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False)


def parse_header(text: str) -> Header:
    """Read a header, strictly.

    Raises:
        InputFileError: not JSON, an unknown or newer version, or any field that does not fit; all are named.
    """
    if len(text) > 64 * 2**20:
        raise InputFileError(f"an artifact header must be under 64 MiB: got {len(text):,} characters")
    try:
        return Header.model_validate_json(text)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'header'}: {e['msg']}" for e in error.errors()[:10])
        raise InputFileError(
            f"this is not an artifact that trcompress header version {VERSION} can read: {faults}"
        ) from error


def _check_sizes(plan: WeightPlan) -> None:
    slot = plan.slot
    modes = prod(plan.structure.out_modes)
    fits = slot.hidden_size <= plan.padded_hidden < 2 * slot.hidden_size
    fits = fits and (plan.per_gate or modes % slot.gates == 0)
    if plan.padded_input < slot.input_size or not fits:
        raise InputFileError(
            f"damaged artifact: the modes of {plan.name} ({plan.padded_input:,} : {modes:,}) "
            f"do not hold its layer ({slot.describe()})"
        )
