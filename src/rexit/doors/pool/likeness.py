"""Whether requests are like those that calibrated the policy: `requests` of `made_on` in policy.json.

1. A request is unlike them if it has more candidates or a longer prefix than any of them, or if its candidates are on average
   longer or shorter than nine tenths of theirs. An answer that ran no segment has no lengths.
2. Once a tenth of the answers are unlike, and at least `MIN_UNLIKE`, the log says so, once for each opened bundle.
"""

from __future__ import annotations

import logging
import threading

import msgspec

from rexit.format.bundle.files import typed
from rexit.runtime import Session, Stats

_LOGGER = logging.getLogger("rexit")

MIN_UNLIKE = 10


class _Requests(msgspec.Struct):
    """The 5 % quantile, the median, the 95 % quantile and the largest of each."""

    candidates: tuple[int, int, int, int]
    prefix_tokens: tuple[int, int, int, int]
    candidate_tokens: tuple[int, int, int, int]


class Likeness:
    """Compares answers with the calibration of a session's bundle. Raises BundleError if its policy is damaged."""

    def __init__(self, session: Session) -> None:
        policy = f"variants/{session.info.variant}/policy.json"
        values = msgspec.json.decode(session.read_file(policy)) if session.info.calibrated else {}
        requests = (values.get("made_on") or {}).get("requests")
        self._calibrated = None if requests is None else typed(requests, _Requests, policy, at="made_on.requests")
        self._lock = threading.Lock()
        self._answers = self._unlike = 0
        self._warned = False

    def count(self, stats: Stats) -> tuple[str, ...]:
        """Counts an answer. Returns in what its request is unlike."""
        if (calibrated := self._calibrated) is None:
            return ()
        numbers = {"candidates": (stats.candidates, 0, calibrated.candidates[3])}
        if entered := stats.segments[0].candidates:
            low, _, high, _ = calibrated.candidate_tokens
            numbers["prefix_tokens"] = stats.prefix_tokens, 0, calibrated.prefix_tokens[3]
            numbers["candidate_tokens"] = round(stats.candidate_tokens / entered), low, high
        unlike = [name for name, (number, low, high) in numbers.items() if not low <= number <= high]
        with self._lock:
            self._answers += 1
            self._unlike += bool(unlike)
            if unlike and not self._warned and self._unlike >= max(MIN_UNLIKE, self._answers / 10):
                self._warned = True
                example = (unlike[0], *numbers[unlike[0]])
                _LOGGER.warning(
                    "%d of %d requests are unlike those that calibrated the policy, for instance %s %d, there %d to %d: what was "
                    "certified does not hold for them; run `rexit calibrate` on such requests",
                    *(self._unlike, self._answers, *example),
                )
        return tuple(unlike)
