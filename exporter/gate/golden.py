"""Golden samples: validation slates with the PyTorch model's log-odds. An export measures parity on them; `rexit verify` repeats
that on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from rexit.bundle import Catalog, Vectors
from rexit.bundle.golden import GoldenSlate
from rexit.exporter.model.multi_exit import MultiExitModel
from rexit.exporter.model.vectors import PassVectors
from rexit.exporter.prompt.builder import Prompt, PromptBuilder, Tokens
from rexit.slates import Slate


def golden_slates(
    model: MultiExitModel,
    catalog: Catalog,
    slates: Sequence[Slate],
    vectors: Vectors | None = None,
    turn: Tensor | None = None,
    on_slate: Callable[[int], None] | None = None,
) -> list[GoldenSlate]:
    """Assembles slates' prompts as the runtime does and computes the model's log-odds.

    Args:
        model: the model, not rotated.
        catalog: the catalog.
        slates: validation slates, each with a time `as_of`.
        vectors: the vectors as they will be stored; None if prompts have none.
        turn: float64 [H, H], the rotation of `vectors`; None if they are not rotated.
        on_slate: called with the number of slates done.
    """
    builder = PromptBuilder(catalog)
    golden = []
    for done, slate in enumerate(slates, 1):
        assert slate.as_of is not None
        user, items = catalog.users.row(slate.user), catalog.items.rows(slate.items).astype(np.int32)
        assert user is not None  # cut from the catalog's own splits
        prompt = builder.prompt(slate.user, slate.items, slate.as_of)
        log_odds = model.reference(*_inputs(prompt, vectors, turn))
        golden.append(GoldenSlate(user, items, slate.as_of, prompt.prefix, prompt.candidates, log_odds, prompt.liked))
        if on_slate:
            on_slate(done)
    return golden


def _inputs(prompt: Prompt, vectors: Vectors | None, turn: Tensor | None) -> tuple[Tokens, list[Tokens], PassVectors | None]:
    """Prefix, candidates and vectors as the model takes them: ids beyond the vocabulary are renumbered by row."""
    if vectors is None:
        return prompt.prefix, prompt.candidates, None
    vocabulary = vectors.ids.vocabulary
    used = np.unique(np.concatenate([prompt.prefix, *prompt.candidates]))
    ids = used[used >= vocabulary]
    if not len(ids):
        ids = np.array([vocabulary])  # a pass without vectors has one row that is not read

    def numbered(tokens: Tokens) -> Tokens:
        row = (vocabulary + np.searchsorted(ids, tokens)).astype(np.int32)
        return np.where(tokens >= vocabulary, row, tokens)

    rows = torch.from_numpy(vectors.of(ids, prompt.liked))
    if turn is not None:
        rows = (rows.double() @ turn.T).float()
    return numbered(prompt.prefix), [numbered(candidate) for candidate in prompt.candidates], PassVectors(vocabulary, rows)
