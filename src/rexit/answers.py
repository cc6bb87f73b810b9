"""An answer in plain values: what `rexit score --json` prints and `rexit serve` sends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rexit.bundle.catalog import Id
    from rexit.runtime import Scores

STATS = (
    "prefix_tokens",
    "prefix_tokens_reused",
    "candidate_tokens",
    "candidate_layers",
    "prefix_layers",
    "retrieval_us",
    "prefix_us",
    "slate_us",
    "total_us",
)


def score_rows(scores: Scores, items: Sequence[Id], depths: Sequence[int]) -> list[dict[str, Any]]:
    """One entry per score. depths: of each exit, in layers. Where the deadline passed before the first exit, numbers are None and
    no layer answered."""
    return [
        {
            "item": items[int(index)],
            "probability": None if exit < 0 else float(probability),
            "log_odds": None if exit < 0 else float(log_odds),
            "exit": None if exit < 0 else int(exit),
            "layers": 0 if exit < 0 else depths[int(exit)],
            "cut_short": bool(cut_short),
        }
        for index, probability, log_odds, exit, cut_short in zip(
            scores.index, scores.probability, scores.log_odds, scores.exit, scores.cut_short, strict=True
        )
    ]


def stats_row(scores: Scores) -> dict[str, Any]:
    """What it cost: `Stats` without its segments."""
    return {name: getattr(scores.stats, name) for name in STATS}
