"""Nothing that is retrieved knows the label.

Labels are random and independent of everything. So a feature that orders training rows better than chance has seen them.
The control are the same prompts retrieved with the catalog's own graph, which has: it learned from the training split's likes.
It must be found out, or the test could not find anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from tokenizers import Tokenizer

from builders.data import ratings
from oracles.assembler import folded_in
from rexit.data.slates import cut
from rexit.exporter import index as index_module
from rexit.exporter import zero as zero_fit
from rexit.exporter.options import IndexOptions, LightGCNOptions
from rexit.exporter.prompt.builder import PromptBuilder
from rexit.exporter.retriever import lightgcn
from rexit.exporter.zero import zero_log_odds
from rexit.format.bundle import Catalog
from rexit.progress import silent

USERS, ITEMS, EACH = 500, 200, 60
OPTIONS = IndexOptions(neighbours=10, lightgcn=LightGCNOptions(dim=32, layers=2, epochs=15))
CHANCE, FOUND = 3.5, 4.0
"""In standard deviations of an AUC by chance: what some twenty figures stay below, and what the control must reach."""

# Each placeholder between bars; verdicts are one letter each, so that they can be counted.
PARTS = ("recent", "user.like_rate", "similar_liked", "title", "item.like_rate", "count", "similar_verdict", "nearest", "end")
TEMPLATE = """
prompt = "{history.recent:10}|{user.like_rate}|{similar_liked:20}|{item.title}|{item.like_rate}|{item.count}|\
{similar_verdict:10}|{history.nearest:10}|Answer:"
entry = "{verdict}"
[entries]
similar = "{item.title};"
[labels]
yes = " yes"
no = " no"
[words]
liked = "+"
disliked = "-"
unseen = "."
missing = "50%"
empty = "."
[zero]
inputs = ["gcn", "user.like_rate", "item.like_rate", "similar_like_rate:10", "nearest_like_rate:10"]
"""


@dataclass(frozen=True)
class Rows:
    """One row for each candidate of a split's slates: what was retrieved, by its prompt's texts of each part, and the label."""

    features: dict[str, NDArray[np.float64]]
    liked: NDArray[np.bool_]
    user: NDArray[np.int64]

    def table(self) -> NDArray[np.float64]:
        return np.column_stack(list(self.features.values()))


def chance(score: NDArray[Any], liked: NDArray[np.bool_]) -> float:
    """How far the AUC is from 0.5, in standard deviations of that of an independent score (Mann-Whitney, without ties: with
    ties it is smaller). A score may depend on earlier labels: the one to come is still a coin's."""
    yes, no = int(liked.sum()), int((~liked).sum())
    return (float(roc_auc_score(liked, score)) - 0.5) / float(np.sqrt((yes + no + 1) / (12 * yes * no)))


def write_catalog(folder: Path) -> Catalog:
    rng, rows = np.random.default_rng(0), []
    for user in range(USERS):
        items, times = rng.permutation(ITEMS)[:EACH], rng.permutation(100_000)[:EACH]
        rows += [(user, i, 5 if rng.random() < 0.5 else 1, t) for i, t in zip(items.tolist(), times.tolist(), strict=True)]
    ratings.write(folder, TEMPLATE, pl.DataFrame(rows, ["user_id", "item_id", "rating", "timestamp"], orient="row"))
    pl.DataFrame({"item_id": range(ITEMS), "title": [f"F{n}" for n in range(ITEMS)]}).write_csv(folder / "items.csv")
    data = (folder / "ratings.csv", folder / "items.csv", str(folder / "tok"), folder / "prompt.toml", folder / "catalog")
    with pytest.MonkeyPatch.context() as patch:
        # All epochs: fewer, chosen on noise, may teach the control too little to be found out.
        patch.setattr(lightgcn, "EVALUATE_EVERY", OPTIONS.lightgcn.epochs)
        index_module.build_catalog(*data, OPTIONS)
    return Catalog.open(folder / "catalog")


