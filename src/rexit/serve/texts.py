"""Texts of the bundle that a pool serves."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from rexit.errors import InputError
from rexit.runtime import Session
from rexit.texts import session_encoder

Prompt = tuple[list[int], list[list[int]]]
"""Token ids of the prefix and of each candidate."""


class Texts:
    """Tokenizes requests, one at a time.

    Args:
        session: Of the bundle, whose tokenizer is read now.
    """

    def __init__(self, session: Session) -> None:
        self._lock = threading.Lock()
        try:
            self._encoder = session_encoder(session, "the bundle")
        except InputError as exc:
            self._encoder, self._problem = None, str(exc)

    def prompt(self, query: str, documents: Sequence[str]) -> Prompt:
        """Returns a reranker's prompt. Raises InputError."""
        if self._encoder is None:
            raise InputError(self._problem)
        with self._lock:
            return self._encoder.prompt(query, documents)
