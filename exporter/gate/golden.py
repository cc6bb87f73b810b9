"""Golden samples: validation slates with the PyTorch model's log-odds. An export measures parity on them; `rexit verify` repeats
that on the device."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rexit.bundle import Catalog, Vectors
from rexit.bundle.golden import GoldenSlate
from rexit.bundle.inputs import Codes
from rexit.exporter.model.multi_exit import MultiExitModel
from rexit.exporter.model.vectors import PassVectors
from rexit.exporter.prompt.builder import Prompt, Tokens
from rexit.exporter.source import Source, prompt_maker
from rexit.slates import AnySlate, TokenSlate


def golden_slates(
    model: MultiExitModel,
    source: Source,
    slates: Iterable[AnySlate],
    vectors: Vectors | None = None,
    turn: Tensor | None = None,
) -> list[GoldenSlate]:
    """Assembles slates' prompts as the runtime does and computes the model's log-odds.

    Args:
        model: the model, not rotated.
        source: the source of the slates.
        slates: validation slates; a catalog's each with a time `as_of`.
        vectors: the vectors as they will be stored; None if prompts have none.
        turn: float64 [H, H], the rotation of `vectors`; None if they are not rotated.
    """
    prompt_of = prompt_maker(source)
    golden = []
    for slate in slates:
        prompt = prompt_of(slate)
        log_odds = model.reference(*_pass(prompt, vectors, turn))
        user, items, as_of, inputs = _rows(source, slate)
        tokens = prompt.prefix, prompt.candidates
        golden.append(GoldenSlate(user, items, as_of, *tokens, log_odds, inputs, prompt.liked, slate.scores))
    return golden


def _rows(source: Source, slate: AnySlate) -> tuple[int | None, NDArray[np.int32], int | None, tuple[Codes, ...]]:
    """User, items, time and inputs as in `GoldenSlate`."""
    if isinstance(slate, TokenSlate):
        return None, np.arange(len(slate.candidates), dtype=np.int32), None, ()
    assert isinstance(source, Catalog) and slate.as_of is not None
    user = source.users.row(slate.user)
    assert user is not None  # cut from the catalog's own splits
    return user, source.items.rows(slate.items).astype(np.int32), slate.as_of, source.inputs.encode(slate.inputs)


def _pass(prompt: Prompt, vectors: Vectors | None, turn: Tensor | None) -> tuple[Tokens, list[Tokens], PassVectors | None]:
    """Prefix, candidates and vectors as the model takes them: ids beyond the vocabulary are renumbered by row."""
    if vectors is None:
        return prompt.prefix, prompt.candidates, None
    vocabulary, tokens = vectors.ids.vocabulary, np.concatenate([prompt.prefix, *prompt.candidates])
    is_vector = tokens >= vocabulary
    ids, places = np.unique(tokens[is_vector], return_inverse=True)
    tokens[is_vector] = vocabulary + places
    # A pass without vectors has one row that is not read.
    rows = torch.from_numpy(vectors.of(ids if len(ids) else np.array([vocabulary]), prompt.liked))
    if turn is not None:
        rows = (rows.double() @ turn.T).float()
    prefix, *candidates = np.split(tokens, np.cumsum([len(prompt.prefix), *map(len, prompt.candidates)])[:-1])
    return prefix, candidates, PassVectors(vocabulary, rows)
