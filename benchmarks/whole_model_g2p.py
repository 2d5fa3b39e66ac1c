"""The whole file without training: a pretrained network that pronounces words, under one budget.

Calibrated on 1,000 words, drawn anew for each seed; the phoneme error rate is of the other 1,000. Beside it
PyTorch's dynamic int8 and the truncated SVD of every recurrent matrix.
"""

from __future__ import annotations

import tempfile
from copy import deepcopy
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from g2p_network import G2P, SpokenWords, run
from torch import nn
from whole_model_trained import Row, milliseconds

from trcompress.passes.rings import low_rank
from trcompress.passes.whole import Whole, whole_

CALIBRATED_ON = 1000
"""Words that calibration sees."""
RATIOS = ((6, False), (10, False), (14, True))
"""Of the whole file, and whether it is entropy-coded."""


def run_g2p(folder: Path, seed: int) -> list[Row]:
    """Compress the pretrained network with one draw of calibration words."""
    words, dense = SpokenWords(folder), G2P.pretrained(folder)
    order = torch.randperm(len(words.accepted), generator=torch.Generator().manual_seed(seed)).tolist()
    names = sorted(words.accepted)
    shuffled = [names[place] for place in order]
    seen, unseen = shuffled[:CALIBRATED_ON], shuffled[CALIBRATED_ON:]
    batches, size = words.batches(dense, seen), state_bytes(dense)
    letters = words.letters_of(unseen[:64])

    def row(what: str, model: G2P, nbytes: int, base: float) -> Row:
        rate = words.error_rate_of(model, unseen)
        found = {"what": what, "seed": seed, "bytes": nbytes, "metric": rate, "change": rate - base}
        return found | {"dense_bytes": size, "ms": milliseconds(lambda: model.say(*letters))}

    base = words.error_rate_of(dense, unseen)
    rows = [row("dense", dense, size, base)]
    for ratio, packed in RATIOS:
        found = fitted(dense, batches, int(size / ratio), packed)
        rows.append(row(f"trcompress {ratio}x{', packed' if packed else ''}", found[0].model, found[1], base))
    quantized = torch.ao.quantization.quantize_dynamic(deepcopy(dense), {nn.GRU, nn.Linear}, torch.qint8)
    rows.append(row("torch.ao dynamic int8", quantized, saved_bytes(quantized), base))
    for share in (0.5, 0.25):
        model, values = truncated(dense, share)
        rows.append(row(f"truncated SVD, {share:g} of break-even", model, 4 * values, base))
    return rows


def fitted(dense: G2P, batches: Any, target: int, packed: bool) -> tuple[Whole, int]:
    """Compress a copy, write it, and return its size on disk."""
    whole = whole_(deepcopy(dense), batches, target_bytes=target, forward=run, outputs="scores", packed=packed)
    with tempfile.TemporaryDirectory() as folder:
        return whole, whole.save(Path(folder) / "g2p.safetensors").stat().st_size


def truncated(dense: G2P, share: float) -> tuple[G2P, int]:
    """Cut every recurrent matrix to a share of its break-even rank; return the network and the values kept."""
    model, saved = deepcopy(dense), 0
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "weight_ih" in name or "weight_hh" in name:
                rank = round(share * weight.numel() / sum(weight.shape))
                found = low_rank(weight, rank, None)
                weight.copy_(found.left @ found.right)
                saved += weight.numel() - rank * sum(weight.shape)
    return model, sum(one.numel() for one in model.parameters()) - saved


def state_bytes(model: nn.Module) -> int:
    """Bytes of all tensors of a network."""
    return sum(one.nbytes for one in model.state_dict().values())


def saved_bytes(model: nn.Module) -> int:
    """Bytes of a network as torch.save writes it."""
    stream = BytesIO()
    torch.save(model.state_dict(), stream)
    return stream.tell()
