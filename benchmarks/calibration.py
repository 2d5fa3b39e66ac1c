"""Calibration on real networks: what choosing cores by the network's own answers saves, without a label.

g2p: a pretrained GRU encoder and decoder that pronounce words. The real command, `decompose --target-ratio R
--calibrate`, sees the first 1,000 words; the phoneme error rate is of the other 1,000, and of all 2,000. Beside it
the truncated SVD of the same count, and the same command with `--refine`.

HAPT: LSTMs trained on some people, compressed with their sensor windows as calibration data, judged on people that
neither training nor calibration saw, beside the truncated SVD of the same count.

Run: python benchmarks/calibration.py                            (everything; writes results/bench-calibration.json)
     python benchmarks/calibration.py --only g2p --ratios 12     (a part; the other figures in the file are kept)
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from g2p import Words, decode, decoder_inputs
from rich.console import Console
from rich.table import Table
from samples import find_sample
from torch import Tensor

from trcompress.artifact.file import read_artifact
from trcompress.artifact.write import write_artifact
from trcompress.checkpoint import read_checkpoint
from trcompress.data import DataSet, load_data
from trcompress.model.plan import Plan
from trcompress.network.classifier import Wiring
from trcompress.passes.assemble import decompose_checkpoint
from trcompress.passes.calibrated import decompose_calibrated
from trcompress.training.dense import train_dense
from trcompress.training.evaluate import evaluate
from trcompress.training.settings import read_settings
from trcompress.util.files import write_text
from trcompress.util.hardware import this_machine
from trcompress.version import __version__

ROOT = Path(__file__).resolve().parent.parent
CALIBRATED_ON = 1000
"""Words of the list that calibration sees."""
SEARCH_S = 12
"""`--time-budget` of the commands."""
HAPT = {"steps": 8, "standardize": True, "group_key": "subject", "test_groups": (2, 4, 9, 10, 12, 13)}
DENSE = {"epochs": 6, "batch_size": 64, "lr": 1e-3}
PLAIN_RANKS = {10: 8, 20: 4, 40: 2}
"""Rank of the truncated SVD of a (512, 96) matrix at each ratio."""

console = Console(highlight=False, width=140)


def main() -> None:
    """Run what is asked for, print it, and keep it."""
    given = read_arguments()
    torch.set_num_threads(given.threads)
    record = json.loads(given.out.read_text()) if given.out.exists() else {}
    line = f"python benchmarks/calibration.py {' '.join(sys.argv[1:])}".strip()
    record |= {
        "commands": sorted({line, *record.get("commands", [])}),
        "refine_steps": given.refine,
        "version": __version__,
        "machine": this_machine().model_dump(),
        "threads": given.threads,
        "seed": 0,
    }
    with tempfile.TemporaryDirectory() as folder:
        if given.only in (None, "g2p") and (sample := find_sample("g2p")):
            record.setdefault("g2p", {}).update(run_g2p(sample, Path(folder), given))
        if given.only in (None, "hapt") and (sample := find_sample("hapt_windows.npz")):
            record.setdefault("hapt", {}).update(run_hapt(sample, Path(folder), given))
    if "g2p" in record:
        console.print(g2p_table(record["g2p"]))
    if "hapt" in record:
        console.print(hapt_table(record["hapt"]))
    given.out.parent.mkdir(exist_ok=True)
    write_text(given.out, json.dumps(record, indent=1, sort_keys=True) + "\n")


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["g2p", "hapt"], help="one of the two networks")
    parser.add_argument("--ratios", default="3,6,12,24", help="of g2p")
    parser.add_argument("--seeds", default="0,1,2,3,4", help="of the dense HAPT networks")
    parser.add_argument("--refine", type=int, default=800, help="gradient steps of the refined rows")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "bench-calibration.json")
    return parser.parse_args()


# ---- g2p


def run_g2p(sample: Path, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Compress the pronouncing network at every ratio, three ways."""
    checkpoint = sample / "checkpoint20.npz"
    tensors = dict(read_checkpoint(checkpoint).tensors())
    words = Words(sample)
    data = write_words(words, tensors, folder / "words.npz")
    found = {"dense": rates(words, tensors), "exact": exact(words, tensors, checkpoint, data)}
    for ratio in (int(one) for one in given.ratios.split(",")):
        rank = 256 * 768 // (ratio * (256 + 768))
        plain = decompose_checkpoint(checkpoint, Plan.of("256:768", f"1,{rank}"), init="tr-svd")
        row = {"ranks": [rank, rank], **rates(words, expanded(plain, tensors))}
        found[f"{ratio}x"] = {"SVD": row, "calibrated": by_command(words, tensors, checkpoint, data, ratio, 0)}
        if given.refine and ratio > 3:
            refined = by_command(words, tensors, checkpoint, data, ratio, given.refine)
            found[f"{ratio}x"]["refined"] = refined
        console.print(ratio, found[f"{ratio}x"])
    return found


