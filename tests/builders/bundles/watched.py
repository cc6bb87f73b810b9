"""A policy of a small bundle, with the limit that `rexit calibrate` records for a service to watch."""

from __future__ import annotations

import json
import math
from pathlib import Path

from rexit.format.bundle import Bundle, ExitPolicy, Policy, TopK
from rexit.format.bundle.files import SCHEMA
from rexit.upkeep.audit import AuditLimits
from rexit.upkeep.audit.betting import Tail


def write_watched(
    bundle: Path,
    limit: float = 0.3,
    loss: str = "rank-correlation",
    slate: int | None = None,
    top_k: TopK | None = None,
    tail: Tail | None = None,
    floor: float | None = None,
) -> Bundle:
    """Writes policy.json and report.json into the bundle's variant. limit: of the policy, which stops at the first exit.
    slate: the size of the slates that calibrated it. top_k: it stops by this rule instead. floor: the policy's `c`."""
    opened = Bundle.open(bundle)
    exits = (ExitPolicy(upper=-1e9 if top_k is None else math.inf), *(ExitPolicy(),) * (len(opened.manifest.exits) - 1))
    made_on = None if slate is None else {"device": "cpu", "threads": 1, "machine": {}, "slate": slate}
    below = None if floor is None else {"c": floor, "recall": 0.95, "confidence": 0.95, "users": 90}
    Policy(exits, 1, opened.variant_sha256, top_k=top_k, made_on=made_on, floor=below).write(opened.folder / "policy.json")
    digests = {"variant_sha256": opened.variant_sha256, "policy_sha256": opened.policy_sha256}
    watch = AuditLimits(loss, "ndcg@10", limit, limit / 2, False, tail)
    (opened.folder / "report.json").write_text(json.dumps({"schema": SCHEMA, **digests, "watch": watch.to_json()}))
    return Bundle.open(bundle)
