"""The tables of recipes for experiments that are made here, and the bounded types that all tables share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from trcompress.model.grammar import parse_ranks, parse_shape
from trcompress.util.strict import StrictModel

Text = Annotated[str, Field(max_length=8_000)]
Short = Annotated[str, Field(max_length=300)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Size = Annotated[int, Field(ge=1, le=2**24)]
Rank = Annotated[int, Field(ge=1, le=4096)]
Number = Annotated[float, Field(ge=-1e15, le=1e15)]
Variance = Annotated[float, Field(ge=0, le=1e6)]
Modes = Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(min_length=1, max_length=32)]
Figure = Number | Short | dict[Short, Number | Short]


def _readable_shape(text: str) -> str:
    parse_shape(text)
    return text


def _readable_ranks(text: str) -> str:
    parse_ranks(text)
    return text


def _not_code(text: str) -> str:
    if ":" in text and not text[1:3] == ":\\":
        raise ValueError("a recipe names files, never package.module:factory")
    return text


Shape = Annotated[str, Field(max_length=500), AfterValidator(_readable_shape)]
Ranks = Annotated[str, Field(max_length=500), AfterValidator(_readable_ranks)]
Seeds = Annotated[tuple[Seed, ...], Field(min_length=1, max_length=100)]
DataPath = Annotated[str, Field(min_length=1, max_length=1_000), AfterValidator(_not_code)]


class PaperReading(StrictModel):
    """One way to read the paper's synthetic experiment where it is silent.

    Attributes:
        name: short.
        about: what was read into the paper, in words.
        weight: "ring" (planted cores), "matrix" (U V' of Gaussian factors), "picture" (nested squares).
        weight_rank: of the planted ring or matrix; a picture has its own.
        rms: root mean square of the entries of W.
        error: "absolute" RMSE of the entries of W, or "relative" to `rms`.
        samples: number of (x, y).
        rank: of the train and the ring that are fitted.
        procedure: "als" (exact least squares, block by block) or "adam" (the same optimiser for all).
        steps: most sweeps of ALS, or steps of Adam.
        batch_size: of Adam.
        lr: of Adam, falling to zero along a cosine.
        starts: random starts; the one with the least training error counts. No method sees W.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")]
    about: Text
    weight: Literal["ring", "matrix", "picture"]
    weight_rank: Annotated[int, Field(ge=1, le=81)] = 3
    rms: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    error: Literal["absolute", "relative"] = "absolute"
    samples: Annotated[int, Field(ge=83, le=10**6)] = 3200
    rank: Annotated[int, Field(ge=1, le=12)] = 5
    procedure: Literal["als", "adam"] = "als"
    steps: Annotated[int, Field(ge=1, le=10**5)] = 25
    batch_size: Annotated[int, Field(ge=1, le=10**6)] = 64
    lr: Annotated[float, Field(gt=0, le=10)] = 0.01
    starts: Annotated[int, Field(ge=1, le=20)] = 2


class Synthetic(StrictModel):
    """The 81 x 81 experiment of Figs. 5 and 6.

    Attributes:
        noise_variances: sigma^2 of the noise on y; the claim is checked at `claim_variance`.
        claim_variance: 0.05 in the paper.
        input_variance: of each dimension of x.
        readings: each gives its own table.
        pictures: draw W and what each method recovered.
    """

    noise_variances: Annotated[tuple[Variance, ...], Field(min_length=1, max_length=40)]
    claim_variance: Variance = 0.05
    input_variance: Annotated[float, Field(gt=0, le=1e6)] = 0.5
    readings: Annotated[tuple[PaperReading, ...], Field(min_length=1, max_length=20)]
    pictures: bool = False

    @model_validator(mode="after")
    def _claim_is_measured(self) -> Synthetic:
        if self.claim_variance not in self.noise_variances:
            raise ValueError(f"noise_variances must include claim_variance = {self.claim_variance}")
        return self


class Complexity(StrictModel):
    """Table 4, measured.

    Attributes:
        in_modes: of the weight for the sweep over ranks; TT and BT pair them with `out_modes`.
        out_modes: as many as `in_modes`.
        ranks: R, all ranks alike.
        size_rank: R of the sweep over sizes.
        lengths: numbers of modes, of 4 inputs each, of the sweep over sizes.
        blocks: N of the block term.
        bt_max_rank: no block term beyond this rank (its R^d core).
        batch: vectors at a time; counts are given per vector.
    """

    in_modes: Modes
    out_modes: Modes
    ranks: Annotated[tuple[Rank, ...], Field(min_length=2, max_length=40)]
    size_rank: Rank = 4
    lengths: Annotated[tuple[Annotated[int, Field(ge=2, le=10)], ...], Field(min_length=2, max_length=10)]
    blocks: Annotated[int, Field(ge=1, le=100)] = 2
    bt_max_rank: Rank = 8
    batch: Annotated[int, Field(ge=1, le=10_000)] = 96

    @model_validator(mode="after")
    def _paired(self) -> Complexity:
        if len(self.in_modes) != len(self.out_modes):
            raise ValueError("TT and BT pair their modes: give as many out_modes as in_modes")
        return self
