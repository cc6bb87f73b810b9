"""Whether a variant of lower precision still answers as the float32 model does: its gate, measured at export.

Both chains, float32 and the variant's, run the same real prompts in ONNX Runtime, whole slates behind their prefixes.

1. Validation slates: at every exit the log-odds of the two are correlated (Pearson) and subtracted.
2. Test slates: at every exit the AUC of both, against what the users really liked.
3. The gate is the least correlation and the largest drop of AUC that the target allows; at every exit, or the variant is refused.

    prompts = Prompts.draw(catalog, 200)
    expected = answer(parity.Chain(fp32_folder, segments), prompts, max_tokens)       # once for all variants
    seen = answer(parity.Chain(variant_folder, segments), prompts, max_tokens)
    quality = judge(prompts, exits, Gate(correlation=0.995, auc_drop=0.001), expected, seen)
    quality.check()                                                                    # raises QualityError
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from rexit.bundle import Catalog
from rexit.errors import InputError, QualityError
from rexit.exporter import golden
from rexit.exporter.parity import Chain, chunks
from rexit.exporter.prompts import PromptBuilder

LEAST_PAIRS = 20
"""Fewer pairs than this in a split say nothing about a variant."""

Tokens = NDArray[np.int32]


@dataclass(frozen=True)
class Gate:
    """The least correlation of log-odds with float32 (None: any) and the largest drop of AUC, both at every exit."""

    correlation: float | None
    auc_drop: float


@dataclass(frozen=True)
class LabelledSlate:
    """A slate's prompts, and liked bool [n]: what came of it."""

    prefix: Tokens
    candidates: list[Tokens]
    liked: NDArray[np.bool_]


@dataclass(frozen=True)
class Prompts:
    """Held-out slates with their prompts."""

    validation: list[LabelledSlate]
    test: list[LabelledSlate]

    @classmethod
    def draw(cls, catalog: Catalog, slates: int) -> Prompts:
        """At most `slates` of each split (0: all), always the same ones. Raises InputError where they cannot tell anything."""
        builder = PromptBuilder(catalog)
        drawn = {}
        for name in ("validation", "test"):
            split = catalog.split(name)
            if len(split) == 0:
                raise InputError(f"the catalog's {name} split is empty; a variant of lower precision is judged on it")
            samples = golden.choose(split, slates or len(split))
            drawn[name] = [
                LabelledSlate(prompt.prefix, prompt.candidates, sample.liked)
                for sample in samples
                for prompt in [builder.slate_rows(sample.user, sample.items, as_of=sample.as_of)]
            ]
            if (pairs := sum(len(sample.items) for sample in samples)) < LEAST_PAIRS:
                raise InputError(
                    f"{pairs} pairs of the {name} split are too few to judge a variant by, at least {LEAST_PAIRS} are needed"
                )
        liked = _liked(drawn["test"])
        if liked.all() or not liked.any():
            raise InputError(
                f"the {len(liked)} pairs drawn from the test split are all {'liked' if liked[0] else 'not liked'}: "
                "they have no AUC; draw more slates"
            )
        return cls(drawn["validation"], drawn["test"])

    def __len__(self) -> int:
        return len(self.validation) + len(self.test)


@dataclass(frozen=True)
class Answers:
    """One chain's log-odds on `Prompts`: float32 [pairs, E] each."""

    validation: NDArray[np.float32]
    test: NDArray[np.float32]


@dataclass(frozen=True)
class ExitQuality:
    """One exit against float32. mean, worst: |difference| of log-odds on validation; AUCs on test."""

    layers: int
    correlation: float
    mean: float
    worst: float
    auc_fp32: float
    auc: float

    @property
    def auc_drop(self) -> float:
        return self.auc_fp32 - self.auc


@dataclass(frozen=True)
class Quality:
    """A variant against float32, and the gate it has to pass. Pairs: how many (user, item) were compared."""

    exits: tuple[ExitQuality, ...]
    gate: Gate
    validation_pairs: int
    test_pairs: int

    def failures(self) -> list[str]:
        """One line for each exit and figure that the gate does not let pass, the number that is none among them."""
        found = []
        for row in self.exits:
            if self.gate.correlation is not None and not row.correlation >= self.gate.correlation:
                found.append(
                    f"exit after layer {row.layers}: log-odds correlate {row.correlation:.5f} with float32, "
                    f"at least {self.gate.correlation:g} is required"
                )
            if not row.auc_drop <= self.gate.auc_drop:
                found.append(
                    f"exit after layer {row.layers}: test AUC {row.auc:.4f}, float32 has {row.auc_fp32:.4f}; "
                    f"a drop of {row.auc_drop:.4f}, at most {self.gate.auc_drop:g} is allowed"
                )
        return found

    def check(self, accept_loss: bool = False) -> None:
        """Raises QualityError for the first failure, unless the loss is accepted."""
        if (found := self.failures()) and not accept_loss:
            raise QualityError(f"{found[0]}; nothing was written (--accept-loss writes it all the same)")

    def to_json(self) -> dict[str, Any]:
        """`quality` of variant.json. `accepted`: it does not pass the gate and was written on demand."""
        passed = not self.failures()
        return {
            "reference": "fp32",
            "gate": asdict(self.gate),
            "passed": passed,
            "accepted": not passed,
            "validation_pairs": self.validation_pairs,
            "test_pairs": self.test_pairs,
            "exits": [
                {
                    key: None if isinstance(value, float) and not math.isfinite(value) else value
                    for key, value in asdict(row).items()
                }
                for row in self.exits
            ],
        }


def answer(chain: Chain, prompts: Prompts, max_tokens: int, each: Callable[[int], None] | None = None) -> Answers:
    """All prompts through a chain, as whole slates in chunks of at most `max_tokens`. `each` is told the slates done."""
    done = 0

    def through(slates: Sequence[LabelledSlate]) -> NDArray[np.float32]:
        nonlocal done
        parts = []
        for slate in slates:
            past = chain.prefix(slate.prefix)
            parts += [
                chain.score(slate.candidates[part], len(slate.prefix), past) for part in chunks(slate.candidates, max_tokens)
            ]
            done += 1
            if each:
                each(done)
        return np.concatenate(parts)

    return Answers(through(prompts.validation), through(prompts.test))


def judge(prompts: Prompts, exits: Sequence[int], gate: Gate, expected: Answers, seen: Answers) -> Quality:
    """The variant's answers against those of float32; exits are depths in layers."""
    liked = _liked(prompts.test)
    return Quality(
        tuple(
            ExitQuality(
                depth,
                _correlation(expected.validation[:, k], seen.validation[:, k]),
                *_distance(expected.validation[:, k], seen.validation[:, k]),
                _auc(expected.test[:, k], liked),
                _auc(seen.test[:, k], liked),
            )
            for k, depth in enumerate(exits)
        ),
        gate,
        len(seen.validation),
        len(seen.test),
    )


def _liked(slates: Sequence[LabelledSlate]) -> NDArray[np.bool_]:
    return np.concatenate([slate.liked for slate in slates])


def _correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """NaN where one of them is constant or not finite."""
    with np.errstate(all="ignore"):
        return float(np.corrcoef(a.astype(np.float64), b.astype(np.float64))[0, 1])


def _distance(a: NDArray[np.float32], b: NDArray[np.float32]) -> tuple[float, float]:
    difference = np.abs(a.astype(np.float64) - b.astype(np.float64))
    return float(difference.mean()), float(difference.max())


def _auc(score: NDArray[np.float32], liked: NDArray[np.bool_]) -> float:
    return float(roc_auc_score(liked, score)) if np.isfinite(score).all() else math.nan
