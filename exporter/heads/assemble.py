"""The heads of the chosen exits, as a checkpoint stores them.

1. A fitted head's scale becomes the norm's weight, its weights the projection. The model's own last answer is copied.
2. With several objectives the rows of all of them share one norm, whose weight is 1. So the scale of each objective's fit is
   folded into its rows, as are the weight and the bias of the norm of the model's own last answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rexit.exporter.checkpoints.checkpoint import Checkpoint
from rexit.exporter.heads.fit import FittedHead
from rexit.exporter.heads.layers import Layers
from rexit.exporter.model.heads import ExitHeads


@torch.no_grad()
def exit_heads(base: Checkpoint, own: ExitHeads | None, fits: Mapping[str, Layers], exits: Sequence[int]) -> ExitHeads:
    """Assembles the heads.

    Args:
        base: the model.
        own: the model's own last answer; None if it has none.
        fits: every layer's heads, by objective; the only objective's name may be empty.
        exits: depths in layers.
    """
    heads = ExitHeads.like(base.decoder, len(exits), len(fits))
    for k, depth in enumerate(exits):
        layers = [fit.at(depth) for fit in fits.values()]
        projection: Any = heads.projections[k]
        if "" not in fits:
            _set_norm(heads.norms[k], None)
            parts = [_rows(layer.head, own, n) for n, layer in enumerate(layers)]
            projection.weight.copy_(torch.cat([weight for weight, _ in parts]))
            projection.bias.copy_(torch.cat([bias for _, bias in parts]))
        elif (head := layers[0].head) is None:
            assert own is not None
            heads.norms[k], heads.projections[k] = own.norms[0], own.projections[0]
        else:
            _set_norm(heads.norms[k], torch.from_numpy(head.scale))
            weight, bias = _no_and_yes(torch.from_numpy(head.weight), head.bias)
            projection.weight.copy_(weight)
            projection.bias.copy_(bias)
    return heads.cpu()


def _set_norm(norm: nn.Module, weight: Tensor | None) -> None:
    """Sets a norm's weight (None: 1), and its bias to 0."""
    for name, parameter in norm.named_parameters():
        ones = torch.ones_like(parameter)
        parameter.copy_((ones if weight is None else weight) if name == "weight" else torch.zeros_like(parameter))


def _no_and_yes(weight: Tensor, bias: float) -> tuple[Tensor, Tensor]:
    """Rows [2, H] and biases [2] of no and yes, whose difference is weight [H] and bias."""
    return torch.stack([-weight, weight]) / 2, torch.tensor([-bias, bias]) / 2


def _rows(head: FittedHead | None, own: ExitHeads | None, objective: int) -> tuple[Tensor, Tensor]:
    """An objective's rows and biases behind a norm of weight 1. head: None for the model's own answer."""
    if head is not None:
        return _no_and_yes(torch.from_numpy(head.weight * head.scale), head.bias)
    assert own is not None
    norm, projection = own.norms[0].cpu(), own.projections[0].cpu()
    assert isinstance(projection, nn.Linear) and isinstance(norm.weight, Tensor)
    pair = slice(2 * objective, 2 * objective + 2)
    rows, bias = projection.weight[pair], projection.bias[pair]
    if isinstance(shift := getattr(norm, "bias", None), Tensor):
        bias = bias + rows @ shift
    return rows * norm.weight, bias
