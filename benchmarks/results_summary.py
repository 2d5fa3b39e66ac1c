"""The table at the top of RESULTS.md: a line a finding, for a reader in a hurry; all figures are of saved files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from trcompress.reproduce.classify import FILE, RATIO, WHOLE
from trcompress.reproduce.result import Result, ResultRow

Results = Mapping[str, Result]
Line = tuple[str, str, str]
TABLE_1 = {"TR": "ucf11-table1-tr", "TT": "ucf11-table1-tt", "BT": "ucf11-table1-bt", "LSTM": "ucf11-table1-lstm"}
PARAMETERS = "input-to-hidden parameters"


def summary(found: Sequence[tuple[Path, Result]]) -> list[Line]:
    """Return (what, what came out, section) for every finding whose result is there and is no rehearsal."""
    results = {one.recipe: one for _, one in found if not one.quick}
    lines = [make(results) for make in PAPER]
    for name, (what, say) in RECORDS.items():
        path = next((folder / f"{name}.json" for folder, one in found if one.recipe == name), None)
        lines.append((what, say(json.loads(path.read_text(encoding="utf-8"))), name) if path else None)
    return [line for line in lines if line and line[1]]


# ---- the paper's rows


def _row(result: Result, start: str) -> ResultRow | None:
    return next((row for row in result.findings.rows if row.name.startswith(start)), None)


def _figure(result: Result, start: str) -> float:
    row = _row(result, start)
    return (row.measured or 0.0) if row else 0.0


def _counts(results: Results) -> Line | None:
    rows = {name: results[recipe] for name, recipe in TABLE_1.items() if recipe in results}
    if "TR" not in rows:
        return None
    text = ", ".join(f"{name} {_figure(one, PARAMETERS):,.0f}" for name, one in rows.items())
    ring = rows["TR"]
    text += f"; the ring is {_figure(ring, RATIO):,.0f}x by Eq. 7"
    if "LSTM" in rows:
        whole, size = (_figure(rows["LSTM"], name) / max(1.0, _figure(ring, name)) for name in (WHOLE, FILE))
        text += f" and {whole:.0f}x of the whole network" + (f" ({size:.0f}x as a file)" if size else "")
    return "Table 1: input-to-hidden parameters", text, TABLE_1["TR"]


def _accuracies(results: Results) -> Line | None:
    texts = []
    for name, recipe in TABLE_1.items():
        row = _row(results[recipe], "accuracy") if recipe in results else None
        if row and row.measured is not None:
            spread = f" ± {100 * row.spread:.1f}" if row.spread is not None else ""
            texts.append(f"{name} {100 * row.measured:.1f}{spread} % ({row.runs} seed{'s' * (row.runs > 1)})")
    if not texts:
        return None
    first = results[next(recipe for recipe in TABLE_1.values() if recipe in results)]
    epochs = max(row[5] for row in first.findings.tables[0].rows if isinstance(row[5], int | float))
    return f"Table 1: accuracy on procedural clips, {epochs:.0f} epochs", ", ".join(texts), TABLE_1["TR"]


def _claims(what: str, recipe: str, about: str = "") -> Callable[[Results], Line | None]:
    """How many of a section's claims hold, with what they are about."""

    def make(results: Results) -> Line | None:
        if recipe not in results:
            return None
        held = [claim.holds for claim in results[recipe].findings.claims if about in claim.text]
        return what, f"{sum(map(bool, held))} of {len(held)} hold", recipe

    return make


def _frames(results: Results) -> Line | None:
    recipe = "benchmarks/frames.py"
    if recipe not in results:
        return None
    claim = results[recipe].findings.claims[0]
    return "57,600 inputs, the same training time", claim.evidence.rstrip("."), recipe


def _hapt(results: Results) -> Line | None:
    recipe = "pretrained-hapt"
    if recipe not in results:
        return None
    rows = [row for row in results[recipe].findings.rows if row.name.endswith(("dense", "fine-tuned"))]
    texts = [
        f"{row.name.partition(': ')[2].removesuffix(', fine-tuned')} {100 * (row.measured or 0):.1f} %"
        + (f" ({row.note})" if row.note else "")
        for row in rows
    ]
    return "HAPT: train dense, compress, fine-tune (3 seeds)", "; ".join(texts), recipe


PAPER: tuple[Callable[[Results], Line | None], ...] = (
    _counts,
    _accuracies,
    _claims("Figure 5: error of TR < LR < TT, in how many readings of the set-up", "synthetic-fig5", "RMSE of TR"),
    _claims("Figure 5: the printed errors, within 0.02", "synthetic-fig5", "printed figures"),
    _claims("Figure 6: tolerance to noise", "synthetic-fig6"),
    _claims("Table 4: counts grow as its formulas do", "table4-complexity"),
    _frames,
    _hapt,
    _claims("Fine-tuning beside dense and SVD, HAPT", "benchmarks/finetune.py HAPT"),
    _claims("Fine-tuning beside dense, Flare", "benchmarks/finetune.py Flare"),
)


# ---- benchmarks


def _medians(rows: Sequence[Mapping[str, Any]], start: str) -> str:
    """Bytes before over after, and the metric beside the same seed's dense network."""
    mine = [row for row in rows if row["what"].startswith(start)]
    ratio = median(row["dense_bytes"] / row["bytes"] for row in mine)
    changes = sorted(row["change"] for row in mine)
    return f"{ratio:,.1f}x: {median(changes):+.2f} points [{changes[0]:+.2f}, {changes[-1]:+.2f}]"


