"""When to stop: `policy.json`. The library applies its rules (docs/format/policy.md)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from rexit import __version__, _native
from rexit.bundle.files import SCHEMA, read_typed, typed, write_json
from rexit.errors import BundleError

FILE = "policy.json"
MAX_SLOPE = MAX_INTERCEPT = 1e9
"""Limits of a Platt map: beyond them, c could overflow float32 for ordinary log-odds."""
MAX_PATIENCE = 1024
MAX_CANDIDATES = 2**31 - 1
"""As many candidates as a request can have."""
MAX_PRIOR_SHIFT = 100.0


Count = Annotated[int, msgspec.Meta(ge=1, lt=2**31)]


@dataclass(frozen=True)
class TopK:
    """Stops candidates whose place in or out of the best `k` of their slate is known; if `ordered`, those in it not before their
    rank is known.

    rise, fall: [exits - 1], how far c may still move up and down from each exit to the last.
    """

    k: int
    ordered: bool
    rise: tuple[float, ...]
    fall: tuple[float, ...]

    def native(self) -> tuple[int, bool, tuple[float, ...], tuple[float, ...]]:
        """As `_native.Rules` takes it."""
        return self.k, self.ordered, self.rise, self.fall


class _Exit(msgspec.Struct, frozen=True):
    a: float
    b: float
    upper: float | None
    lower: float | None
    earlier: tuple[float, ...] | None = None
    keep: Count | None = None


class _Machine(msgspec.Struct, frozen=True):
    architecture: str | None = None
    onnxruntime: str | None = None
    rexit: str | None = None


class _MadeOn(msgspec.Struct, frozen=True):
    """What readers compare of `made_on`."""

    device: str
    threads: Count
    machine: _Machine
    slate: Count = 1


class _File(msgspec.Struct, frozen=True):
    """policy.json. null is a threshold that nothing reaches, and elsewhere a missing key."""

    exits: tuple[_Exit, ...]
    patience: int
    variant_sha256: str
    quorum: int | None = None
    top_k: TopK | None = None
    made_on: dict[str, Any] | None = None
    prior_shift: float | None = None
    certificate: dict[str, Any] | None = None


@dataclass(frozen=True)
class ExitPolicy:
    """One exit: c = a z + b with z the raw log-odds; stops at c >= upper or c <= -lower (inf: never).

    earlier: of exit k, k weights w of the heads before it, which add w_0 z_0 + ... + w_(k-1) z_(k-1) to c; a may then have any
    sign. Empty: c reads the exit's own head alone.

    keep: at most so many candidates of a slate go on after this exit, those with the largest c. 0: all.
    """

    a: float = 1.0
    b: float = 0.0
    upper: float = math.inf
    lower: float = math.inf
    earlier: tuple[float, ...] = ()
    keep: int = 0


@dataclass(frozen=True)
class Policy:
    """The stopping rules of one variant, bound to it by `variant_sha256`.

    After each exit but the last: 1. each candidate by its exit's thresholds and `patience`; 2. `top_k`; 3. all but the best
    `keep` of those that are left; 4. all that are left, if they are at most `quorum` (0: never).
    docs/format/policy.md has the rules.

    prior_shift: what is added to c for a probability, see `probability`; no rule reads it.

    made_on: what its costs were measured on, the JSON of `rexit.measure.Conditions` without the variant: device, threads
    and machine; and the number of candidates that slates were cut to, `slate`. None: unknown.

    certificate: what calibration certified, see docs/format/policy.md; no rule reads it. None: nothing.
    """

    exits: tuple[ExitPolicy, ...]
    patience: int
    variant_sha256: str
    quorum: int = 0
    top_k: TopK | None = None
    made_on: Mapping[str, Any] | None = None
    prior_shift: float = 0.0
    certificate: Mapping[str, Any] | None = None

    @classmethod
    def full_depth(cls, exits: int, variant_sha256: str) -> Policy:
        """Only the last exit stops; log-odds stay as the heads give them."""
        return cls((ExitPolicy(),) * exits, 1, variant_sha256)

    @property
    def stops_early(self) -> bool:
        """Whether any candidate can stop before the last exit."""
        thresholds = (limit for e in self.exits[:-1] for limit in (e.upper, e.lower))
        return self.has_slate_rules or any(limit != math.inf for limit in thresholds)

    @property
    def keep(self) -> tuple[int, ...]:
        """Each exit's `keep`."""
        return tuple(e.keep for e in self.exits)

    @property
    def has_slate_rules(self) -> bool:
        """Whether a candidate may stop because of the others in its slate."""
        return self.quorum > 0 or self.top_k is not None or any(self.keep)

    def calibrated(self, log_odds: NDArray[np.float32]) -> NDArray[np.float32]:
        """c at each exit: float32 [n, exits] from raw log-odds."""
        return self._rules.calibrated(np.ascontiguousarray(log_odds, np.float32))

    def probability(self, c: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns 1 / (1 + exp(-(c + prior_shift))), float32: that of the world, where negatives were sampled. c: float32."""
        with np.errstate(over="ignore"):
            odds = np.exp(-(c.astype(np.float64) + float(np.float32(self.prior_shift))))
        return np.asarray(1.0 / (1.0 + odds), np.float32)

    def stops(self, log_odds: NDArray[np.float32], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the exit where each candidate stops, int64 [n].

        Args:
            log_odds: raw log-odds of every exit, float32 [n, exits].
            offsets: where each slate begins, and n: int64 [slates + 1].
        """
        return self._rules.stops(np.ascontiguousarray(log_odds, np.float32), offsets)

    def exit_range(
        self, log_odds: NDArray[np.float32], margin: float, offsets: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Returns the earliest and the latest exit where each candidate may stop, int64 [n] each, if log-odds are only known to
        within +-margin.

        Two computations of the same trace differ by rounding, so a candidate within rounding of a border has several valid exits.

        1. Earliest and latest: every comparison within the margin is decided for stopping, or against it.
        2. Under rules for whole slates, a candidate that has two exits changes what the others are compared with. From the first
           exit on where one does, every exit is valid for those of its slate that get there.

        Args:
            log_odds: as for `stops`.
            margin: 0 or more, in units of log-odds.
            offsets: int64 [slates + 1].
        """
        return self._rules.exit_range(np.ascontiguousarray(log_odds, np.float32), margin, offsets)

    @property
    def _rules(self) -> _native.Rules:
        reads_earlier = any(e.earlier for e in self.exits)
        earlier = [weight for k, e in enumerate(self.exits) for weight in e.earlier or (0.0,) * k] if reads_earlier else []
        return _native.Rules(
            [(e.a, e.b) for e in self.exits],
            earlier,
            [(e.upper, e.lower) for e in self.exits],
            self.patience,
            [e.keep for e in self.exits],
            self.quorum,
            None if self.top_k is None else self.top_k.native(),
        )

    @classmethod
    def read(cls, path: Path, exits: int, variant_sha256: str) -> Policy:
        """Raises BundleError, also if the policy was made for another variant."""
        file = read_typed(path, _File)
        if file.made_on is not None:
            typed(file.made_on, _MadeOn, str(path), at="made_on")
        policy = cls(
            tuple(
                ExitPolicy(
                    e.a,
                    e.b,
                    math.inf if e.upper is None else e.upper,
                    math.inf if e.lower is None else e.lower,
                    e.earlier or (),
                    e.keep or 0,
                )
                for e in file.exits
            ),
            file.patience,
            file.variant_sha256,
            file.quorum or 0,
            file.top_k,
            file.made_on,
            file.prior_shift or 0.0,
            file.certificate,
        )
        if policy.variant_sha256 != variant_sha256:
            raise BundleError(f"{path}: made for another export of this variant: calibrate again")
        if len(policy.exits) != exits:
            raise BundleError(f"{path}: has {len(policy.exits)} exits, the bundle has {exits}")
        if (problem := policy.problem()) is not None:
            raise BundleError(f"{path}: {problem}")
        return policy

    def problem(self) -> str | None:
        """Why no reader would accept it, e.g. "exits[1] b: is inf, expected -1e+09 to 1e+09"; None if it is valid."""
        largest = float(np.finfo(np.float32).max)
        for k, e in enumerate(self.exits):
            if e.earlier and len(e.earlier) != k:
                return f"exits[{k}] earlier: has {len(e.earlier)} numbers, expected one per earlier exit, {k}"
            for name, weight in (("a", e.a), *((f"earlier[{j}]", weight) for j, weight in enumerate(e.earlier))):
                if e.earlier and not abs(weight) <= MAX_SLOPE:
                    return f"exits[{k}] {name}: is {weight:g}, expected {-MAX_SLOPE:g} to {MAX_SLOPE:g}"
            if not e.earlier and (not 0 < e.a <= MAX_SLOPE or np.float32(e.a) == 0):
                return f"exits[{k}] a: is {e.a:g}, expected more than 0 and at most {MAX_SLOPE:g}"
            if not abs(e.b) <= MAX_INTERCEPT:
                return f"exits[{k}] b: is {e.b:g}, expected {-MAX_INTERCEPT:g} to {MAX_INTERCEPT:g}"
            for side, limit in (("upper", e.upper), ("lower", e.lower)):
                if not abs(limit) <= largest and limit != math.inf:
                    return f"exits[{k}] {side}: is {limit:g}, expected a float32"
            if not 0 <= e.keep <= MAX_CANDIDATES or (e.keep and k + 1 == len(self.exits)):
                return f"exits[{k}] keep: is {e.keep}, expected 1 to {MAX_CANDIDATES}, and none at the last exit"
        if not 1 <= self.patience <= MAX_PATIENCE:
            return f"patience: is {self.patience}, expected 1 to {MAX_PATIENCE}"
        if not 0 <= self.quorum <= MAX_CANDIDATES:
            return f"quorum: is {self.quorum}, expected 0 to {MAX_CANDIDATES}"
        if self.top_k is not None and (problem := self._top_k_problem(self.top_k)) is not None:
            return problem
        if not abs(self.prior_shift) <= MAX_PRIOR_SHIFT:
            return f"prior_shift: is {self.prior_shift:g}, expected {-MAX_PRIOR_SHIFT:g} to {MAX_PRIOR_SHIFT:g}"
        return None

    def _top_k_problem(self, rule: TopK) -> str | None:
        if not 1 <= rule.k <= MAX_CANDIDATES:
            return f"top_k k: is {rule.k}, expected 1 to {MAX_CANDIDATES}"
        largest = float(np.finfo(np.float32).max)
        for name, values in (("rise", rule.rise), ("fall", rule.fall)):
            if len(values) != len(self.exits) - 1:
                return f"top_k {name}: has {len(values)} numbers, expected one per exit but the last, {len(self.exits) - 1}"
            for k, value in enumerate(values):
                if not 0 <= value <= largest:
                    return f"top_k {name}[{k}]: is {value:g}, expected a float32 of 0 or more"
        return None

    def write(self, path: Path) -> None:
        """Raises BundleError for a policy that no reader would accept, InputError if it cannot be written."""
        if (problem := self.problem()) is not None:
            raise BundleError(f"{path}: not written: {problem}")

        def number(x: float) -> float | None:
            return None if math.isinf(x) else float(np.float32(x))

        exits: list[dict[str, Any]] = [
            {"a": number(e.a), "b": number(e.b), "upper": number(e.upper), "lower": number(e.lower)}
            | ({"earlier": [number(weight) for weight in e.earlier]} if e.earlier else {})
            | ({"keep": e.keep} if e.keep else {})
            for e in self.exits
        ]
        rules: dict[str, Any] = {}
        if self.quorum:
            rules["quorum"] = self.quorum
        if (rule := self.top_k) is not None:
            rise, fall = ([number(x) for x in side] for side in (rule.rise, rule.fall))
            rules["top_k"] = {"k": rule.k, "ordered": rule.ordered, "rise": rise, "fall": fall}
        write_json(
            path,
            {
                "schema": SCHEMA,
                "producer": f"rexit {__version__}",
                "variant_sha256": self.variant_sha256,
                "patience": self.patience,
                "exits": exits,
                **rules,
                **({"prior_shift": number(self.prior_shift)} if self.prior_shift else {}),
                **({} if self.made_on is None else {"made_on": self.made_on}),
                **({} if self.certificate is None else {"certificate": self.certificate}),
            },
            flushed=True,
        )
