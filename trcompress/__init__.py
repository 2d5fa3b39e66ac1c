"""Compress pretrained recurrent networks with tensor rings.

checkpoint -> plan -> cores -> layer -> finetune -> artifact -> report

Every verb of the command line is a function of the same name. Public names load on first use, so that
`import trcompress` and the command line's help do not pay for torch; `__init__.pyi` tells type checkers the same.
"""

from importlib import import_module

from trcompress.version import __version__

# name -> the module that defines it, with the name it has there where that is another
_PUBLIC = {
    "plan": "trcompress.search.plan",
    "decompose": "trcompress.passes.decompose",
    "compress": "trcompress.passes.compress_checkpoint",
    "finetune": "trcompress.training.finetune",
    "evaluate": "trcompress.training.evaluate",
    "bench": "trcompress.timing.bench",
    "report": "trcompress.artifact.report:make_report",
    "expand": "trcompress.artifact.expand",
    "export": "trcompress.deploy.export",
    "inspect": "trcompress.checkpoint",
    "compress_": "trcompress.passes.compress",
    "search_plan": "trcompress.passes.budgeted",
    "to_plain": "trcompress.deploy",
    "Artifact": "trcompress.artifact.file",
    "NetworkSearch": "trcompress.search",
    "Plan": "trcompress.model.plan",
    "Rule": "trcompress.model.plan",
    "TensorRing": "trcompress.formats",
    "TensorTrain": "trcompress.formats",
    "BlockTerm": "trcompress.formats",
    "TrcompressError": "trcompress.errors",
    "read_checkpoint": "trcompress.checkpoint",
    "read_artifact": "trcompress.artifact.file",
    "write_artifact": "trcompress.artifact.write",
    "save": "trcompress.artifact.save",
    "load": "trcompress.artifact.load",
    "load_": "trcompress.artifact.load",
    "save_pretrained": "trcompress.artifact.pretrained",
    "from_pretrained": "trcompress.artifact.pretrained",
    "PretrainedMixin": "trcompress.artifact.pretrained",
    "TRLSTM": "trcompress.layers",
    "TRGRU": "trcompress.layers",
    "TRRNN": "trcompress.layers",
    "TRLSTMCell": "trcompress.layers",
    "TRGRUCell": "trcompress.layers",
    "TRRNNCell": "trcompress.layers",
    "FinetuneSettings": "trcompress.training.settings",
    "DistillLoss": "trcompress.training.distill_loss",
    "DistillSettings": "trcompress.training.settings",
    "Wiring": "trcompress.network.classifier",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'trcompress' has no attribute {name!r}")
    module, _, other = _PUBLIC[name].partition(":")
    return getattr(import_module(module), other or name)


def __dir__() -> list[str]:
    return sorted(__all__)
