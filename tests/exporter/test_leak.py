"""Nothing that is retrieved knows the label.

Labels are random and independent of everything. So a feature that orders training rows better than chance has seen them.
The control are the same prompts retrieved with the catalog's own graph, which has: it learned from the training split's likes.
It must be found out, or the test could not find anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.linalg import svds
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from tokenizers import Tokenizer

from builders.data import ratings
from rexit.bundle import Catalog
from rexit.exporter import index as index_module
from rexit.exporter.model.projectors import Projectors
from rexit.exporter.model.vectors import Sources
from rexit.exporter.options import ExternalOptions, IndexOptions, LightGCNOptions
from rexit.exporter.prompt.builder import Prompt, PromptBuilder
from rexit.exporter.retriever import lightgcn
from rexit.exporter.retriever.neighbours import folded_in
from rexit.exporter.zero import fit as zero_fit
from rexit.exporter.zero.graph import zero_log_odds
from rexit.progress import silent
from rexit.slates import cut
from running.fast import fast

USERS, ITEMS, EACH = 500, 200, 60
EVER, MOMENT = 10**6, 40_000  # after all interactions; after a half of the train split's
OPTIONS = IndexOptions(neighbours=10, lightgcn=LightGCNOptions(dim=32, layers=2, epochs=15))
CHANCE, FOUND = 3.5, 4.0
"""In standard deviations of an AUC by chance: what some twenty figures stay below, and what the control must reach."""

# Each placeholder between bars; verdicts are one letter each, so that they can be counted.
PARTS = ("recent", "user.like_rate", "similar_liked", "title", "item.like_rate", "count", "similar_verdict", "nearest", "end")
TEMPLATE = """
prompt = "{history.recent:10}|{user.like_rate}|{similar_liked:20}|{item.title}|{item.like_rate}|{item.count}|\
{similar_verdict:10}|{history.nearest:10}|{item.gcn}{user.gcn}Answer:"
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
    """One row for each candidate of a split's slates: what was retrieved, by its prompt's tokens of each part, and the label."""

    features: dict[str, NDArray[np.float64]]
    tokens: list[list[int]]  # token + vocabulary * part
    liked: NDArray[np.bool_]
    user: NDArray[np.int64]
    slate: NDArray[np.int64]
    prompts: list[Prompt]  # of each slate
    sources: Sources

    def table(self) -> NDArray[np.float64]:
        return np.column_stack(list(self.features.values()))


def chance(score: NDArray[Any], liked: NDArray[np.bool_]) -> float:
    """How far the AUC is from 0.5, in standard deviations of that of an independent score (Mann-Whitney, without ties: with
    ties it is smaller). A score may depend on earlier labels: the one to come is still a coin's."""
    yes, no = int(liked.sum()), int((~liked).sum())
    return (float(roc_auc_score(liked, score)) - 0.5) / float(np.sqrt((yes + no + 1) / (12 * yes * no)))


def write_catalog(folder: Path, options: IndexOptions = OPTIONS) -> Catalog:
    rng, rows = np.random.default_rng(0), []
    for user in range(USERS):
        items, times = rng.permutation(ITEMS)[:EACH], rng.permutation(100_000)[:EACH]
        rows += [(user, i, 5 if rng.random() < 0.5 else 1, t) for i, t in zip(items.tolist(), times.tolist(), strict=True)]
    ratings.write(folder, TEMPLATE, pl.DataFrame(rows, ["user_id", "item_id", "rating", "timestamp"], orient="row"))
    pl.DataFrame({"item_id": range(ITEMS), "title": [f"F{n}" for n in range(ITEMS)]}).write_csv(folder / "items.csv")
    data = (folder / "ratings.csv", folder / "items.csv", str(folder / "tok"), folder / "prompt.toml", folder / "catalog")
    with pytest.MonkeyPatch.context() as patch:
        # All epochs: fewer, chosen on noise, may teach the control too little to be found out.
        patch.setattr(lightgcn, "EVALUATE_EVERY", options.lightgcn.epochs)
        index_module.build_catalog(*data, options)
    return Catalog.open(folder / "catalog")


def embeddings_of(catalog: Catalog, before: int, folder: Path) -> ExternalOptions:
    """Singular vectors of what was liked in the train split before a moment, as embeddings from elsewhere."""
    train = catalog.split("train")
    known = train.liked & (train.times < before)
    liked = csr_array((np.ones(known.sum()), (train.users[known], train.items[known])), shape=(USERS, ITEMS))
    users, values, items = svds(liked, 32, random_state=0)
    for name, rows in (("user", users * np.sqrt(values)), ("item", (np.sqrt(values)[:, None] * items).T)):
        pl.DataFrame({f"{name}_id": range(len(rows)), "embedding": rows.tolist()}).write_parquet(folder / f"{name}.parquet")
    as_of = None if before == EVER else str(before)
    return ExternalOptions(folder / "item.parquet", folder / "user.parquet", as_of)


