"""A batch of packed rows, and the loss of all exits on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rexit.bundle.manifest import log_odds_of
from rexit.exporter.model.multi_exit import MultiExitModel
from rexit.exporter.model.training import Rows, with_vectors
from rexit.exporter.prompt.builder import Prompt


def joint_loss(logits: Tensor, liked: Tensor) -> Tensor:
    """Returns the mean of all exits' cross-entropies. logits: float32 [E, M, 2]. liked: 1 or 0, float32 [M]."""
    return F.cross_entropy(logits.flatten(0, 1), torch.stack([1 - liked, liked], -1).repeat(len(logits), 1))


def first_loss(logits: Tensor, queries: int) -> Tensor:
    """Returns the mean of all exits' cross-entropies of a query's first candidate among all of that query's.

    logits: float32 [E, M, 2], with as many candidates of each query.
    """
    among = log_odds_of(logits).view(len(logits) * queries, -1)
    return F.cross_entropy(among, torch.zeros(len(among), dtype=torch.int64, device=among.device))


class Learner(nn.Module):
    """The module that is trained: its forward turns a batch of `Collator` into the loss, with all trained weights inside."""

    def __init__(self, model: MultiExitModel, rows: Rows) -> None:
        super().__init__()
        self.model, self._rows = model, rows

    def forward(
        self, tokens: Tensor, positions: Tensor, groups: Tensor, rows: Tensor, liked: Tensor, prompts: Sequence[Prompt]
    ) -> dict[str, Tensor]:
        passed, vectors = with_vectors(self.model, self._rows.sources, tokens, prompts)
        logits = self.model(passed, positions, groups, rows, vectors)
        loss = joint_loss(logits, liked)
        if not self.model.decoder.causal:
            loss = loss + first_loss(logits, len(prompts))
        return {"loss": loss}


class Collator:
    """Makes a batch from the numbers of its rows, and counts their tokens."""

    def __init__(self, data: Rows) -> None:
        self._data = data
        self._liked = np.split(data.targets(), np.cumsum([len(row.liked) for row in data.rows])[:-1])
        self.tokens = 0

    def __call__(self, chosen: Sequence[Sequence[int]]) -> dict[str, Any]:
        (numbers,) = chosen  # the data set's elements are whole batches
        tokens, positions, groups, rows = self._data.packed(numbers)
        liked = torch.from_numpy(np.concatenate([self._liked[n] for n in numbers]))
        self.tokens += sum(self._data.rows[n].length for n in numbers)
        prompts = [self._data.rows[n].prompt for n in numbers]
        return {"tokens": tokens, "positions": positions, "groups": groups, "rows": rows, "liked": liked, "prompts": prompts}
