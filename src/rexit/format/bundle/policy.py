"""When to stop: `policy.json`. The library applies its rules (docs/format/policy.md)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from rexit import __version__, _native
from rexit._native import MAX_INTERCEPT, MAX_SLOPE
from rexit.errors import BundleError
from rexit.format.bundle.files import SCHEMA, read_json, typed, write_json

__all__ = ["FILE", "MAX_INTERCEPT", "MAX_SLOPE", "ExitPolicy", "Policy", "TopK"]

FILE = "policy.json"
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


class _Floor(msgspec.Struct, frozen=True):
    c: float


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
    floor: dict[str, Any] | None = None


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

    prior_shift: what is added to c for a probability; no rule reads it.

    made_on: what its costs were measured on, the JSON of `rexit.upkeep.measure.Conditions` without the variant: device, threads
    and machine; and the number of candidates that slates were cut to, `slate`. None: unknown.

    certificate: what calibration certified, see docs/format/policy.md; no rule reads it. None: nothing.

    floor: the `c` below which a request may leave candidates out, and what it keeps, see docs/format/policy.md. None: there is
    none.
    """

    exits: tuple[ExitPolicy, ...]
    patience: int
    variant_sha256: str
    quorum: int = 0
    top_k: TopK | None = None
    made_on: Mapping[str, Any] | None = None
    prior_shift: float = 0.0
    certificate: Mapping[str, Any] | None = None
    floor: Mapping[str, Any] | None = None

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
        return self._rules().calibrated(np.ascontiguousarray(log_odds, np.float32))

    def probabilities(self, log_odds: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns each exit's 1 / (1 + exp(-(c + prior_shift))), float32 [n, exits], from raw log-odds."""
        return self._rules().probabilities(np.ascontiguousarray(log_odds, np.float32))

    def stops(self, log_odds: NDArray[np.float32], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the exit where each candidate stops, int64 [n].

        Args:
            log_odds: raw log-odds of every exit, float32 [n, exits].
            offsets: where each slate begins, and n: int64 [slates + 1].
        """
        return self._rules().stops(np.ascontiguousarray(log_odds, np.float32), offsets)

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
        return self._rules().exit_range(np.ascontiguousarray(log_odds, np.float32), margin, offsets)

    def _rules(self, where: str = "policy") -> _native.Rules:
        """The library's reading of it. Raises BundleError, with `where` in front, if there is none."""
        return _native.Rules(json.dumps(self._document()).encode(), where, len(self.exits))

    def _document(self) -> dict[str, Any]:
        """policy.json. A threshold that nothing reaches is null; rules that do nothing are left out."""

        def numbers(values: Sequence[float]) -> list[float]:
            return [float(np.float32(x)) for x in values]

        def threshold(x: float) -> float | None:
            return None if x == math.inf else float(np.float32(x))

        exits = [
            {"a": float(np.float32(e.a)), "b": float(np.float32(e.b)), "upper": threshold(e.upper), "lower": threshold(e.lower)}
            | ({"earlier": numbers(e.earlier)} if e.earlier else {})
            | ({"keep": e.keep} if e.keep else {})
            for e in self.exits
        ]
        rule = self.top_k
        return {
            "schema": SCHEMA,
            "producer": f"rexit {__version__}",
            "variant_sha256": self.variant_sha256,
            "patience": self.patience,
            "exits": exits,
            **({"quorum": self.quorum} if self.quorum else {}),
            **({"top_k": {**asdict(rule), "rise": numbers(rule.rise), "fall": numbers(rule.fall)}} if rule else {}),
            **({"prior_shift": float(np.float32(self.prior_shift))} if self.prior_shift else {}),
            **({} if self.made_on is None else {"made_on": self.made_on}),
            **({} if self.certificate is None else {"certificate": self.certificate}),
            **({} if self.floor is None else {"floor": self.floor}),
        }

    @classmethod
    def read(cls, path: Path, exits: int, variant_sha256: str) -> Policy:
        """Raises BundleError, also if the policy was made for another variant."""
        document = read_json(path)
        file = typed(document, _File, str(path))
        if file.made_on is not None:
            typed(file.made_on, _MadeOn, str(path), at="made_on")
        if file.floor is not None:
            typed(file.floor, _Floor, str(path), at="floor")
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
            file.floor,
        )
        if policy.variant_sha256 != variant_sha256:
            raise BundleError(f"{path}: made for another export of this variant: calibrate again")
        _native.Rules(json.dumps(document).encode(), str(path), exits)
        return policy

    def write(self, path: Path) -> None:
        """Raises BundleError for a policy that no reader would accept, InputError if it cannot be written."""
        self._rules(f"{path} (not written)")
        write_json(path, self._document(), flushed=True)
