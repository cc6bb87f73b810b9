"""The gate of a variant of lower precision: does it still rank as the float32 model does? Judged before it is written, with its
golden log-odds and tolerance.

Both chains, float32 and the variant's, run the same prompts of the validation split in ONNX Runtime, as whole slates behind their
prefixes. The test split is reserved for final figures.

1. At every exit the two log-odds are correlated (Pearson) and subtracted.
2. At every exit both are compared with the users' likes: the AUC over all pairs and its change, with the interval of a paired
   bootstrap over users.
3. The gate has the lowest correlation and the largest loss of AUC that the target allows, at every exit. A variant passes if the
   bad end of the interval is allowed, and fails if the good end is not. In between it is undecided; more slates may decide.

The mean AUC within users would decide nothing: two candidates that swap places in a slate of eight change that user's AUC by
1/16, so with hundreds of users its interval is wider than any allowed loss.

    prompts = Prompts.draw(catalog, 400)
    expected = prompts.log_odds(Chain(fp32_folder, segments, max_tokens), "fp32")          # once for all variants
    actual = prompts.log_odds(Chain(variant_folder, segments, max_tokens), "int8")
    quality = assess(prompts, exits, Gate(correlation=0.995, auc_drop=0.001), expected, actual)
    quality.check()                                                                # raises QualityError
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rexit import ranking
from rexit.baselines import doubt_without_labels
from rexit.bundle.files import json_values
from rexit.bundle.golden import GoldenSlate
from rexit.errors import InputError, QualityError
from rexit.exporter.gate import parity
from rexit.exporter.graph.chain import Chain
from rexit.exporter.graph.targets import Gate, Target
from rexit.exporter.prompt.builder import Prompt
from rexit.exporter.source import LabelledPairs, Source, prompt_maker
from rexit.progress import Progress, silent, tracked
from rexit.ranking import MIN_USERS, auc, auc_difference
from rexit.slates import cut, draw

LogOdds = NDArray[np.float32]
"""A chain's log-odds on `Prompts`: [pairs, E]."""

Verdict = Literal["passed", "failed", "undecided"]


@dataclass(frozen=True)
class Prompts:
    """Validation slates with their prompts.

    prompts: one prompt per slate. pairs: their candidates. whole: whether they are the whole split.
    labelled: False: `liked` is drawn from the float32 model's last answer, once that is known (`Judge`).
    """

    prompts: list[Prompt]
    pairs: LabelledPairs
    whole: bool
    labelled: bool = True

    @classmethod
    def draw(cls, source: Source, slates: int) -> Prompts:
        """At most `slates` slates of the validation split (0: all), the same at each call. Raises InputError: an empty split."""
        split = cut(source, "validation")
        sample = draw(split, slates) if slates else split
        return cls(
            list(map(prompt_maker(source), sample)),
            LabelledPairs.of(source, sample),
            whole=len(sample) == len(split),
            labelled=sample[0].labelled,
        )

    def log_odds(self, chain: Chain, precision: str, progress: Progress = silent) -> LogOdds:
        """Runs the slates through a chain. precision: names the stage that `progress` is called with."""
        prompts = tracked(self.prompts, f"validation slates, {precision}", progress)
        return np.concatenate([chain.slate(prompt.prefix, prompt.candidates, liked=prompt.liked) for prompt in prompts])

    def with_labels(self, liked: NDArray[np.bool_]) -> Prompts:
        """The same with other labels, bool [pairs]."""
        return replace(self, pairs=replace(self.pairs, liked=liked))

    def __len__(self) -> int:
        return len(self.prompts)

    def shortage(self) -> str | None:
        """Why the slates cannot show a loss of AUC; None if they can."""
        return None if not self.labelled and self.pairs.user_count >= MIN_USERS else shortage(self.pairs)

    def check(self) -> None:
        """Raises InputError if the slates cannot show a loss of AUC."""
        if reason := self.shortage():
            raise InputError(f"{self}: {reason}; {self.remedy}")

    @property
    def remedy(self) -> str:
        """What to do about a shortage."""
        accept = "--accept-loss writes the variant anyway"
        return f"the split has no more; {accept}" if self.whole else f"ask for more with --quality-slates (0: all); {accept}"

    def __str__(self) -> str:
        return f"{len(self)} validation slates of {self.pairs.user_count} {self.pairs.noun}"


