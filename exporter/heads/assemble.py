"""The heads of the chosen exits, as a checkpoint stores them.

A fitted head's scale becomes the norm's weight, its weights the projection. The model's own last answer is copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rexit.exporter.checkpoints.checkpoint import Checkpoint
from rexit.exporter.heads.layers import Layers
from rexit.exporter.model.heads import ExitHeads


@torch.no_grad()
def exit_heads(base: Checkpoint, own: ExitHeads | None, fit: Layers, exits: Sequence[int]) -> ExitHeads:
    """Assembles the heads.

    Args:
        base: the model.
        own: the model's own last answer; None if it has none.
        fit: every layer's heads.
        exits: depths in layers.
    """
    heads = ExitHeads.like(base.decoder, len(exits))
    for k, depth in enumerate(exits):
        if (head := fit.at(depth).head) is None:
            assert own is not None
            heads.norms[k], heads.projections[k] = own.norms[0], own.projections[0]
            continue
        for name, parameter in heads.norms[k].named_parameters():
            parameter.copy_(torch.from_numpy(head.scale) if name == "weight" else torch.zeros_like(parameter))
        projection: Any = heads.projections[k]
        weight = torch.from_numpy(head.weight)
        projection.weight.copy_(torch.stack([-weight, weight]) / 2)
        projection.bias.copy_(torch.tensor([-head.bias, head.bias]) / 2)
    return heads.cpu()