def write_words(words: Words, tensors: Mapping[str, Tensor], path: Path) -> Path:
    """What encoder and decoder are fed for the first words, as the dense network says them."""
    letters, lengths = words.tokens(list(words.accepted)[:CALIBRATED_ON])
    symbols, ends = decoder_inputs(decode(tensors, letters, lengths))
    np.savez(path, enc=letters, length_enc=lengths, dec=symbols, length_dec=ends, state_dec=np.array("enc"))
    return path


def by_command(
    words: Words, tensors: Mapping[str, Tensor], checkpoint: Path, data: Path, ratio: int, refine: int
) -> dict[str, Any]:
    """Run the command a user would type, in a process of its own, and measure what it wrote."""
    out = data.with_name(f"g2p-{ratio}-{refine}.tr.safetensors")
    line = [str(Path(sys.executable).with_name("trcompress")), "decompose", str(checkpoint)]
    line += ["--target-ratio", str(ratio), "--calibrate", str(data), "--time-budget", str(SEARCH_S)]
    line += ["--refine", str(refine), "--out", str(out), "--format", "json", "--overwrite"]
    started = time.perf_counter()
    subprocess.run(line, check=True, capture_output=True)
    seconds = time.perf_counter() - started
    artifact = read_artifact(out)
    ranks = [weight.ranks for weight in artifact.header.weights]
    shown = [one[1] if len(one) == 3 else list(one) for one in ranks]
    return {"ranks": shown, "seconds": seconds, **rates(words, expanded(artifact, tensors))}


def exact(words: Words, tensors: Mapping[str, Tensor], checkpoint: Path, data: Path) -> dict[str, Any]:
    """Ranks at which the embeddings span no more: nothing may change."""
    first, second = Plan.of("256:768", "1,29", layer="enc*"), Plan.of("256:768", "1,74", layer="dec*")
    started = time.perf_counter()
    artifact = decompose_calibrated(checkpoint, Plan((*first.rules, *second.rules)), data)
    seconds = time.perf_counter() - started
    letters, lengths = words.tokens(list(words.accepted))
    replaced = expanded(artifact, tensors)
    said = [decode(one, letters, lengths) for one in (tensors, replaced)]
    tables = [
        torch.cat([one[f"{side}_emb"] @ one[f"{side}_w_ih"].t() + one[f"{side}_b_ih"] for side in ("enc", "dec")])
        for one in (tensors, replaced)
    ]
    return {
        "ranks": [29, 74],
        "seconds": seconds,
        "words_changed": sum(one != other for one, other in zip(*said, strict=True)),
        "largest_difference_of_gates": float((tables[0] - tables[1]).abs().max()),
        **rates(words, replaced),
    }


