"""Counts of what candidates did at each exit, while serving or on calibration's traces: arrays, and the file of `rexit score
--counters`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from rexit.bundle.files import read_json
from rexit.bundle.typed import typed, write_typed
from rexit.errors import BundleError

BINS = 32
"""Bins of c, 0.5 wide, from -8 to 8. The outer two are open."""


Count = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]


class _Counted(msgspec.Struct, frozen=True):
    """As in JSON."""

    reached: list[Count]
    stopped: list[Count]
    histograms: list[list[Count]]
    cut_short: list[Count] | None = None


class _File(msgspec.Struct, frozen=True):
    variant_sha256: str
    policy_sha256: str | None = None


@dataclass(frozen=True)
class Counters:
    """Numbers of candidates by exit.

    Attributes:
        reached: Candidates that reached the exit, int64 [exits].
        stopped: Candidates that the policy stopped there, int64 [exits].
        cut_short: Candidates that a deadline stopped with an answer from there, int64 [exits].
        histograms: c of the candidates that reached the exit, int64 [exits, 32]; see `BINS`.
    """

    reached: NDArray[np.int64]
    stopped: NDArray[np.int64]
    cut_short: NDArray[np.int64]
    histograms: NDArray[np.int64]

    @classmethod
    def from_json(cls, value: Mapping[str, Any], exits: int, where: str) -> Counters:
        """Reads what `to_json` returns. A missing `cut_short` is 0. Raises BundleError, which begins with `where`."""
        counted = typed(value, _Counted, where)
        cut_short = [0] * exits if counted.cut_short is None else counted.cut_short
        by_exit = {"reached": counted.reached, "stopped": counted.stopped, "cut_short": cut_short}
        lengths = {**{name: len(counts) for name, counts in by_exit.items()}, "histograms": len(counted.histograms)}
        for name, length in lengths.items():
            if length != exits:
                raise BundleError(f"{where}: {name}: has {length} entries, expected one per exit, {exits}")
        for k, row in enumerate(counted.histograms):
            if len(row) != BINS:
                raise BundleError(f"{where}: histograms[{k}]: has {len(row)} counts, expected {BINS}")
        reached, stopped, short = (np.array(counts, np.int64) for counts in by_exit.values())
        histograms = np.array(counted.histograms, np.int64)
        for k in range(exits):
            if histograms[k].sum() != reached[k]:
                raise BundleError(
                    f"{where}: histograms[{k}]: has {histograms[k].sum()} candidates, {reached[k]} reached the exit"
                )
            if stopped[k] + short[k] > reached[k]:
                raise BundleError(
                    f"{where}: stopped[{k}]: more candidates ended at the exit than the {reached[k]} that reached it"
                )
        return cls(reached, stopped, short, histograms)

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {name: getattr(self, name).tolist() for name in ("reached", "stopped", "cut_short", "histograms")}

    @classmethod
    def read(cls, path: Path, exits: int, variant_sha256: str, policy_sha256: str | None = None) -> Counters:
        """Reads a file of counters.

        Args:
            path: The file.
            exits: Number of exits.
            variant_sha256: The variant's digest.
            policy_sha256: The policy's digest; None: any policy.

        Raises:
            BundleError: It is no such file, or counts another variant or policy.
        """
        value = read_json(path)
        head = typed(value, _File, str(path))
        if head.variant_sha256 != variant_sha256:
            raise BundleError(f"{path}: counted with variant {head.variant_sha256[:12]}…, this one is {variant_sha256[:12]}…")
        if (policy := head.policy_sha256) is not None and policy_sha256 is not None and policy != policy_sha256:
            raise BundleError(
                f"{path}: counted with policy {policy[:12]}…, this one is {policy_sha256[:12]}…: it was calibrated since, "
                "count anew"
            )
        return cls.from_json(value, exits, f"{path}")

    def write(self, path: Path, variant_sha256: str, policy_sha256: str | None) -> None:
        """Writes the file, whole or not at all. policy_sha256: None without a policy. Raises InputError if that fails."""
        write_typed(path, {"variant_sha256": variant_sha256, "policy_sha256": policy_sha256, **self.to_json()})


def histogram(c: NDArray[np.float32]) -> NDArray[np.int64]:
    """Returns the histogram of c, with the runtime's bins: int64 [32] from float32 [n]."""
    half = BINS // 2
    bins = np.clip(np.floor(c * np.float32(2)), -half, half - 1).astype(np.int64) + half
    return np.bincount(bins, minlength=BINS)
