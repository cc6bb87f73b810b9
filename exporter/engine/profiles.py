"""Optimization profiles: the sizes that a TensorRT engine accepts and is tuned for."""

from __future__ import annotations

import statistics

from rexit import slates
from rexit.bundle import Bundle, OptimizationProfile, Segment


def optimization_profiles(bundle: Bundle) -> tuple[OptimizationProfile, ...]:
    """The passes that an engine of this variant accepts, up to the limits of variant and catalog. Without a catalog a candidate
    may be as long as the model's positions, and a prefix may leave room for one of its tokens. An encoder has no prefix. A
    candidate longer than `max_tokens` is a pass of its own.

    They are tuned for a slate of `slates.SIZE` candidates as long as the golden samples'.

    1. Passes without a prefix, with one row of padding as their past: the prefix itself, tuned for one row.
    2. Passes behind a prefix: slates, for which it is tuned, and the unshared part of a prefix.
    A single profile would tune neither. Without prefixes there are only slates. No size is ever 0, since a compiler may raise a
    minimum of 0 to 1.

    Args:
        bundle: opened with the variant.
    """
    limit = bundle.variant.max_tokens
    if bundle.has_catalog:
        max_prefix, max_candidate = (
            int(bundle.catalog.info["prompt"][name]) for name in ("max_prefix_tokens", "max_candidate_tokens")
        )
    else:
        max_candidate = bundle.variant.max_positions
        max_prefix = max_candidate - 1 if bundle.manifest.model.causal else 0
    max_tokens = max(limit, max_prefix, max_candidate)  # the same graph fills the prefix
    golden = bundle.golden().slates
    candidate = max(1, statistics.median_high([len(tokens) for slate in golden for tokens in slate.candidates]))
    prefix = min(statistics.median_high([len(slate.prefix) for slate in golden]), max_prefix)
    rows = max(1, min(slates.SIZE, limit // candidate))
    tokens = (1, min(rows * candidate, max_tokens), max_tokens)
    behind = (1, max(1, prefix), max(1, max_prefix))
    if max_prefix == 0:
        return (OptimizationProfile(tokens, behind, (1, rows, limit)),)
    return (
        OptimizationProfile((1, max(1, prefix), max_tokens), (1, 1, 1), (1, 1, limit)),
        OptimizationProfile(tokens, behind, (1, rows, limit)),
    )


def input_ranges(segment: Segment, profile: OptimizationProfile) -> dict[str, tuple[int, int, int]]:
    """The range (min, opt, max) of each input's dynamic size."""
    ranges: dict[str, tuple[int, int, int]] = {}
    for role, name in segment.inputs.items():
        if role in ("past_keys", "past_values"):
            ranges |= dict.fromkeys(name, profile.prefix)
        else:
            # A pass has 1 to T vectors.
            ranges[name] = profile.rows if role == "rows" else profile.tokens
    return ranges
