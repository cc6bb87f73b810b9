"""Texts of the bundle that a pool serves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from rexit.bundle import Bundle
from rexit.runtime import Info
from rexit.texts import TextEncoder, bundle_encoder

Prompt = tuple[list[int], list[list[int]]]
"""Token ids of the prefix and of each candidate."""


class Texts:
    """Tokenizes requests, one at a time.

    Args:
        bundle: The bundle's folder.
        info: Gives the opened bundle's description. When it is another than before, the bundle was opened again.
    """

    def __init__(self, bundle: Path, info: Callable[[], Info]) -> None:
        self._bundle, self._info = bundle, info
        self._opened: tuple[Info, TextEncoder] | None = None
        self._lock = threading.Lock()

    def prompt(self, query: str, documents: Sequence[str]) -> Prompt:
        """Returns a reranker's prompt. Raises InputError."""
        with self._lock:
            info = self._info()
            if self._opened is None or self._opened[0] is not info:
                self._opened = info, bundle_encoder(Bundle.open(self._bundle, info.variant))
            return self._opened[1].prompt(query, documents)
