"""rexit: early-exit LLM recommenders, from ratings to the edge."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rexit.runtime import Session

__all__ = ["__version__", "open"]
__version__ = "0.1.0"


def open(
    path: str | Path, variant: str | None = None, *, threads: int = 0, device: str | None = None, device_id: int = 0
) -> Session:
    """Opens a bundle for scoring: see `rexit.runtime.open`, which is loaded on first use."""
    from rexit import runtime

    return runtime.open(path, variant, threads=threads, device=device, device_id=device_id)
