"""The users' lists, of a bundle that has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from builders.bundles import catalog
from damage.cases import Cases
from damage.edits import CATALOG, USERS, edit_json, edit_table, put

CASES = Cases("searching")
ends_in = CASES.ends_in


@ends_in("OK")
def sound_lists(folder: Path) -> None:
    pass


@ends_in("CORRUPT", "`centres` is missing", "opening")
def no_centres(folder: Path) -> None:
    edit_table(folder, USERS, "centres", lambda array: None)


@ends_in("CORRUPT", "`centres` has shape", "opening")
def centres_of_another_space(folder: Path) -> None:
    edit_table(folder, USERS, "centres", lambda array: array[:, :-1].copy())


@ends_in("CORRUPT", "`list_offsets` has shape", "opening")
def fewer_lists_than_centres(folder: Path) -> None:
    edit_table(folder, USERS, "list_offsets", lambda array: array[:-1])


@ends_in("CORRUPT", "`list_users` has shape", "opening")
def fewer_users_in_lists_than_there_are(folder: Path) -> None:
    edit_table(folder, USERS, "list_users", lambda array: array[:-1])


@ends_in("CORRUPT", "probes: is 0, expected 1 to 65536", "opening")
def a_search_that_looks_at_nothing(folder: Path) -> None:
    edit_json(folder, CATALOG, "embedding", "probes", to=0)


@ends_in("CORRUPT", "probes: is 65537, expected 1 to 65536", "opening")
def a_search_that_looks_at_too_many_lists(folder: Path) -> None:
    edit_json(folder, CATALOG, "embedding", "probes", to=65537)


@ends_in("CORRUPT", "requires: lacks `user-lists`, but `embedding` has probes", "opening")
def lists_not_in_requires(folder: Path) -> None:
    edit_json(folder, CATALOG, "requires", to=[])


@ends_in("CORRUPT", "requires: holds `user-lists`, but `embedding` has no probes", "opening")
def requirement_without_probes(folder: Path) -> None:
    edit_json(folder, CATALOG, "embedding", "probes", to=None)


@ends_in("OK")
def more_probes_than_lists(folder: Path) -> None:
    edit_json(folder, CATALOG, "embedding", "probes", to=65536)


@ends_in("OK")
def no_lists_at_all(folder: Path) -> None:
    """Nobody is similar to anybody then."""
    edit_table(folder, USERS, "centres", lambda array: array[:0])
    edit_table(folder, USERS, "list_offsets", lambda array: array[:1])


@ends_in("CORRUPT", "`centres` of list 2 is not finite")
def centre_that_is_nan(folder: Path) -> None:
    edit_table(folder, USERS, "centres", put(2, np.nan))


@ends_in("CORRUPT", "`embeddings` of user row")
def listed_embeddings_that_are_infinite(folder: Path) -> None:
    edit_table(folder, USERS, "embeddings", lambda array: np.full_like(array, np.inf))


@ends_in("CORRUPT", "`list_offsets`[0] and the next are 0 and 1099511627776")
def list_beyond_the_table(folder: Path) -> None:
    edit_offsets(folder, 1, 1 << 40)


@ends_in("CORRUPT", "`list_offsets`[0] and the next are -1 and")
def list_that_begins_below_zero(folder: Path) -> None:
    edit_offsets(folder, 0, -1)


@ends_in("CORRUPT", "`list_offsets`[")
def lists_that_overlap(folder: Path) -> None:
    """No search looks at more than all users."""
    edit_offsets(folder, slice(1, None, 2), catalog.USERS)


@ends_in("CORRUPT", "`list_users`[")
def listed_users_out_of_range(folder: Path) -> None:
    edit_table(folder, USERS, "list_users", lambda array: np.full_like(array, catalog.USERS))


@ends_in("CORRUPT", "`list_users`[")
def listed_users_below_zero(folder: Path) -> None:
    edit_table(folder, USERS, "list_users", lambda array: np.full_like(array, -1))


@ends_in("CORRUPT", "`list_users`[1] is", "verifying")
def user_in_two_lists(folder: Path) -> None:
    edit_table(folder, USERS, "list_users", lambda array: put(1, array[0])(array))


@ends_in("CORRUPT", "`list_users`[1] is smaller than its predecessor in its list", "verifying")
def users_out_of_order_in_a_list(folder: Path) -> None:
    edit_table(folder, USERS, "list_users", lambda array: put(slice(0, 2), array[1::-1].copy())(array))


@ends_in("CORRUPT", "`list_offsets`[0] is 1, expected 0", "verifying")
def user_before_the_first_list(folder: Path) -> None:
    edit_offsets(folder, 0, 1)


@ends_in("CORRUPT", "`centres`[", "verifying")
def centre_that_is_infinite(folder: Path) -> None:
    edit_table(folder, USERS, "centres", put((3, 1), -np.inf))


def edit_offsets(folder: Path, place: int | slice, value: int) -> None:
    edit_table(folder, USERS, "list_offsets", put(place, value))
