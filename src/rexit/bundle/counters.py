"""Counts of what candidates did at each exit, while serving or on calibration's traces: arrays, and the file of `rexit score
--counters`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rexit import __version__
from rexit.bundle.files import SCHEMA, read_json, write_json
from rexit.errors import BundleError

BINS = 32
"""Bins of c, 0.5 wide, from -8 to 8. The outer two are open."""


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
        none = [0] * exits
        reached, stopped, cut_short = (
            _counts(value.get(name, none if name == "cut_short" else None), exits, f"{where} {name}")
            for name in ("reached", "stopped", "cut_short")
        )
        rows = value.get("histograms")
        if not isinstance(rows, list) or len(rows) != exits:
            raise BundleError(f"{where} histograms: expected a list of {exits}, one per exit")
        histograms = np.array([_counts(row, BINS, f"{where} histograms[{k}]") for k, row in enumerate(rows)])
        for k in range(exits):
            if histograms[k].sum() != reached[k]:
                raise BundleError(f"{where} histograms[{k}]: has {histograms[k].sum()} candidates, {reached[k]} reached the exit")
            if stopped[k] + cut_short[k] > reached[k]:
                raise BundleError(
                    f"{where} stopped[{k}]: more candidates ended at the exit than the {reached[k]} that reached it"
                )
        return cls(reached, stopped, cut_short, histograms)

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
        if not isinstance(sha256 := value.get("variant_sha256"), str):
            raise BundleError(f"{path}: is not a file of counters: it has no `variant_sha256`")
        if sha256 != variant_sha256:
            raise BundleError(f"{path}: counted with variant {sha256[:12]}…, this one is {variant_sha256[:12]}…")
        policy = value.get("policy_sha256")
        if policy is not None and policy_sha256 is not None and policy != policy_sha256:
            raise BundleError(
                f"{path}: counted with policy {str(policy)[:12]}…, this one is {policy_sha256[:12]}…: it was calibrated since, "
                "count anew"
            )
        return cls.from_json(value, exits, f"{path}")

    def write(self, path: Path, variant_sha256: str, policy_sha256: str | None) -> None:
        """Writes the file, whole or not at all. policy_sha256: None without a policy. Raises InputError if that fails."""
        head = {"schema": SCHEMA, "requires": [], "producer": f"rexit {__version__}"}
        digests = {"variant_sha256": variant_sha256, "policy_sha256": policy_sha256}
        write_json(path, {**head, **digests, **self.to_json()})


def _counts(value: Any, length: int, where: str) -> NDArray[np.int64]:
    if not isinstance(value, list) or len(value) != length:
        raise BundleError(f"{where}: expected a list of {length} counts")
    for n, count in enumerate(value):
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count < 2**53:
            raise BundleError(f"{where}[{n}]: is {count!r}, expected an integer of 0 or more")
    return np.array(value, np.int64)


def histogram(c: NDArray[np.float32]) -> NDArray[np.int64]:
    """Returns the histogram of c, with the runtime's bins: int64 [32] from float32 [n]."""
    half = BINS // 2
    bins = np.clip(np.floor(c * np.float32(2)), -half, half - 1).astype(np.int64) + half
    return np.bincount(bins, minlength=BINS)
