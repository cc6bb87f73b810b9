"""Whether a variant of lower precision still ranks as the float32 model does: its gate, measured at export.

Both chains, float32 and the variant's, run the same real prompts of the validation split in ONNX Runtime, as whole slates behind
their prefixes. The test split is for final figures; nothing is chosen on it.

1. At every exit the log-odds of the two are correlated (Pearson) and subtracted. Two more figures are reported and decide
   nothing: the mean Kullback-Leibler divergence of the variant's answer, yes or no, from float32's, and the share of pairs of
   candidates in a slate that both put in the same order.
2. At every exit both are compared with what the users really liked: the AUC over all pairs, and its change, with the interval of
   a paired bootstrap over users.
3. The gate is the lowest correlation and the largest loss of AUC that the target allows, at every exit. It is passed if the bad
   end of the interval is allowed, failed if even the good end is not. In between it is undecided, and more slates may tell.

The mean AUC within users is reported but decides nothing: two candidates that swap places in a slate of eight move that user's
AUC by 1/16, so with hundreds of users its interval is wider than any loss that is allowed.

    prompts = Prompts.draw(catalog, 400)
    expected = prompts.log_odds(Chain(fp32_folder, segments, max_tokens))          # once for all variants
    seen = prompts.log_odds(Chain(variant_folder, segments, max_tokens))
    quality = assess(prompts, exits, Gate(correlation=0.995, auc_drop=0.001), expected, seen)
    quality.check()                                                                # raises QualityError
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rexit.bundle import Catalog
from rexit.bundle.files import json_values
from rexit.errors import InputError, QualityError
from rexit.exporter.graph.chain import Chain
from rexit.exporter.graph.targets import Gate
from rexit.exporter.prompt.builder import Prompt, PromptBuilder
from rexit.ranking import MIN_USERS, auc, auc_difference, item_biases, user_auc
from rexit.slates import cut, draw

LogOdds = NDArray[np.float32]
"""One chain's log-odds on `Prompts`: [pairs, E]."""

Verdict = Literal["passed", "failed", "undecided"]


@dataclass(frozen=True)
class Prompts:
    """Validation slates with their prompts. For each pair: `users` int64 [pairs], numbered from 0, and `liked` bool [pairs].

    biases float64 [pairs]: of their items, see `rexit.ranking.item_biases`. whole: whether they are the whole split.
    """

    prompts: list[Prompt]
    users: NDArray[np.int64]
    liked: NDArray[np.bool_]
    biases: NDArray[np.float64]
    whole: bool

    @classmethod
    def draw(cls, catalog: Catalog, slates: int) -> Prompts:
        """At most `slates` slates of the validation split (0: all), always the same ones. Raises InputError for an empty
        split."""
        everything = cut(catalog, "validation")
        drawn, builder = draw(everything, slates) if slates else everything, PromptBuilder(catalog)
        users = np.repeat([catalog.users.row(slate.user) for slate in drawn], [len(slate.items) for slate in drawn])
        items, train = np.concatenate([catalog.items.rows(slate.items) for slate in drawn]), catalog.split("train")
        return cls(
            [builder.prompt(slate.user, slate.items, slate.as_of) for slate in drawn],
            np.unique(users.astype(np.int64), return_inverse=True)[1],
            np.concatenate([slate.liked for slate in drawn]),
            item_biases(items.astype(np.int64), train.items, train.liked),
            whole=len(drawn) == len(everything),
        )

    def log_odds(self, chain: Chain, each: Callable[[int], None] | None = None) -> LogOdds:
        """Runs all of them through a chain, as whole slates. `each` is called with the number of slates done."""
        parts = []
        for done, prompt in enumerate(self.prompts, 1):
            parts.append(chain.slate(prompt.prefix, prompt.candidates, liked=prompt.liked))
            if each:
                each(done)
        return np.concatenate(parts)

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def user_count(self) -> int:
        """How many users there are."""
        return int(self.users.max()) + 1

    def shortage(self) -> str | None:
        """Why they cannot show a loss of AUC, whatever the log-odds; None if they can."""
        if self.user_count < MIN_USERS:
            return f"{self.user_count} users are too few to judge a variant by, at least {MIN_USERS} are needed"
        if self.liked.all() or not self.liked.any():
            return f"all {len(self.liked)} pairs are {'liked' if self.liked[0] else 'not liked'}, so there is no AUC"
        return None

    def check(self) -> None:
        """Raises InputError if they cannot tell anything, which should be known before the work."""
        if reason := self.shortage():
            raise InputError(f"{self}: {reason}; {self.remedy}")

    @property
    def remedy(self) -> str:
        """What to do about a shortage, for messages."""
        accept = "--accept-loss writes the variant anyway"
        return f"the split has no more; {accept}" if self.whole else f"ask for more with --quality-slates (0: all); {accept}"

    def __str__(self) -> str:
        return f"{len(self)} validation slates of {self.user_count} users"


@dataclass(frozen=True)
class ExitQuality:
    """One exit against float32. mean, worst: |difference| of log-odds. kl: mean over pairs, in nats. order: share of pairs of
    candidates in a slate, those that float32 tells apart, in float32's order. auc_change: 95 % interval of AUC minus float32's
    AUC, None if the prompts cannot give one. A figure without a value is NaN."""

    layers: int
    correlation: float
    mean: float
    worst: float
    kl: float
    order: float
    auc_fp32: float
    auc: float
    auc_change: tuple[float, float] | None
    user_auc_fp32: float
    user_auc: float

    def verdict(self, gate: Gate) -> Verdict:
        if (gate.correlation is not None and not self.correlation >= gate.correlation) or not math.isfinite(self.worst):
            return "failed"
        if self.auc_change is None or self.auc_change[0] < -gate.auc_drop <= self.auc_change[1]:
            return "undecided"
        return "passed" if self.auc_change[0] >= -gate.auc_drop else "failed"


