"""Which clips a folder holds: UCF11's class/group/clip and HMDB51's class/clip with its split files."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trcompress.data.decode import SUFFIXES
from trcompress.errors import InputFileError

_SKIPPED = {"annotation", "annotations", "__macosx"}
MARKER = "procedural_clips.json"


@dataclass(frozen=True)
class ClipFile:
    """One clip of a tree.

    Args:
        path: the file.
        name: its path in the tree, with forward slashes.
        label: index of its class.
        group: what it shares with other clips: UCF11's group number, HMDB51's source video.
    """

    path: Path
    name: str
    label: int
    group: str


@dataclass(frozen=True)
class VideoTree:
    """A folder of clips.

    Args:
        root: the folder that holds the classes.
        layout: "ucf11" or "hmdb51".
        classes: folder names, sorted.
        clips: sorted by name.
        procedural: made by `make_clips`, not filmed.
    """

    root: Path
    layout: str
    classes: tuple[str, ...]
    clips: tuple[ClipFile, ...]
    procedural: bool

    @property
    def name(self) -> str:
        """What results call the data; procedural clips are never called by a data set's name."""
        return f"procedural clips ({self.root.name})" if self.procedural else self.root.name


def find_clips(folder: str | Path, layout: str = "auto") -> VideoTree:
    """List the clips of a tree; a folder with nothing but the tree's own folder in it will do.

    Args:
        folder: the tree.
        layout: a key of `LAYOUTS`, or "auto" to see which fits.

    Raises:
        InputFileError: there are no clips, or both layouts or neither fit.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputFileError(f"a video tree must be a folder: {root} is not")
    found = {name: list_(root) for name, list_ in LAYOUTS.items() if layout in ("auto", name)}
    fitting = [name for name, clips in found.items() if clips]
    if not fitting:
        inner = _folders(root)
        holders = [inside for inside in inner if any(LAYOUTS[name](inside) for name in found)]
        if len(holders) == 1:
            return find_clips(holders[0], layout)
        raise InputFileError(
            f"a video tree must hold class/group/clip.mpg (ucf11) or class/clip.avi (hmdb51): {root} holds "
            f"{len(inner)} folders and no clips in that place; name the folder that holds the classes"
        )
    if len(fitting) > 1:
        raise InputFileError(
            f"{root} holds clips both as class/group/clip and as class/clip; choose with layout=ucf11 or hmdb51"
        )
    clips = found[fitting[0]]
    classes = tuple(sorted({name.split("/")[0] for name, _ in clips}))
    label = {name: number for number, name in enumerate(classes)}
    files = tuple(ClipFile(root / name, name, label[name.split("/")[0]], group) for name, group in sorted(clips))
    return VideoTree(root, fitting[0], classes, files, (root / MARKER).is_file())


def _ucf11(root: Path) -> list[tuple[str, str]]:
    """Return (name, group) of class/group/clip; groups are numbers where all their folders end in one."""
    names = [
        f"{kind.name}/{group.name}/{clip.name}"
        for kind in _folders(root)
        for group in _folders(kind)
        for clip in _videos(group)
    ]
    groups = [name.split("/")[1] for name in names]
    numbers = [re.search(r"(\d+)$", group) for group in groups]
    if all(numbers):
        groups = [str(int(number[1])) for number in numbers if number]
    return list(zip(names, groups, strict=True))


def _hmdb51(root: Path) -> list[tuple[str, str]]:
    """Return (name, source video) of class/clip; clip names are <source>_<class>_<properties>_<number>."""
    names = [(kind.name, clip) for kind in _folders(root) for clip in _videos(kind)]
    return [(f"{kind}/{clip.name}", _source_video(kind, clip.stem)) for kind, clip in names]


def _source_video(kind: str, stem: str) -> str:
    source, found, _ = stem.partition(f"_{kind}_")
    return source if found else re.sub(r"_\d+$", "", stem)


LAYOUTS: dict[str, Callable[[Path], list[tuple[str, str]]]] = {"ucf11": _ucf11, "hmdb51": _hmdb51}


def official_split(tree: VideoTree, number: int, folder: Path | None) -> tuple[np.ndarray, list[str]] | None:
    """Read one of HMDB51's official splits, `<class>_test_split<number>.txt`.

    Args:
        tree: the clips.
        number: 1, 2 or 3.
        folder: where the files are; None looks in the tree, in its folders and beside it.

    Returns:
        (N,) codes 0 unused, 1 train, 2 test, and the names that the lists have but the tree has not;
        None if there are no such files.

    Raises:
        InputFileError: a class has no file, or a line is not `<clip> <0, 1 or 2>`.
    """
    pattern = f"*_test_split{number}.txt"
    beside = [place for place in _folders(tree.root.absolute().parent) if "split" in place.name.lower()]
    places = [folder] if folder else [tree.root, *_folders(tree.root), *beside]
    place = next((place for place in places if any(place.glob(pattern))), None)
    if place is None:
        if folder:
            raise InputFileError(f"split_dir must hold {pattern}: {folder} does not; name the folder of the lists")
        return None
    codes = np.zeros(len(tree.clips), dtype=np.int64)
    row = {clip.name: number for number, clip in enumerate(tree.clips)}
    missing = []
    for kind in tree.classes:
        for clip, code in _read_list(place / f"{kind}_test_split{number}.txt"):
            if f"{kind}/{clip}" in row:
                codes[row[f"{kind}/{clip}"]] = code
            elif code:
                missing.append(f"{kind}/{clip}")
    return codes, missing


def _read_list(path: Path) -> list[tuple[str, int]]:
    if not path.is_file():
        raise InputFileError(
            f"each class needs its official list: {path} is missing; copy it there, or use split=group"
        )
    entries = []
    for place, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        name, _, code = line.strip().rpartition(" ")
        if not name or code not in ("0", "1", "2"):
            raise InputFileError(
                f"{path}, line {place} must be `<clip> <0, 1 or 2>`: got {line[:80]!r}; correct it"
            )
        entries.append((name.strip(), int(code)))
    return entries


def _folders(folder: Path) -> list[Path]:
    return sorted(
        item
        for item in folder.iterdir()
        if item.is_dir() and not item.name.startswith(".") and item.name.lower() not in _SKIPPED
    )


def _videos(folder: Path) -> list[Path]:
    return sorted(
        item
        for item in folder.iterdir()
        if item.suffix.lower() in SUFFIXES and not item.name.startswith(".") and item.is_file()
    )
