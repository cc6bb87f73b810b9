"""When candidates stop: `policy.json`."""

from rexit._native import MAX_INTERCEPT, MAX_SLOPE
from rexit.bundle.policy.policy import FILE, ExitPolicy, Policy, TopK

__all__ = ["FILE", "MAX_INTERCEPT", "MAX_SLOPE", "ExitPolicy", "Policy", "TopK"]
