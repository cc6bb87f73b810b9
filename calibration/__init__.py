"""When to stop: chooses a variant's policy on its own traces, certifies it on other users, and reports what it is worth.

In: a bundle's variant, a catalog's held-out splits, what segments cost (`rexit.measure`). Out: policy.json, report.json,
report.html and traces.safetensors. The data moves in this order:

    record/     traces       slates -> every exit's log-odds, by the deployed variant
                recording    traces and costs -> a file, and back
    choose/     platt        traces -> a map per exit, so that depths are comparable
                maps         maps that read all heads so far, where they do better on held-out users
                expected     what a ranking is expected to lose, without labels
                evaluate     where candidates stop -> cost, and expected losses
                search       thresholds, patience and rules for slates -> the cheapest within a budget
    goal                     what a policy must keep
    candidates               the search's policies, certified on users who had no part in choosing
    certify                  losses of users -> a guarantee
    plan                     losses of the choosing users -> how many would certify
    watch                    the same users' losses without labels -> the limits that a service watches
    comparison               ways to stop, on the test split
    decide                   choose, certify, compare -> the policy
    probabilities/  prior    sampled negatives -> a shift that makes probabilities those in the population
                reliability  probabilities and labels -> how right they are
    reporting/  verdict      what to do, in words
                content      all of it -> report.json
                plots        report.json -> pictures
                tables       report.json -> tables
                page         all of them -> report.html
    run                      all of it

`metrics` judges rankings for all of them, `options` has what can be chosen.

Needs polars, SciPy, Jinja2 and Matplotlib, which a device that only scores does not have, so the names below are loaded on first
use. No torch. Traces come from the library that runs on the device: what is calibrated is what runs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rexit.calibration.options import CalibrationOptions
    from rexit.calibration.record.traces import Traces
    from rexit.calibration.reporting.verdict import Verdict
    from rexit.calibration.run import Calibration, calibrate

_HOME = {
    "Calibration": "run",
    "CalibrationOptions": "options",
    "Traces": "record.traces",
    "Verdict": "reporting.verdict",
    "calibrate": "run",
}

__all__ = ["Calibration", "CalibrationOptions", "Traces", "Verdict", "calibrate"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
