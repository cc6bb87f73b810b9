"""Reads interactions from a catalog's tables, as of a moment."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rexit.bundle.catalog import Catalog
from rexit.exporter.catalog.tables import slices

Rows = NDArray[np.int64]


class Histories:
    """The users' histories and the items' interactions. as_of: only interactions before this time are visible; None: all."""

    def __init__(self, catalog: Catalog) -> None:
        self._users, self._items = catalog.user_table, catalog.item_table
        self._item_count = len(catalog.items)

    def visible(self, user: int, as_of: int | None) -> slice:
        """The visible part of a user's history, as a slice of the `history_*` tensors."""
        begin, end = self._users["history_offsets"][user : user + 2]
        if as_of is not None:
            end = begin + np.searchsorted(self._users["history_times"][begin:end], as_of)
        return slice(int(begin), int(end))

    def ratings(self, item: int, as_of: int | None) -> tuple[int, int]:
        """The numbers of an item's visible interactions, and of likes among them."""
        begin, end = (int(edge) for edge in self._items["rating_offsets"][item : item + 2])
        n = end - begin if as_of is None else int(np.searchsorted(self._items["rating_times"][begin:end], as_of))
        return n, int(self._items["rating_likes"][begin + n - 1]) if n else 0

    def likes_of(self, users: Rows, excluded_items: Rows, limit: int, as_of: int | None) -> Rows:
        """Items that the users liked, at most `limit`: of each user the latest, equally many, each item once.

        Args:
            users: int64 [n], rows; their order is that of the result.
            excluded_items: rows of items to leave out.
            limit: most items.
            as_of: see the class.

        Returns:
            Rows of items, int64.
        """
        if not len(users):
            return np.empty(0, np.int64)
        excluded: set[int] = set(excluded_items.tolist())
        items: list[int] = []
        per_user = -(-limit // len(users))
        for user in users:
            visible = self.visible(int(user), as_of)
            likes = self._users["history_items"][visible][self._users["history_liked"][visible] > 0][::-1]
            new = 0
            for item in likes.tolist():
                if new == per_user or len(items) == limit:
                    break
                if item not in excluded:
                    excluded.add(item)
                    items.append(item)
                    new += 1
        return np.array(items, np.int64)

    def verdicts(self, users: Rows, targets: Rows, as_of: int | None) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Whether each user has rated each target, and liked it: both bool [targets, users]."""
        starts = self._users["history_offsets"][users]
        place, entry = slices(starts, self._users["history_offsets"][users + 1])
        if not len(entry):
            unrated = np.zeros((len(targets), len(users)), np.bool_)
            return unrated, unrated
        by_item = starts[place] + self._users["history_by_item"][entry]
        # Pairs of a place in `users` and an item, ascending.
        known = place * self._item_count + self._users["history_items"][by_item]
        pairs = np.arange(len(users)) * self._item_count + targets[:, None]
        begin, last = np.searchsorted(known, pairs), np.searchsorted(known, pairs, "right") - 1
        if as_of is not None:
            while (late := (last >= begin) & (self._users["history_times"][by_item[last]] >= as_of)).any():
                last[late] -= 1
        return last >= begin, self._users["history_liked"][by_item[last]] > 0
