"""Where an export's prompts come from: a catalog, or a file of slates.

Both have labelled slates in three splits (`rexit.slates.cut`). A catalog's prompts are assembled; those of a file are in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from rexit.bundle import Catalog
from rexit.exporter.prompt.builder import Prompt, PromptBuilder
from rexit.exporter.zero.graph import zero_log_odds
from rexit.prompts.slates_file import SlatesFile
from rexit.slates import AnySlate, Slate, TokenSlate

Source = Catalog | SlatesFile


def prompt_maker(source: Source, split: str | None = None) -> Callable[[AnySlate], Prompt]:
    """Returns a function from a slate of the source to its prompt. split: retrieve as for it; None: as a service does."""
    if isinstance(source, SlatesFile):
        return _own_prompt
    builder = PromptBuilder(source) if split is None else PromptBuilder.of(source, split)

    def assembled(slate: AnySlate) -> Prompt:
        assert isinstance(slate, Slate)
        return builder.prompt(slate.user, slate.items, slate.as_of, inputs=slate.inputs)

    return assembled


def _own_prompt(slate: AnySlate) -> Prompt:
    assert isinstance(slate, TokenSlate)
    return Prompt(slate.prefix, list(slate.candidates), np.zeros(0, np.int64), None)


def zero_of(source: Source, slates: Sequence[AnySlate]) -> list[NDArray[np.float32]]:
    """Exit zero's log-odds of the candidates of every slate, float32 [n] each; empty: the source has no exit zero."""
    if isinstance(source, Catalog):
        return zero_log_odds(source, [slate for slate in slates if isinstance(slate, Slate)]) if source.numbers else []
    return [slate.scores for slate in slates if slate.scores is not None]


def has_training_slates(source: Source) -> bool:
    """Whether the training split has any."""
    return bool(source.slates["train"]) if isinstance(source, SlatesFile) else len(source.split("train")) > 0
