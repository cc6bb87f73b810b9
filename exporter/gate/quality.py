"""The gate of a variant of lower precision: does it still rank as the float32 model does? Judged before it is written, with its
golden log-odds and tolerance.

Both chains, float32 and the variant's, run the same prompts in ONNX Runtime as whole slates behind their prefixes, by the kernels
that the runtime has. The prompts are of the validation users who choose (`rexit.format.roles`): the gate chooses exits, so those
who certify have no part in it.

1. At every exit the two log-odds are correlated (Pearson) and subtracted.
2. At every exit both are compared with the users' likes: the AUC over all pairs with labels and its change, with the interval of
   a paired bootstrap over users.
3. At every exit both are judged without labels, by all slates: NDCG@10 with float32's last probability as gain, and its change,
   with the same bootstrap. Two candidates that swap places cost what float32 sees between them, so few queries give a narrow
   interval.
4. The gate has the lowest correlation and the largest loss that the target allows. An exit passes if the bad end of the interval
   is allowed, and fails if the good end is not. In between it is undecided. Labels decide if they can; if not, or without them,
   float32's probabilities do.
5. A variant is written without the exits that do not pass; its last exit must.

The mean AUC within users would decide nothing: two candidates that swap places in a slate of eight change that user's AUC by
1/16, so with hundreds of users its interval is wider than any allowed loss.

    prompts = Prompts.draw(catalog, 400)
    expected = prompts.log_odds(Chain(fp32_folder, segments, max_tokens), "fp32")          # once for all variants
    actual = prompts.log_odds(Chain(variant_folder, segments, max_tokens), "int8")
    quality = assess(prompts, exits, Gate(correlation=0.995, drop=0.001), expected, actual)
    quality.check()                                                                # raises QualityError
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rexit.data.baselines import doubt_without_labels
from rexit.data.ranking import MIN_USERS, NDCG_AT, auc, auc_difference, mean_by_user
from rexit.data.slates import cut, draw
from rexit.data.slates_file import SlatesFile
from rexit.errors import InputError, QualityError
from rexit.exporter.gate import parity
from rexit.exporter.graph.chain import Chain
from rexit.exporter.graph.targets import Gate, Target
from rexit.exporter.prompt.builder import Prompt
from rexit.exporter.source import LabelledPairs, Source, prompt_maker
from rexit.format.bundle.files import json_values
from rexit.format.bundle.golden import GoldenSlate
from rexit.format.roles import chooses
from rexit.progress import Progress, silent, tracked
from rexit.upkeep.audit.losses import Loss, SlateLosses

LogOdds = NDArray[np.float32]
"""A chain's log-odds on `Prompts`: [pairs, E]."""

Verdict = Literal["passed", "failed", "undecided"]


@dataclass(frozen=True)
class Prompts:
    """Slates of validation users who choose, with their prompts.

    prompts: one prompt per slate. pairs: their candidates. whole: whether these users have no more.
    labelled: number of slates with labels, which come first; of the others `liked` says nothing.
    """

    prompts: list[Prompt]
    pairs: LabelledPairs
    whole: bool
    labelled: int

    @classmethod
    def draw(cls, source: Source, slates: int) -> Prompts:
        """At most `slates` slates (0: all), the same at each call; unlabelled ones if the labelled are fewer. Raises InputError:
        the validation split is empty, or none of its users chooses."""
        unlabelled = source.unlabelled if isinstance(source, SlatesFile) else ()
        split, rest = ([s for s in part if chooses(s.user)] for part in (cut(source, "validation"), unlabelled))
        if not (split or rest):
            raise InputError(f"{source.path}: no validation user chooses by its id, expected at least one: more users are needed")
        sample = [*draw(split, slates), *draw(rest, max(0, slates - len(split)))] if slates else [*split, *rest]
        return cls(
            list(map(prompt_maker(source), sample)),
            LabelledPairs.of(source, sample),
            whole=len(sample) == len(split) + len(rest),
            labelled=sum(slate.labelled for slate in sample),
        )

    @property
    def known(self) -> LabelledPairs:
        """The pairs with labels."""
        return self.pairs.first(int(self.offsets[self.labelled]))

    def log_odds(self, chain: Chain, precision: str, progress: Progress = silent) -> LogOdds:
        """Runs the slates through a chain. precision: names the stage that `progress` is called with."""
        prompts = tracked(self.prompts, f"validation slates, {precision}", progress)
        return np.concatenate([chain.slate(prompt.prefix, prompt.candidates) for prompt in prompts])

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Where each slate's pairs begin, and their number: int64 [slates + 1]."""
        return np.cumsum([0, *(len(prompt.candidates) for prompt in self.prompts)], dtype=np.int64)

    def check(self) -> None:
        """Raises InputError if the slates are too few to show a loss."""
        if self.pairs.user_count < MIN_USERS:
            few = f"{self.pairs.user_count} {self.pairs.noun} are too few to judge a variant by, at least {MIN_USERS} are needed"
            raise InputError(f"{self}: {few}; {self.remedy}")

    @property
    def remedy(self) -> str:
        """What to do about a shortage."""
        if self.whole:
            return f"no more validation {self.pairs.noun} choose; `rexit export --accept-loss` writes the variant anyway"
        return "ask for more with `rexit export --quality-slates` (0: all); --accept-loss writes the variant anyway"

    def __str__(self) -> str:
        return f"{len(self)} validation slates of {self.pairs.user_count} {self.pairs.noun}"


