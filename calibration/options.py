"""The options of a calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rexit.devices import Device
from rexit.measure import CostProfile

METRICS = ("ndcg@10", "user-auc")
"""What a policy must keep by default, since a recommender ranks one user's slate."""


@dataclass(frozen=True)
class CalibrationOptions:
    """The options of a calibration; `rexit calibrate --help` has most of them.

    Attributes:
        metrics: names of the metrics that may not drop by more than `max_drop` against full depth.
        max_drop: the allowed drop of each metric, in its own unit.
        confidence: that no metric drops by more; 0.5 to below 1.
        top_k: how many candidates of a slate users are shown; None: all.
        tail: at most that share of users may lose more, SHARE:LOSS; None: users who lose most are not tested.
        labels: whether a catalog's labels count; False: as if there were none, as in a file of slates without them.
        slate: candidates per slate; None: SIZE, or for a file of slates the size of its largest slate.
        max_slates: the most slates of each split, evenly spaced; 0: all.
        timed_slates: number of slates to time.
        repeats: timings of each, whose median counts.
        device, threads: as for `rexit.open`.
        profile: what segments cost; None: it is measured.
        from_traces: decide on what the last calibration recorded, without running the model.
        negative_rate: the share of the population's negatives in the labels, more than 0 to 1; None: as `rexit index` sampled.
    """

    metrics: Sequence[str] = METRICS
    max_drop: float = 0.01
    confidence: float = 0.95
    top_k: int | None = None
    tail: str | None = None
    labels: bool = True
    slate: int | None = None
    max_slates: int = 5000
    timed_slates: int = 16
    repeats: int = 5
    device: Device | None = None
    threads: int = 0
    profile: CostProfile | None = None
    from_traces: bool = False
    negative_rate: float | None = None
