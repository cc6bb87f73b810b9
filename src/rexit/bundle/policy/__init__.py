"""When candidates stop: `policy.json`."""

from rexit.bundle.policy.policy import FILE, MAX_INTERCEPT, MAX_SLOPE, ExitPolicy, Policy, TopK

__all__ = ["FILE", "MAX_INTERCEPT", "MAX_SLOPE", "ExitPolicy", "Policy", "TopK"]
