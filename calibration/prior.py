"""What share of the world's negatives the data has, so that a probability can be one of the world.

A model learns the odds of its data. Where only a share r of the negatives is in it, they are 1 / r times those of the world, and
log r in log-odds sets them right (King and Zeng, Political Analysis 2001; He et al., ADKDD 2014, for clicks). c stays that of the
data: the shift is the same for all candidates and exits, so no ranking moves, and no rule for stopping reads it.

1. `--negative-rate R`: r is R.
2. A catalog of `rexit index --implicit`: the world has a negative for each item that a user had not met by the end of the
   validation split, at each of the user's interactions.
3. A catalog of `rexit index --unrated N`: the world has the dislikes, all of which are there, and each unrated item once, of
   which a share is. They were sampled by popularity, so r is right on average, not for each item.
4. Otherwise r is 1.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from rexit.bundle import Catalog
from rexit.errors import InputError
from rexit.slates_file import SlatesFile


def check(rate: float | None) -> None:
    """Raises InputError for a rate that is no share."""
    if rate is not None and not 0 < rate <= 1:
        raise InputError(f"negative rate {rate:g}, expected more than 0 and at most 1")


def shift(rate: float) -> float:
    """Returns log r, a float32."""
    return float(np.float32(math.log(rate)))


def negative_rate(source: Catalog | SlatesFile) -> float:
    """Returns r of a source whose own sampling is known, 1 of any other."""
    label = {} if isinstance(source, SlatesFile) else source.info.get("label", {})
    if isinstance(source, SlatesFile) or not ("sampled" in label or "unrated" in label):
        return 1.0
    splits = {name: source.split(name) for name in ("train", "validation", "test")}
    validation, users = splits["validation"], len(source.users)
    if "sampled" in label:
        met = [(part.users[part.liked], part.items[part.liked]) for part in (splits["train"], validation)]
        unmet = len(source.items) - _distinct(met, len(source.items), users)
        world = float(unmet[validation.users[validation.liked]].sum())
        return min(1.0, float(np.count_nonzero(~validation.liked)) / world) if world else 1.0
    per_like = int(label["unrated"]["each"])
    likes = np.sum([np.bincount(part.users[part.liked], minlength=users) for part in splits.values()], axis=0)
    rows = np.sum([np.bincount(part.users, minlength=users) for part in splits.values()], axis=0)
    items = len(np.unique(np.concatenate([part.items for part in splits.values()])))
    # A user's unrated items were sampled without repetition, `per_like` for a like, as far as there were so many.
    sampled = np.minimum(per_like * likes, np.maximum(rows - likes, 0))
    pool = np.maximum(items - (rows - sampled), sampled)
    of_user = np.divide(sampled, pool, out=np.ones(users), where=pool > 0)
    negatives = np.bincount(validation.users[~validation.liked], minlength=users)
    here = np.minimum(per_like * np.bincount(validation.users[validation.liked], minlength=users), negatives)
    world = float((negatives - here).sum() + np.divide(here, of_user, out=np.zeros(users), where=of_user > 0).sum())
    return min(1.0, float(negatives.sum()) / world) if world else 1.0


def _distinct(parts: list[tuple[NDArray[np.int64], NDArray[np.int64]]], items: int, users: int) -> NDArray[np.int64]:
    """Each user's distinct items, int64 [users], of rows of users and items."""
    pairs = np.unique(np.concatenate([of_users * items + of_items for of_users, of_items in parts]))
    return np.asarray(np.bincount(pairs // items, minlength=users), np.int64)
