"""The plain state dict of a compressed model: its structure is read off the cores and the user's model."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from operator import mul
from pathlib import Path

from torch import Tensor, nn

from trcompress.artifact.describe import artifact_layers, tied_keys
from trcompress.artifact.file import Artifact
from trcompress.checkpoint.reading import read_content
from trcompress.checkpoint.statedicts import survey
from trcompress.checkpoint.stored import UnreadableTensor
from trcompress.checkpoint.unwrap import unwrap
from trcompress.errors import InputFileError
from trcompress.formats import TensorRing
from trcompress.model.header import Header, Weight
from trcompress.model.matrix import Matrix
from trcompress.model.weight_plan import WeightPlan

CORE = ".core."


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a state dict, without running anything of the file.

    Raises:
        InputFileError: missing, damaged, or a tensor in it cannot be read.
        UnsafeFileError: it holds more than weights.
    """
    weights = unwrap(survey(read_content(path).root))
    unreadable = [key for key, one in weights.tensors.items() if isinstance(one, UnreadableTensor)]
    if unreadable:
        raise InputFileError(f"{path}: {', '.join(unreadable[:5])} cannot be read")
    read: dict[object, Tensor] = {}
    state = {}
    for key, one in weights.tensors.items():
        if not isinstance(one, UnreadableTensor):
            read.setdefault(one.identity, one.load())
            state[key] = read[one.identity]
    return state


def artifact_of_state(state: Mapping[str, Tensor], model: nn.Module) -> Artifact:
    """Describe the state dict of a compressed model, as far as the model it is for tells.

    Args:
        state: by key; cores are `<key>.core.<k>`.
        model: of the class that was compressed, dense or not.

    Raises:
        InputFileError: there are no cores in it, or some that fit no weight of the model.
    """
    cores: dict[str, dict[int, Tensor]] = {}
    for key, tensor in state.items():
        weight, dot, number = key.rpartition(CORE)
        if dot and number.isdigit():
            cores.setdefault(weight, {})[int(number)] = tensor
    layers = tuple(artifact_layers(model))
    matrices = {matrix.key: matrix for layer in layers for matrix in layer.matrices}
    if not cores:
        raise InputFileError("no cores in this state dict: it is of a dense model, which load_state_dict takes")
    unknown = [key for key in cores if key not in matrices]
    if unknown:
        raise InputFileError(f"the cores of {', '.join(unknown)} fit no recurrent weight of the model")
    weights = []
    for key, parts in cores.items():
        plan = plan_of_cores(matrices[key], [parts[k] for k in sorted(parts)])
        dtype = str(parts[0].dtype).removeprefix("torch.")
        weights.append(Weight.of(plan, name=key, init="unknown", dtype=dtype))
    header = Header(layers=layers, weights=tuple(weights), shared=tuple(tied_keys(state)))
    return Artifact(dict(state), header)


def plan_of_cores(matrix: Matrix, cores: list[Tensor]) -> WeightPlan:
    """Find the ring whose cores these are: the modes are theirs, and the weight's sizes say which are inputs.

    Raises:
        InputFileError: no division of the modes holds the weight.

    Example:
        >>> import torch
        >>> matrix = Matrix.input_to_hidden("weight_ih", "lstm", 12, 8)
        >>> plan_of_cores(matrix, [torch.zeros(2, n, 2) for n in (4, 3, 16, 2)]).structure.in_modes
        (4, 3)
    """
    per_gate = cores[0].dim() == 4
    shapes = [tuple(core.shape[per_gate:]) for core in cores]
    modes = [shape[1] for shape in shapes if len(shape) == 3]
    if len(modes) == len(shapes):
        ranks = (*(shape[0] for shape in shapes), shapes[-1][2])
        for split, inputs in enumerate(accumulate(modes, mul), 1):
            outputs = modes[split:]
            if _holds(matrix, inputs, outputs, per_gate):
                return WeightPlan(matrix, TensorRing(tuple(modes[:split]), tuple(outputs), ranks), per_gate)
    raise InputFileError(
        f"the cores of {matrix.key} {[tuple(core.shape) for core in cores]} do not hold its {matrix.rows} x "
        f"{matrix.columns} values; load_ takes rings, of a model with the sizes of the compressed one"
    )


def _holds(matrix: Matrix, inputs: int, outputs: list[int], per_gate: bool) -> bool:
    *_, product = accumulate(outputs, mul, initial=1)
    gates = 1 if per_gate else matrix.gates
    hidden = product // gates
    fits = matrix.columns <= inputs < 2 * matrix.columns and matrix.gate_rows <= hidden < 2 * matrix.gate_rows
    return bool(outputs) and outputs[0] % gates == 0 and fits
