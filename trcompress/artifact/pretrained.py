"""Folders as the Hugging Face Hub has them: `save_pretrained` and `from_pretrained`, local, without its library.

A folder holds `model.safetensors`, an artifact that any safetensors reader opens; `config.json`, the arguments of
the network's own class; and `README.md`, a model card. Nothing is imported by a name that a file holds.
"""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, Self

import torch
from torch import nn

from trcompress.artifact.describe import dense_shapes
from trcompress.artifact.file import read_artifact
from trcompress.artifact.load import load, load_
from trcompress.artifact.report import make_report
from trcompress.artifact.save import save
from trcompress.errors import InputFileError, UsageError
from trcompress.util.bounded_json import read_json
from trcompress.util.files import atomic_path, check_output, write_text
from trcompress.util.folders import output_folder

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
MAX_CONFIG_BYTES = 2**20


class Saveable(Protocol):
    """What `compress_` returns: a network, and what was done to it."""

    @property
    def model(self) -> nn.Module:
        """The network."""

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write it as one artifact."""


def save_pretrained(
    model: nn.Module | Saveable | str | Path,
    save_directory: str | Path,
    *,
    config: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a compressed network as a folder that can be put on the Hub as it is.

    Args:
        model: a network with compressed layers; what `compress_` returned, where tensors were stored in few bits or
            modules resized, which only that tells; or the path of an artifact, which is copied as it is.
        save_directory: the folder; made if it does not exist.
        config: keyword arguments with which its class builds it again, JSON values; None: what the class remembers
            if it is a `PretrainedMixin`, else nothing.
        overwrite: replace the three files if they exist.

    Returns:
        The folder.

    Raises:
        UsageError: the model holds no compressed layer, or the config is not JSON.
        OutputFileError: a file exists or cannot be written.

    Example:
        >>> import tempfile, trcompress
        >>> layer = trcompress.TRLSTM(12, 8, shape="4x3:4x2", ranks="3")
        >>> folder = save_pretrained(layer, tempfile.mkdtemp() + "/model")
        >>> sorted(path.name for path in folder.iterdir())
        ['README.md', 'config.json', 'model.safetensors']
    """
    from trcompress.artifact.document import report_document
    from trcompress.artifact.rendering import RENDERERS

    if config is None:
        network = model if isinstance(model, nn.Module) else getattr(model, "model", None)
        config = network._config if isinstance(network, PretrainedMixin) else {}
    try:
        text = json.dumps({**config}, indent=2, sort_keys=True, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise UsageError(f"`config` must hold JSON values: {error}") from error
    folder = output_folder(save_directory, overwrite=True)
    for name in (WEIGHTS, CONFIG, CARD):
        check_output(folder / name, overwrite=overwrite, keep=[model] if isinstance(model, str | Path) else [])
    _write_weights(model, folder / WEIGHTS, overwrite)
    write_text(folder / CONFIG, text)
    card = RENDERERS["markdown"](report_document([make_report(folder / WEIGHTS)]))
    write_text(folder / CARD, card)
    return folder


def _write_weights(model: nn.Module | Saveable | str | Path, path: Path, overwrite: bool) -> None:
    if isinstance(model, nn.Module):
        save(model, path, overwrite=overwrite)
    elif isinstance(model, str | Path):
        read_artifact(model)  # refuses what is none
        with atomic_path(path, overwrite=overwrite) as temporary:
            shutil.copyfile(model, temporary)
    else:
        model.save(path, overwrite=overwrite)


def from_pretrained(
    pretrained_model_name_or_path: str | Path, model: nn.Module | None = None
) -> nn.Module | dict[str, nn.Module]:
    """Load a folder that `save_pretrained` wrote.

    Args:
        pretrained_model_name_or_path: the local folder. Names on the Hub are not fetched: download first.
        model: a network of the class that was saved; None: the recurrent stacks alone.

    Returns:
        The network, loaded; or stack name -> module.

    Raises:
        InputFileError: there is no such folder, or its files are not of this network.
    """
    weights = _folder(pretrained_model_name_or_path) / WEIGHTS
    return load(weights) if model is None else load_(weights, model)


class PretrainedMixin:
    """Gives a network `save_pretrained` and `from_pretrained`, as huggingface_hub's PyTorchModelHubMixin does.

    Arguments of `__init__` that are JSON values are remembered and go into `config.json`.

    Example:
        >>> import tempfile, torch, trcompress
        >>> class Tagger(torch.nn.Module, PretrainedMixin):
        ...     def __init__(self, width=12):
        ...         super().__init__()
        ...         self.rnn = torch.nn.LSTM(width, 8)
        >>> plan = trcompress.Plan.of("4x3:4x2", "3")
        >>> model = trcompress.compress_(Tagger(width=12), plan).model
        >>> folder = model.save_pretrained(tempfile.mkdtemp() + "/tagger")
        >>> type(Tagger.from_pretrained(folder).rnn).__name__
        'TRLSTM'
    """

    _config: Mapping[str, Any] = MappingProxyType({})

    def __new__(cls, *args: Any, **options: Any) -> Self:
        """Remember the arguments that are JSON values."""
        made = super().__new__(cls)
        signature = inspect.signature(cls.__init__)
        try:
            bound = signature.bind(made, *args, **options)
        except TypeError:
            return made  # `__init__` says it, with its own name
        bound.apply_defaults()
        given: dict[str, Any] = {}
        for name, value in list(bound.arguments.items())[1:]:
            kind = signature.parameters[name].kind
            if kind is not inspect.Parameter.VAR_POSITIONAL:
                given |= value if kind is inspect.Parameter.VAR_KEYWORD else {name: value}
        object.__setattr__(made, "_config", {name: value for name, value in given.items() if _is_json(value)})
        return made

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        config: Mapping[str, Any] | None = None,
        push_to_hub: bool = False,
        overwrite: bool = False,
    ) -> Path:
        """Write weights, config and model card into a folder; see `trcompress.save_pretrained`.

        Args:
            save_directory: the folder.
            config: takes the place of the arguments that were remembered.
            push_to_hub: False; nothing here speaks to the Hub.
            overwrite: replace the three files if they exist.

        Raises:
            UsageError: `push_to_hub` was asked for, the network is no module, or it has other sizes than the config
                gives: then `trcompress.save_pretrained` takes what `compress_` returned.
        """
        if not isinstance(self, nn.Module):
            raise UsageError(f"PretrainedMixin goes with torch.nn.Module: {type(self).__name__} is none")
        if push_to_hub:
            raise UsageError("`push_to_hub` needs the network: save the folder, and upload it with huggingface_hub")
        known = self._config if config is None else config
        _refuse_resized(self, known)
        return save_pretrained(self, save_directory, config=known, overwrite=overwrite)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        map_location: str | torch.device = "cpu",
        strict: bool = True,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = True,
        revision: str | None = None,
        **model_kwargs: Any,
    ) -> Self:
        """Build the network with the folder's config and load its weights, in eval mode.

        Args:
            pretrained_model_name_or_path: a local folder.
            map_location: where the network goes.
            strict: weights are always loaded strictly.
            force_download: of the Hub, as the next four; a local folder is read whatever they are.
            token: see above.
            cache_dir: see above.
            local_files_only: see above.
            revision: see above.
            **model_kwargs: take the place of arguments in the config.

        Raises:
            InputFileError: there is no such folder, its config is not of this class, or its weights are not.
        """
        config = _read_config(_folder(pretrained_model_name_or_path) / CONFIG)
        parameters = inspect.signature(cls.__init__).parameters
        takes_any = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
        unknown = [] if takes_any else sorted(set(config) - set(parameters))
        if unknown:
            raise InputFileError(
                f"the config of {pretrained_model_name_or_path} is not of {cls.__name__}: it has no "
                f"{', '.join(unknown)}"
            )
        made: Any = cls(**(config | model_kwargs))
        loaded: Any = from_pretrained(pretrained_model_name_or_path, made)
        return loaded.to(map_location).eval()