Interval = tuple[float, float]
"""The ends of a 95 % interval over users."""


def _verdict(change: Interval | None, drop: float) -> Verdict:
    if change is None or change[0] < -drop <= change[1]:
        return "undecided"
    return "passed" if change[0] >= -drop else "failed"


@dataclass(frozen=True)
class ExitQuality:
    """An exit of a variant against float32. Figures without a value are NaN.

    layers: depth. correlation: correlation of the log-odds. mean, worst: |difference| of the log-odds.
    auc_change: AUC minus float32's; None if the slates cannot show it.
    overlap: share of float32's first ten that are the variant's first ten, over slates with more candidates.
    ndcg_change: expected NDCG@10 minus float32's; None if the slates cannot show it.
    """

    layers: int
    correlation: float
    mean: float
    worst: float
    auc_fp32: float
    auc: float
    auc_change: Interval | None
    overlap: float
    ndcg_change: Interval | None

    def verdict(self, gate: Gate) -> Verdict:
        if (gate.correlation is not None and not self.correlation >= gate.correlation) or not math.isfinite(self.worst):
            return "failed"
        by_labels = _verdict(self.auc_change, gate.drop)
        return by_labels if by_labels != "undecided" else _verdict(self.ndcg_change, gate.drop)


@dataclass(frozen=True)
class Quality:
    """A variant against float32, and its gate. left_out: depths that the variant does without, by what kept them from passing."""

    exits: tuple[ExitQuality, ...]
    gate: Gate
    prompts: Prompts
    left_out: Mapping[int, str] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of any exit."""
        verdicts = {row.verdict(self.gate) for row in self.exits}
        return "failed" if "failed" in verdicts else "undecided" if "undecided" in verdicts else "passed"

    def failures(self) -> dict[int, str]:
        """What keeps exits from passing, by depth."""
        return {row.layers: self._reason(row) for row in self.exits if row.verdict(self.gate) != "passed"}

    def dispensable(self) -> dict[int, str]:
        """The failures that a variant without these exits does not have; empty if its last exit does not pass."""
        failures = self.failures()
        return {} if self.exits[-1].layers in failures else failures

    def check(self, accept_loss: bool = False) -> None:
        """Raises QualityError, which says what keeps exits from passing, unless all passed or loss is accepted."""
        if not (failures := self.failures()) or accept_loss:
            return
        remedy = "`rexit export --accept-loss` writes it anyway" if self.verdict == "failed" else self.prompts.remedy
        reasons = "; ".join(f"exit after layer {layers}: {reason}" for layers, reason in failures.items())
        raise QualityError(f"{reasons}; not written: {remedy}")

    def _reason(self, row: ExitQuality) -> str:
        if not math.isfinite(row.worst):
            return "log-odds are not all finite (NaN or infinite)"
        users, noun = self.prompts.pairs.user_count, self.prompts.pairs.noun
        labelled = self.prompts.known.user_count
        allowed = f"a loss of at most {self.gate.drop:g} is allowed"
        if self.gate.correlation is not None and not row.correlation >= self.gate.correlation:
            return (
                f"log-odds correlate {row.correlation:.5f} with float32's, at least {self.gate.correlation:g} is required "
                f"({len(self.prompts.pairs.liked)} pairs)"
            )
        auc = f"AUC {row.auc:.4f}, float32 has {row.auc_fp32:.4f}; the change"
        by_ranking = "by float32's probabilities the change of NDCG@10"
        changes = ((auc, row.auc_change, labelled), (by_ranking, row.ndcg_change, users))
        known = [(name, change, count) for name, change, count in changes if change is not None]
        if not known:
            few = f"{users} {noun} are too few" if users < MIN_USERS else f"float32 ranks the candidates of too few {noun}"
            return f"{self.prompts} cannot tell whether quality is lost: {few}"
        failed = [figure for figure in known if _verdict(figure[1], self.gate.drop) == "failed"]
        figures = "; ".join(
            f"{name} is {low:+.4f} to {high:+.4f} (95 % interval over {count} {noun})"
            for name, (low, high), count in failed[:1] or known
        )
        if failed:
            return f"{figures}, {allowed}"
        needed = [enough for _, change, count in known if (enough := self._users_needed(change, count)) is not None]
        more = f"about {float(f'{min(needed):.2g}'):,.0f} {noun}" if needed else f"no number of {noun}"
        return f"{figures}, too wide to tell: {allowed}; {more} would do if the change stayed"

    def _users_needed(self, change: Interval, users: int) -> float | None:
        """How many users would show a change of the same middle to be allowed; None: it is not. users: how many gave it."""
        low, high = change
        slack = (low + high) / 2 + self.gate.drop
        return users * ((high - low) / 2 / slack) ** 2 if slack > 0 else None

    def to_json(self) -> dict[str, Any]:
        """`quality` of variant.json. `accepted`: the variant did not pass and was written on request."""
        return {
            "reference": "fp32",
            "split": "validation",
            "slates": len(self.prompts),
            "users": self.prompts.pairs.user_count,
            "pairs": len(self.prompts.pairs.liked),
            "labelled": len(self.prompts.known.liked),
            "gate": asdict(self.gate),
            "verdict": self.verdict,
            "accepted": self.verdict != "passed",
            "exits": [json_values(asdict(row)) for row in self.exits],
            "left_out": [{"layers": layers, "reason": reason} for layers, reason in self.left_out.items()],
        }


def assess(prompts: Prompts, exits: Sequence[int], gate: Gate, expected: LogOdds, actual: LogOdds) -> Quality:
    """Compares a variant with float32.

    Args:
        prompts: the slates that both ran.
        exits: depths in layers.
        gate: the variant's gate.
        expected, actual: float32's and the variant's log-odds, float32 [pairs, E].
    """
    losses = SlateLosses(np.ascontiguousarray(expected[:, -1]), prompts.offsets)
    rows = [
        _exit(prompts, losses, depth, *(np.ascontiguousarray(x[:, k]) for x in (expected, actual)))
        for k, depth in enumerate(exits)
    ]
    return Quality(tuple(rows), gate, prompts)


_NDCG, _OVERLAP = Loss("expected-ndcg", NDCG_AT), Loss("top-k-overlap", NDCG_AT)


def _exit(
    prompts: Prompts, losses: SlateLosses, depth: int, expected: NDArray[np.float32], actual: NDArray[np.float32]
) -> ExitQuality:
    """losses: by float32's last answer."""
    pairs, difference = prompts.pairs, np.abs(expected.astype(np.float64) - actual)
    mean, worst = float(difference.mean()), float(difference.max())
    with np.errstate(all="ignore"):  # NaN if one of the two is constant or not finite
        correlation = float(np.corrcoef(expected.astype(np.float64), actual.astype(np.float64))[0, 1])
    if not math.isfinite(worst):
        return ExitQuality(depth, correlation, mean, worst, math.nan, math.nan, None, math.nan, None)
    known = prompts.known
    liked, before, after = known.liked, expected[: len(known.liked)], actual[: len(known.liked)]
    has_auc = bool(liked.any()) and not liked.all()
    changed = losses.of(_NDCG, expected) - losses.of(_NDCG, actual)
    lost = SlateLosses(expected, prompts.offsets).of(_OVERLAP, actual)
    return ExitQuality(
        depth,
        correlation,
        mean,
        worst,
        auc(before, liked) if has_auc else math.nan,
        auc(after, liked) if has_auc else math.nan,
        auc_difference(after, before, known.users, liked)[1:] if has_auc and known.user_count >= MIN_USERS else None,
        1 - float(np.nanmean(lost)) if np.isfinite(lost).any() else math.nan,
        _mean_by_user(changed, pairs.users[prompts.offsets[:-1]]),
    )


