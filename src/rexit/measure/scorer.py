"""A variant's session, as measuring and calibration see it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rexit.bundle.catalog import Id


class Scorer(Protocol):
    """What measuring and calibration need of `rexit.runtime.Session`."""

    def trace(self, user: Id, items: Sequence[Id], *, as_of: int | None = None) -> NDArray[np.float32]: ...

    def score(self, user: Id, items: Sequence[Id], *, as_of: int | None = None, force_exit: int | None = None) -> Any: ...

    def prompt(
        self, user: Id, items: Sequence[Id], *, as_of: int | None = None
    ) -> tuple[NDArray[np.int32], list[NDArray[np.int32]]]: ...

    def warm_up(self) -> None: ...

    def clear_cache(self) -> None: ...