@dataclass(frozen=True)
class Quality:
    """A variant against float32, and the gate it has to pass."""

    exits: tuple[ExitQuality, ...]
    gate: Gate
    prompts: Prompts

    @property
    def verdict(self) -> Verdict:
        """failed if one exit is, else undecided if one is."""
        found = {row.verdict(self.gate) for row in self.exits}
        return "failed" if "failed" in found else "undecided" if "undecided" in found else "passed"

    def check(self, accept_loss: bool = False) -> None:
        """Raises QualityError for the first exit that failed, else the first undecided one, unless loss is accepted."""
        if (verdict := self.verdict) == "passed" or accept_loss:
            return
        row = next(row for row in self.exits if row.verdict(self.gate) == verdict)
        remedy = "--accept-loss writes it anyway" if verdict == "failed" else self.prompts.remedy
        raise QualityError(f"exit after layer {row.layers}: {self._reason(row)}; not written: {remedy}")

    def _reason(self, row: ExitQuality) -> str:
        if not math.isfinite(row.worst):
            return "log-odds are not all finite (NaN or infinite)"
        if self.gate.correlation is not None and not row.correlation >= self.gate.correlation:
            return (
                f"log-odds correlate {row.correlation:.5f} with float32's, at least {self.gate.correlation:g} is required "
                f"({len(self.prompts.liked)} pairs)"
            )
        if row.auc_change is None:
            return f"{self.prompts} cannot tell whether AUC is lost: {self.prompts.shortage()}"
        low, high = row.auc_change
        seen = (
            f"AUC {row.auc:.4f}, float32 has {row.auc_fp32:.4f}; the change is {low:+.4f} to {high:+.4f} "
            f"(95 % interval over {self.prompts.user_count} users)"
        )
        allowed = f"a loss of at most {self.gate.auc_drop:g} is allowed"
        if row.verdict(self.gate) == "failed":
            return f"{seen}, {allowed}"
        return f"{seen}, too wide to tell: {allowed}"

    def to_json(self) -> dict[str, Any]:
        """`quality` in variant.json. `accepted`: it did not pass the gate and was written on request."""
        return {
            "reference": "fp32",
            "split": "validation",
            "slates": len(self.prompts),
            "users": self.prompts.user_count,
            "pairs": len(self.prompts.liked),
            "gate": asdict(self.gate),
            "verdict": self.verdict,
            "accepted": self.verdict != "passed",
            "exits": [json_values(asdict(row)) for row in self.exits],
        }


def assess(prompts: Prompts, exits: Sequence[int], gate: Gate, expected: LogOdds, seen: LogOdds) -> Quality:
    """The variant's log-odds against those of float32; exits are depths in layers."""
    return Quality(
        tuple(_exit(prompts, depth, expected[:, k], seen[:, k]) for k, depth in enumerate(exits)),
        gate,
        prompts,
    )


def _exit(prompts: Prompts, depth: int, expected: NDArray[np.float32], seen: NDArray[np.float32]) -> ExitQuality:
    users, liked = prompts.users, prompts.liked
    difference = np.abs(expected.astype(np.float64) - seen)
    correlation, mean, worst = _correlation(expected, seen), float(difference.mean()), float(difference.max())
    if not math.isfinite(worst):
        none = math.nan
        return ExitQuality(depth, correlation, mean, worst, none, none, none, none, None, none, none)
    change = None if prompts.shortage() else auc_difference(seen, expected, users, liked)[1:]
    return ExitQuality(
        depth,
        correlation,
        mean,
        worst,
        _divergence(expected, seen),
        _same_order(prompts.prompts, expected, seen),
        auc(expected, liked),
        auc(seen, liked),
        change,
        user_auc(expected, users, liked),
        user_auc(seen, users, liked),
    )


def _divergence(expected: NDArray[np.float32], seen: NDArray[np.float32]) -> float:
    """Mean of KL(p, q) in nats, with p and q the probabilities of yes and no that log-odds stand for."""
    p, q = expected.astype(np.float64), seen.astype(np.float64)
    # log(1 + e^x), from which log-probabilities follow without a logarithm of a rounded 0.
    yes = np.exp(-np.logaddexp(0, -p)) * (np.logaddexp(0, -q) - np.logaddexp(0, -p))
    no = np.exp(-np.logaddexp(0, p)) * (np.logaddexp(0, q) - np.logaddexp(0, p))
    return float((yes + no).mean())


def _same_order(prompts: Sequence[Prompt], expected: NDArray[np.float32], seen: NDArray[np.float32]) -> float:
    """NaN if no slate has two candidates that float32 tells apart."""
    ends = np.cumsum([len(prompt.candidates) for prompt in prompts])[:-1]
    same = pairs = 0
    for exact, other in zip(np.split(expected, ends), np.split(seen, ends), strict=True):
        a, b = np.triu_indices(len(exact), 1)
        order = np.sign(exact[a] - exact[b])
        same += int((np.sign(other[a] - other[b]) == order)[order != 0].sum())
        pairs += int((order != 0).sum())
    return same / pairs if pairs else math.nan


def _correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """NaN if one of them is constant or not finite."""
    with np.errstate(all="ignore"):
        return float(np.corrcoef(a.astype(np.float64), b.astype(np.float64))[0, 1])
