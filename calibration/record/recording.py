"""`traces.safetensors`: a variant's log-odds and costs, kept so that another goal takes seconds and no model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from rexit.bundle import write_file
from rexit.errors import BundleError
from rexit.measure import CostProfile

FILE = "traces.safetensors"

FILES = {"variant_sha256": "variant", "catalog_sha256": "catalog", "slates_sha256": "file of slates"}
"""Files that a recording was made of, by the key of their digest."""


@dataclass(frozen=True)
class Recording:
    """What calibration observed of a variant.

    Attributes:
        log_odds: raw, by split, float32 [n, E] in the order of its slates.
        profile: what segments cost.
        prefix_tokens, candidate_tokens: mean tokens of a slate's prefix, and of a single candidate.
        made_of: the variant, the catalog and how slates were cut; other values need another recording.
    """

    log_odds: Mapping[str, NDArray[np.float32]]
    profile: CostProfile
    prefix_tokens: float
    candidate_tokens: float
    made_of: Mapping[str, Any]

    def write(self, path: Path) -> None:
        """Writes the file, whole or not at all. Raises InputError if it cannot be written."""
        about = {
            "made_of": dict(self.made_of),
            "profile": self.profile.to_json(),
            "prefix_tokens": self.prefix_tokens,
            "candidate_tokens": self.candidate_tokens,
        }
        tensors, text = {f"{name}.log_odds": z for name, z in self.log_odds.items()}, json.dumps(about)
        write_file(path, save(tensors, {"rexit": text, "sha256": _sha256(text, tensors)}))

    @classmethod
    def read(cls, path: Path, exits: int, made_of: Mapping[str, Any], pairs: Mapping[str, int]) -> Recording:
        """Returns what the file holds.

        Args:
            path: the file.
            exits: the variant's E.
            made_of: what the recording must have been made of.
            pairs: n of each split.

        Raises:
            BundleError: if the file is missing or damaged, or was made of something else.
        """
        if not path.is_file():
            raise BundleError(f"{path}: no such file: run `rexit calibrate` without --from-traces first")
        text, tensors = _whole(path)
        try:
            about = json.loads(text)
            log_odds = {name: tensors[f"{name}.log_odds"] for name in pairs}
            recorded = dict(about["made_of"])
            numbers = float(about["prefix_tokens"]), float(about["candidate_tokens"])
        except (KeyError, TypeError, ValueError, RecursionError) as exc:
            raise BundleError(f"{path}: not a recording of traces: {exc}") from exc
        for name, expected in made_of.items():
            if (value := recorded.get(name)) != expected:
                raise BundleError(f"{path}: {_difference(name, value, expected)} run `rexit calibrate` without --from-traces")
        for name, count in pairs.items():
            z = log_odds[name]
            if z.dtype != np.float32 or z.shape != (count, exits) or not np.isfinite(z).all():
                raise BundleError(f"{path}: {name}: is {z.dtype} {list(z.shape)}, expected finite float32 {[count, exits]}")
        prefix, candidate = numbers
        if not (np.isfinite(numbers).all() and prefix >= 0 and candidate > 0):  # an encoder has no prefix
            raise BundleError(f"{path}: has {numbers[0]:g} and {numbers[1]:g} tokens per prefix and candidate, expected some")
        return cls(log_odds, CostProfile.of_json(about["profile"], path, exits), *numbers, recorded)


def check(path: Path) -> None:
    """Raises BundleError if the recording has changed since it was written."""
    _whole(path)


def _whole(path: Path) -> tuple[str, dict[str, NDArray[Any]]]:
    """The file's metadata as JSON text, and its tensors. Raises BundleError, also if a byte has changed."""
    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata()
            text, expected = metadata["rexit"], metadata["sha256"]
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is not a mapping
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as exc:
        raise BundleError(f"{path}: not a recording of traces: {exc}") from exc
    if (digest := _sha256(text, tensors)) != expected:
        raise BundleError(
            f"{path}: its SHA-256 is {_abbreviated(digest)}, expected {_abbreviated(expected)}: run `rexit calibrate` again"
        )
    return text, tensors


def _sha256(text: str, tensors: Mapping[str, NDArray[Any]]) -> str:
    """The digest of the metadata's text and of the tensors with their names, types and shapes."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode() + tensor.tobytes())
    return digest.hexdigest()


def _difference(name: str, recorded: Any, expected: Any) -> str:
    """What a recording was made of instead, and what may be done besides a new recording."""
    if name in FILES:
        return f"recorded with another {FILES[name]}:"
    if name == "slate":
        return f"recorded with slates of at most {recorded}, now it is {expected}: give --slate {recorded}, or"
    return f"recorded with {name} {recorded}, expected {expected}:"


def _abbreviated(value: Any) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text
