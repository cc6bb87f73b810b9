"""Policies."""

from __future__ import annotations

from rexit.format.bundle import ExitPolicy, Policy


def full_depth(exits: int, variant_sha256: str) -> Policy:
    """Only the last exit stops; log-odds stay as the heads give them."""
    return Policy((ExitPolicy(),) * exits, 1, variant_sha256)
