"""A variant's session, as measuring and calibration see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rexit.bundle.catalog import Id
from rexit.bundle.context import Value
from rexit.bundle.request_text import Text


class Scorer(Protocol):
    """What measuring and calibration need of `rexit.runtime.Session`."""

    def trace(
        self,
        user: Id,
        items: Sequence[Id],
        *,
        as_of: int | None = None,
        context: Mapping[str, Value] | None = None,
        request: Mapping[str, Text] | None = None,
    ) -> NDArray[np.float32]:
        """Returns every exit's raw log-odds, float32 [items, exits]."""

    def score(
        self,
        user: Id,
        items: Sequence[Id],
        *,
        as_of: int | None = None,
        context: Mapping[str, Value] | None = None,
        request: Mapping[str, Text] | None = None,
        force_exit: int | None = None,
    ) -> Any:
        """Returns scores with `exit` and `stats`, as in `rexit.runtime.Scores`."""

    def prompt(
        self,
        user: Id,
        items: Sequence[Id],
        *,
        as_of: int | None = None,
        context: Mapping[str, Value] | None = None,
        request: Mapping[str, Text] | None = None,
    ) -> tuple[NDArray[np.int32], list[NDArray[np.int32]]]:
        """Returns the token ids of the prefix and of each candidate."""

    def trace_tokens(self, prefix: NDArray[np.int32], candidates: Sequence[NDArray[np.int32]]) -> NDArray[np.float32]:
        """Returns every exit's raw log-odds, float32 [candidates, exits]."""

    def score_tokens(
        self, prefix: NDArray[np.int32], candidates: Sequence[NDArray[np.int32]], *, force_exit: int | None = None
    ) -> Any:
        """Returns scores with `exit` and `stats`, as in `rexit.runtime.Scores`."""

    def warm_up(self) -> None:
        """Runs every segment once, so that the first request does not pay for allocations."""

    def clear_cache(self) -> None:
        """Drops the cached prefixes."""