def _refuse_resized(model: nn.Module, config: Mapping[str, Any]) -> None:
    """Refuse a network that its class with this config is not: the folder could not be loaded.

    Raises:
        UsageError: a tensor has another shape.
    """
    try:
        with torch.device("meta"):
            fresh = dense_shapes(type(model)(**config))
    except Exception:  # a class with arguments that are no JSON values, or that computes as it is built
        return
    now = dense_shapes(model)
    changed = [key for key, shape in fresh.items() if now.get(key, shape) != shape]
    if changed:
        raise UsageError(
            f"{type(model).__name__} with this `config` has other sizes than the network ({changed[0]} "
            f"{fresh[changed[0]]}, here {now[changed[0]]}): give what `compress_` returned to "
            "trcompress.save_pretrained, or a `config` of these sizes"
        )


def _folder(path: str | Path) -> Path:
    folder = Path(path)
    if not (folder / WEIGHTS).is_file():
        raise InputFileError(
            f"from_pretrained takes a local folder with {WEIGHTS}: {folder} is none; names on the Hub are not "
            "fetched, download the folder first"
        )
    return folder


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise InputFileError(f"a config must be under {MAX_CONFIG_BYTES >> 20} MiB: {path} is larger")
    try:
        found = read_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputFileError(f"{path} is not a JSON object: {error}") from error
    if not isinstance(found, dict):
        raise InputFileError(f"{path} must hold a JSON object: got a {type(found).__name__}")
    return found


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True
