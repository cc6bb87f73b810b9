"""Whether a service still sees what its policy was calibrated on: its counters against calibration's own.

Each exit has two numbers, over the c of the candidates that reached it: the population stability index (PSI), and the largest
difference between the two cumulative distributions (Kolmogorov-Smirnov's statistic, KS, on the counters' bins). The worse of the
two decides. The PSI has the thresholds customary in credit scoring (Lewis, "An Introduction to Credit Scoring", 1994): below 0.1
nothing has moved, from 0.25 on the population is another one. The KS has those of a normal distribution whose mean moves: a shift
by d standard deviations has a PSI of d^2 and a KS of 2 Phi(d / 2) - 1.

Nothing is concluded

1. from few candidates. The thresholds do not depend on sample sizes. Without any drift the PSI of B groups is about (1/n + 1/m)
   times a chi-square variable with B - 1 degrees of freedom (Yurdakul and Naranjo, "Statistical properties of the population
   stability index", Journal of Risk Model Validation 14(4), 2020), and the KS is below sqrt((1/n + 1/m) log(2 / 0.05) / 2) 19
   times in 20, so below some n they exceed their thresholds by chance. This assumes independent candidates. Those of a slate
   share a user, so the number needed is a lower bound;
2. where one bin holds nearly all of the reference: moves within it do not show, moves out of it do.
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
"""Thresholds of the PSI."""

KS_MOVED, KS_DRIFTED = (math.erf(math.sqrt(psi / 8)) for psi in (MOVED, DRIFTED))
"""Thresholds of the KS: 0.126 and 0.197."""

GROUP = 0.1
"""Neighbouring bins are joined until they hold this share of the reference: deciles, as is customary, as far as bins allow. A bin
that alone holds it is a group of its own."""

VERDICTS = ("cannot tell", "stable", "moved", "drifted")

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class ExitDrift:
    """An exit's drift. Numbers are NaN where no candidate reached the exit.

    Attributes:
        reached: candidates that reached it, in the service and in the reference.
        stopped: the share of those that ended there, in the service and in the reference.
        psi, ks: between the two.
        needed: the least number of candidates to conclude anything; None: the reference itself is too small.
        crowded: the share of the reference in its fullest bin.
        verdict: of VERDICTS.
    """

    reached: tuple[int, int]
    stopped: tuple[float, float]
    psi: float
    ks: float
    needed: int | None
    crowded: float
    verdict: str


@dataclass(frozen=True)
class Drift:
    """The drift of all exits.

    Attributes:
        exits: from the first to the last.
        cut_short: the share of all candidates that a deadline stopped.
        verdict: the worst of all exits, but not `stable` if the first exit, which all candidates reach, cannot tell.
        conclusion: what to do, in a sentence.
    """

    exits: tuple[ExitDrift, ...]
    cut_short: float
    verdict: str
    conclusion: str

    def to_json(self) -> dict[str, Any]:
        """Returns plain values; NaN where no candidate reached an exit."""
        return asdict(self)


def reference(c: NDArray[np.float32], stops: Counts) -> dict[str, Any]:
    """Returns the counters of calibration's traces as JSON values, for `report.json`. c: float32 [n, exits]; stops: int64 [n]."""
    exits = c.shape[1]
    reached = [stops >= k for k in range(exits)]
    return {
        "reached": [int(at.sum()) for at in reached],
        "stopped": np.bincount(stops, minlength=exits).tolist(),
        "histograms": [histogram(c[at, k]).tolist() for k, at in enumerate(reached)],
    }


@dataclass(frozen=True)
class Reference:
    """What calibration saw.

    Attributes:
        counters: of its traces.
        slate: candidates per slate; slates of another size stop elsewhere.
    """

    counters: Counters
    slate: int


def read_reference(bundle: Bundle) -> Reference:
    """Returns the reference of the bundle's variant. Raises BundleError if there is none, or it is another variant's."""
    path = bundle.folder / REPORT_FILE
    if not path.exists():
        raise BundleError(f"{path}: missing, there is nothing to compare with: run `rexit calibrate`")
    report = read_json(path)
    if report.get("variant_sha256") != bundle.variant_sha256:
        raise BundleError(f"{path}: made for another variant than this one: calibrate again")
    if not isinstance(counters := report.get("reference"), dict):
        raise BundleError(f"{path}: has no `reference` to compare with: calibrate again")
    settings = report.get("settings")
    slate = settings.get("slate") if isinstance(settings, dict) else None
    if isinstance(slate, bool) or not isinstance(slate, int) or slate < 1:
        raise BundleError(f"{path} settings slate: is {slate!r}, expected a number of candidates: calibrate again")
    return Reference(Counters.from_json(counters, len(bundle.manifest.exits), f"{path} reference"), slate)