def _whole(record: Mapping[str, Any], part: str) -> str:
    """Every network of ours in a part of bench-whole-model."""
    rows = record.get(part, [])
    names = dict.fromkeys(row["what"] for row in rows if row["what"].startswith("trcompress"))
    return "; ".join(_medians(rows, name) for name in names)


def _say_whole(record: Mapping[str, Any]) -> str:
    parts = {
        "g2p": "phoneme error without training",
        "hapt": "HAPT accuracy with training",
        "flare": "Flare accuracy with training",
        "clips": "57,600 inputs, beside the ring it came from",
    }
    return ". ".join(f"{text}: {_whole(record, part)}" for part, text in parts.items() if record.get(part))


def _say_decompose(record: Mapping[str, Any]) -> str:
    parts = record["parts"]
    texts = []
    if "planted" in parts:
        found = parts["planted"]["recovered"]
        texts.append(", ".join(f"{name} finds {count}" for name, count in found.items()))
        texts[-1] += f" of {parts['planted']['of']} planted rings"
    faster = {
        name: part["times_faster_per_sweep"] for name, part in parts.items() if "times_faster_per_sweep" in part
    }
    if faster:
        times = ", ".join(f"{value:.0f}x ({name})" for name, value in faster.items())
        texts.append(f"a sweep is faster than TensorLy's by {times}")
    return "; ".join(texts)


def _say_layers(record: Mapping[str, Any]) -> str:
    times, memory = record["median_ms"], record["memory"]
    texts = [
        f"{use} {one['TRLSTM']:.1f} ms, torch.nn.LSTM {one['torch.nn.LSTM']:.0f} ms" for use, one in times.items()
    ]
    peaks = (memory[name]["model_and_step"] / 1e6 for name in ("TRLSTM", "torch.nn.LSTM"))
    return "; ".join([*texts, "peak {:.0f} MB, {:,.0f} MB".format(*peaks)])


def _say_lengths(record: Mapping[str, Any]) -> str:
    ratios = [
        next(iter(one["ms"].values())) / next(ms for name, ms in one["ms"].items() if name.startswith("TR"))
        for one in record["results"]
    ]
    slower = sum(ratio < 1 for ratio in ratios)
    return (
        f"{min(ratios):.2f}x to {max(ratios):.1f}x the speed of torch.nn, slower in {slower} of {len(ratios)} cases"
    )


def _say_never_slower(record: Mapping[str, Any]) -> str:
    found = record["summary"]
    over = found["eval"]["over"] + found["train"]["over"]
    medians = {use: found[use]["median_ratio"] for use in ("eval", "train")}
    return (
        f"{over} of {2 * found['points']} measurements exceed what is promised; median {medians['eval']:.2f} "
        f"(evaluation) and {medians['train']:.2f} (training) times dense"
    )


def _say_memory(record: Mapping[str, Any]) -> str:
    return (
        f"{record['weight_bytes'] / 1e9:.1f} GB decomposed in {record['seconds']:.0f} s with "
        f"{record['peak_bytes'] / 1e9:.2f} GB; error {record['error']:.4f}, the planted ring's own "
        f"{record['planted_error']:.4f}"
    )


def _say_tables(record: Mapping[str, Any]) -> str:
    parts = [name for name, value in record.items() if isinstance(value, list) and name != "commands"]
    return f"see {', '.join(parts)}" if parts else "see its table"


def _say_calibration(record: Mapping[str, Any]) -> str:
    """The phoneme error rate of every way at every ratio, medians over draws, and what else the section has."""
    rates: dict[tuple[Any, Any], list[float]] = {}
    for row in record.get("g2p", []):
        if not isinstance(row.get("draw"), str) and "PER_unseen" in row:
            rates.setdefault((row.get("ratio"), row.get("way")), []).append(row["PER_unseen"])
    texts = [f"{ratio}x {way} {median(found):.1f} %" for (ratio, way), found in rates.items()]
    rest = _say_tables({name: value for name, value in record.items() if name != "g2p"})
    return f"g2p's phoneme error: {', '.join(texts)}; {rest}" if texts else rest


def _say_load(record: Mapping[str, Any]) -> str:
    rows = [row for part in record["parts"].values() for row in part["rows"]]
    return "; ".join(f"{row['what']}: {row['seconds']:.0f} s, {row['peak_bytes'] / 1e6:.0f} MB" for row in rows)


def _say_install(record: Mapping[str, Any]) -> str:
    whole, torch = (f"{record[key] / 1e6:,.0f} MB" for key in ("all_bytes", "torch_bytes"))
    return f"{whole} in {record['packages']} packages, {torch} of it PyTorch; pip check: {record['pip_check']}"


RECORDS: dict[str, tuple[str, Callable[[Mapping[str, Any]], str]]] = {
    "bench-whole-model": ("Whole files, beside dense (median of seeds)", _say_whole),
    "bench-calibration": ("Calibration without labels", _say_calibration),
    "bench-decompose": ("Decomposition", _say_decompose),
    "bench-layers": ("Layers at 57,600 inputs", _say_layers),
    "bench-variable-length": ("Packed sequences", _say_lengths),
    "bench-never-slower": ("Rings beside dense, a grid of sizes", _say_never_slower),
    "bench-load": ("Many layers, rows and clips, large files, long processes", _say_load),
    "bench-install": ("The base install", _say_install),
    "bench-larger-than-memory": ("A weight larger than memory", _say_memory),
}
"""The stem of a benchmark's file -> what it is, and what came out in a line."""
