"""Judges variants of lower precision before they are written: their quality, golden log-odds and tolerance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rexit import ranking
from rexit.bundle.golden import GoldenSlate
from rexit.exporter.gate import parity, quality
from rexit.exporter.graph.chain import Chain
from rexit.exporter.graph.targets import Target
from rexit.progress import Progress

_MARGIN = 4
"""The tolerance is this multiple of the largest difference, up to the target's cap: other machines round differently."""


@dataclass(frozen=True)
class Judged:
    """What later runs of a variant are checked against.

    slates: the golden slates with their log-odds. differences: the variant's distance from them at export, by exit and mode.
    tolerance: maximum distance in later runs. quality: `quality` of variant.json; None if the log-odds are PyTorch's.
    """

    slates: list[GoldenSlate]
    differences: list[dict[str, float]]
    tolerance: float
    quality: dict[str, Any] | None


class Judge:
    """Compares variants of lower precision with the float32 graphs, which run once for all variants."""

    def __init__(
        self, exact: Chain, exits: tuple[int, ...], prompts: quality.Prompts, accept_loss: bool, progress: Progress
    ) -> None:
        """exact: the float32 graphs. exits: depths in layers. accept_loss: as in `ExportOptions`."""
        self._exits, self._prompts, self._accept_loss, self._progress = exits, prompts, accept_loss, progress
        self._expected = prompts.log_odds(exact, "fp32", progress)
        if not prompts.labelled:
            self._prompts = prompts.with_labels(ranking.drawn_labels(np.ascontiguousarray(self._expected[:, -1])))

    def doubt(self) -> str | None:
        """Why the float32 model's ranking may be useless; None without such a reason."""
        return self._prompts.pairs.doubt(self._expected[:, -1])

    def judge(self, target: Target, chain: Chain, slates: Sequence[GoldenSlate]) -> Judged:
        """Judges a variant.

        A sum that differs in its last bit can round to another integer, and change all later layers. The golden slates are only a
        sample of that, so the tolerance is a multiple of their largest difference. More than the target's cap is an error.

        Args:
            target: a target with a gate.
            chain: the variant's graphs.
            slates: the golden slates.

        Raises:
            ParityError: the ways of running the variant differ by more than the cap.
            QualityError: it fails its gate and loss is not accepted.
        """
        assert target.gate is not None and target.cap is not None
        assessed = quality.assess(
            self._prompts,
            self._exits,
            target.gate,
            self._expected,
            self._prompts.log_odds(chain, target.precision, self._progress),
        )
        assessed.check(self._accept_loss)
        own = [replace(slate, log_odds=chain.slate(slate.prefix, slate.candidates, liked=slate.liked)) for slate in slates]
        differences, _ = parity.compare(chain, own)
        parity.check(differences, self._exits, target.cap, f"{target.variant}'s own for the whole slate")
        worst = max(value for row in differences for value in row.values())
        return Judged(own, differences, min(target.cap, max(target.tolerance, _MARGIN * worst)), assessed.to_json())
