"""`golden.safetensors`: real validation slates with their prompts and expected log-odds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from rexit.errors import BundleError
from rexit.format.bundle.files import write_file
from rexit.format.bundle.inputs import Codes

FILE = "golden.safetensors"
_SCORE = "score."


@dataclass(frozen=True)
class GoldenSlate:
    """One slate.

    Attributes:
        user: The user's row in the catalog; None: there is no catalog.
        items: The items' rows, int32 [n]; without a catalog the candidates' numbers.
        as_of: In the catalog's unit of time; None: there is no catalog.
        prefix: Tokens of the prefix, int32 [P].
        candidates: Tokens of each candidate, int32 [T].
        log_odds: Expected log-odds at every exit, float32 [n, E].
        inputs: Codes of the inputs (`rexit.format.bundle.inputs`), in the program's order.
        liked: Rows of the items that the user had liked, which the user's vector is made of. None after reading: the file does
            not have them.
        scores: The first stages' that exit zero reads, float32 [n], NaN where missing, by name.
    """

    user: int | None
    items: NDArray[np.int32]
    as_of: int | None
    prefix: NDArray[np.int32]
    candidates: list[NDArray[np.int32]]
    log_odds: NDArray[np.float32]
    inputs: Sequence[Codes] = ()
    liked: NDArray[np.int64] | None = None
    scores: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True)
class Golden:
    """All golden slates of a variant, in the file's order."""

    slates: list[GoldenSlate]

    @classmethod
    def read(cls, path: Path, exits: int) -> Golden:
        """Reads golden samples of so many exits. Raises BundleError if the arrays do not fit together."""
        try:
            with safe_open(path, "np") as file:
                names = file.keys()
                table: dict[str, NDArray[Any]] = {name: file.get_tensor(name) for name in names}
            slates, prefixes, candidates = (table[f"{name}_offsets"] for name in ("slate", "prefix", "candidate"))
            log_odds = table["log_odds"]
            if has_catalog := "user" in table:
                users, items = table["user"], table["item"]
            else:
                users, items = np.zeros(len(slates) - 1, np.int32), np.zeros(len(log_odds), np.int32)
            _check_offsets(slates, len(users), len(items), "slate_offsets")
            _check_offsets(prefixes, len(users), len(table["prefix_tokens"]), "prefix_offsets")
            _check_offsets(candidates, len(items), len(table["candidate_tokens"]), "candidate_offsets")
            if log_odds.shape != (len(items), exits):
                raise ValueError(f"log_odds is {list(log_odds.shape)}, expected {[len(items), exits]}")
            as_of = table["as_of"].tolist() if has_catalog else [None] * len(users)
            if len(as_of) != len(users):
                raise ValueError(f"as_of has {len(as_of)} entries, expected {len(users)}")
            inputs = table.get("input_offsets", np.zeros(1, np.int64))
            codes = table.get("input_codes", np.empty(0, np.int32))
            per_slate = (len(inputs) - 1) // max(1, len(users))
            _check_offsets(inputs, per_slate * len(users), len(codes), "input_offsets")
            stages = {name.removeprefix(_SCORE): numbers for name, numbers in table.items() if name.startswith(_SCORE)}
            for name, numbers in stages.items():
                if len(numbers) != len(items):
                    raise ValueError(f"{_SCORE}{name} has {len(numbers)} entries, expected {len(items)}")
        except (SafetensorError, OSError, KeyError, ValueError) as exc:
            raise BundleError(f"{path}: not golden samples: {exc}") from exc
        tokens = table["candidate_tokens"]
        read = []
        for g in range(len(users)):
            begin, end = int(slates[g]), int(slates[g + 1])
            read.append(
                GoldenSlate(
                    int(users[g]) if has_catalog else None,
                    items[begin:end] if has_catalog else np.arange(end - begin, dtype=np.int32),
                    as_of[g],
                    table["prefix_tokens"][prefixes[g] : prefixes[g + 1]],
                    [tokens[candidates[c] : candidates[c + 1]] for c in range(begin, end)],
                    log_odds[begin:end],
                    [codes[inputs[n] : inputs[n + 1]] for n in range(g * per_slate, (g + 1) * per_slate)],
                    scores={name: numbers[begin:end] for name, numbers in stages.items()},
                )
            )
        return cls(read)

    def write(self, path: Path) -> None:
        """Writes the file. Raises InputError if it cannot be written."""
        candidates = [candidate for slate in self.slates for candidate in slate.candidates]

        def offsets(sizes: list[int]) -> NDArray[np.int64]:
            return np.array([0, *accumulate(sizes)], np.int64)

        table: dict[str, NDArray[Any]] = {
            "slate_offsets": offsets([len(slate.items) for slate in self.slates]),
            "prefix_offsets": offsets([len(slate.prefix) for slate in self.slates]),
            "prefix_tokens": np.concatenate([slate.prefix for slate in self.slates]).astype(np.int32),
            "candidate_offsets": offsets([len(candidate) for candidate in candidates]),
            "candidate_tokens": np.concatenate(candidates).astype(np.int32),
            "log_odds": np.concatenate([slate.log_odds for slate in self.slates]).astype(np.float32),
        }
        if self.slates[0].user is not None:
            table |= {
                "as_of": np.array([slate.as_of for slate in self.slates], np.int64),
                "user": np.array([slate.user for slate in self.slates], np.int32),
                "item": np.concatenate([slate.items for slate in self.slates]).astype(np.int32),
            }
        for name in self.slates[0].scores:
            table[_SCORE + name] = np.concatenate([slate.scores[name] for slate in self.slates])
        if codes := [part for slate in self.slates for part in slate.inputs]:
            table |= {
                "input_offsets": offsets([len(part) for part in codes]),
                "input_codes": np.concatenate(codes).astype(np.int32),
            }
        write_file(path, save(table))


def _check_offsets(offsets: NDArray[Any], count: int, size: int, name: str) -> None:
    if len(offsets) != count + 1 or offsets[0] != 0 or offsets[-1] != size or (np.diff(offsets) < 0).any():
        raise ValueError(f"{name} does not split {size} entries into {count}")
