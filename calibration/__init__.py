"""When to stop: chooses a variant's policy on its own traces, certifies it on other users, and reports what it is worth.

In: a bundle's variant, a catalog's held-out splits, what segments cost (`rexit.upkeep.measure`). Out: policy.json, report.json,
report.html and traces.safetensors. The data moves in this order:

    goal           what a policy must keep, and all options
    traces         slates -> every exit's log-odds, by the deployed variant; their file
    maps           traces -> a map per exit, so that depths are comparable
    metrics        how good a ranking is, user by user
    evaluation     where candidates stop -> cost, and expected losses
    search         thresholds, patience and rules for slates -> the cheapest within a budget
    certify        losses of users -> a guarantee
    policies       the search's policies, certified on users who had no part in choosing
    audit_limits   the same users' losses without labels -> the limits that a service watches
    decision       choose, certify, compare on the test split -> the policy
    probabilities  sampled negatives -> a shift; probabilities and labels -> how right they are
    reporting/     verdict, in words; content -> report.json; tables, plots and page -> report.html
    calibration    all of it

Needs polars, SciPy, Jinja2 and Matplotlib, which a device that only scores does not have, so the names below are loaded on first
use. No torch. Traces come from the library that runs on the device: what is calibrated is what runs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rexit.calibration.calibration import Calibration, calibrate
    from rexit.calibration.goal import CalibrationOptions
    from rexit.calibration.reporting.verdict import Verdict
    from rexit.calibration.traces import Traces

_HOME = {
    "Calibration": "calibration",
    "CalibrationOptions": "goal",
    "Traces": "traces",
    "Verdict": "reporting.verdict",
    "calibrate": "calibration",
}

__all__ = ["Calibration", "CalibrationOptions", "Traces", "Verdict", "calibrate"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
