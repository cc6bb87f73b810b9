"""`rexit.Reranker` as a part of other libraries: `langchain`, `llama_index`, `haystack`. Each needs the extra of its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rexit.errors import InputError


def stage_scores(
    names: Sequence[str], metadata: Sequence[Mapping[str, Any]], own: Sequence[float | None] = ()
) -> dict[str, list[float | None]] | None:
    """Returns a request's `scores` of documents: of a single name their own, if any has one, else those in their metadata by
    name.

    Raises:
        InputError: No document has one.
    """
    if len(names) == 1 and any(score is not None for score in own):
        return {names[0]: list(own)}
    scores = {name: [entry.get(name) for entry in metadata] for name in names}
    for name, numbers in scores.items():
        if metadata and all(number is None for number in numbers):
            raise InputError(f"no document's metadata has {name!r}, expected the first stage's score")
    return scores or None
