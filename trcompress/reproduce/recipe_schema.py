"""What a recipe may say: one typed model per kind, every size bounded. No torch here.

A recipe is data. It names no code, no module and no class; where it names a file, the file is data too.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from trcompress.data.options import ArrayOptions, VideoOptions
from trcompress.decomposition.algorithms import ALGORITHMS
from trcompress.errors import one_of
from trcompress.formats import FORMATS
from trcompress.model.grammar import parse_ranks, parse_shape
from trcompress.model.kinds import KINDS
from trcompress.model.matrix import Matrix
from trcompress.model.plan import Plan, Rule
from trcompress.model.weight_plan import WeightPlan
from trcompress.reproduce.recipe_fields import (
    Complexity,
    DataPath,
    Figure,
    Ranks,
    Seeds,
    Shape,
    Short,
    Size,
    Synthetic,
    Text,
)
from trcompress.training.settings import FinetuneSettings
from trcompress.util.strict import StrictModel

DENSE = "dense"
MAX_PARAMETERS = 2**31
SplitName = Literal["auto", "random", "group", "official-1", "official-2", "official-3"]


def _known_network(name: str) -> str:
    return one_of("network", name, KINDS)


def _known_algorithm(name: str) -> str:
    return one_of("init", name, ALGORITHMS)


def _known_structure(name: str) -> str:
    return one_of("structure", name, (DENSE, *FORMATS))


class Model(StrictModel):
    """One recurrent layer and a linear head, trained from scratch.

    Attributes:
        network: a key of `KINDS`: "lstm", "gru" or "rnn" (tanh, as torch.nn's).
        structure: of the input-to-hidden weight: "dense" or a key of `FORMATS`.
        input_size: values per step; checked against the data.
        hidden_size: units.
        shape: modes, `4x2x5:4x4`; of anything but "dense".
        ranks: as on the command line.
        blocks: terms of a block term.
        gates: "fused", or "per-gate" for one ring each.
        readout: what the head sees, as on the command line.
    """

    network: Annotated[str, AfterValidator(_known_network)] = "lstm"
    structure: Annotated[str, AfterValidator(_known_structure)] = DENSE
    input_size: Size
    hidden_size: Annotated[int, Field(ge=1, le=2**16)]
    shape: Shape | None = None
    ranks: Ranks | None = None
    blocks: Annotated[int, Field(ge=1, le=1000)] = 2
    gates: Literal["fused", "per-gate"] = "fused"
    readout: Literal["final", "last-step", "mean"] = "final"

    @model_validator(mode="after")
    def _complete(self) -> Model:
        if self.structure == DENSE and (self.shape or self.ranks):
            raise ValueError("a dense layer has neither shape nor ranks; leave them out, or name a structure")
        if self.structure != DENSE and not (self.shape and self.ranks):
            raise ValueError(f"a {self.structure} needs shape and ranks")
        total = self.parameters + self.matrix.rows * self.hidden_size
        if total > MAX_PARAMETERS:
            raise ValueError(f"a recipe's layer must have at most 2**31 parameters: this one has {total:,}")
        return self

    @property
    def matrix(self) -> Matrix:
        """The layer's input-to-hidden weight, all gates together."""
        return Matrix.input_to_hidden("rnn.weight_ih_l0", self.network, self.input_size, self.hidden_size, "rnn")

    @property
    def rule(self) -> Rule | None:
        """The rule that plans the weight; None where it stays dense."""
        if self.structure == DENSE or self.shape is None or self.ranks is None:
            return None
        in_modes, out_modes = parse_shape(self.shape)
        ranks = parse_ranks(self.ranks)
        return Rule(in_modes, out_modes, ranks, None, self.gates, format=self.structure, blocks=self.blocks)

    def weight_plan(self) -> WeightPlan | None:
        """Resolve the structure of the weight; None where it stays dense.

        Raises:
            ShapeError: the modes do not hold the weight.
        """
        return None if self.rule is None else Plan((self.rule,)).resolve([self.matrix])[0]

    @property
    def parameters(self) -> int:
        """Values kept for the input-to-hidden weight."""
        plan = self.weight_plan()
        return self.matrix.parameters if plan is None else plan.parameters

    @property
    def compression_ratio(self) -> float:
        """Eq. 7."""
        return self.matrix.parameters / self.parameters


class Features(StrictModel):
    """A CNN over the frames, where the data is a video tree and not an array file of features.

    Attributes:
        backbone: "torchvision:inception_v3", a .onnx file, or "random" (a fixed random network, for rehearsals).
        weights: the file of torchvision's weights.
        normalize: what the network was trained on.
        size: features per frame of "random".
    """

    backbone: Annotated[str, Field(min_length=1, max_length=1_000)]
    weights: Annotated[str, Field(max_length=1_000)] | None = None
    normalize: Literal["imagenet", "unit", "signed", "raw"] = "imagenet"
    size: Annotated[int, Field(ge=1, le=2**16)] = 2048


class VideoFields(VideoOptions):
    """Options of a video tree; `splits` says how it is divided, and the cache is where the user keeps it."""

    split: Literal["auto"] = "auto"
    cache_dir: None = None
    split_dir: None = None


class ArrayFields(ArrayOptions):
    """Options of an array file; `splits` says how it is divided."""

    split: Literal["auto"] = "auto"


class Data(StrictModel):
    """Which sequences, and how they are divided.

    Attributes:
        path: a video tree or an array file; usually given beside the recipe.
        original: the data set that the paper's figures were measured on.
        about: what to give, and where it is to be had; shown where no data was given.
        splits: one training run per split and seed. "random" is what the field does, and leaks.
        video: the options for a video tree.
        array: the options for an array file.
        features: the CNN in front, where the data is a video tree.
    """

    path: DataPath | None = None
    original: Short = ""
    about: Text = ""
    splits: Annotated[tuple[SplitName, ...], Field(min_length=1, max_length=6)] = ("auto",)
    video: VideoFields | None = None
    array: ArrayFields | None = None
    features: Features | None = None

    @model_validator(mode="after")
    def _some_kind(self) -> Data:
        if self.video is None and self.array is None:
            raise ValueError("data needs a table [data.video] or [data.array], or both")
        return self


class Compression(StrictModel):
    """How a trained dense layer is compressed: by a ring that is written out, or by one that is searched for.

    Attributes:
        shape: modes; with ranks.
        ranks: as on the command line.
        target_ratio: search shape and ranks that reach this Eq. 7, as `trcompress plan` does.
        effort: how much work goes into that search.
        init: how the cores of a written-out ring are found.
    """

    shape: Shape | None = None
    ranks: Ranks | None = None
    target_ratio: Annotated[float, Field(gt=1, le=1e9)] | None = None
    effort: Literal["low", "normal", "high"] = "normal"
    init: Annotated[str, AfterValidator(_known_algorithm)] = "tr-als"

    @model_validator(mode="after")
    def _one_way(self) -> Compression:
        written = bool(self.shape) + bool(self.ranks)
        if written == 1 or (written == 2) == (self.target_ratio is not None):
            raise ValueError("a compression takes shape and ranks, or target_ratio: give one of the two")
        return self

    @property
    def label(self) -> str:
        """What was asked for, in tables."""
        return f"{self.shape} ranks {self.ranks}" if self.shape else f"planned for {self.target_ratio:g}x"

    @property
    def plan(self) -> Plan | None:
        """The written-out ring; None where it is searched for."""
        return Plan.of(self.shape, self.ranks) if self.shape and self.ranks else None


class Recipe(StrictModel):
    """What all kinds share.

    Attributes:
        name: the file's name.
        title: one line.
        row: which row of the paper.
        about: readings, differences from the paper, what to expect.
        seeds: one run each; the result gives their spread.
        paper: the paper's own figures, by the name of what is measured here; several sources in
            a sub-table; formulas and sentences as text.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
    title: Short
    row: Short
    about: Text = ""
    seeds: Seeds = (0,)
    paper: dict[Short, Figure] = Field(default_factory=dict)


class SyntheticRecipe(Recipe):
    """Figs. 5, 6."""

    kind: Literal["synthetic"]
    synthetic: Synthetic


class ComplexityRecipe(Recipe):
    """Table 4."""

    kind: Literal["complexity"]
    complexity: Complexity


class ClassifyRecipe(Recipe):
    """A classifier trained from scratch: Tables 1-3 and the footnote's networks."""

    kind: Literal["classify"]
    model: Model
    data: Data
    train: FinetuneSettings = FinetuneSettings()


class PipelineRecipe(Recipe):
    """Train dense, compress, fine-tune: what a user of pretrained networks does."""

    kind: Literal["pipeline"]
    model: Model
    data: Data
    train: FinetuneSettings = FinetuneSettings()
    compress: Annotated[tuple[Compression, ...], Field(min_length=1, max_length=20)]
    finetune: FinetuneSettings = FinetuneSettings()

    @model_validator(mode="after")
    def _dense_first(self) -> PipelineRecipe:
        if self.model.structure != DENSE:
            raise ValueError("a pipeline trains a dense layer first: leave model.structure out")
        for one in self.compress:
            if one.plan is not None:
                one.plan.resolve([self.model.matrix])
        return self


RECIPE_KINDS: dict[str, type[Recipe]] = {
    "synthetic": SyntheticRecipe,
    "complexity": ComplexityRecipe,
    "classify": ClassifyRecipe,
    "pipeline": PipelineRecipe,
}
"""Every kind of recipe; `trcompress.reproduce.RUNNERS` has the code that runs each."""
