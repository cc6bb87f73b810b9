"""How long the stages of a command take."""

from __future__ import annotations

import time


class Clock:
    """seconds: duration of each finished stage, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Ends a stage; the next one begins."""
        now = time.perf_counter()
        self.seconds[name], self._last = now - self._last, now
