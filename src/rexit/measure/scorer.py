"""A variant's session, as measuring and calibration see it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rexit.request import AnyRequest


class Scorer(Protocol):
    """What measuring and calibration need of `rexit.runtime.Session`."""

    def trace(self, request: AnyRequest, /) -> NDArray[np.float32]:
        """Returns every exit's raw log-odds, float32 [candidates, exits]."""

    def score(self, request: AnyRequest, /, *, force_exit: int | None = None) -> Any:
        """Returns scores with `exit` and `stats`, as in `rexit.runtime.Scores`."""

    def prompt(self, request: AnyRequest, /) -> tuple[NDArray[np.int32], Sequence[NDArray[np.int32]]]:
        """Returns the token ids of the prefix and of each candidate."""

    def warm_up(self) -> None:
        """Runs every segment once, so that the first request does not pay for allocations."""

    def clear_cache(self) -> None:
        """Drops the cached prefixes."""
