"""High-dimensional inputs at full size: dense LSTM against TR-LSTM in the same training time, on procedural clips.

57,600 inputs (160 x 120 RGB), 6 frames, hidden size 256, 11 motions. Both networks train by the library's one loop
for the same number of minutes; accuracy is measured after every epoch on clips of looks that were never trained on:
another digit or glyph, place, colour, speed and background. The figure reported is the last epoch's, not the best.

Run: python benchmarks/frames.py --minutes 5
In pieces: --models ring, then --models dense; the page is made of whatever is there.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from trcompress.data import DataSet, load_data, make_clips
from trcompress.reproduce.network import build_classifier, input_parameters
from trcompress.reproduce.plots import Curve, Plot, draw, write_numbers
from trcompress.reproduce.recipe import read_recipe
from trcompress.reproduce.recipe_schema import ClassifyRecipe
from trcompress.reproduce.result import Claim, Findings, Result, ResultRow, write_result
from trcompress.training.distributed import team
from trcompress.training.loop import Trainer
from trcompress.util.files import write_text
from trcompress.util.hardware import this_machine
from trcompress.version import __version__

LABELS = {"ring": "TR-LSTM", "dense": "dense LSTM"}
RECIPES = {"ring": "ucf11-table1-tr", "dense": "ucf11-table1-lstm"}
CLIPS = {"layout": "ucf11", "classes": 11, "clips_per_group": 4}


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0, help="training time of each network")
    parser.add_argument("--models", default="ring,dense", help="which to train now")
    parser.add_argument("--groups", type=int, default=25, help="looks; a fifth of them are held out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--lr-ring", type=float, default=2e-3)
    parser.add_argument("--lr-dense", type=float, default=1e-4)
    parser.add_argument("--clips", type=Path, default=Path(tempfile.gettempdir()) / "trcompress-frames")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent.parent / "results" / "frames")
    return parser.parse_args()


def open_clips(folder: Path, groups: int) -> DataSet:
    """Make the clips if they are not there, and hold out whole groups; they take the validation part's place."""
    tree = folder / f"clips-{groups}"
    if not tree.is_dir():
        make_clips(tree, groups=groups, **CLIPS)
    data = load_data(
        tree, split="group", test_fraction=0.2, validation_fraction=0.0, frames=6, cache_dir=folder / "cache"
    )
    return replace(data, validation=data.test)


def train(name: str, data: DataSet, given: argparse.Namespace) -> dict[str, Any]:
    """Train one network for the budget; the number of epochs is what a first epoch says will fit."""
    recipe = read_recipe(RECIPES[name]).resolve()
    if not isinstance(recipe, ClassifyRecipe):
        raise TypeError(f"{RECIPES[name]} is not a recipe of a classifier")
    settings = recipe.train.model_copy(update={"lr": getattr(given, f"lr_{name}"), "seed": given.seed})
    with team("cpu") as crew:
        first = Trainer(build(recipe, data, given.seed), data, settings.model_copy(update={"epochs": 1}), crew)
        epoch_s = first.run().history[-1]["epoch_s"]
        epochs = max(1, int(given.minutes * 60 / epoch_s))
        student = build(recipe, data, given.seed)
        started = time.perf_counter()
        state = Trainer(student, data, settings.model_copy(update={"epochs": epochs}), crew).run()
    minutes = [0.0]
    for record in state.history[1:]:
        minutes.append(minutes[-1] + record["epoch_s"] / 60)
    return {
        "name": name,
        "recipe": recipe.name,
        "parameters": input_parameters(student.recurrent["rnn"]),
        "epochs": epochs,
        "minutes": minutes,
        "accuracy": [record["validation_accuracy"] for record in state.history],
        "train_accuracy": state.history[-1]["accuracy"],
        "wall_s": time.perf_counter() - started,
        "settings": {
            "minutes": given.minutes,
            "groups": given.groups,
            "seed": given.seed,
            "threads": given.threads,
        },
        "lr": settings.lr,
        "data": data.split_note,
        "clips": {"train": len(data.train), "held out": len(data.validation or ())},
    }


def build(recipe: ClassifyRecipe, data: DataSet, seed: int) -> Any:
    """Build the recipe's network."""
    return build_classifier(recipe.model, data, dropout=recipe.train.dropout, seed=seed)


def rows(runs: Sequence[dict[str, Any]]) -> Iterator[ResultRow]:
    """Two figures of each network."""
    for run in runs:
        label = LABELS[run["name"]]
        note = f"{run['parameters']:,} input-to-hidden parameters, {run['epochs']} epochs, lr {run['lr']:g}"
        name = f"accuracy on unseen looks after {run['minutes'][-1]:.1f} min of training: {label}"
        yield ResultRow(name=name, measured=run["accuracy"][-1], note=note)
        yield ResultRow(name=f"accuracy on training clips: {label}", measured=run["train_accuracy"])


def summarise(runs: Sequence[dict[str, Any]], command: str) -> Result:
    """Put the networks side by side."""
    last = {run["name"]: run["accuracy"][-1] for run in runs}
    claims = []
    if set(last) == set(LABELS):
        claims.append(
            Claim(
                text="in the same training time the TR-LSTM reaches a higher accuracy than the dense LSTM",
                holds=last["ring"] > last["dense"],
                evidence=f"TR-LSTM {last['ring']:.3f}, dense {last['dense']:.3f}",
            )
        )
    curves = tuple(
        Curve(name=LABELS[run["name"]], x=tuple(run["minutes"]), y=tuple(run["accuracy"])) for run in runs
    )
    plot = Plot(
        file="accuracy-over-time",
        title="57,600 inputs, hidden 256: accuracy on unseen looks over training time",
        x_label="minutes of training on two cores",
        y_label="accuracy on held-out clips",
        curves=curves,
    )
    counts = runs[0]["clips"]
    return Result(
        recipe="benchmarks/frames.py",
        title="57,600-dimensional frames: dense LSTM and TR-LSTM in equal training time",
        row="Introduction: high-dimensional inputs",
        quick=False,
        findings=Findings(
            data=f"procedural clips: {counts['train']} to train on, {counts['held out']} held out, 11 motions",
            rows=tuple(rows(runs)),
            claims=tuple(claims),
            plots=(plot,),
            notes=(f"held out {runs[0]['data']}; the last epoch is reported, not the best",),
        ),
        seeds=(runs[0]["settings"]["seed"],),
        command=command,
        version=__version__,
        machine=this_machine(),
        seconds=round(sum(run["wall_s"] for run in runs), 1),
    )


def main() -> None:
    """Train what is asked for, then make the page of all networks trained with these settings."""
    given = read_arguments()
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    data = open_clips(given.clips, given.groups)
    for name in given.models.split(","):
        run = train(name, data, given)
        write_text(given.out / f"{name}.json", json.dumps(run, indent=1) + "\n")
        print(f"{name}: {run['accuracy'][-1]:.3f} after {run['minutes'][-1]:.1f} min, {run['epochs']} epochs")
    saved = [json.loads(path.read_text()) for name in RECIPES if (path := given.out / f"{name}.json").is_file()]
    wanted = {"minutes": given.minutes, "groups": given.groups, "seed": given.seed, "threads": given.threads}
    runs = [run for run in saved if run["settings"] == wanted]
    result = summarise(runs, shlex.join(["python", "benchmarks/frames.py", *sys.argv[1:]]))
    write_result(given.out, result)
    write_numbers(given.out, result.findings.plots)
    draw(given.out, result.findings.plots)


if __name__ == "__main__":
    main()
