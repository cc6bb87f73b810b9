"""When to stop: fits a variant's policy on its own traces and checks it on held-out data.

In: a bundle's variant, a catalog's held-out splits, what segments cost (`rexit.measure`). Out: policy.json, report.json and
report.png. The data moves through the modules in this order:

    traces     slates -> every exit's log-odds, by the deployed variant
    platt      traces -> one map per exit, so that depths are comparable
    search     traces, maps, costs -> thresholds and patience
    evaluate   a policy on a split -> AUC, logloss, layers
    decide     traces and costs -> the policy, chosen on validation, checked on test
    plot       the trade-off -> PNG
    report     what was chosen and measured -> JSON and a conclusion
    run        all of it
    drift      counters of a service, held against calibration's own

Needs polars, scikit-learn and matplotlib; no torch. Traces come from the library that runs on the device, so what is
calibrated is what runs.
"""

from rexit.calibration.report import CalibrationOptions
from rexit.calibration.run import Calibration, calibrate
from rexit.calibration.traces import Traces

__all__ = ["Calibration", "CalibrationOptions", "Traces", "calibrate"]
