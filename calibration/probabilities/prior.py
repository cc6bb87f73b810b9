"""What share of the population's negatives the data has, so that probabilities can be those in the population.

A model learns the odds of its data. With only a share r of the negatives, they are 1 / r times the population's, and adding log r
to the log-odds corrects them (King and Zeng, Political Analysis 2001; He et al., ADKDD 2014, for clicks). c remains the data's:
the shift is the same for all candidates and exits, so no ranking moves, and no stopping rule reads it.

1. `--negative-rate R`: r is R.
2. A catalog of `rexit index --implicit`: in the population, each interaction of a user has a negative for each item that the user
   had not met by the end of the validation split.
3. A catalog of `rexit index --unrated N`: the population has the dislikes, all of which are in the data, and each unrated item
   once, of which a sample is. It was drawn by popularity, so r is right on average, not for each item.
4. Otherwise r is 1.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from rexit.bundle import Catalog
from rexit.bundle.catalog import SPLITS
from rexit.errors import InputError
from rexit.prompts.slates_file import RequestLog, SlatesFile


def check(rate: float | None) -> None:
    """Raises InputError for a rate that is no share."""
    if rate is not None and not 0 < rate <= 1:
        raise InputError(f"negative rate {rate:g}, expected more than 0 and at most 1")


def shift(rate: float) -> float:
    """Returns log r, a float32."""
    return float(np.float32(math.log(rate)))


def negative_rate(source: Catalog | SlatesFile | RequestLog) -> float:
    """Returns r of a source that says how its negatives were sampled, 1 of any other."""
    if isinstance(source, SlatesFile | RequestLog):
        return 1.0
    label = source.info.get("label", {})
    if not ("sampled" in label or "unrated" in label):
        return 1.0
    return _rate_of_implicit(source) if "sampled" in label else _rate_of_unrated(source, int(label["unrated"]["each"]))


def _rate_of_implicit(catalog: Catalog) -> float:
    train, validation = catalog.split("train"), catalog.split("validation")
    met = [(part.users[part.liked], part.items[part.liked]) for part in (train, validation)]
    unmet = len(catalog.items) - _distinct(met, len(catalog.items), len(catalog.users))
    return _share(int(np.count_nonzero(~validation.liked)), float(unmet[validation.users[validation.liked]].sum()))


def _rate_of_unrated(catalog: Catalog, per_like: int) -> float:
    """Each user's unrated items were sampled without repetition, `per_like` for a like, as far as there were so many."""
    users, splits = len(catalog.users), {name: catalog.split(name) for name in SPLITS}
    likes = np.sum([np.bincount(part.users[part.liked], minlength=users) for part in splits.values()], axis=0)
    rows = np.sum([np.bincount(part.users, minlength=users) for part in splits.values()], axis=0)
    items = len(np.unique(np.concatenate([part.items for part in splits.values()])))
    sampled = np.minimum(per_like * likes, np.maximum(rows - likes, 0))
    unrated = np.maximum(items - (rows - sampled), sampled)
    rate = np.divide(sampled, unrated, out=np.ones(users), where=unrated > 0)

    validation = splits["validation"]
    negatives = np.bincount(validation.users[~validation.liked], minlength=users)
    sampled_here = np.minimum(per_like * np.bincount(validation.users[validation.liked], minlength=users), negatives)
    population_of_sampled = np.divide(sampled_here, rate, out=np.zeros(users), where=rate > 0)
    return _share(int(negatives.sum()), float((negatives - sampled_here).sum() + population_of_sampled.sum()))


def _share(negatives: int, population: float) -> float:
    return min(1.0, negatives / population) if population else 1.0


def _distinct(parts: list[tuple[NDArray[np.int64], NDArray[np.int64]]], items: int, users: int) -> NDArray[np.int64]:
    """How many different items each user has, int64 [users]. parts: rows of users and items."""
    pairs = np.unique(np.concatenate([rows * items + columns for rows, columns in parts]))
    return np.asarray(np.bincount(pairs // items, minlength=users), np.int64)
