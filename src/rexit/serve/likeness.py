"""Whether requests are like those that calibrated the policy.

1. A request is unlike them if it has more candidates or a longer prefix than any of them, or if its candidates are on average
   longer or shorter than nine tenths of theirs. An answer that ran no segment has no lengths.
2. Once more than a tenth of the answers are unlike, and at least `MIN_UNLIKE`, the log says so, once for each opened bundle.
"""

from __future__ import annotations

import logging
import threading

import msgspec

from rexit.bundle.typed import typed
from rexit.runtime import Session, Stats

_LOGGER = logging.getLogger("rexit")

MIN_UNLIKE = 10

Quantiles = tuple[int, int, int, int]
"""5 %, half, 95 %, all."""


class _Requests(msgspec.Struct):
    candidates: Quantiles
    prefix_tokens: Quantiles
    candidate_tokens: Quantiles


class _MadeOn(msgspec.Struct):
    requests: _Requests | None = None


class _Policy(msgspec.Struct):
    made_on: _MadeOn | None = None


class Likeness:
    """Compares answers with `made_on` of policy.json.

    Args:
        session: A session of the bundle, whose policy is read now. Without one, every request is like any other.

    Raises:
        BundleError: The policy is damaged.
    """

    def __init__(self, session: Session) -> None:
        self._calibrated: _Requests | None = None
        if session.info.calibrated:
            path = f"variants/{session.info.variant}/policy.json"
            made_on = typed(msgspec.json.decode(session.read_file(path)), _Policy, path).made_on
            self._calibrated = made_on.requests if made_on is not None else None
        self._lock = threading.Lock()
        self._answers, self._unlike, self._warned = 0, 0, False

    def differences(self, stats: Stats) -> dict[str, tuple[float, int, int]]:
        """Returns what is unlike in an answered request, by name: its number, and the least and the most at calibration."""
        calibrated = self._calibrated
        if calibrated is None:
            return {}
        numbers: dict[str, tuple[float, int, int]] = {"candidates": (stats.candidates, 0, calibrated.candidates[3])}
        if entered := stats.segments[0].candidates:
            low, _, high, _ = calibrated.candidate_tokens
            numbers["prefix_tokens"] = stats.prefix_tokens, 0, calibrated.prefix_tokens[3]
            numbers["candidate_tokens"] = stats.candidate_tokens / entered, low, high
        return {name: number for name, number in numbers.items() if not number[1] <= number[0] <= number[2]}

    def count(self, stats: Stats) -> tuple[str, ...]:
        """Counts an answer. Returns the names of what is unlike in its request."""
        differences = self.differences(stats)
        with self._lock:
            self._answers += 1
            self._unlike += bool(differences)
            warns = not self._warned and differences and self._unlike >= max(MIN_UNLIKE, self._answers / 10)
            self._warned |= bool(warns)
        if warns:
            name, (number, low, high) = next(iter(differences.items()))
            _LOGGER.warning(
                "%d of %d requests are unlike those that calibrated the policy, for instance %s %.4g, there %s%d: what was "
                "certified does not hold for them; run `rexit calibrate` on such requests",
                self._unlike, self._answers, name, number, f"{low} to " if low else "at most ", high,
            )  # fmt: skip
        return tuple(differences)
