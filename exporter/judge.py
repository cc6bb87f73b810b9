"""Variants of lower precision before they are written: their quality, and the golden answers they are held to from then on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rexit.bundle.golden import GoldenSlate
from rexit.exporter import parity, quality
from rexit.exporter.targets import Target

_MARGIN = 4
"""By how much the tolerance exceeds what was seen, up to the target's cap: another machine rounds otherwise."""


class Judge:
    """Holds variants of lower precision against float32, whose answers are taken once for all of them."""

    def __init__(
        self,
        exits: tuple[int, ...],
        max_tokens: int,
        prompts: quality.Prompts | None,
        tell: Callable[[int, int], None],
        accept_loss: bool,
    ) -> None:
        self._exits, self._max_tokens, self._prompts = exits, max_tokens, prompts
        self._tell, self._accept_loss = tell, accept_loss
        self._expected: quality.Answers | None = None

    def judge(
        self, target: Target, exact: parity.Chain, chain: parity.Chain, slates: Sequence[GoldenSlate]
    ) -> tuple[list[GoldenSlate], list[dict[str, float]], float, dict[str, Any]]:
        """The golden slates as the variant answers them, how far its ways of running are apart, the tolerance for whoever runs it
        again, and its quality.

        A sum that ends in another last bit is rounded to another whole number now and then, and so are the layers after it. How
        far that carries is seen here on a sample, so the tolerance is a multiple; what is more than the target's cap is no
        rounding. Raises ParityError or QualityError.
        """
        assert self._prompts is not None and target.gate is not None and target.cap is not None
        if self._expected is None:
            self._expected = self._answer(exact)
        found = quality.judge(self._prompts, self._exits, target.gate, self._expected, self._answer(chain))
        found.check(self._accept_loss)
        own = parity.answer(chain, slates, self._max_tokens)
        rows, _ = parity.measure(chain, own, self._max_tokens)
        parity.check(rows, self._exits, target.cap, f"{target.variant}'s own for the whole slate")
        worst = max(value for row in rows for value in row.values())
        return own, rows, min(target.cap, max(target.tolerance, _MARGIN * worst)), found.to_json()

    def _answer(self, chain: parity.Chain) -> quality.Answers:
        prompts = self._prompts
        assert prompts is not None
        return quality.answer(chain, prompts, self._max_tokens, lambda done: self._tell(done, len(prompts)))