def shortage(pairs: LabelledPairs) -> str | None:
    """Why the pairs cannot show a loss of AUC; None if they can."""
    if pairs.user_count < MIN_USERS:
        return f"{pairs.user_count} {pairs.noun} are too few to judge a variant by, at least {MIN_USERS} are needed"
    if pairs.liked.all() or not pairs.liked.any():
        return f"all {len(pairs.liked)} pairs are {'positive' if pairs.liked[0] else 'negative'}, so there is no AUC"
    return None


@dataclass(frozen=True)
class ExitQuality:
    """An exit of a variant against float32. Figures without a value are NaN.

    layers: depth. correlation: correlation of the log-odds. mean, worst: |difference| of the log-odds.
    auc_change: 95 % interval of AUC minus float32's; None if the slates cannot show it.
    """

    layers: int
    correlation: float
    mean: float
    worst: float
    auc_fp32: float
    auc: float
    auc_change: tuple[float, float] | None

    def verdict(self, gate: Gate) -> Verdict:
        if (gate.correlation is not None and not self.correlation >= gate.correlation) or not math.isfinite(self.worst):
            return "failed"
        if self.auc_change is None or self.auc_change[0] < -gate.auc_drop <= self.auc_change[1]:
            return "undecided"
        return "passed" if self.auc_change[0] >= -gate.auc_drop else "failed"


@dataclass(frozen=True)
class Quality:
    """A variant against float32, and its gate."""

    exits: tuple[ExitQuality, ...]
    gate: Gate
    prompts: Prompts

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of any exit."""
        verdicts = {row.verdict(self.gate) for row in self.exits}
        return "failed" if "failed" in verdicts else "undecided" if "undecided" in verdicts else "passed"

    def check(self, accept_loss: bool = False) -> None:
        """Raises QualityError, which says how every exit does, unless all passed or loss is accepted."""
        if (verdict := self.verdict) == "passed" or accept_loss:
            return
        remedy = "--accept-loss writes it anyway" if verdict == "failed" else self.prompts.remedy
        passed = [row.layers for row in self.exits if row.verdict(self.gate) == "passed"]
        if verdict == "undecided" and passed and passed[-1] == self.exits[-1].layers:
            remedy += f"; --exits {','.join(map(str, passed))} leaves out what is undecided"
        reasons = [f"exit after layer {row.layers}: {self._reason(row)}" for row in self.exits]
        raise QualityError(f"{'; '.join(reasons)}; not written: {remedy}")

    def _reason(self, row: ExitQuality) -> str:
        if row.verdict(self.gate) == "passed":
            return "passes"
        if not math.isfinite(row.worst):
            return "log-odds are not all finite (NaN or infinite)"
        if self.gate.correlation is not None and not row.correlation >= self.gate.correlation:
            return (
                f"log-odds correlate {row.correlation:.5f} with float32's, at least {self.gate.correlation:g} is required "
                f"({len(self.prompts.pairs.liked)} pairs)"
            )
        if row.auc_change is None:
            return f"{self.prompts} cannot tell whether AUC is lost: {shortage(self.prompts.pairs)}"
        low, high = row.auc_change
        figures = (
            f"AUC {row.auc:.4f}, float32 has {row.auc_fp32:.4f}; the change is {low:+.4f} to {high:+.4f} "
            f"(95 % interval over {self.prompts.pairs.user_count} {self.prompts.pairs.noun})"
        )
        allowed = f"a loss of at most {self.gate.auc_drop:g} is allowed"
        if row.verdict(self.gate) == "failed":
            return f"{figures}, {allowed}"
        slack = (low + high) / 2 + self.gate.auc_drop
        half = (high - low) / 2
        users, noun = self.prompts.pairs.user_count, self.prompts.pairs.noun
        more = f"about {float(f'{users * (half / slack) ** 2:.2g}'):,.0f} {noun}" if slack > 0 else f"no number of {noun}"
        return f"{figures}, too wide to tell: {allowed}; {more} would do if the change stayed"

    def to_json(self) -> dict[str, Any]:
        """`quality` of variant.json. `accepted`: the variant did not pass and was written on request."""
        return {
            "reference": "fp32",
            "split": "validation",
            "slates": len(self.prompts),
            "users": self.prompts.pairs.user_count,
            "pairs": len(self.prompts.pairs.liked),
            "labels": "slates" if self.prompts.labelled else "drawn from fp32",
            "gate": asdict(self.gate),
            "verdict": self.verdict,
            "accepted": self.verdict != "passed",
            "exits": [json_values(asdict(row)) for row in self.exits],
        }


def assess(prompts: Prompts, exits: Sequence[int], gate: Gate, expected: LogOdds, actual: LogOdds) -> Quality:
    """Compares a variant with float32.

    Args:
        prompts: the slates that both ran.
        exits: depths in layers.
        gate: the variant's gate.
        expected, actual: float32's and the variant's log-odds, float32 [pairs, E].
    """
    rows = [_exit(prompts.pairs, depth, expected[:, k], actual[:, k]) for k, depth in enumerate(exits)]
    return Quality(tuple(rows), gate, prompts)


def _exit(pairs: LabelledPairs, depth: int, expected: NDArray[np.float32], actual: NDArray[np.float32]) -> ExitQuality:
    difference = np.abs(expected.astype(np.float64) - actual)
    mean, worst = float(difference.mean()), float(difference.max())
    with np.errstate(all="ignore"):  # NaN if one of the two is constant or not finite
        correlation = float(np.corrcoef(expected.astype(np.float64), actual.astype(np.float64))[0, 1])
    if not math.isfinite(worst):
        return ExitQuality(depth, correlation, mean, worst, math.nan, math.nan, None)
    liked, exact, other = pairs.liked, np.ascontiguousarray(expected), np.ascontiguousarray(actual)
    change = None if shortage(pairs) else auc_difference(other, exact, pairs.users, liked)[1:]
    return ExitQuality(depth, correlation, mean, worst, auc(exact, liked), auc(other, liked), change)


_MARGIN = 4
"""The tolerance is this multiple of the largest difference, up to the target's cap: other machines round differently."""


