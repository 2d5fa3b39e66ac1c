"""`trcompress data`: make data sets of videos, and of features of videos."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from trcompress.cli.console import print_json, progress_bar, remark, say
from trcompress.cli.options import dry_run_option, format_option, overwrite_option, seed_option
from trcompress.util.figures import size
from trcompress.util.progress import counted

_NORMALIZATIONS = ("imagenet", "unit", "signed", "raw")
_LAYOUTS = ("ucf11", "hmdb51")


class _Size(click.ParamType):
    """WIDTHxHEIGHT."""

    name = "WxH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Split `320x240`."""
        if isinstance(value, tuple):
            return value
        width, _, height = str(value).lower().partition("x")
        if not (width.isdigit() and height.isdigit()):
            self.fail(f"must be WIDTHxHEIGHT, such as 320x240: got {value!r}", param, ctx)
        return int(width), int(height)


@click.group()
def data() -> None:
    """Make data sets: procedural clips, and CNN features of videos.

    Example: trcompress data make-clips clips --layout ucf11
    """


@data.command("make-clips", short_help="Render procedural action clips as video files.")
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--layout", type=click.Choice(_LAYOUTS), default="ucf11", show_default=True, help="Of the tree.")
@click.option("--classes", type=int, default=11, show_default=True, help="Motions, up to 51.")
@click.option("--groups", type=int, default=25, show_default=True, help="Looks, the same ones in every class.")
@click.option("--clips-per-group", type=int, default=4, show_default=True, help="Clips of a group in each class.")
@click.option("--frames", type=int, default=36, show_default=True, help="Frames per clip.")
@click.option("--size", "size_", type=_Size(), default=(320, 240), show_default="320x240", help="Of the frames.")
@seed_option
@overwrite_option
@dry_run_option
@format_option
def make_clips(out: Path, size_: tuple[int, int], dry_run: bool, format_: str, **settings: Any) -> None:
    """Render procedural action clips as real video files in the layout of UCF11 or HMDB51.

    The class of a clip is how a glyph moves: left, right, up, down, around, to and fro, growing, turning. Groups
    share glyph, colour, place, speed and background, and no two groups share any of them, so that a split by
    group tests motions on unseen looks. These clips stand in for the originals; they are not UCF11 or HMDB51.

    Example: trcompress data make-clips clips --layout ucf11 --groups 6 --clips-per-group 2
    """
    from trcompress.data import make_clips as render

    if dry_run:
        clips = settings["classes"] * settings["groups"] * settings["clips_per_group"]
        _print({"root": out, "clips": clips, "size": size_, **settings}, f"would render {clips:,} clips", format_)
        return
    with progress_bar("rendering clips") as update:
        made = render(out, size=size_, progress=counted(update), **settings)
    text = (
        f"{made.clips:,} procedural clips of {len(made.classes)} classes in {made.root} ({size(made.size_bytes)})"
    )
    _print(asdict(made), text, format_)


@data.command(short_help="Run a CNN over videos, and keep its features.")
@click.argument("video_tree", metavar="VIDEO_TREE", type=click.Path(path_type=Path))
@click.option("--backbone", required=True, metavar="CNN", help="FILE.onnx, or torchvision:NAME with --weights.")
@click.option("--weights", type=click.Path(path_type=Path), help="State dict for torchvision's CNNs.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Array file [default: VIDEO_TREE.CNN.npz].")
@click.option("--frames", type=int, default=24, show_default=True, help="Evenly spaced frames per clip.")
@click.option("--size", "size_", type=_Size(), help="Of the frames [default: what the CNN takes].")
@click.option(
    "--normalize",
    type=click.Choice(_NORMALIZATIONS),
    default="imagenet",
    show_default=True,
    help="How the CNN sees pixels: as ImageNet's, 0..1, -1..1, or 0..255.",
)
@click.option(
    "--layout", type=click.Choice(("auto", *_LAYOUTS)), default="auto", show_default=True, help="Of the tree."
)
@click.option("--split-dir", type=click.Path(path_type=Path), help="Folder of HMDB51's official lists.")
@click.option("--max-bad-clips", type=int, default=0, show_default=True, help="So many clips may be unreadable.")
@click.option("--cache-dir", type=click.Path(path_type=Path), help="Where unfinished work is kept.")
@click.option("--workers", type=int, help="Decoding processes [default: one per core].")
@overwrite_option
@dry_run_option
@format_option
def extract(video_tree: Path, out: Path | None, size_: Any, dry_run: bool, format_: str, **settings: Any) -> None:
    """Run a CNN over the frames of a video tree and write its features as an array data set.

    The result is data for the CNN + TR-LSTM setting: `--data FILE --data-option frames=6` draws 6 of the stored
    frames of each clip. Groups and HMDB51's official lists are kept. An interrupted run goes on where it stopped.

    Example: trcompress data extract hmdb51_org --backbone inception.onnx --frames 24 -o hmdb51.npz
    """
    from trcompress.data import extract as run
    from trcompress.data import find_clips

    out = out or Path(f"{video_tree.name}.{Path(settings['backbone'].replace(':', '_')).stem}.npz")
    if dry_run:
        tree = find_clips(video_tree, settings["layout"])
        facts = {
            "root": tree.root,
            "layout": tree.layout,
            "clips": len(tree.clips),
            "classes": tree.classes,
            "out": out,
        }
        _print(facts, f"would write features of {len(tree.clips):,} clips ({tree.layout}) to {out}", format_)
        return
    given = {name: value for name, value in (settings | {"size": size_}).items() if value is not None}
    with progress_bar("extracting features") as update:
        made = run(video_tree, out=out, progress=counted(update), **given)
    for note in made.notes:
        remark(f"note: {note}")
    text = f"{made.path}: {made.clips:,} clips x {made.frames} frames x {made.features:,} features"
    _print(asdict(made), text, format_)


def _print(facts: dict[str, Any], text: str, format_: str) -> None:
    if format_ == "json":
        print_json(facts)
    else:
        say(text)