def read(builder: PromptBuilder, catalog: Catalog, tokenizer: Tokenizer, split: str) -> Rows:
    bar, vocabulary = tokenizer.encode("|").ids[0], tokenizer.get_vocab_size()
    features: list[list[float]] = []
    tokens, liked, users = [], [], []
    slates: list[int] = []
    prompts: list[Prompt] = []
    for slate in cut(catalog, split):
        prompt, user = builder.prompt(slate.user, slate.items, slate.as_of), int(slate.user)
        request = builder._request(user, slate.as_of, (), builder._candidate)
        dots = np.zeros(len(catalog.items))
        if (graph := request.graph) is not None:
            dots = graph.items.astype(float) @ folded_in(graph.fold_in[request.items[request.liked]]).astype(float)
        for item, candidate, label in zip(slate.items, prompt.candidates, slate.liked, strict=True):
            whole = np.concatenate([prompt.prefix, candidate])
            whole = whole[whole < vocabulary]
            parts = dict(zip(PARTS, tokenizer.decode(whole).split("|"), strict=True))
            verdicts = {
                name: parts[name].count("+") - parts[name].count("-") for name in ("recent", "similar_verdict", "nearest")
            }
            features.append([
                *verdicts.values(),
                parts["similar_verdict"].count("."),
                f"{parts['title']};" in parts["similar_liked"],
                int(parts["user.like_rate"][:-1]),
                int(parts["item.like_rate"][:-1]),
                int(parts["count"].removeprefix("2^")),
                dots[int(item)],
            ])  # fmt: skip
            tokens.append((whole + vocabulary * np.cumsum(whole == bar)).tolist())
            liked.append(bool(label))
            users.append(user)
            slates.append(len(prompts))
        prompts.append(prompt)
    names = (
        "recent",
        "similar_verdict",
        "nearest",
        "unseen",
        "similar_liked",
        "user.like_rate",
        "item.like_rate",
        "count",
        "dot",
    )
    return Rows(
        dict(zip(names, np.array(features, float).T, strict=True)),
        tokens,
        np.array(liked),
        np.array(users),
        np.array(slates),
        prompts,
        Sources(catalog, training=True),
    )


@dataclass(frozen=True)
class Case:
    train: Rows
    test: Rows
    vocabulary: int

    @classmethod
    def of(cls, catalog: Catalog, builder: PromptBuilder) -> Case:
        tokenizer = Tokenizer.from_file(str(catalog.path.parent / "tok/tokenizer.json"))
        test = read(PromptBuilder(catalog), catalog, tokenizer, "test")
        return cls(read(builder, catalog, tokenizer, "train"), test, tokenizer.get_vocab_size())


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


Model = Callable[[Rows, NDArray[np.bool_], Rows, int], NDArray[Any]]
"""Trains on some rows, scores all of others; the last is the vocabulary's size."""


def boosted(rows: Rows, chosen: NDArray[np.bool_], others: Rows, _: int) -> NDArray[Any]:
    """Gradient boosting on the features without the dot product, which no prompt spells out."""
    model = HistGradientBoostingClassifier(max_iter=50, random_state=0).fit(rows.table()[chosen, :-1], rows.liked[chosen])
    scores: NDArray[Any] = model.predict_proba(others.table()[:, :-1])[:, 1]
    return scores


