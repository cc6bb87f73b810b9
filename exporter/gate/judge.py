"""Judges variants of lower precision before they are written: their quality, and the golden log-odds that later runs are checked
against."""

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
"""The tolerance is this many times what was seen, up to the target's cap: another machine rounds differently."""


@dataclass(frozen=True)
class Judged:
    """What later runs of a variant are checked against. slates: the golden slates with their log-odds; differences: how far the
    variant was from them at export, by exit and mode; tolerance: how far a later run may be; quality: as in variant.json, None
    if the log-odds are PyTorch's own."""

    slates: list[GoldenSlate]
    differences: list[dict[str, float]]
    tolerance: float
    quality: dict[str, Any] | None


class Judge:
    """Compares variants of lower precision with the float32 chain `exact`, which is run once for all of them.

    exits: depths in layers.
    """

    def __init__(
        self,
        exact: Chain,
        exits: tuple[int, ...],
        prompts: quality.Prompts,
        accept_loss: bool,
        progress: Progress,
    ) -> None:
        self._exits, self._prompts, self._accept_loss, self._progress = exits, prompts, accept_loss, progress
        self._expected = self._log_odds(exact)

    def doubt(self) -> str | None:
        """Why the float32 model's ranking may be worth nothing; None without a reason."""
        prompts = self._prompts
        return ranking.doubt(np.ascontiguousarray(self._expected[:, -1]), prompts.biases, prompts.users, prompts.liked)

    def judge(self, target: Target, chain: Chain, slates: Sequence[GoldenSlate]) -> Judged:
        """Judges the target's variant, run by `chain`.

        A sum that differs in its last bit is now and then rounded to another integer, and so are the layers after it. How far
        that carries is seen here on a sample only, so the tolerance is a multiple of it; more than the target's cap is not
        rounding. Raises ParityError or QualityError.
        """
        assert target.gate is not None and target.cap is not None
        found = quality.assess(self._prompts, self._exits, target.gate, self._expected, self._log_odds(chain))
        found.check(self._accept_loss)
        own = [replace(slate, log_odds=chain.slate(slate.prefix, slate.candidates, liked=slate.liked)) for slate in slates]
        differences, _ = parity.compare(chain, own)
        parity.check(differences, self._exits, target.cap, f"{target.variant}'s own for the whole slate")
        worst = max(value for row in differences for value in row.values())
        return Judged(own, differences, min(target.cap, max(target.tolerance, _MARGIN * worst)), found.to_json())

    def _log_odds(self, chain: Chain) -> quality.LogOdds:
        return self._prompts.log_odds(chain, lambda done: self._progress("quality", done, len(self._prompts)))
