"""What can be chosen of an export. Loads nothing, so that a command line can show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

EXACT = 1e-4
"""How far the log-odds of float32 graphs may be from PyTorch's."""


@dataclass(frozen=True)
class ExportOptions:
    """What can be chosen of an export; `rexit export --help` says the same.

    exits (depths in layers), head: see `load_checkpoint`. target, precisions: rows of `rexit.exporter.graph.targets`.
    max_tokens: the most tokens of candidates one pass takes. tolerance: largest allowed difference of the float32 graphs'
    log-odds. golden_slates: how many validation slates to compare on and to store. quality_slates: how many slates of the
    validation split a lower precision is judged on (0: all); accept_loss: write it even if it fails, or if they are too few to
    tell.
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
