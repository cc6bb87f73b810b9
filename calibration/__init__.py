"""When to stop: chooses a variant's policy on its own traces, certifies it on other users, and says what it is worth.

In: a bundle's variant, a catalog's held-out splits, what segments cost (`rexit.measure`). Out: policy.json, report.json,
report.html and traces.safetensors. The data moves through the modules in this order:

    traces      slates -> every exit's log-odds, by the deployed variant
    recording   traces and costs -> a file, and back
    platt       traces -> one map per exit, so that depths are comparable
    metrics     a ranking -> what it loses against full depth, user by user
    expected    the same without labels, for choosing
    evaluate    where candidates stop -> cost, and what is expected to be lost
    search      thresholds, patience and rules for slates -> the cheapest within a budget
    rivals      other ways to stop, tuned on the same traces
    certify     losses of users who had no say -> a guarantee
    decide      traces and costs -> the policy, and the test split's table
    examples    slates that exit early and late
    report      what was chosen and measured -> JSON and a conclusion
    plots       the report -> pictures
    tables      rows of it -> HTML and CSV
    page        the report -> one HTML page
    run         all of it
    drift       counters of a service, held against calibration's own

Needs polars, scikit-learn, scipy and matplotlib, which a device that only scores does not have: the names below are loaded when
they are first used. No torch. Traces come from the library that runs on the device, so what is calibrated is what runs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rexit.calibration.options import CalibrationOptions
    from rexit.calibration.record.traces import Traces
    from rexit.calibration.run import Calibration, calibrate

_HOME = {"Calibration": "run", "CalibrationOptions": "options", "Traces": "record.traces", "calibrate": "run"}

__all__ = ["Calibration", "CalibrationOptions", "Traces", "calibrate"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
