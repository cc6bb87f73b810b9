"""Every exit's log-odds on every pair, from the deployed variant itself; and `traces.safetensors`, which keeps them with the
variant's costs, so that another goal takes seconds and no model."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from rexit.data.ranking import probabilities
from rexit.data.slates import AnySlate, spread
from rexit.errors import BundleError, InputError
from rexit.format import roles
from rexit.format.bundle import write_file
from rexit.format.ids import Id
from rexit.progress import Progress, silent
from rexit.upkeep.measure import CostProfile

if TYPE_CHECKING:
    from rexit.runtime import Session

MAX_SEARCH_PAIRS = 40_000
"""Most pairs of the choosing users."""

QUANTILES = (0.05, 0.5, 0.95, 1.0)
"""Of what requests are like, in `made_on` of policy.json."""
MAX_LENGTHS = 200
"""Most slates whose prompts are measured."""


@dataclass(frozen=True)
class Traces:
    """A split as the variant scores it: n pairs in S slates, E exits.

    Attributes:
        log_odds: raw, float32 [n, E].
        liked: the labels, bool [n].
        users: int64 [n], numbered from 0 in order of appearance.
        offsets: where each slate begins, and n: int64 [S + 1].
        ids: the users' ids, by number.
        known: whether each pair has a label, bool [n]; None: all have. An unknown label is False in `liked`.
        exact: the float32 model's raw log-odds, float32 [n, E], which losses are counted against; None: there is no reference.
    """

    log_odds: NDArray[np.float32]
    liked: NDArray[np.bool_]
    users: NDArray[np.int64]
    offsets: NDArray[np.int64]
    ids: tuple[Id, ...]
    known: NDArray[np.bool_] | None = None
    exact: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.liked)

    @property
    def exits(self) -> int:
        """E, the number of exits."""
        return int(self.log_odds.shape[1])

    @property
    def labelled(self) -> bool:
        """Whether there are labels."""
        return self.known is None or bool(self.known.any())

    @property
    def targets(self) -> NDArray[np.bool_] | NDArray[np.float64]:
        """What maps are fitted to, [n]: the labels, or the probability of the last head where there are none."""
        return self.liked if self.labelled else probabilities(np.ascontiguousarray(self.log_odds[:, -1]))

    @property
    def user_count(self) -> int:
        return len(self.ids)

    def of_users(self, mask: NDArray[np.bool_]) -> Traces:
        """Returns the traces of some users, numbered anew. mask: which users, bool [user_count]."""
        mask = mask[self.users[self.offsets[:-1]]]
        sizes = np.diff(self.offsets)
        pairs = np.repeat(mask, sizes)
        numbers, users = np.unique(self.users[pairs], return_inverse=True)
        parts: dict[str, Any] = {
            name: None if (value := getattr(self, name)) is None else value[pairs]
            for name in ("log_odds", "liked", "known", "exact")
        }
        return replace(
            self,
            **parts,
            users=users.astype(np.int64),
            offsets=np.concatenate(([0], np.cumsum(sizes[mask]))).astype(np.int64),
            ids=tuple(self.ids[n] for n in numbers.tolist()),
        )


def request_quantiles(session: Session, slates: Sequence[AnySlate]) -> dict[str, list[int]]:
    """Returns QUANTILES of `candidates` of a slate, `prefix_tokens` of its prompt and `candidate_tokens` of a candidate: what a
    service's requests should be like. Lengths are those of at most MAX_LENGTHS slates."""
    prefixes: list[int] = []
    candidates: list[int] = []
    for slate in spread(slates, MAX_LENGTHS):
        prefix, behind = session.prompt(slate.request)
        prefixes.append(len(prefix))
        candidates += map(len, behind)
    values = {"candidates": [len(slate.items) for slate in slates], "prefix_tokens": prefixes, "candidate_tokens": candidates}
    return {name: np.quantile(part, QUANTILES, method="higher").astype(int).tolist() for name, part in values.items()}


def split_users(traces: Traces) -> tuple[Traces, Traces]:
    """Returns the traces of the users who choose a policy, and those of the users who certify it, see `rexit.format.roles`.

    The first choosing users choose, by place, as many as have MAX_SEARCH_PAIRS pairs. More would make the search slow and the
    choice no better. Those beyond neither choose nor certify: they may have chosen the heads.

    Raises:
        InputError: no user chooses or none certifies, or a part whose labels are all the same.
    """
    choosing = np.array(roles.choosing(traces.ids))
    pairs = np.bincount(traces.users)[choosing]
    count = max(1, int(np.searchsorted(np.cumsum(pairs), MAX_SEARCH_PAIRS, "right")))
    parts = []
    certifying = np.setdiff1d(np.arange(traces.user_count), choosing)
    for numbers in (choosing[:count], certifying):
        mask = np.zeros(traces.user_count, np.bool_)
        mask[numbers] = True
        parts.append(traces.of_users(mask))
    for part in parts:
        if part.labelled and (part.liked.all() or not part.liked.any()):
            kind = "liked" if part.liked[0] else "not liked"
            raise InputError(f"validation: all {len(part)} pairs of one part of the users are {kind}, expected both kinds")
    return parts[0], parts[1]