def read(builder: PromptBuilder, catalog: Catalog, tokenizer: Tokenizer, split: str) -> Rows:
    features: list[dict[str, float]] = []
    liked, users = [], []
    for slate in cut(catalog, split):
        prompt, user = builder.prompt(slate.user, slate.items, slate.as_of), int(slate.user)
        table, place = (catalog.item_table, ...) if prompt.part is None else (catalog.snapshots, prompt.part - 1)
        dots = np.zeros(len(catalog.items))
        if prompt.part != 0:
            items, fold_in = (table[name][place] for name in ("embeddings" if prompt.part is None else "items", "fold_in"))
            dots = items.astype(float) @ folded_in(fold_in[prompt.liked])
        for item, candidate, label in zip(slate.items, prompt.candidates, slate.liked, strict=True):
            whole = tokenizer.decode(np.concatenate([prompt.prefix, candidate]))
            parts = dict(zip(PARTS, whole.split("|"), strict=True))
            verdicts = {
                name: parts[name].count("+") - parts[name].count("-") for name in ("recent", "similar_verdict", "nearest")
            }
            features.append(
                {
                    **verdicts,
                    "unseen": parts["similar_verdict"].count("."),
                    "similar_liked": f"{parts['title']};" in parts["similar_liked"],
                    "user.like_rate": int(parts["user.like_rate"][:-1]),
                    "item.like_rate": int(parts["item.like_rate"][:-1]),
                    "count": int(parts["count"].removeprefix("2^")),
                    "dot": dots[int(item)],
                }
            )
            liked.append(bool(label))
            users.append(user)
    columns = {name: np.array([row[name] for row in features], float) for name in features[0]}
    return Rows(columns, np.array(liked), np.array(users))


@dataclass(frozen=True)
class Case:
    train: Rows
    test: Rows

    @classmethod
    def of(cls, catalog: Catalog, builder: PromptBuilder) -> Case:
        tokenizer = Tokenizer.from_file(str(catalog.path.parent / "tok/tokenizer.json"))
        test = read(PromptBuilder(catalog), catalog, tokenizer, "test")
        return cls(read(builder, catalog, tokenizer, "train"), test)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return write_catalog(tmp_path_factory.mktemp("random"))


@pytest.fixture(scope="module")
def case(catalog: Catalog) -> Case:
    return Case.of(catalog, PromptBuilder.of(catalog, "train"))


@pytest.fixture(scope="module")
def control(catalog: Catalog) -> Case:
    """The retriever has learned from what it is asked about."""
    return Case.of(catalog, PromptBuilder(catalog))


def boosted(rows: Rows, chosen: NDArray[np.bool_], others: Rows) -> NDArray[Any]:
    """Scores all of others by gradient boosting on some rows, without the dot product, which no prompt spells out."""
    model = HistGradientBoostingClassifier(max_iter=50, random_state=0).fit(rows.table()[chosen, :-1], rows.liked[chosen])
    scores: NDArray[Any] = model.predict_proba(others.table()[:, :-1])[:, 1]
    return scores


@pytest.mark.medium
def test_no_feature_of_a_training_prompt_predicts_a_random_label(case: Case) -> None:
    measured_chances = {name: chance(feature, case.train.liked) for name, feature in case.train.features.items()}
    assert len(case.train.liked) == 24_000 and all(len(np.unique(feature)) > 1 for feature in case.train.features.values())
    assert all(abs(z) < CHANCE for z in measured_chances.values()), measured_chances


@pytest.mark.medium
def test_the_control_is_found_out(control: Case) -> None:
    measured_chances = {name: chance(feature, control.train.liked) for name, feature in control.train.features.items()}
    assert all(measured_chances[name] > FOUND for name in ("nearest", "similar_verdict", "dot")), measured_chances


@pytest.mark.medium
def test_no_number_of_exit_zero_predicts_a_random_label(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    def chances() -> dict[str, float]:
        pairs, _ = zero_fit._pairs(catalog, silent)
        numbers = np.where(np.isnan(pairs.numbers), np.nanmedian(pairs.numbers, axis=0), pairs.numbers)
        return {op["op"]: chance(column, pairs.liked) for op, column in zip(catalog.numbers, numbers.T, strict=True)}

    measured_chances = chances()
    assert all(abs(z) < CHANCE for z in measured_chances.values()), measured_chances
    for split in ("validation", "test"):
        slates = cut(catalog, split)
        assert (
            abs(chance(np.concatenate(zero_log_odds(catalog, slates)), np.concatenate([slate.liked for slate in slates])))
            < CHANCE
        )
    monkeypatch.setattr(PromptBuilder, "of", lambda catalog, _: PromptBuilder(catalog))
    found = chances()
    assert all(found[name] > FOUND for name in ("gcn", "similar_like_rate", "nearest_like_rate")), found


@pytest.mark.medium
def test_a_model_learns_nothing_from_random_labels(case: Case, control: Case) -> None:
    """Trained on the prompts of half of the users. Those of the others, and the test split, stay a coin's flip; the control's
    model finds what the retriever has seen again in the others' training prompts, though not in the test split's."""
    for at, low, high in ((case, -CHANCE, CHANCE), (control, FOUND, np.inf)):
        half = at.train.user % 2 == 0
        others = chance(boosted(at.train, half, at.train)[~half], at.train.liked[~half])
        assert low < others < high
        assert abs(chance(boosted(at.train, half, at.test), at.test.liked)) < CHANCE