def _mean_by_user(values: NDArray[np.float64], users: NDArray[np.int64]) -> Interval | None:
    """The interval of a mean over slates, by resampled users; None if too few have a value. values: NaN: none."""
    known = np.isfinite(values)
    numbers = np.unique(users[known], return_inverse=True)[1]
    return mean_by_user(values[known], numbers)[1:] if numbers.max(initial=-1) + 1 >= MIN_USERS else None


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

    def __init__(self, exact: Chain, exits: tuple[int, ...], prompts: Prompts, progress: Progress) -> None:
        """exact: the float32 graphs. exits: depths in layers."""
        self._exits, self._prompts, self._progress = exits, prompts, progress
        self._expected = prompts.log_odds(exact, "fp32", progress)

    def doubt(self) -> str | None:
        """Why the float32 model's ranking may be useless; None without such a reason."""
        score, pairs, known = np.ascontiguousarray(self._expected[:, -1]), self._prompts.pairs, self._prompts.known
        if len(known.liked):
            return known.doubt(score[: len(known.liked)])
        return doubt_without_labels(score, pairs.baselines, pairs.users, pairs.noun)

    def assess(self, target: Target, chain: Chain, left_out: Mapping[int, str] | None = None) -> Quality:
        """Compares a variant's graphs with float32's.

        Args:
            target: a target with a gate.
            chain: the variant's graphs.
            left_out: depths of exits that they do not have, by the reason.
        """
        assert target.gate is not None
        left_out = left_out or {}
        columns = [k for k, depth in enumerate(self._exits) if depth not in left_out]
        actual = self._prompts.log_odds(chain, target.precision, self._progress)
        exits = [self._exits[k] for k in columns]
        return replace(assess(self._prompts, exits, target.gate, self._expected[:, columns], actual), left_out=left_out)