def collect(
    session: Session, slates: Sequence[AnySlate], step: str = "traces", progress: Progress = silent
) -> NDArray[np.float32]:
    """Returns the raw log-odds of all slates at every exit, float32 [n, E].

    Args:
        session: a session of the deployed variant.
        slates: in the order of the result.
        step: its name for `progress`.

    Raises:
        InputError: if a log-odds is not finite.
    """
    parts = []
    for n, slate in enumerate(slates):
        progress(step, n, len(slates))
        part = session.trace(slate.request)
        if not np.isfinite(part).all():
            raise InputError(f"user {slate.user!r}: the variant's log-odds are not finite; run `rexit verify`")
        parts.append(part)
    progress(step, len(slates), len(slates))
    return np.concatenate(parts).astype(np.float32, copy=False)


def join(
    slates: Sequence[AnySlate], log_odds: NDArray[np.float32], name: str = "traces", exact: NDArray[np.float32] | None = None
) -> Traces:
    """Returns slates and their log-odds as traces.

    Args:
        slates: S of them, with their labels.
        log_odds: raw, float32 [n, E], in the order of the slates.
        name: the split's, for messages.
        exact: as in `Traces`.

    Raises:
        InputError: if all labels are the same, so that nothing can be ranked.
    """
    liked, known = np.concatenate([slate.liked for slate in slates]), None
    if not all(slate.labelled for slate in slates):
        known = np.concatenate([np.full(len(slate.liked), slate.labelled) for slate in slates])
    if known is None and (liked.all() or not liked.any()):
        raise InputError(f"{name}: all {len(liked)} interactions are {'liked' if liked[0] else 'not liked'}, expected both kinds")
    numbers: dict[Id, int] = {}
    users = [numbers.setdefault(slate.user, len(numbers)) for slate in slates]
    sizes = [len(slate.items) for slate in slates]
    offsets = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    return Traces(log_odds, liked, np.repeat(np.array(users, np.int64), sizes), offsets, tuple(numbers), known, exact)


TRACES_FILE = "traces.safetensors"

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
        requests: QUANTILES of the slates' sizes and lengths, see `request_quantiles`.
    """

    log_odds: Mapping[str, NDArray[np.float32]]
    profile: CostProfile
    prefix_tokens: float
    candidate_tokens: float
    made_of: Mapping[str, Any]
    requests: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Writes the file, whole or not at all. Raises InputError if it cannot be written."""
        about = {
            "made_of": dict(self.made_of),
            "profile": self.profile.to_json(),
            "prefix_tokens": self.prefix_tokens,
            "candidate_tokens": self.candidate_tokens,
            "requests": dict(self.requests),
        }
        write_sealed(path, json.dumps(about), {f"{name}.log_odds": z for name, z in self.log_odds.items()})

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
        text, tensors = read_sealed(path)
        try:
            about = json.loads(text)
            log_odds = {name: tensors[f"{name}.log_odds"] for name in pairs}
            recorded = dict(about["made_of"])
            numbers = float(about["prefix_tokens"]), float(about["candidate_tokens"])
            requests = {name: list(map(int, values)) for name, values in dict(about["requests"]).items()}
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
        return cls(log_odds, CostProfile.of_json(about["profile"], path, exits), *numbers, recorded, requests)


def recorded_test_slates(path: Path) -> int:
    """Returns the limit that a recording's test slates were cut by; 0 of what is none: `Recording.read` says why."""
    with contextlib.suppress(BundleError, KeyError, TypeError, ValueError, RecursionError):
        return int(json.loads(read_sealed(path)[0])["made_of"]["test_slates"])
    return 0


def check_recording(path: Path) -> None:
    """Raises BundleError if the recording has changed since it was written."""
    read_sealed(path)


def write_sealed(path: Path, text: str, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Writes tensors and a text with their digest, atomically. Raises InputError if the file cannot be written."""
    write_file(path, save(dict(tensors), {"rexit": text, "sha256": _sha256(text, tensors)}))


def read_sealed(path: Path) -> tuple[str, dict[str, NDArray[Any]]]:
    """Returns the file's metadata as JSON text, and its tensors. Raises BundleError, also if a byte has changed."""
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
