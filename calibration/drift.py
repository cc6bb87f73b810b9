"""Whether what a service sees is still what its policy was calibrated on: counters against calibration's own.

Two numbers per exit, over the c of the candidates that reached it: the population stability index (PSI), and the largest
difference between the two cumulative distributions (Kolmogorov-Smirnov's statistic, on the counters' bins). The PSI decides, with
the borders customary in credit scoring (Lewis, "An Introduction to Credit Scoring", 1994): below 0.1 nothing has moved, from 0.25
on the population is another one. Those borders know nothing of sample sizes. Without any drift the PSI of B groups is about
(1/n + 1/m) times a chi-square variable with B - 1 degrees of freedom (Yurdakul and Naranjo, "Statistical properties of the
population stability index", Journal of Risk Model Validation 14(4), 2020), so below some n it exceeds 0.1 by chance: then nothing
is concluded. That takes candidates for independent. Those of one slate share a user, so take the number needed as the least.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rexit.bundle import Bundle, Counters
from rexit.bundle.counters import histogram
from rexit.bundle.files import read_json
from rexit.errors import BundleError

REPORT_FILE = "report.json"

MOVED, DRIFTED = 0.1, 0.25
"""Borders of the PSI."""

GROUP = 0.1
"""Neighbouring bins are joined until they hold this share of the reference: deciles, as is customary, as far as bins allow."""

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class ExitDrift:
    """One exit. reached: candidates counted and in the reference. stopped: the share of those that reached it that ended there,
    counted and in the reference. needed: the least number of candidates to conclude anything; None: no number is enough, since
    the reference itself is too small. verdict: `stable`, `moved`, `drifted` or `too few`. NaN where nobody reached the exit."""

    reached: tuple[int, int]
    stopped: tuple[float, float]
    psi: float
    ks: float
    needed: int | None
    verdict: str


@dataclass(frozen=True)
class Drift:
    """Of all exits that enough candidates reached, the worst verdict; `too few` if the first is not among them. cut_short: the
    share of all candidates that a deadline stopped."""

    exits: tuple[ExitDrift, ...]
    cut_short: float
    verdict: str
    conclusion: str

    def to_json(self) -> dict[str, Any]:
        """Plain values; NaN where nobody reached an exit."""
        return asdict(self)


def reference(c: NDArray[np.float32], stops: Counts) -> dict[str, Any]:
    """What `report.json` keeps of calibration's traces, as JSON values. c: float32 [n, exits], calibrated. stops: int64 [n]."""
    exits = c.shape[1]
    reached = [stops >= k for k in range(exits)]
    return {
        "reached": [int(at.sum()) for at in reached],
        "stopped": np.bincount(stops, minlength=exits).tolist(),
        "histograms": [histogram(c[at, k]).tolist() for k, at in enumerate(reached)],
    }


@dataclass(frozen=True)
class Reference:
    """What calibration saw. slate: the number of candidates that it cut slates to; slates of another size stop elsewhere."""

    counters: Counters
    slate: int


def read_reference(bundle: Bundle) -> Reference:
    """That of the bundle's variant. Raises BundleError if there is none, or it is another variant's."""
    path = bundle.folder / REPORT_FILE
    if not path.exists():
        raise BundleError(f"{path}: missing, there is nothing to compare with: run `rexit calibrate`")
    report = read_json(path)
    if report.get("variant_sha256") != bundle.variant_sha256:
        raise BundleError(f"{path}: made for another variant than this one: calibrate again")
    if not isinstance(found := report.get("reference"), dict):
        raise BundleError(f"{path}: has no `reference` to compare with: calibrate again")
    settings = report.get("settings")
    slate = settings.get("slate") if isinstance(settings, dict) else None
    if isinstance(slate, bool) or not isinstance(slate, int) or slate < 1:
        raise BundleError(f"{path} settings slate: is {slate!r}, expected a number of candidates: calibrate again")
    return Reference(Counters.from_json(found, len(bundle.manifest.exits), f"{path} reference"), slate)


