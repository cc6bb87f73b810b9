"""When to stop: fits a variant's policy on its own traces, and checks it on data it has not seen.

The data moves through the modules in this order:

    slates     held-out interactions -> the slates a recommender would have served
    traces     slates -> every exit's log-odds, by the deployed variant
    profile    slates -> what each segment costs on this machine, by tokens
    costs      a profile -> what a slate costs, by where its candidates stop
    platt      traces -> one map per exit, so that depths are comparable
    search     traces, maps, costs -> thresholds and patience
    evaluate   a policy on a split -> AUC, logloss, layers; intervals
    decide     traces and costs -> the policy, chosen on validation, checked on test
    plot       the trade-off -> PNG
    report     what was chosen and measured -> JSON and one sentence
    run        all of it -> policy.json, report.json, report.png

Beside it: machine (what a time holds for); for `rexit bench`, bench (latencies, throughput, memory) over load (many requests at
once).

Importing it loads nothing but NumPy, which is all that `rexit bench` has; calibrating needs polars, scikit-learn and matplotlib.
No torch. The trace comes from the same library that runs on the device, so what
is calibrated is what runs.
"""

from rexit.calibration.costs import Costs
from rexit.calibration.machine import Conditions
from rexit.calibration.profile import Profile
from rexit.calibration.report import Settings
from rexit.calibration.run import Calibration, calibrate
from rexit.calibration.slates import Slate, slates
from rexit.calibration.traces import Scorer, Traces

__all__ = ["Calibration", "Conditions", "Costs", "Profile", "Scorer", "Settings", "Slate", "Traces", "calibrate", "slates"]