def expanded(artifact: Any, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The network with compressed weights multiplied out, and biases as corrected."""
    found = {key: artifact.tensors.get(key, tensor) for key, tensor in tensors.items()}
    for name, plan in artifact.weight_plans().items():
        count = len(plan.structure.core_shapes)
        cores = [artifact.tensors[f"{name}.core.{k}"].double() for k in range(count)]
        found[name] = plan.to_dense(cores).float()
    return found


def rates(words: Words, tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """Phoneme error rate in percent, of the words calibration did not see and of all."""
    every = list(words.accepted)
    said = decode(tensors, *words.tokens(every))
    unseen = words.error_rate(every[CALIBRATED_ON:], said[CALIBRATED_ON:])
    return {"unseen": unseen, "all": words.error_rate(every, said)}


def g2p_table(found: Mapping[str, Any]) -> Table:
    """Phoneme error rates."""
    table = Table(title="g2p: phoneme error rate, % (words not calibrated on / all 2,000)", title_justify="left")
    for column in ("ratio (Eq. 7)", "SVD", "calibrated", "ranks", "s", "and refined", "s"):
        table.add_column(column, justify="left" if column.startswith("ratio") else "right")
    table.add_row("dense", both(found["dense"]), "", "", "", "", "")
    one = found["exact"]
    table.add_row(
        f"3.7x, {one['words_changed']} words changed", "", both(one), ranks_of(one), f"{one['seconds']:.0f}", "", ""
    )
    for name in sorted((key for key in found if key.endswith("x")), key=lambda key: int(key[:-1])):
        row = found[name]
        one, refined = row["calibrated"], row.get("refined")
        last = (both(refined), f"{refined['seconds']:.0f}") if refined else ("", "")
        table.add_row(name, both(row["SVD"]), both(one), ranks_of(one), f"{one['seconds']:.0f}", *last)
    return table


def both(figures: Mapping[str, float]) -> str:
    """Two rates."""
    return f"{figures['unseen']:.1f} / {figures['all']:.1f}"


def ranks_of(figures: Mapping[str, Any]) -> str:
    """Ranks of the two weights."""
    return ", ".join(map(str, figures["ranks"]))


# ---- HAPT


def run_hapt(sample: Path, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Train a dense network for every seed, and compress it at every ratio, two ways."""
    data = load_data(sample, validation_fraction=0.0, **HAPT)
    found: dict[str, Any] = {}
    for seed in (int(one) for one in given.seeds.split(",")):
        dense = folder / f"hapt-{seed}.safetensors"
        settings = read_settings(DENSE | {"seed": seed})
        train_dense(data, dense, hidden_size=128, readout="final", settings=settings)
        row: dict[str, Any] = {"dense": accuracy(dense, data)}
        for ratio, rank in PLAIN_RANKS.items():
            row[f"{ratio}x"] = compare(dense, data, sample, Plan.of("96:512", f"1,{rank}"))
        found[str(seed)] = row
        console.print(f"seed {seed}", row)
    return found


def compare(dense: Path, data: DataSet, sample: Path, plan: Plan) -> dict[str, Any]:
    """Accuracy of the truncated SVD and of the calibrated ring of the same count."""
    started = time.perf_counter()
    calibrated = decompose_calibrated(dense, plan, sample, data_options=HAPT)
    seconds = time.perf_counter() - started
    chosen = next(one for one in calibrated.header.weights[0].candidates if one["chosen"])
    figures = {}
    for name, artifact in (("SVD", decompose_checkpoint(dense, plan, init="tr-svd")), ("ours", calibrated)):
        out = dense.with_name("ring.safetensors")
        write_artifact(out, artifact, overwrite=True)
        figures[name] = accuracy(out, data)
    return {**figures, "metric": chosen["metric"], "bias_corrected": chosen["bias_corrected"], "seconds": seconds}


def accuracy(model: Path, data: DataSet) -> float:
    """Accuracy on the people of the test part, in percent."""
    return 100 * evaluate(model, data, wiring=Wiring(readout="final")).accuracy


def hapt_table(found: Mapping[str, Any]) -> Table:
    """Accuracies on unseen people."""
    table = Table(
        title="HAPT LSTM(96, 128): accuracy on unseen people, % (SVD -> calibrated)", title_justify="left"
    )
    for column in ("seed", "dense", *(f"{ratio}x" for ratio in PLAIN_RANKS)):
        table.add_column(column, justify="right")
    for seed, row in sorted(found.items()):
        cells = [row[f"{ratio}x"] for ratio in PLAIN_RANKS]
        shown = [f"{one['SVD']:.1f} -> {one['ours']:.1f} ({one['ours'] - one['SVD']:+.1f})" for one in cells]
        table.add_row(seed, f"{row['dense']:.1f}", *shown)
    return table


if __name__ == "__main__":
    main()
