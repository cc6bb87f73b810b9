"""One scored slate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rexit.cli.common.output import stdout
from rexit.cli.common.tables import print_table

if TYPE_CHECKING:
    from rexit.runtime import Scores


def print_scores(title: str, scores: Scores) -> None:
    """Prints a table with a row for each candidate, and the time that the slate took."""
    stats = scores.stats
    print_table(
        title,
        ["item", "probability", "log-odds", "exit", "layers", *scores.objectives],
        [
            [
                score.item,
                f"{score.probability:.4f}",
                f"{score.log_odds:+.4f}",
                score.exit,
                score.layers,
                *(f"{value:.4f}" for value in (score.objectives or {}).values()),
            ]
            for score in scores
        ],
    )
    stdout.print(
        f"{stats.total_us / 1000:.1f} ms: retrieval {stats.retrieval_us / 1000:.2f}, "
        f"prefix {stats.prefix_us / 1000:.1f} ({stats.prefix_tokens} tokens), "
        f"slate {stats.slate_us / 1000:.1f} ({stats.candidate_tokens} tokens)"
    )