def compare(counted: Counters, expected: Counters) -> Drift:
    """Returns the drift of a service's counters from calibration's."""
    exits = tuple(_exit(counted, expected, k) for k in range(len(counted.reached)))
    ended = int(counted.reached[0])
    cut_short = float(counted.cut_short.sum() / ended) if ended else math.nan
    verdict = max((e.verdict for e in exits), key=VERDICTS.index)
    if verdict == "stable":
        verdict = exits[0].verdict
    return Drift(exits, cut_short, verdict, _conclusion(exits, verdict))


def _exit(counted: Counters, expected: Counters, k: int) -> ExitDrift:
    actual, usual = counted.histograms[k], expected.histograms[k]
    n, m = int(actual.sum()), int(usual.sum())
    ended = [(x.stopped[k] + x.cut_short[k]) / x.reached[k] if x.reached[k] else math.nan for x in (counted, expected)]
    if m == 0:
        return ExitDrift((n, m), (float(ended[0]), float(ended[1])), math.nan, math.nan, None, math.nan, "cannot tell")
    groups = _groups(usual)
    grouped = np.bincount(groups, usual).astype(np.float64)
    psi = _psi(np.bincount(groups, actual).astype(np.float64), grouped) if n else math.nan
    ks = float(np.abs(actual.cumsum() / n - usual.cumsum() / m).max()) if n else math.nan
    needed, crowded = _needed(int(np.count_nonzero(grouped)), m), float(usual.max() / m)
    verdict = "cannot tell" if needed is None or n < needed else _verdict(psi, ks, crowded)
    return ExitDrift((n, m), (float(ended[0]), float(ended[1])), psi, ks, needed, crowded, verdict)


def _verdict(psi: float, ks: float, crowded: float) -> str:
    if psi >= DRIFTED or ks >= KS_DRIFTED:
        return "drifted"
    if psi >= MOVED or ks >= KS_MOVED:
        return "moved"
    return "cannot tell" if crowded > 1 - GROUP else "stable"


def _groups(usual: Counts) -> Counts:
    """Each bin's group: int64 [bins], ascending from 0. Next to a bin that is a group of its own, a group may hold less than
    `GROUP`, or nothing: moves there show."""
    least, groups, total = GROUP * usual.sum(), np.zeros(len(usual), np.int64), 0
    for i, count in enumerate(usual.tolist()):
        begins = i > 0 and (total >= least or count >= least)
        groups[i] = groups[i - 1] + 1 if begins else groups[i - 1] if i else 0
        total = count if begins else total + count
    return groups


def _psi(actual: NDArray[np.float64], usual: NDArray[np.float64]) -> float:
    """Of counts by group. Half a candidate of the smaller sample is added to each share, so that an empty group does not make the
    PSI infinite, and a group that is empty in both adds nothing."""
    half = 0.5 / min(actual.sum(), usual.sum())
    p, q = ((x / x.sum() + half) / (1 + half * len(x)) for x in (actual, usual))
    return float(((p - q) * np.log(p / q)).sum())


def _needed(groups: int, usual: int) -> int | None:
    """How many candidates it takes for PSI and KS each to stay below the threshold of `moved` without drift, 19 times in 20;
    None: no number is enough. groups: those that are not empty in the reference."""
    d = max(1, groups - 1)
    # The chi-square distribution's quantile, by Wilson and Hilferty's approximation.
    chi_square = d * (1 - 2 / (9 * d) + 1.6449 * math.sqrt(2 / (9 * d))) ** 3
    rest = min(MOVED / chi_square, KS_MOVED**2 * 2 / math.log(2 / 0.05)) - 1 / usual
    return None if rest <= 0 else math.ceil(1 / rest)


def _conclusion(exits: tuple[ExitDrift, ...], verdict: str) -> str:
    named = ", ".join(f"exit {k} (PSI {e.psi:.2f}, KS {e.ks:.2f})" for k, e in enumerate(exits) if e.verdict == verdict)
    if verdict == "drifted":
        return f"Calibrate again, on recent interactions: drift at {named}, the policy was made for other candidates."
    if verdict == "moved":
        return f"Count again soon: some drift at {named}. The policy still holds; calibrate again if the drift stays or grows."
    if verdict == "stable":
        return "Keep the policy: no drift, it was made for candidates like these."
    first = exits[0]
    if first.needed is None:
        return f"Nothing can be concluded: calibration saw {first.reached[1]} candidates, too few to compare with."
    if first.reached[0] >= first.needed:
        return (
            f"Nothing can be concluded: {first.crowded:.0%} of calibration's candidates are in one bin of c at exit 0, and moves "
            "within it do not show."
        )
    return f"Nothing can be concluded: {first.reached[0]} candidates were counted at exit 0, at least {first.needed} are needed."
