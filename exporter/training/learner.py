"""A batch of packed rows, and the loss of all exits on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from rexit.exporter.model.multi_exit import MultiExitModel
from rexit.exporter.model.training import Rows, with_vectors
from rexit.exporter.prompt.builder import Prompt


def joint_loss(logits: Tensor, liked: Tensor, distill: float = 0.0) -> Tensor:
    """The mean of all exits' cross-entropies, and `distill` times the mean divergence of the earlier ones from the last.

    logits: float32 [E, M, 2]; liked: float32 [M], how likely each label is yes. Of K objectives [E, M, 2K] and [M, K], NaN where
    a label is unknown: the cross-entropy is the mean over the labels that are known.
    """
    if liked.ndim == 2:
        logits = logits.unflatten(-1, (-1, 2)).flatten(1, 2)
        loss = _masked_loss(logits, liked.flatten())
        return loss + distill * _divergence(logits) if distill and len(logits) > 1 else loss
    loss = F.cross_entropy(logits.flatten(0, 1), torch.stack([1 - liked, liked], -1).repeat(len(logits), 1))
    if distill and len(logits) > 1:
        loss = loss + distill * _divergence(logits)
    return loss


def _masked_loss(logits: Tensor, liked: Tensor) -> Tensor:
    """logits: [E, N, 2]. liked: [N]. 0 if no label is known."""
    known = ~liked.isnan()
    if not known.any():
        return 0.0 * logits.sum()
    logits, liked = logits[:, known], liked[known]
    return F.cross_entropy(logits.flatten(0, 1), torch.stack([1 - liked, liked], -1).repeat(len(logits), 1))


def _divergence(logits: Tensor) -> Tensor:
    """The mean divergence of the earlier exits' probabilities from the last one's. logits: [E, N, 2]."""
    teacher = logits[-1].detach().log_softmax(-1).expand_as(logits[:-1])
    student = logits[:-1].log_softmax(-1)
    return F.kl_div(student.flatten(0, 1), teacher.flatten(0, 1), reduction="batchmean", log_target=True)


class Learner(nn.Module):
    """What is trained: a batch as `Collator` makes it to its loss, so that all that learns is inside one module's forward."""

    def __init__(self, model: MultiExitModel, rows: Rows, distill: float) -> None:
        super().__init__()
        self.model, self._rows, self._distill = model, rows, distill

    def forward(
        self, tokens: Tensor, positions: Tensor, groups: Tensor, rows: Tensor, liked: Tensor, prompts: Sequence[Prompt]
    ) -> dict[str, Tensor]:
        passed, vectors = with_vectors(self.model, self._rows.sources, tokens, prompts)
        return {"loss": joint_loss(self.model(passed, positions, groups, rows, vectors), liked, self._distill)}


class Collator:
    """Makes a batch of its rows' numbers, and counts what it made.

    labels: float32 [interactions of the split], each how likely it is yes; of objectives [.., K], NaN where unknown.
    """

    def __init__(self, data: Rows, labels: NDArray[np.float32]) -> None:
        self._data = data
        self._liked = np.split(labels, np.cumsum([len(row.liked) for row in data.rows])[:-1])
        self.tokens = self.labels = 0

    def __call__(self, chosen: Sequence[Sequence[int]]) -> dict[str, Any]:
        (numbers,) = chosen  # the data set's elements are whole batches
        tokens, positions, groups, rows = self._data.packed(numbers)
        liked = torch.from_numpy(np.concatenate([self._liked[n] for n in numbers]))
        self.tokens += sum(self._data.rows[n].length for n in numbers)
        self.labels += int((~liked.isnan()).sum())
        prompts = [self._data.rows[n].prompt for n in numbers]
        return {"tokens": tokens, "positions": positions, "groups": groups, "rows": rows, "liked": liked, "prompts": prompts}
