"""Which users choose, and which certify: decided by a user's id alone.

What chooses must not certify. Heads, maps, exits and policies are chosen in several commands, each with limits of its own on
slates and users. A division that depended on the users present would differ between them, so a user's role is a function of the
id: the same in every command, catalog and file of slates, whatever limits and seeds the commands were called with.

1. A user's *place* is the SHA-256 of the id and its type, read as a fraction: from 0 to below 1.
2. A validation user in the first third *chooses*; every other one *certifies*. A user whom a limit leaves out does neither.

A checkpoint and a bundle record the rule by its name, RULE, and calibration refuses any other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from rexit.errors import InputError
from rexit.ids import Id

RULE = "sha256-thirds"
"""The name of this rule in `exits.json` and `manifest.json`."""


def place(user: Id) -> float:
    """Returns a user's place, from 0 to below 1. The string "7" and the integer 7 are two users."""
    kind = "string" if isinstance(user, str) else "integer"
    digest = hashlib.sha256(f"role {kind} {user}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def chooses(user: Id) -> bool:
    """Returns whether a validation user chooses. The others certify."""
    return place(user) < 1 / 3


def choosing(users: Sequence[Id]) -> list[int]:
    """Returns which of the validation users choose, as numbers, by place: a limit on them takes the first.

    Raises:
        InputError: No user chooses, or none certifies.
    """
    numbers = [n for n, user in enumerate(users) if chooses(user)]
    if len(numbers) in (0, len(users)):
        raise InputError(
            f"validation: {len(numbers)} of its {len(users)} users choose by their ids and {len(users) - len(numbers)} certify, "
            "expected at least one of each: more users are needed"
        )
    return sorted(numbers, key=lambda n: place(users[n]))
