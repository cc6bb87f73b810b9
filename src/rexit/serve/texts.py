"""Texts and label ids of the bundle that a pool serves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
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
        self._opened: _Opened | None = None
        self._lock = threading.Lock()

    def prompt(self, query: str, documents: Sequence[str]) -> Prompt:
        """Returns a reranker's prompt. Raises InputError."""
        with self._lock:
            return self._current().encoder.prompt(query, documents)

    def whole(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the token ids of whole texts. Raises InputError."""
        with self._lock:
            return self._current().encoder.whole(texts)

    @property
    def labels(self) -> Mapping[str, int]:
        """Token ids of the labels, by name."""
        with self._lock:
            return self._current().bundle.labels

    def _current(self) -> _Opened:
        info = self._info()
        if self._opened is None or self._opened.info is not info:
            self._opened = _Opened(info, Bundle.open(self._bundle, info.variant))
        return self._opened


@dataclass(frozen=True)
class _Opened:
    info: Info
    bundle: Bundle

    @cached_property
    def encoder(self) -> TextEncoder:
        return bundle_encoder(self.bundle)
