"""A policy of a small bundle, with the limits that `rexit calibrate` records for a service to watch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rexit.audit.limits import AuditLimits, WatchedRule
from rexit.audit.losses import Loss
from rexit.bundle import Bundle, ExitPolicy, Policy


def write_watched(
    bundle: Path, limits: Sequence[float] = (0.3,), loss: str = "rank-correlation", certified: bool = False, **report: Any
) -> Bundle:
    """Writes policy.json and report.json into the bundle's variant. limits: of the policy, which stops at the first exit, and of
    more careful rules, each of which stops one exit later."""
    opened = Bundle.open(bundle)
    exits = len(opened.manifest.exits)
    never = (ExitPolicy(),) * exits
    policies = [
        Policy((*never[:k], replace(never[k], upper=-1e9), *never[k + 1 :]), 1, opened.variant_sha256) for k in range(len(limits))
    ]
    policies[0].write(opened.folder / "policy.json")
    rules = tuple(WatchedRule(policy, limit, limit / 2, certified) for policy, limit in zip(policies, limits, strict=True))
    watch = AuditLimits(Loss.parse(loss), "ndcg@10", ExitPolicy(), rules, "")
    content = {"schema": 2, "variant_sha256": opened.variant_sha256, "watch": watch.to_json(), **report}
    (opened.folder / "report.json").write_text(json.dumps(content))
    return Bundle.open(bundle)
