"""When candidates stop: `policy.json` and its rules in NumPy."""

from rexit.bundle.policy.policy import FILE, MAX_INTERCEPT, MAX_SLOPE, ExitPolicy, Policy
from rexit.bundle.policy.slate_rules import TopK, best_first, slate_stops

__all__ = [
    "FILE",
    "MAX_INTERCEPT",
    "MAX_SLOPE",
    "ExitPolicy",
    "Policy",
    "TopK",
    "best_first",
    "slate_stops",
]