def compare(counted: Counters, expected: Counters) -> Drift:
    """Counters of a service with those of calibration."""
    exits = tuple(_exit(counted, expected, k) for k in range(len(counted.reached)))
    ended = int(counted.reached[0])
    cut_short = float(counted.cut_short.sum() / ended) if ended else math.nan
    verdict = "too few"
    if exits[0].verdict != "too few":
        verdict = max((e.verdict for e in exits if e.verdict != "too few"), key=("stable", "moved", "drifted").index)
    return Drift(exits, cut_short, verdict, _conclusion(exits, verdict))


def _exit(counted: Counters, expected: Counters, k: int) -> ExitDrift:
    seen, usual = counted.histograms[k], expected.histograms[k]
    n, m = int(seen.sum()), int(usual.sum())
    ended = [(x.stopped[k] + x.cut_short[k]) / x.reached[k] if x.reached[k] else math.nan for x in (counted, expected)]
    if m == 0:
        return ExitDrift((n, m), (float(ended[0]), float(ended[1])), math.nan, math.nan, None, "too few")
    groups = _groups(usual)
    psi = _psi(*(np.bincount(groups, x).astype(np.float64) for x in (seen, usual))) if n else math.nan
    ks = float(np.abs(seen.cumsum() / n - usual.cumsum() / m).max()) if n else math.nan
    needed = _needed(int(groups[-1]) + 1, m)
    verdict = "too few" if needed is None or n < needed else _verdict(psi)
    return ExitDrift((n, m), (float(ended[0]), float(ended[1])), psi, ks, needed, verdict)


def _verdict(psi: float) -> str:
    if psi >= DRIFTED:
        return "drifted"
    return "moved" if psi >= MOVED else "stable"


def _groups(usual: Counts) -> Counts:
    """Each bin's group: int64 [bins], ascending from 0. What is left over at the end joins the last group."""
    least, groups, group, held = GROUP * usual.sum(), np.zeros(len(usual), np.int64), 0, 0
    for i, count in enumerate(usual.tolist()):
        groups[i] = group
        held += count
        if held >= least:
            group, held = group + 1, 0
    return np.minimum(groups, max(0, group - 1))


def _psi(seen: NDArray[np.float64], usual: NDArray[np.float64]) -> float:
    """Of counts by group. Half a candidate is added to each, so that an empty group does not make it infinite."""
    p, q = ((x + 0.5) / (x.sum() + 0.5 * len(x)) for x in (seen, usual))
    return float(((p - q) * np.log(p / q)).sum())


def _needed(groups: int, usual: int) -> int | None:
    """How many candidates it takes for the PSI to stay below `MOVED` without drift, 19 times in 20; None: more than any."""
    if groups < 2:
        return 1
    d = groups - 1
    # The chi-square distribution's quantile, by Wilson and Hilferty's approximation.
    quantile = d * (1 - 2 / (9 * d) + 1.6449 * math.sqrt(2 / (9 * d))) ** 3
    left = MOVED / quantile - 1 / usual
    return None if left <= 0 else math.ceil(1 / left)


def _conclusion(exits: tuple[ExitDrift, ...], verdict: str) -> str:
    named = ", ".join(f"exit {k} (PSI {e.psi:.2f})" for k, e in enumerate(exits) if e.verdict == verdict)
    if verdict == "drifted":
        return f"Drift at {named}: candidates are not those the policy was made for. Calibrate again, on recent interactions."
    if verdict == "moved":
        return f"Some drift at {named}: the policy still holds. Count again soon, and calibrate if it grows or stays."
    if verdict == "stable":
        return "No drift: the policy was made for candidates like these."
    first = exits[0]
    if first.needed is None:
        return f"Nothing can be concluded: calibration saw {first.reached[1]} candidates, too few to compare with."
    return f"Nothing can be concluded: {first.reached[0]} candidates were counted at exit 0, at least {first.needed} are needed."
