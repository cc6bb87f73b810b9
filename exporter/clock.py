"""How long the stages of a command take."""

from __future__ import annotations

import time


class Clock:
    """seconds: duration of each finished stage, by name; a stage that comes again adds to it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Ends a stage; the next one begins."""
        now = time.perf_counter()
        self.seconds[name], self._last = self.seconds.get(name, 0.0) + now - self._last, now
