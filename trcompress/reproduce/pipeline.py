"""What a user of pretrained networks does: train dense, plan, decompose, measure, fine-tune, measure, report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from trcompress.artifact.file import Artifact
from trcompress.artifact.report import Report, make_report
from trcompress.artifact.write import write_artifact
from trcompress.checkpoint import read_checkpoint
from trcompress.data import DataSet
from trcompress.network.classifier import Wiring
from trcompress.passes.assemble import decompose_checkpoint
from trcompress.reproduce.bars import compression_bars
from trcompress.reproduce.classify import SPLIT_WORDS, ShareDisplay, how_chosen
from trcompress.reproduce.context import Context
from trcompress.reproduce.network import check_input_size
from trcompress.reproduce.plots import Plot
from trcompress.reproduce.recipe_schema import Compression, PipelineRecipe
from trcompress.reproduce.result import Findings, ResultRow, Table
from trcompress.reproduce.sequences import open_sequences
from trcompress.search import search_network
from trcompress.training.dense import train_dense
from trcompress.training.evaluate import evaluate
from trcompress.training.finetune import finetune
from trcompress.util.progress import Progress, part_of


@dataclass(frozen=True)
class Outcome:
    """One dense network, compressed in one way.

    Args:
        split: how the data was divided.
        seed: of the run.
        compression: how.
        dense: test accuracy of the dense network.
        decomposed: that of the rings before any training.
        tuned: that after fine-tuning.
        report: of the fine-tuned artifact.
    """

    split: str
    seed: int
    compression: Compression
    dense: float
    decomposed: float
    tuned: float
    report: Report

    @property
    def label(self) -> str:
        """What was asked for."""
        return self.compression.label

    @property
    def ring(self) -> str:
        """What it came to."""
        weight = self.report.weights[0]
        return f"{weight.shape} ranks {','.join(map(str, weight.ranks))}"


def run_pipeline(recipe: PipelineRecipe, context: Context) -> Findings:
    """Train a dense network per split and seed, and take it the whole way in every way of the recipe."""
    outcomes: list[Outcome] = []
    pairs = [(split, seed) for split in recipe.data.splits for seed in recipe.seeds]
    data = None
    for done, (split, seed) in enumerate(pairs):
        progress = part_of(context.progress, f"{split}, seed {seed}", done, len(pairs)) or context.progress
        if data is None or seed == recipe.seeds[0]:
            data = open_sequences(recipe.data, split, context.folder, progress)
            check_input_size(recipe.model, data)
        outcomes += _run(recipe, data, split, seed, context.folder, progress)
    notes = (f"test part of the last split: {data.split_note}", how_chosen(data), *data.notes) if data else ()
    return Findings(
        data=data.name if data else "none",
        rows=tuple(_rows(recipe, outcomes)),
        tables=(_table(outcomes),),
        plots=(_bars(recipe, outcomes),),
        notes=notes,
    )


def _run(
    recipe: PipelineRecipe, data: DataSet, split: str, seed: int, folder: Path, progress: Progress
) -> Iterator[Outcome]:
    stem = folder / f"{split}-seed{seed}"
    dense = stem.with_name(f"{stem.name}-dense.safetensors")
    steps = 1 + len(recipe.compress)
    trained = train_dense(
        data,
        dense,
        kind=recipe.model.network,
        hidden_size=recipe.model.hidden_size,
        readout=recipe.model.readout,
        settings=recipe.train.model_copy(update={"seed": seed}),
        overwrite=True,
        display=_display(progress, "dense", 0, steps, recipe.train.epochs),
    )
    wiring = Wiring(readout=recipe.model.readout)
    for number, one in enumerate(recipe.compress):
        ring = stem.with_name(f"{stem.name}-ring{number}.tr.safetensors")
        write_artifact(ring, _compressed(dense, one, seed), overwrite=True)
        decomposed = evaluate(ring, data, wiring=wiring, device=recipe.finetune.device).right
        tuned = finetune(
            ring,
            data,
            ring.with_suffix(".tuned.safetensors"),
            teacher=dense,
            settings=recipe.finetune.model_copy(update={"seed": seed}),
            wiring=wiring,
            overwrite=True,
            display=_display(progress, "fine-tune", number + 1, steps, recipe.finetune.epochs),
        )
        yield Outcome(
            split=split,
            seed=seed,
            compression=one,
            dense=trained.metrics["accuracy_after"],
            decomposed=decomposed,
            tuned=tuned.metrics["accuracy_after"],
            report=make_report(tuned.out, baseline=dense),
        )


def _compressed(dense: Path, how: Compression, seed: int) -> Artifact:
    """Decompose by the ring that is written out, or plan one first and start from the planner's cores."""
    if how.plan is not None:
        return decompose_checkpoint(dense, how.plan, init=how.init, seed=seed)
    checkpoint = read_checkpoint(dense)
    found = search_network(checkpoint, target_ratio=how.target_ratio, seed=seed, effort=how.effort)
    cores = {one.matrix.key: one.cores for one in found.weights}
    return decompose_checkpoint(checkpoint, found.plan, warm_starts=cores, seed=seed)


def _display(progress: Progress, name: str, done: int, total: int, epochs: int) -> ShareDisplay:
    return ShareDisplay(part_of(progress, name, done, total) or progress, epochs)


def _rows(recipe: PipelineRecipe, outcomes: Sequence[Outcome]) -> Iterator[ResultRow]:
    stages: dict[str, Callable[[Outcome], float]] = {
        "decomposed, before training": lambda one: one.decomposed,
        "fine-tuned": lambda one: one.tuned,
    }
    for split in recipe.data.splits:
        mine = [one for one in outcomes if one.split == split]
        first = [one.dense for one in mine if one.compression == recipe.compress[0]]
        yield _row(f"accuracy, {SPLIT_WORDS[split]}: dense", first, "")
        for compression in recipe.compress:
            same = [one for one in mine if one.compression == compression]
            sizes = same[0].report
            note = f"input-to-hidden {sizes.compression_ratio:.1f}x, whole model {sizes.model_ratio:.2f}x"
            for stage, take in stages.items():
                name = f"accuracy, {SPLIT_WORDS[split]}: {same[0].label}, {stage}"
                yield _row(name, [take(one) for one in same], note)


def _row(name: str, values: Sequence[float], note: str) -> ResultRow:
    spread = stdev(values) if len(values) > 1 else None
    return ResultRow(name=name, measured=fmean(values), spread=spread, runs=len(values), note=note)


def _table(outcomes: Sequence[Outcome]) -> Table:
    columns = (
        "split",
        "seed",
        "ring",
        "parameters",
        "ratio",
        "error",
        "dense",
        "decomposed",
        "fine-tuned",
        "bytes",
    )
    rows = tuple(
        (
            one.split,
            one.seed,
            one.ring,
            sum(weight.parameters_after for weight in one.report.weights),
            round(one.report.compression_ratio, 2),
            round(one.report.weights[0].error or 0.0, 4),
            round(one.dense, 4),
            round(one.decomposed, 4),
            round(one.tuned, 4),
            one.report.file_bytes_after,
        )
        for one in outcomes
    )
    return Table(title="runs", columns=columns, rows=rows)


def _bars(recipe: PipelineRecipe, outcomes: Sequence[Outcome]) -> Plot:
    reports = {one.label: one.report for one in outcomes}
    ratios = {name: (one.compression_ratio, one.model_ratio, one.bytes_ratio) for name, one in reports.items()}
    return compression_bars("compression", f"{recipe.name}: times smaller than the dense network's", ratios)
