"""The data of a recipe, once for each way to divide it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trcompress.data import DataSet, extract, load_data
from trcompress.data.load import kind_of
from trcompress.errors import UsageError
from trcompress.reproduce.random_features import with_random_features
from trcompress.reproduce.recipe_schema import Data, Features, VideoFields
from trcompress.util.progress import Progress, counted

RANDOM = "random"
FEATURE_FILE = "features.npz"


def open_sequences(data: Data, split: str, folder: Path, progress: Progress) -> DataSet:
    """Load a recipe's data, divided as `split` says.

    Args:
        data: the recipe's `[data]`.
        split: one of `data.splits`.
        folder: where features are kept.
        progress: told while clips are decoded.

    Raises:
        UsageError: the data is of a kind that the recipe has no options for.
        InputFileError: the data cannot be read.
    """
    path = data.path or ""
    kind = kind_of(path)
    if kind == "video" and data.features is not None and data.features.backbone != RANDOM:
        path, kind = _extracted(path, data, data.features, folder, progress), "array"
    options = {"video": data.video, "array": data.array}.get(kind)
    if options is None:
        wanted = " or ".join(
            name for name, table in (("video tree", data.video), ("array file", data.array)) if table
        )
        raise UsageError(f"this recipe takes a {wanted}: {path} is {kind} data")
    values = options.model_dump(exclude_unset=True) | _split_options(split)
    found = load_data(path, progress=counted(progress), **values)
    if kind == "video" and data.features is not None and data.video is not None:
        return with_random_features(found, data.video.size, data.features.size)
    return found


def _split_options(split: str) -> dict[str, Any]:
    name, _, number = split.partition("-")
    return {"split": name} | ({"split_number": int(number)} if number else {})


def _extracted(tree: str, data: Data, features: Features, folder: Path, progress: Progress) -> str:
    """Run the CNN over the tree once; later splits find the file."""
    out = folder / FEATURE_FILE
    if not out.is_file():
        if features.backbone.startswith("torchvision:") and features.weights is None:
            raise UsageError(
                f"features of a video tree need the weights of {features.backbone}: give "
                "`set=data.features.weights=FILE`, an exported CNN with `set=data.features.backbone=FILE.onnx`, "
                "or `data=FILE.npz` made by `trcompress data extract`"
            )
        video = data.video or VideoFields()
        extract(
            tree,
            features.backbone,
            out,
            weights=features.weights,
            normalize=features.normalize,
            progress=counted(progress),
            max_bad_clips=video.max_bad_clips,
            layout=video.layout,
        )
    return str(out)