def network(rows: Rows, chosen: NDArray[np.bool_], others: Rows, vocabulary: int) -> NDArray[Any]:
    """A bag of the prompt's tokens, told apart by their part of it, and a hidden layer."""

    def bags(tokens: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor([t for row in tokens for t in row]), torch.tensor([0, *np.cumsum([len(row) for row in tokens])[:-1]])

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        embedding, rest = torch.nn.EmbeddingBag(len(PARTS) * vocabulary, 16, mode="sum"), torch.nn.Sequential(
            torch.nn.LayerNorm(16), torch.nn.Linear(16, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1)
        )  # fmt: skip
        optimizer = torch.optim.Adam([*embedding.parameters(), *rest.parameters()], lr=0.01)
        where = np.flatnonzero(chosen)
        for _ in range(3):
            for part in np.array_split(where[torch.randperm(len(where)).numpy()], len(where) // 250):
                logit = rest(embedding(*bags([rows.tokens[n] for n in part])))[:, 0]
                loss = torch.nn.functional.binary_cross_entropy_with_logits(logit, torch.from_numpy(rows.liked[part]).float())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    with torch.no_grad():
        scores: NDArray[Any] = rest(embedding(*bags(others.tokens)))[:, 0].numpy()
    return scores


def projected(rows: Rows, chosen: NDArray[np.bool_], others: Rows, vocabulary: int) -> NDArray[Any]:
    """The vectors of the target and of the user in each prompt, by projectors that are trained, and their product."""

    def logits(of: Rows, slates: Sequence[int]) -> torch.Tensor:
        prompts = [of.prompts[n] for n in slates]
        vector_ids = [
            np.concatenate([c[c >= vocabulary] for c in prompt.candidates]) for prompt in prompts
        ]  # item, user, item, …
        size = max(map(len, vector_ids))
        ids = torch.from_numpy(
            np.stack([np.pad(ids_of_prompt, (0, size - len(ids_of_prompt)), "wrap") for ids_of_prompt in vector_ids]).astype(
                np.int64
            )
        )
        passed, vectors_of_pass = of.sources.batch(projectors, torch.nn.Identity(), ids, prompts)
        vectors_by_id = vectors_of_pass.vectors[passed - vocabulary]
        item, user = vectors_by_id[:, ::2], vectors_by_id[:, 1::2]
        out: torch.Tensor = rest(item * user)[..., 0]
        return out[torch.arange(size // 2) < torch.tensor([len(ids_of_prompt) // 2 for ids_of_prompt in vector_ids])[:, None]]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        dim = OPTIONS.lightgcn.dim
        projectors, rest = Projectors({"gcn": {"dim": dim}, "user": {"dim": dim}}, dim), torch.nn.Linear(dim, 1)
        optimizer = torch.optim.AdamW([*projectors.parameters(), *rest.parameters()], lr=0.003, weight_decay=1.0)
        where = np.unique(rows.slate[chosen])
        for _ in range(10):
            for part in np.array_split(where[torch.randperm(len(where)).numpy()], len(where) // 12):
                liked = torch.from_numpy(rows.liked[np.isin(rows.slate, part)]).float()
                loss = torch.nn.functional.binary_cross_entropy_with_logits(logits(rows, np.sort(part).tolist()), liked)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    with torch.no_grad():
        every = np.array_split(np.arange(len(others.prompts)), 20)
        scores: NDArray[Any] = torch.cat([logits(others, part.tolist()) for part in every]).numpy()
    return scores


def test_no_feature_of_a_training_prompt_predicts_a_random_label(case: Case) -> None:
    measured_chances = {name: chance(feature, case.train.liked) for name, feature in case.train.features.items()}
    assert len(case.train.liked) == 24_000 and all(len(np.unique(feature)) > 1 for feature in case.train.features.values())
    assert all(abs(z) < CHANCE for z in measured_chances.values()), measured_chances


def test_the_control_is_found_out(control: Case) -> None:
    measured_chances = {name: chance(feature, control.train.liked) for name, feature in control.train.features.items()}
    assert all(measured_chances[name] > FOUND for name in ("nearest", "similar_verdict", "dot")), measured_chances


def test_no_number_of_exit_zero_predicts_a_random_label(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    def chances() -> dict[str, float]:
        pairs = zero_fit._pairs(catalog, silent)
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


@pytest.mark.slow
@pytest.mark.parametrize("before", [EVER, MOMENT])
def test_embeddings_from_elsewhere_are_seen_from_their_moment_on(catalog: Catalog, tmp_path: Path, before: int) -> None:
    """Said nothing of, they give away the training labels that they learned from; with a moment they give away none."""
    options = replace(OPTIONS, external=embeddings_of(catalog, before, tmp_path))
    given = write_catalog(tmp_path / "given", options)
    case = Case.of(given, PromptBuilder.of(given, "train"))
    seen = {name: chance(feature, case.train.liked) for name, feature in case.train.features.items()}
    if before == EVER:
        assert all(seen[name] > FOUND for name in ("nearest", "similar_verdict", "dot")), seen
    else:
        assert all(abs(z) < CHANCE for z in seen.values()), seen
        assert case.train.features["dot"].any(), "later prompts do see them"


@pytest.mark.parametrize("model", fast([boosted, network, projected], boosted))
def test_a_model_learns_nothing_from_random_labels(case: Case, control: Case, model: Model) -> None:
    """Trained on the prompts of half of the users. Those of the others, and the test split, stay a coin's flip; the control's
    model finds what the retriever has seen again in the others' training prompts, though not in the test split's."""
    for at, low, high in ((case, -CHANCE, CHANCE), (control, FOUND, np.inf)):
        half = at.train.user % 2 == 0
        others = chance(model(at.train, half, at.train, at.vocabulary)[~half], at.train.liked[~half])
        assert low < others < high
        assert abs(chance(model(at.train, half, at.test, at.vocabulary), at.test.liked)) < CHANCE
