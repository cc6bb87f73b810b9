"""Which users fit, choose, certify and test: decided by a user's id alone, once for all commands.

What chooses must not certify. Heads, maps, exits (by an export's gate, too) and policies are fitted and chosen in several
commands, each with limits of its own on slates and users, on catalogs and files that grow. So a user's role does not depend on
who else is present:

1. A user's *place* is the SHA-256 of the id and its type, read as a fraction: from 0 to below 1.
2. Places have roles, in the same order everywhere:

       0        fit        FIT    choose    CHOOSE        certify        CERTIFY        test        1

   A file of slates gives each group its split by them, validation to those who choose and those who certify. In a log of a
   bundle with a catalog nobody fits, so the first two choose. A catalog splits by time instead: everybody fits on training, and
   of the validation users the first two choose, the others certify. So nobody who certifies anywhere chooses anywhere, or fits
   on a file.
3. A file whose column `split` names them otherwise has roles of its own: they hold for files with the same groups and splits.

`rexit index` writes the roles into the catalog, whoever fits or chooses into the checkpoint, an export into the bundle. A
command that is given users of other roles than those recorded refuses (`Roles.check`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rexit.errors import InputError
from rexit.format.ids import Id

RULE = "sha256-places"
"""The name of these places in `catalog.json`, `exits.json` and `manifest.json`."""

FIT, CHOOSE, CERTIFY = 0.2, 1 / 3, 0.6
"""Where each role ends."""


@dataclass(frozen=True)
class Roles:
    """The roles of a source's users. rule: RULE, or that of a file's own column, `column-DIGEST`."""

    rule: str = RULE

    @classmethod
    def of_column(cls, split_of: Mapping[Id, str]) -> Roles:
        """Returns the roles of a file's own column. split_of: each group's split."""
        lines = sorted(f"{type(group).__name__} {group}\0{split}\n" for group, split in split_of.items())
        return cls("column-" + hashlib.sha256("".join(lines).encode("utf-8", "surrogatepass")).hexdigest()[:16])

    def check(self, path: Path, recorded: str | None, recorder: Path) -> None:
        """Raises InputError if others are recorded. path: the source. recorded: the rule; None: nobody fitted or chose."""
        if recorded not in (None, self.rule):
            raise InputError(
                f"{path}: the roles of its users are {self.rule!r}, {recorder} was made with {recorded!r}: who fitted or chose "
                "there could certify here; use that source, or make it again from this one"
            )


def place(user: Id) -> float:
    """Returns a user's place, from 0 to below 1. The string "7" and the integer 7 are two users."""
    kind = "string" if isinstance(user, str) else "integer"
    digest = hashlib.sha256(f"role {kind} {user}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def split_of(group: Id, fits: bool = True) -> str:
    """Returns the split of a group of a file. fits: whether the file has a training split, whose slates fit."""
    at = place(group)
    return "train" if fits and at < FIT else "validation" if at < CERTIFY else "test"


def chooses(user: Id) -> bool:
    """Returns whether a validation user chooses. The others certify."""
    return place(user) < CHOOSE


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