def judge(target: Target, chain: Chain, deployed: Chain, slates: Sequence[GoldenSlate], quality: Quality) -> Judged:
    """Returns what later runs of a variant of lower precision are checked against.

    A sum that differs in its last bit can round to another integer, and change all later layers. The golden slates are only a
    sample of that, so the tolerance is a multiple of their largest difference: between the ways of running the graphs, and of the
    runtime's kernels from the functions that define them. More than the target's cap is an error.

    Args:
        target: a target with a cap.
        chain: the variant's graphs.
        deployed: the same by the runtime's kernels.
        slates: the golden slates.
        quality: of the variant, which is written.

    Raises:
        ParityError: the ways of running the variant differ by more than the cap.
    """
    assert target.cap is not None
    own = [replace(slate, log_odds=chain.slate(slate.prefix, slate.candidates)) for slate in slates]
    differences, _ = parity.compare(chain, own)
    parity.check(differences, [row.layers for row in quality.exits], target.cap, f"{target.variant}'s own for the whole slate")
    by_kernels, _ = parity.compare(deployed, own)
    parity.check(by_kernels, [row.layers for row in quality.exits], target.cap, f"{target.variant}'s own without kernels")
    tolerance = parity.tolerance([*differences, *by_kernels], target.tolerance)
    return Judged(own, differences, min(target.cap, tolerance), quality.to_json())
