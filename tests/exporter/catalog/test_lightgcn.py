import numpy as np
import polars as pl
import pytest
import torch
from torch_geometric.nn import LightGCN

from builders import ratings
from rexit.errors import InputError
from rexit.exporter.catalog import lightgcn
from rexit.exporter.catalog.lightgcn import Edges, Settings
from rexit.exporter.catalog.splits import assign

SMALL = Settings(dim=16, layers=2, epochs=40)


def split_edges() -> tuple[Edges, Edges, Edges]:
    rated = ratings.interactions().select(
        user=pl.col("user_id") - 1, item=pl.col("item_id") - 1, time="timestamp", liked=pl.col("rating") >= 4
    )
    rated = assign(rated)

    def edges(split: str, liked: bool) -> Edges:
        part = rated.filter((pl.col("split") == split) & (pl.col("liked") | (not liked)))
        return part["user"].to_numpy(), part["item"].to_numpy()

    return edges("train", True), edges("train", False), edges("validation", True)


def train(settings: Settings = SMALL) -> lightgcn.Retriever:
    return lightgcn.train(*split_edges(), ratings.USERS, ratings.ITEMS, settings)


def test_it_finds_the_two_tastes_and_beats_popularity() -> None:
    users, items, rng = 60, 200, np.random.default_rng(0)
    user = np.repeat(np.arange(users), 24)
    item = np.concatenate([rng.permutation(items // 2)[:24] * 2 + u % 2 for u in range(users)])
    held = np.arange(len(user)) % 24 >= 20
    train, wanted = (user[~held], item[~held]), (user[held], item[held])
    made = lightgcn.train(train, train, wanted, users, items, SMALL)
    assert made.recall is not None and made.popularity_recall is not None
    assert made.recall > made.popularity_recall + 0.05
    alike, same = made.users @ made.users.T, np.add.outer(np.arange(users), np.arange(users)) % 2 == 0
    assert alike[same].mean() > alike[~same].mean() + 0.5
    assert np.allclose(np.linalg.norm(made.users, axis=1), 1, atol=1e-5)


def test_the_same_seed_gives_the_same_embeddings() -> None:
    state = torch.random.get_rng_state()
    first, second, other = train(), train(), train(Settings(dim=16, layers=2, epochs=40, seed=1))
    assert (first.users == second.users).all() and (first.fold_in == second.fold_in).all()
    assert (first.users != other.users).any()
    assert (state == torch.random.get_rng_state()).all(), "the caller's random state was touched"


def test_it_stops_early_and_reports_progress() -> None:
    told: list[tuple[int, int, float | None]] = []
    settings = Settings(dim=4, layers=1, epochs=500, patience=10)
    made = lightgcn.train(*split_edges(), ratings.USERS, ratings.ITEMS, settings, lambda *now: told.append(now))
    assert made.epochs <= len(told) < 500
    assert told[0][:2] == (1, 500) and told[-1][2] == pytest.approx(made.recall)


def test_without_validation_likes_all_epochs_are_run() -> None:
    likes, seen, _ = split_edges()
    nothing = (np.empty(0, np.int64), np.empty(0, np.int64))
    made = lightgcn.train(likes, seen, nothing, ratings.USERS, ratings.ITEMS, Settings(dim=4, layers=1, epochs=7))
    assert (made.recall, made.popularity_recall, made.epochs) == (None, None, 7)


def test_fold_in_is_what_propagation_gives_a_new_user() -> None:
    """A user with no embedding of their own is, after propagation, a multiple of the sum of their items' `fold_in`."""
    user, item = torch.tensor([0, 0, 1, 1, 2]), torch.tensor([0, 1, 1, 2, 3])
    users, items = 3, 5
    model = LightGCN(users + items, 6, 3, normalize=False)
    model.embedding.weight.data[2] = 0  # user 2 is new: only item 3 is theirs, and nobody else's
    adjacency = lightgcn._adjacency(user, item, users, items)
    unit_users, unit_items, fold_in = lightgcn._finish(
        model, adjacency, torch.bincount(user, minlength=users), torch.bincount(item, minlength=items)
    )
    expected = fold_in[3] / np.linalg.norm(fold_in[3])
    assert np.allclose(unit_users[2], expected, atol=1e-6)
    assert not fold_in[4].any() and np.isclose(np.linalg.norm(unit_items[4]), 1)
    whole = model.get_embedding(adjacency).detach().numpy()
    assert np.allclose(unit_users[0], whole[0] / np.linalg.norm(whole[0]), atol=1e-6), "not the mean of layers"


def test_bad_settings_and_no_likes() -> None:
    for name in ("dim", "layers", "epochs", "patience"):
        with pytest.raises(InputError, match=f"{name} is 0, expected at least 1"):
            Settings(**{name: 0}).check()
    nothing = (np.empty(0, np.int64), np.empty(0, np.int64))
    with pytest.raises(InputError, match="no liked interaction in the training split"):
        lightgcn.train(nothing, nothing, nothing, 2, 2, SMALL)
