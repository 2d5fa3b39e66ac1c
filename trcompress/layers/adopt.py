"""What a module that takes another's place takes over from it, and parameters that are one under several names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from torch import Tensor, nn

from trcompress.layers.padded_lstm import PaddedForward

HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_is_full_backward_hook",
)


def adopt_(ring: nn.Module, module: nn.Module) -> None:
    """Let a ring layer take over what stays: parameters as the objects they are, hooks, the user's attributes."""
    for name in [*ring._parameters]:
        theirs = getattr(module, name, None)
        if name in module._parameters:
            setattr(ring, name, module._parameters[name])
        elif isinstance(theirs, Tensor):  # computed before each call by a wrapper, as fastai's WeightDropout does
            del ring._parameters[name]
            setattr(ring, name, theirs)
    for name in HOOKS:
        if name in module.__dict__:
            ring.__dict__[name] = module.__dict__[name]
    for name, value in module.__dict__.items():
        ours = isinstance(value, PaddedForward)  # runs the dense module that it was made for
        if not name.startswith("_") and name not in ring.__dict__ and not ours:
            ring.__dict__[name] = value


def parameter_places(model: nn.Module) -> Iterator[tuple[str, tuple[nn.Module, str]]]:
    """Yield every name of every parameter, with the module that holds it and its name there."""
    for name, module in model.named_modules(remove_duplicate=False):
        for leaf in module._parameters:
            yield f"{name}.{leaf}" if name else leaf, (module, leaf)


def tie_(places: Mapping[str, tuple[nn.Module, str]], groups: Iterable[Sequence[str]]) -> None:
    """Make each group of names one parameter, the first's.

    Args:
        places: the module that holds a parameter and its name there, by key.
        groups: keys of what is one tensor; keys that have no place here are left out.
    """
    for group in groups:
        known = [places[key] for key in group if key in places]
        for owner, leaf in known[1:]:
            setattr(owner, leaf, known[0][0]._parameters[known[0][1]])
