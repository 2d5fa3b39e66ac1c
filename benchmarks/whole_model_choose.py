"""How the settings of benchmarks/whole_model_tasks.py were chosen: cross-validation on the training part alone.

Each candidate is a task with some changes; every fold trains all four networks and judges them on groups that none
of them saw. The test part is not read. Candidates of the clips are judged on 100 looks drawn with a seed of their
own, with seeds other than those of the final run.

Run: python benchmarks/whole_model_choose.py --tasks hapt
     python benchmarks/whole_model_choose.py --tasks clips --only "as chosen" --folds 20,21
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

import torch
from finetune_choose import folds
from kept import Kept
from samples import find_sample
from whole_model_clips import CANDIDATES as CLIP_CANDIDATES
from whole_model_clips import CHOICE, CLIPS, run_clips, training_clips, with_fresh_looks
from whole_model_tasks import CANDIDATES, TASKS
from whole_model_trained import Trained, run_trained

from trcompress.data import DataSet, load_data


def main() -> None:
    """Cross-validate the candidates that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(TASKS), help="which data sets; clips is one more")
    parser.add_argument("--only", default="", help="candidates whose name holds this text")
    parser.add_argument("--folds", default="0,1,2", help="which of the three; seeds of clips")
    given = parser.parse_args()
    torch.set_num_threads(1)
    names = given.tasks.split(",")
    if "clips" in names:
        choose_clips(given.only, [int(one) for one in given.folds.split(",")])
    for task in (TASKS[name] for name in names if name != "clips"):
        path = find_sample(task.base.sample)
        if path is None:
            print(f"{task.name}: the sample {task.base.sample} is not at hand; left out")
            continue
        data = load_data(path, validation_fraction=0.0, **task.base.options)
        chosen = [int(one) for one in given.folds.split(",")]
        for name, changes in CANDIDATES[task.name].items():
            if given.only in name:
                print(name, cross_validated(replace(task, **changes), data, chosen), flush=True)


def choose_clips(only: str, seeds: list[int]) -> None:
    """Judge candidates of the clips on looks that neither training nor the test part has."""
    data = with_fresh_looks(training_clips(), CHOICE)
    for name, changes in CLIP_CANDIDATES.items():
        for seed in seeds if only in name else ():
            with TemporaryDirectory() as folder:
                rows = run_clips(data, seed, Kept(Path(folder)), replace(CLIPS, **changes))
            print(name, seed, {row["what"]: round(row["metric"], 2) for row in rows}, flush=True)


def cross_validated(task: Trained, data: DataSet, chosen: list[int]) -> dict[str, float]:
    """Accuracy of each of the four networks on groups held out, in percent, mean of the folds."""
    found: dict[str, list[float]] = {}
    for seed, fold in enumerate(folds(data)):
        if seed in chosen and fold.validation is not None:
            part = replace(fold, validation=None, test=replace(fold.validation, name="test"))
            with TemporaryDirectory() as folder:
                rows = run_trained(task, part, seed, Kept(Path(folder)))
            for row in rows:
                found.setdefault(f"{row['what']}, {row['bytes']:,} bytes", []).append(row["metric"])
    return {what: round(mean(values), 2) for what, values in found.items()}


if __name__ == "__main__":
    main()
