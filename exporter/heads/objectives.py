"""Heads for several objectives: each is fitted on its known labels, by itself; the exits are chosen for all of them.

1. A user's loss at a depth is the mean over the objectives that the user has known labels of.
2. A head's rows are those of all objectives behind one norm, whose weight is 1: what each objective's fit scales by, and the
   weight and bias of the norm of a last answer that stays, go into the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rexit.errors import InputError
from rexit.exporter.checkpoints.checkpoint import Checkpoint
from rexit.exporter.heads.forward import Slates
from rexit.exporter.heads.layers import Layers, fit_layers
from rexit.exporter.heads.rows import RowsFile
from rexit.exporter.model.heads import ExitHeads
from rexit.progress import Progress


def fit_objectives(
    file: RowsFile,
    train: Slates,
    validation: Slates,
    names: Sequence[str],
    keep_last: bool | None,
    progress: Progress,
) -> dict[str, Layers]:
    """Fits a head at every layer for each objective. Arguments as of `fit_layers`. Raises InputError, naming the objective."""
    fits = {}
    for k, name in enumerate(names):
        own = replace(file, answer=file.answer[:, k])
        try:
            fits[name] = fit_layers(own, train.of_objective(k), validation.of_objective(k), keep_last, progress)
        except InputError as exc:
            raise InputError(f"objective {name!r}: {exc}") from exc
    return fits


def mean_losses(fits: Mapping[str, Layers]) -> tuple[NDArray[np.float64], float]:
    """Rule 1: float64 [layers, users], and the mean loss of one probability for all of an objective."""
    users = np.unique(np.concatenate([fit.choosing for fit in fits.values()]))
    layers = len(next(iter(fits.values())).heads)
    losses = np.full((len(fits), layers + 1, len(users)), np.nan)
    for n, fit in enumerate(fits.values()):
        places = np.searchsorted(users, fit.choosing)
        losses[n][:, places] = np.stack([fit.prior_losses, *(fit.at(depth).losses for depth in range(1, layers + 1))])
    means = np.nanmean(losses, 0)
    return means[1:], float(means[0].mean())


def joined_heads(base: Checkpoint, own: ExitHeads | None, fits: Mapping[str, Layers], exits: Sequence[int]) -> ExitHeads:
    """Rule 2."""
    heads = ExitHeads.like(base.decoder, len(exits), len(fits))
    with torch.no_grad():
        for k, depth in enumerate(exits):
            for name, parameter in heads.norms[k].named_parameters():
                parameter.copy_(torch.ones_like(parameter) if name == "weight" else torch.zeros_like(parameter))
            parts = [_rows(fit.at(depth).head, own, n) for n, fit in enumerate(fits.values())]
            projection: Any = heads.projections[k]
            projection.weight.copy_(torch.cat([weight for weight, _ in parts]))
            projection.bias.copy_(torch.cat([bias for _, bias in parts]))
    return heads.cpu()


def _rows(head: Any, own: ExitHeads | None, objective: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight [2, H] and bias [2] of an objective, no and yes, behind a norm of weight 1. head: None: the model's own answer."""
    if head is not None:
        weight = torch.from_numpy(head.weight * head.scale)
        return torch.stack([-weight, weight]) / 2, torch.tensor([-head.bias, head.bias]) / 2
    assert own is not None
    norm, projection = own.norms[0].cpu(), own.projections[0].cpu()
    assert isinstance(projection, nn.Linear) and isinstance(norm.weight, torch.Tensor)
    pair = slice(2 * objective, 2 * objective + 2)
    rows, bias = projection.weight[pair], projection.bias[pair]
    if isinstance(shift := getattr(norm, "bias", None), torch.Tensor):
        bias = bias + rows @ shift
    return rows * norm.weight, bias