@dataclass(frozen=True)
class Judged:
    """What later runs of a variant are checked against.

    slates: the golden slates with their log-odds. differences: the variant's distance from them at export, by exit and mode.
    tolerance: maximum distance in later runs. quality: `quality` of variant.json; None if the log-odds are PyTorch's.
    """

    slates: list[GoldenSlate]
    differences: list[dict[str, float]]
    tolerance: float
    quality: dict[str, Any] | None


class Judge:
    """Compares variants of lower precision with the float32 graphs, which run once for all variants."""

    def __init__(self, exact: Chain, exits: tuple[int, ...], prompts: Prompts, accept_loss: bool, progress: Progress) -> None:
        """exact: the float32 graphs. exits: depths in layers. accept_loss: as in `ExportOptions`."""
        self._exits, self._prompts, self._accept_loss, self._progress = exits, prompts, accept_loss, progress
        self._expected = prompts.log_odds(exact, "fp32", progress)
        if not prompts.labelled:
            self._prompts = prompts.with_labels(ranking.drawn_labels(np.ascontiguousarray(self._expected[:, -1])))

    def doubt(self) -> str | None:
        """Why the float32 model's ranking may be useless; None without such a reason."""
        score, pairs = np.ascontiguousarray(self._expected[:, -1]), self._prompts.pairs
        if self._prompts.labelled:
            return pairs.doubt(score)
        return doubt_without_labels(score, pairs.baselines, pairs.users, pairs.noun)

    def judge(self, target: Target, chain: Chain, slates: Sequence[GoldenSlate]) -> Judged:
        """Judges a variant.

        A sum that differs in its last bit can round to another integer, and change all later layers. The golden slates are only a
        sample of that, so the tolerance is a multiple of their largest difference. More than the target's cap is an error.

        Args:
            target: a target with a gate.
            chain: the variant's graphs.
            slates: the golden slates.

        Raises:
            ParityError: the ways of running the variant differ by more than the cap.
            QualityError: it fails its gate and loss is not accepted.
        """
        assert target.gate is not None and target.cap is not None
        assessed = assess(
            self._prompts,
            self._exits,
            target.gate,
            self._expected,
            self._prompts.log_odds(chain, target.precision, self._progress),
        )
        assessed.check(self._accept_loss)
        own = [replace(slate, log_odds=chain.slate(slate.prefix, slate.candidates, liked=slate.liked)) for slate in slates]
        differences, _ = parity.compare(chain, own)
        parity.check(differences, self._exits, target.cap, f"{target.variant}'s own for the whole slate")
        worst = max(value for row in differences for value in row.values())
        return Judged(own, differences, min(target.cap, max(target.tolerance, _MARGIN * worst)), assessed.to_json())
