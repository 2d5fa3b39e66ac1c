"""What a benchmark's JSON says, as tables: rows as they stand, and the shapes that read better otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from statistics import median
from typing import Any

from trcompress.reproduce.result import Claim, Figure, Table

ABOUT = ("command", "commands", "machine", "seed", "threads", "version", "device", "seconds")
SEEDS = ("seed", "draw")
METRICS = {"g2p": "phoneme error rate, %"} | dict.fromkeys(("hapt", "flare", "clips"), "accuracy, %")
Record = Mapping[str, Any]
Cell = str | float | int | None
Found = tuple[list[Table], list[Claim], list[str]]


def as_it_stands(record: Record) -> Found:
    """Lists of rows become tables, medians over seeds where there are several; single values one table together."""
    rest = {key: value for key, value in record.items() if key not in ABOUT}
    tables = [_over_seeds(key, value) for key, value in rest.items() if _is_rows(value)]
    single = [(key, value) for key, value in rest.items() if isinstance(value, Cell)]
    if single:
        tables.append(Table(title="figures", columns=("", "here"), rows=tuple(single)))
    for key, value in rest.items():
        if isinstance(value, Mapping):
            tables += [one.model_copy(update={"title": f"{key}: {one.title}"}) for one in as_it_stands(value)[0]]
    return tables, [], []


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, Mapping) for one in value)


def _over_seeds(title: str, rows: list[Record]) -> Table:
    """Rows that differ in their seed and in what was measured alone become one: median [least, greatest]."""
    rows = [row for row in rows if not isinstance(row.get("draw"), str)]  # medians that a benchmark took itself
    columns = list(dict.fromkeys(key for row in rows for key, value in row.items() if isinstance(value, Cell)))
    columns = [key for key in columns if key not in SEEDS]
    measured = [key for key in columns if _is_measured(key, rows)]
    named = [key for key in columns if key not in measured]
    groups: dict[tuple[Cell, ...], list[Record]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(key) for key in named), []).append(row)
    most = max(map(len, groups.values()))
    return Table(
        title=title + (f", median [least, greatest] of {most} seeds" if most > 1 else ""),
        columns=(*named, *measured),
        rows=tuple((*group, *(_middle(same, key) for key in measured)) for group, same in groups.items()),
    )


def _is_measured(key: str, rows: list[Record]) -> bool:
    """Numbers with a fraction, and counts of bytes; other whole numbers and texts say which row it is."""
    return key.endswith("bytes") or any(isinstance(row.get(key), float) for row in rows)


def _middle(rows: Iterable[Record], key: str) -> Cell:
    values = [row[key] for row in rows if row.get(key) is not None]
    if not values or isinstance(values[0], str):
        return ", ".join(dict.fromkeys(map(str, values))) or None
    low, middle, high = min(values), median(values), max(values)
    return middle if low == high else f"{short(middle)} [{short(low)}, {short(high)}]"


def short(value: Figure) -> str:
    """A number in few digits."""
    if not isinstance(value, int | float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 or float(value).is_integer() else f"{value:.4g}"


def decompose(record: Record) -> Found:
    tables, notes = [], []
    for name, part in record["parts"].items():
        if "recovered" in part:
            rows = tuple((method, found, part["of"]) for method, found in part["recovered"].items())
            tables.append(Table(title="planted exact rings", columns=("", "recovered to 1e-6", "of"), rows=rows))
            continue
        for one in [part] if "rows" in part else part.values():
            if isinstance(one, Mapping) and "rows" in one:
                tables.append(_methods(one))
        if "times_faster_per_sweep" in part:
            notes.append(
                f"{name}: a sweep is {part['times_faster_per_sweep']:.0f} times as fast as TensorLy's ring ALS"
            )
    return tables, [], notes


def _methods(part: Record) -> Table:
    columns = ("", "s", "ms a sweep", "sweeps", "peak MB", "error", "bound", "parameters")
    rows = (
        (
            f"{name} ({row['note']})" if row.get("note") else name,
            row.get("seconds"),
            _scaled(row.get("seconds_per_sweep"), 1e3),
            row.get("sweeps"),
            _scaled(row.get("peak_bytes"), 1e-6),
            row.get("error"),
            row.get("bound"),
            row.get("parameters"),
        )
        for name, row in part["rows"].items()
    )
    return Table(title=part["problem"], columns=columns, rows=tuple(rows))


def _scaled(value: float | None, by: float) -> float | None:
    return None if value is None else round(value * by, 2)


def layers(record: Record) -> Found:
    times = record["median_ms"]
    names = list(dict.fromkeys(name for one in times.values() for name in one))
    rows = [
        (
            name,
            *(times[use].get(name) for use in times),
            _scaled(record["saved_bytes"].get(name), 1e-6),
            _scaled(record["memory"].get(name, {}).get("model_and_step"), 1e-6),
        )
        for name in names
    ]
    columns = ("", *(f"{use}, ms" for use in times), "kept by autograd, MB", "peak of model and step, MB")
    buys = [
        (what, one["without"], one["with"], one["without"] / one["with"]) for what, one in record["buys"].items()
    ]
    title = f"57,600 inputs, hidden 256, a batch of {record['batch']} x {record['steps']} frames"
    tables = [
        Table(title=title, columns=columns, rows=tuple(rows)),
        Table(
            title="what is left of speed machinery",
            columns=("", "ms without", "ms with", "times"),
            rows=tuple(buys),
        ),
    ]
    notes = [f"the input itself is {record['input_bytes'] / 1e6:.1f} MB; {_chosen(record)}"]
    return tables, [], notes


def _chosen(record: Record) -> str:
    return ", ".join(f"{key} was evaluated as: {form}" for key, form in record["chosen"].items())


def variable_length(record: Record) -> Found:
    rows = []
    for one in record["results"]:
        stock, *others = one["ms"].items()
        cells = {name: f"{ms:.3g} ({stock[1] / ms:.3g}x)" for name, ms in others}
        ours = next(name for name in cells if name.startswith("TR"))
        plain = next((cells[name] for name in cells if name != ours), None)
        rows.append((one["size"], one["kind"], one["use"], f"{stock[1]:.3g}", plain, cells[ours]))
    columns = (
        "batch x steps x inputs -> hidden",
        "kind",
        "use",
        "torch.nn, ms",
        "plain, padded kernel",
        "ring",
    )
    note = f"one epoch of fine-tuning on 140 series of 947 to 2,618 steps: {record['epoch_s']:.2f} s"
    title = "packed sequences, ms (times as fast as torch.nn)"
    return [Table(title=title, columns=columns, rows=tuple(rows))], [], [note]


def never_slower(record: Record) -> Found:
    summary = record["summary"]
    uses = {"eval": "evaluation", "train": "training"}
    rows = [
        (uses[use], one["over"], one["median_ratio"], one["highest_ratio"], one["worst"], one["worst_used"])
        for use, one in summary.items()
        if use in uses
    ]
    columns = (
        "",
        "over the promise",
        "median ring / dense",
        "highest",
        "nearest to the promise",
        "share of it used",
    )
    claims = [
        Claim(
            text=f"no ring exceeds what is promised over dense, in {use}",
            holds=not over,
            evidence=f"{over} of {summary['points']} points exceed it",
        )
        for use, over, *_ in rows
    ]
    note = (
        "the promise: evaluation at most 1.05 times dense or 0.1 ms more; training at most 1.10 times dense or "
        "0.4 ms more, or in proportion to its operations where the cheapest contraction needs more than dense"
    )
    return [Table(title=f"{summary['points']} points", columns=columns, rows=tuple(rows))], claims, [note]


def larger_than_memory(record: Record) -> Found:
    rows = (
        ("weight, GB", record["weight_bytes"] / 1e9),
        ("shape, ranks", f"{record['shape']} ranks {record['ranks']}"),
        ("seconds", record["seconds"]),
        ("peak of resident memory, GB", record["peak_bytes"] / 1e9),
        ("of it pages of the mapped file, GB", record["mapped_bytes"] / 1e9),
        ("relative error", record["error"]),
        ("error of the planted ring itself", record["planted_error"]),
        ("lower bound of the error", record["bound"]),
        ("artifact, bytes", record["artifact_bytes"]),
    )
    return [Table(title=record["init"], columns=("", "here"), rows=rows)], [], []


def load(record: Record) -> Found:
    rows = [
        (row["what"], round(row["processor_s"], 1), round(row["seconds"], 1), round(row["peak_bytes"] / 1e6))
        for part in record["parts"].values()
        for row in part["rows"]
    ]
    columns = ("", "s of a processor", "s", "MB at most that no file backs")
    return [Table(title="a command and all that it starts", columns=columns, rows=tuple(rows))], [], []


def whole_model(record: Record) -> Found:
    """Medians over seeds: bytes, how many times smaller, the metric beside the same draw's dense network."""
    tables = []
    for part, rows in _row_lists(record):
        shown = [
            {
                "": row["what"],
                "seed": row["seed"],
                "bytes": row["bytes"],
                "times smaller": round(row["dense_bytes"] / row["bytes"], 1),
                METRICS.get(part, "metric"): round(float(row["metric"]), 2),
                "beside dense, points": round(float(row["change"]), 2),
                "ms": round(float(row["ms"]), 2),
            }
            | ({"hidden units": row["units"]} if "units" in row else {})
            for row in rows
        ]
        tables.append(_over_seeds(part, shown))
    return tables, [], []


def _row_lists(record: Record) -> Iterator[tuple[str, list[Record]]]:
    return ((key, value) for key, value in record.items() if _is_rows(value))
