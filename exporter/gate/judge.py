"""Variants of lower precision before they are written: their quality, and the golden answers they are held to from then on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rexit.bundle.golden import GoldenSlate
from rexit.exporter.gate import parity, quality
from rexit.exporter.graph.chain import Chain
from rexit.exporter.graph.targets import Target

_MARGIN = 4
"""By how much the tolerance exceeds what was seen, up to the target's cap: another machine rounds otherwise."""


@dataclass(frozen=True)
class Judged:
    """What a variant is held to from now on. slates: the golden slates with the answers; differences: by exit and mode, how far
    they were from them at export; tolerance: how far whoever runs it again may be; quality: as in variant.json, None where the
    answers are PyTorch's own."""

    slates: list[GoldenSlate]
    differences: list[dict[str, float]]
    tolerance: float
    quality: dict[str, Any] | None


class Judge:
    """Holds variants of lower precision against the float32 chain `exact`, whose answers are taken once for all of them.

    exits: depths in layers. tell(done, total): how far it is.
    """

    def __init__(
        self,
        exact: Chain,
        exits: tuple[int, ...],
        prompts: quality.Prompts,
        accept_loss: bool,
        tell: Callable[[int, int], None],
    ) -> None:
        self._exits, self._prompts, self._accept_loss, self._tell = exits, prompts, accept_loss, tell
        self._expected = self._answers(exact)

    def judge(self, target: Target, chain: Chain, slates: Sequence[GoldenSlate]) -> Judged:
        """The target's variant, run by `chain`.

        A sum that ends in another last bit is rounded to another whole number now and then, and so are the layers after it. How
        far that carries is seen here on a sample, so the tolerance is a multiple; what is more than the target's cap is no
        rounding. Raises ParityError or QualityError.
        """
        assert target.gate is not None and target.cap is not None
        found = quality.assess(self._prompts, self._exits, target.gate, self._expected, self._answers(chain))
        found.check(self._accept_loss)
        own = [replace(slate, log_odds=chain.slate(slate.prefix, slate.candidates)) for slate in slates]
        differences, _ = parity.compare(chain, own)
        parity.check(differences, self._exits, target.cap, f"{target.variant}'s own for the whole slate")
        worst = max(value for row in differences for value in row.values())
        return Judged(own, differences, min(target.cap, max(target.tolerance, _MARGIN * worst)), found.to_json())

    def _answers(self, chain: Chain) -> quality.Answers:
        return self._prompts.answers(chain, lambda done: self._tell(done, len(self._prompts)))
