"""What can be chosen for an export. Imports nothing heavy, so that the command line can show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

EXACT = 1e-4
"""How far the log-odds of float32 graphs may be from PyTorch's, by default."""


@dataclass(frozen=True)
class ExportOptions:
    """What can be chosen for an export; `rexit export --help` says the same.

    exits (depths in layers), head: see `load_checkpoint`. target, precisions: rows of `rexit.exporter.graph.targets`.
    max_tokens: candidate tokens in one pass at most. tolerance: largest difference allowed between the float32 graphs' log-odds
    and PyTorch's. golden_slates: how many validation slates to compare on and to store. quality_slates: how many validation
    slates a lower precision is judged on (0: all). accept_loss: write it even if it fails, or if the slates are too few to tell.
    """

    exits: Sequence[int] | None = None
    head: str | None = None
    target: str = "cpu"
    precisions: Sequence[str] = ("fp32",)
    max_tokens: int = 512
    tolerance: float = EXACT
    golden_slates: int = 16
    quality_slates: int = 400
    accept_loss: bool = False
