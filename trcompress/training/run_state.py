"""A training run on disk: its state after every epoch, all or nothing, and its log.

The state is one safetensors file (weights, best weights, optimizer) whose metadata holds the rest as JSON. Random
numbers need no state: every epoch draws from generators seeded by the run's seed and the epoch's number.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from trcompress.artifact.tensor_file import save_tensors
from trcompress.checkpoint.safetensors_file import check_safetensors
from trcompress.errors import InputFileError, OutputFileError, UsageError
from trcompress.util.bounded_json import read_json
from trcompress.util.files import atomic_path

METADATA_KEY = "trcompress-run"
VERSION = 2
CHECKSUM_KEY = "sha256"
STATE_FILE = "state.safetensors"


class RunInterruptedError(KeyboardInterrupt):
    """Training was stopped by Ctrl-C or SIGTERM; the message says what is kept and how to go on."""


@dataclass
class RunState:
    """Everything a run needs to go on after an epoch as if it had never stopped.

    Args:
        epoch: epochs done, of all phases together.
        history: one record per epoch.
        best: the record of the best epoch so far, with its `key` for comparisons.
        stale: epochs since the best one.
        finished: the run has ended, by its epochs or by patience.
        identity: what the run depends on: settings, data, model, teacher; compared on resumption.
        groups: groups of tensors: "model", "best", "optimizer".
        numbers: JSON values of the optimizer and the loss scaler.
    """

    epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    stale: int = 0
    finished: bool = False
    identity: dict[str, Any] = field(default_factory=dict)
    groups: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    numbers: dict[str, Any] = field(default_factory=dict)


class RunFolder:
    """The folder of one run: `state.safetensors`, `metrics.jsonl`.

    Args:
        path: the folder; made if it is not there.

    Raises:
        OutputFileError: it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputFileError(f"cannot make the run's folder {path}: {error.strerror or error}") from error

    @staticmethod
    def has_state(path: Path) -> bool:
        """Return True where a folder holds the state of an unfinished run."""
        return (path / STATE_FILE).is_file()

    def drop_if_empty(self) -> None:
        """Leave no folder behind where a run failed before there was anything to keep."""
        with suppress(OSError):  # not empty, as after every run that began
            self.path.rmdir()

    @property
    def state_path(self) -> Path:
        """The file that `save` writes."""
        return self.path / STATE_FILE

    @property
    def metrics_path(self) -> Path:
        """One JSON record per line and epoch."""
        return self.path / "metrics.jsonl"

    def save(self, state: RunState) -> None:
        """Replace the saved state; on failure the one before remains.

        Raises:
            OutputFileError: it cannot be written.
        """
        plain = {name: getattr(state, name) for name in RunState.__dataclass_fields__ if name != "groups"}
        tensors = {
            f"{group}/{name}": tensor for group, members in state.groups.items() for name, tensor in members.items()
        }
        text = json.dumps({"version": VERSION, **plain}, sort_keys=True)
        write_tensors(self.state_path, tensors, {METADATA_KEY: text, CHECKSUM_KEY: _checksum(text, tensors)})

    def load(self) -> RunState | None:
        """Read the saved state; None where there is none.

        Raises:
            InputFileError: the file is damaged or of another version.
        """
        if not self.state_path.is_file():
            return None
        try:
            check_safetensors(self.state_path)
            with safe_open(self.state_path, framework="pt") as stream:
                metadata, keys = stream.metadata() or {}, stream.keys()
                tensors = {key: stream.get_tensor(key) for key in keys}
            text = metadata[METADATA_KEY]
            plain = read_json(text)
            if plain.pop("version") != VERSION:
                raise ValueError("another version wrote it")
            if metadata[CHECKSUM_KEY] != _checksum(text, tensors):
                raise ValueError("its bytes are not those that were written")
            groups: dict[str, dict[str, Tensor]] = {}
            for key, tensor in tensors.items():
                group, _, name = key.partition("/")
                groups.setdefault(group, {})[name] = tensor
            return RunState(**plain, groups=groups)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputFileError(
                f"the saved state {self.state_path} cannot be read ({error}); run without `resume` to start again"
            ) from error

    def log(self, record: dict[str, Any]) -> None:
        """Append a record to the log.

        Raises:
            OutputFileError: it cannot be written.
        """
        self._write([record], "a")

    def restart_log(self, history: list[dict[str, Any]]) -> None:
        """Make the log hold these records and no others."""
        self._write(history, "w")

    def _write(self, records: list[dict[str, Any]], mode: str) -> None:
        try:
            with self.metrics_path.open(mode, encoding="utf-8") as stream:
                stream.writelines(json.dumps(record) + "\n" for record in records)
        except OSError as error:
            raise OutputFileError(f"cannot write {self.metrics_path}: {error.strerror or error}") from error


def _checksum(text: str, tensors: dict[str, Tensor]) -> str:
    """SHA-256 of everything that a resumed run goes on from."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass"))
    for key in sorted(tensors):
        tensor = tensors[key].detach().cpu().contiguous()
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode("utf-8", "surrogatepass"))
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_identity(saved: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to resume a run under other conditions.

    Raises:
        UsageError: settings, data, model or teacher differ; all differences are named.
    """
    names = sorted(set(saved) | set(now))
    changed = [
        f"{name} was {saved.get(name)!r}, is {now.get(name)!r}"
        for name in names
        if saved.get(name) != now.get(name)
    ]
    if changed:
        raise UsageError(
            f"a resumed run must be the run that was started: {'; '.join(changed)}; "
            "give the same options, or start again without `resume` and with `overwrite=True`"
        )


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimizer's state into tensors and JSON values."""
    state = optimizer.state_dict()
    tensors = {
        f"{index}/{name}": value for index, values in state["state"].items() for name, value in values.items()
    }
    return tensors, {"param_groups": state["param_groups"]}


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
    """Put back what `pack_optimizer` took."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition("/")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": numbers["param_groups"]})


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file: all of it, or nothing.

    Raises:
        OutputFileError: it cannot be written; a file that was there remains.
    """
    with atomic_path(path) as temporary:
        save_tensors(tensors, temporary, metadata)
