"""Texts of the bundle that a pool serves."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from rexit.errors import InputError
from rexit.runtime import Session
from rexit.texts import TextEncoder, session_encoder

Prompt = tuple[list[int], list[list[int]], list[bool]]
"""Token ids of the prefix and of each candidate, and whether its document was cut."""


class Texts:
    """Tokenizes requests, one at a time.

    Args:
        session: A session of the bundle, whose tokenizer is read now.
    """

    def __init__(self, session: Session) -> None:
        self._lock = threading.Lock()
        self._encoder: TextEncoder | None = None
        try:
            self._encoder = session_encoder(session, "the bundle")
        except InputError as exc:
            self._problem = str(exc)

    def prompt(
        self, query: str, documents: Sequence[str], instruction: str | None = None, max_document_tokens: int | None = None
    ) -> Prompt:
        """Returns a reranker's prompt. Arguments: see `TextEncoder.prompt_with_cuts`. Raises InputError."""
        if self._encoder is None:
            raise InputError(self._problem)
        with self._lock:
            return self._encoder.prompt_with_cuts(query, documents, instruction, max_document_tokens)
