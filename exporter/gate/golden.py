"""Golden samples: real validation slates with the log-odds that the PyTorch model gives them. Parity is measured on them at
export; `rexit verify` runs them again on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from rexit.bundle import Catalog, Vectors
from rexit.bundle.golden import GoldenSlate
from rexit.exporter.model.multi_exit import MultiExitModel
from rexit.exporter.model.vectors import Given
from rexit.exporter.prompt.builder import Prompt, PromptBuilder, Tokens
from rexit.slates import Slate


def golden_slates(
    model: MultiExitModel,
    catalog: Catalog,
    slates: Sequence[Slate],
    vectors: Vectors | None = None,
    turn: Tensor | None = None,
    each: Callable[[int], None] | None = None,
) -> list[GoldenSlate]:
    """Each slate's prompts, as the runtime assembles them, with the model's log-odds. `each` is called with the number of slates
    done.

    Every slate has a time `as_of`. vectors: as they will be stored, if prompts have any: rotated by `turn`, float64 [H, H], which
    the model is not.
    """
    builder = PromptBuilder(catalog)
    made = []
    for done, slate in enumerate(slates, 1):
        assert slate.as_of is not None
        user, items = catalog.users.row(slate.user), catalog.items.rows(slate.items).astype(np.int32)
        assert user is not None  # cut from the catalog's own splits
        prompt = builder.prompt(slate.user, slate.items, slate.as_of)
        log_odds = model.reference(*_passed(prompt, vectors, turn))
        made.append(GoldenSlate(user, items, slate.as_of, prompt.prefix, prompt.candidates, log_odds, prompt.liked))
        if each:
            each(done)
    return made


def _passed(prompt: Prompt, vectors: Vectors | None, turn: Tensor | None) -> tuple[Tokens, list[Tokens], Given | None]:
    """Prefix, candidates and vectors as the model takes them: every id beyond the vocabulary has a row of its own."""
    if vectors is None:
        return prompt.prefix, prompt.candidates, None
    vocabulary = vectors.ids.vocabulary
    used = np.unique(np.concatenate([prompt.prefix, *prompt.candidates]))
    ids = used[used >= vocabulary]
    if not len(ids):
        ids = np.array([vocabulary])  # as in a pass without vectors: its one row is not read

    def numbered(tokens: Tokens) -> Tokens:
        at = (vocabulary + np.searchsorted(ids, tokens)).astype(np.int32)
        return np.where(tokens >= vocabulary, at, tokens)

    rows = torch.from_numpy(vectors.of(ids, prompt.liked))
    if turn is not None:
        rows = (rows.double() @ turn.T).float()
    return numbered(prompt.prefix), [numbered(candidate) for candidate in prompt.candidates], Given(vocabulary, rows)
