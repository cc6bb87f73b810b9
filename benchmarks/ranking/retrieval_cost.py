"""The look-up that fills a prompt, and the retriever it replaces: one that embeds the user's history with a language model.

    python benchmarks/ranking/retrieval_cost.py time CATALOG --items ITEMS --model MODEL --bundle BUNDLE [--rounds 40]
    python benchmarks/ranking/retrieval_cost.py worth CATALOG --items ITEMS --model MODEL

MODEL is a Hugging Face decoder's folder; ITEMS the table that CATALOG was indexed from, with `item_id` and titles (--title).

`time`: a round asks for the neighbours of one slate of 20 of the test split, in turn
| way | takes |
|---|---|
| stored | the neighbours that the catalog holds for the user; no `as_of`, so all interactions are visible |
| folded in | the user folded in from what is visible at the slate's `as_of`, and a search over all users |
| float32, bfloat16 | tokenizing the history's text, the model, a search over all users' histories, cosines to the user's items |

1. The first two are `stats.retrieval_us` of the runtime: they hold the assembly of 20 prompts too. The last two stop at rows.
2. Each look-up comes after a pass of the language model, so that none finds the processor's caches warm.
3. Ratios are taken within a round.

`worth`: gradient boosting on what a prompt spells out (baselines.py), with `lists` of neighbours by LightGCN or by the model
1. nearest: the user's visible items closest to the target, by the embedding of the title or of other words of the item (--words).
2. similar: other users closest to this one, by the embedding of the text of the last 10 titles with verdicts. The others' are as
   of the end of their training split, or for a training row as of the snapshot that LightGCN is asked there; the asking user's is
   as of the slate, or for a training row as of that snapshot.
3. Embeddings are centred before cosines: all hidden states of a language model point one way.
4. Training rows ask the latest of the catalog's snapshots (--snapshots: of some of them); before a user's first they have no
   lists, whoever makes them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from as_of import LIST, Features, Interactions, Pairs, Space, Vectors, cut
from baselines import TRAIN_SIZE, embeddings
from boosting import boosted
from encode import MeanOfLastHidden
from judgement import Judgement
from numpy.typing import NDArray
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table
from text_embeddings import Embed, Kept

import rexit
from rexit.bundle import Catalog
from rexit.bundle.catalog import SPLITS
from rexit.exporter.catalog.entities import read_entities
from rexit.measure.machine import machine
from rexit.scripts import script
from rexit.slates import SIZE, Slate, draw
from rexit.slates import cut as slates

RECENT = 10
"""Titles of a history's text."""
SEED = 1
NEVER = np.iinfo(np.int64).max
PARTS = {"nearest": slice(2, 6), "similar": slice(0, 2), "both": slice(0, 6)}
"""Columns of as_of.LISTS."""
WAYS = ("stored", "float32", "folded in", "bfloat16")
"""In the order of a round."""


class Histories:
    """What was visible of each user when, as rows of items and as text."""

    def __init__(self, catalog: Catalog, titles: Sequence[str]) -> None:
        table = catalog.user_table
        self._offsets = table["history_offsets"].astype(np.int64)
        self._items, self._liked = table["history_items"].astype(np.int64), table["history_liked"] > 0
        self._times, self._titles = table["history_times"].astype(np.int64), titles

    def items(self, user: int, moment: int) -> NDArray[np.int64]:
        """Before the moment, oldest first."""
        begin, end = self._seen(user, moment)
        return self._items[begin:end]

    def text(self, user: int, moment: int) -> str:
        """The last RECENT titles by verdict, newest first; '' where nothing is visible."""
        begin, end = self._seen(user, moment)
        rows = range(end - 1, max(begin, end - RECENT) - 1, -1)
        verdicts: dict[str, list[str]] = {"Liked": [], "Disliked": []}
        for n in rows:
            verdicts["Liked" if self._liked[n] else "Disliked"].append(self._titles[self._items[n]])
        return " ".join(f"{verdict}: {'; '.join(titles)}." for verdict, titles in verdicts.items() if titles)

    def _seen(self, user: int, moment: int) -> tuple[int, int]:
        begin, end = self._offsets[user], self._offsets[user + 1]
        return int(begin), int(begin + np.searchsorted(self._times[begin:end], moment))


class Retriever(Protocol):
    """A snapshot is the catalog's, from 0, or None: all of the training split."""

    def space(self, snapshot: int | None) -> Space: ...

    def asking(self, pairs: Pairs, snapshot: int | None) -> Vectors:
        """Each pair's user, unit vectors [n, D], zero where nothing is known."""
        ...


class Graph:
    """LightGCN, as the catalog holds it."""

    def __init__(self, catalog: Catalog, interactions: Interactions) -> None:
        self._catalog, self._interactions = catalog, interactions

    def space(self, snapshot: int | None) -> Space:
        if snapshot is None:
            return embeddings(self._catalog)
        tables = self._catalog.snapshots
        return SimpleNamespace(**{name: tables[name][snapshot].astype(np.float32) for name in ("users", "items", "fold_in")})

    def asking(self, pairs: Pairs, snapshot: int | None) -> Vectors:
        return self._interactions.folded_in(pairs, self.space(snapshot))


class Text:
    """A language model: items by `words` [I], users by the text of their histories."""

    def __init__(self, catalog: Catalog, histories: Histories, words: Sequence[str], embed: Embed) -> None:
        self._histories, self._embed = histories, embed
        self._begins = catalog.snapshots["begins"]
        self._end = training_ends(catalog)
        items = embed(words)
        self._items = unit(items - items.mean(0))
        whole = self._raw(np.arange(len(self._end)), self._end)
        self.centre = whole[whole.any(1)].mean(0)

    def space(self, snapshot: int | None) -> Space:
        return SimpleNamespace(users=self._users(snapshot), items=self._items, fold_in=self._items)

    def asking(self, pairs: Pairs, snapshot: int | None) -> Vectors:
        if snapshot is not None:
            return self._users(snapshot)[pairs.users]
        first = pairs.first
        return self._centred(self._raw(pairs.users[first], pairs.as_of[first]))[pairs.slate]

    def _users(self, snapshot: int | None) -> Vectors:
        moments = self._end if snapshot is None else np.minimum(self._begins[:, snapshot], self._end)
        return self._centred(self._raw(np.arange(len(moments)), moments))

    def _raw(self, users: NDArray[np.int64], moments: NDArray[np.int64]) -> Vectors:
        texts = [self._histories.text(int(user), int(moment)) for user, moment in zip(users, moments, strict=True)]
        there = np.array([bool(text) for text in texts])
        output = self._embed([text for text in texts if text])
        found = np.zeros((len(texts), output.shape[1]), np.float32)
        found[there] = output
        return found

    def _centred(self, raw: Vectors) -> Vectors:
        return unit((raw - self.centre) * raw.any(1, keepdims=True))


def training_ends(catalog: Catalog) -> NDArray[np.int64]:
    """int64 [U]: the time of a user's first interaction outside of the training split, NEVER without one."""
    ends = np.full(len(catalog.users), NEVER)
    for split in map(catalog.split, SPLITS[1:]):
        np.minimum.at(ends, split.users, split.times)
    return ends


def moment(slate: Slate) -> int:
    assert slate.as_of is not None, "held-out slates have one"
    return slate.as_of


def unit(vectors: Vectors) -> Vectors:
    """Rows of length 1; zeros stay."""
    output: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    return output


def lists(
    catalog: Catalog, interactions: Interactions, retriever: Retriever, parts: Sequence[Pairs], sampled_slates: Sequence[int]
) -> list[Features]:
    """as_of.LISTS [n, 6] of train, validation and test pairs; training rows see the latest of the snapshots in `asked`."""

    def found(pairs: Pairs, snapshot: int | None) -> Features:
        return interactions.retrieved(pairs, retriever.space(snapshot), retriever.asking(pairs, snapshot))[1]

    train = parts[0]
    latest = (catalog.snapshots["begins"][:, sampled_slates][train.users] <= train.as_of[:, None]).sum(1) - 1
    output = np.full((len(train), PARTS["both"].stop), np.nan, np.float32)
    for n, snapshot in enumerate(sampled_slates):
        if (there := latest == n).any():
            output[there] = found(train.at(there), snapshot)
    return [output, *(found(pairs, None) for pairs in parts[1:])]


def worth(
    catalog: Catalog, retrievers: dict[str, Callable[[Interactions], Retriever]], sampled_slates: Sequence[int]
) -> list[dict[str, Any]]:
    """Rows with `retriever`, `lists`, and of AUC and user AUC on test (value, low, high); and what they are less `none`, and less
    the same lists of the first retriever."""
    interactions = Interactions(catalog)
    parts = [cut(catalog.split(name), size) for name, size in zip(SPLITS, (TRAIN_SIZE, SIZE, SIZE), strict=True)]
    counts = [interactions.counts(pairs) for pairs in parts]
    judgement = Judgement(parts[2].users, parts[2].liked)

    def judged(added: list[Features]) -> Any:
        inputs = [np.concatenate(both, 1) for both in zip(counts, added, strict=True)]
        _, scores = boosted((inputs[0], parts[0].liked), (inputs[1], parts[1].liked), inputs[2])
        return judgement.of(scores)

    output = {
        name: lists(catalog, interactions, retriever(interactions), parts, sampled_slates)
        for name, retriever in retrievers.items()
    }
    measured = {("none", ""): judged([count[:, :0] for count in counts])}
    for name, features in output.items():
        for part, columns in PARTS.items():
            measured[name, part] = judged([entry[:, columns] for entry in features])
    first = next(iter(retrievers))
    rows = []
    for (name, part), entry in measured.items():
        row = {"retriever": name, "lists": part, **entry.interval()}
        if name != "none":
            row["less none"] = entry.minus(measured["none", ""]).interval()
            row[f"less {first}"] = entry.minus(measured[first, part]).interval()
        rows.append(row)
    return rows


@dataclass(frozen=True)
class Search:
    """The retriever that embeds at request time: what it holds precomputed, users [U, H] and items [I, H], unit vectors."""

    histories: Histories
    users: Vectors
    items: Vectors
    centre: Vectors

    def neighbours(self, embed: Embed, user: int, items: NDArray[np.int64], moment: int) -> tuple[Any, Any, float]:
        """Rows of the nearest users [LIST], each target's order of the user's items [n, <= LIST], seconds of the embedding."""
        begin = time.perf_counter()
        vector = unit(embed([self.histories.text(user, moment)]) - self.centre)[0]
        embedded = time.perf_counter() - begin
        scores = self.users @ vector
        scores[user] = -np.inf
        similar = np.argpartition(-scores, LIST - 1)[:LIST]
        nearest = np.argsort(-(self.items[items] @ self.items[self.histories.items(user, moment)].T), axis=1)[:, :LIST]
        return similar, nearest, embedded


def times(
    catalog: Catalog, sampled_slates: Sequence[Slate], session: Any, search: Search, embedders: dict[str, Embed]
) -> dict[str, Any]:
    """By way of WAYS: milliseconds [rounds] of the neighbours; `request` those of scoring a slate, cold, at full depth, and
    `search` of bfloat16's search alone."""
    seconds = {name: np.zeros(len(sampled_slates)) for name in (*WAYS, "request", "search")}
    for n, slate in enumerate(sampled_slates):
        user, items = int(catalog.users.find([slate.user])[0]), catalog.items.find(slate.items)
        for way in WAYS:
            if way in embedders:
                begin = time.perf_counter()
                *_, embedded = search.neighbours(embedders[way], user, items, moment(slate))
                total = time.perf_counter() - begin
                seconds[way][n] = 1000 * total
                seconds["search"][n] = 1000 * (total - embedded)
            else:
                session.clear_cache()
                as_of = slate.as_of if way == "folded in" else None
                stats = session.score(slate.user, slate.items, as_of=as_of, force_exit=session.info.exits - 1).stats
                seconds[way][n] = stats.retrieval_us / 1000
                seconds["request"][n] = stats.total_us / 1000
    return seconds


def compared(seconds: dict[str, Any]) -> dict[str, dict[str, list[float]]]:
    """Median and quartiles of milliseconds, and of how many times as long as `folded in` a way takes within a round."""
    quartiles = [50, 25, 75]
    return {
        name: {
            "milliseconds": np.percentile(values, quartiles).tolist(),
            "ratio": np.percentile(values / seconds["folded in"], quartiles).tolist(),
        }
        for name, values in seconds.items()
    }


def described(catalog: Catalog, items: Path, words: str) -> list[str]:
    """Each item's words, in the catalog's rows."""
    frame = read_entities(items, "item_id", "--items")
    rows = catalog.items.find(frame["id"].to_list())
    output = [""] * len(catalog.items)
    for row, fields in zip(rows, frame.fill_null("").iter_rows(named=True), strict=True):
        if row >= 0:
            output[row] = words.format(**fields)
    if missing := [n for n, text in enumerate(output) if not text.strip()]:
        sys.exit(f"retrieval_cost: {items}: no words {words!r} for item {catalog.items.take(np.array(missing[:1]))[0]!r}")
    return output


def show_worth(rows: list[dict[str, Any]]) -> Table:
    output = Table(box=MARKDOWN)
    less = [key for key in rows[-1] if key.startswith("less ")]
    for column in (
        "neighbours",
        "lists",
        *(f"{metric}{of}" for metric in ("AUC", "user AUC") for of in ("", *(f", {entry}" for entry in less))),
    ):
        output.add_column(column)
    for row in rows:
        cells = []
        for metric in ("auc", "user_auc"):
            cells.append(f"{row[metric][0]:.4f}")
            for key in less:
                cells.append("{:+.4f} ({:+.4f} to {:+.4f})".format(*row[key][metric]) if key in row else "")
        output.add_row(row["retriever"], row["lists"], *cells)
    return output


def show_times(found: dict[str, dict[str, list[float]]]) -> Table:
    output = Table(box=MARKDOWN)
    for column in ("", "ms", "times folded in"):
        output.add_column(column, justify="right" if column else "left")
    for name, entry in found.items():
        output.add_row(name, *("{:.3g} ({:.3g}-{:.3g})".format(*entry[key]) for key in ("milliseconds", "ratio")))
    return output


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("time", "worth"))
    parser.add_argument("catalog", type=Path)
    parser.add_argument("--items", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--title", default="movie_title", help="the column of ITEMS with titles")
    parser.add_argument("--words", action="append", default=[], help="other words for the nearest items: '{column} and {column}'")
    parser.add_argument("--snapshots", type=int, nargs="+", help="worth: those that training rows ask, from 1; default: all")
    parser.add_argument("--bundle", type=Path, help="time: a bundle of the catalog's users and items")
    parser.add_argument("--variant", default="cpu-int8")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("build/retrieval"), help="keeps embeddings, bfloat16")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.what == "time" and not args.bundle:
        parser.error("time wants --bundle")
    catalog = Catalog.open(args.catalog)
    most = catalog.snapshots["begins"].shape[1]
    if wrong := [entry for entry in args.snapshots or () if not 1 <= entry <= most]:
        parser.error(f"--snapshots {wrong[0]}, expected 1 to {most}")
    titles = described(catalog, args.items, f"{{{args.title}}}")
    histories = Histories(catalog, titles)
    torch.set_num_threads(args.threads)
    model = MeanOfLastHidden(args.model, torch.bfloat16)
    store = Kept(model, args.work / hashlib.sha256(str(args.model.resolve()).encode()).hexdigest()[:12])

    def text(words: Sequence[str]) -> Callable[[Interactions], Retriever]:
        return lambda _: Text(catalog, histories, words, store)

    console = Console(width=190, highlight=False)
    if args.what == "worth":
        retrievers: dict[str, Callable[[Interactions], Retriever]] = {"LightGCN": lambda known: Graph(catalog, known)}
        retrievers["text, titles"] = text(titles)
        retrievers |= {f"text, {words}": text(described(catalog, args.items, words)) for words in args.words}
        rows = worth(catalog, retrievers, sorted(entry - 1 for entry in args.snapshots or range(1, most + 1)))
        print(json.dumps(rows)) if args.json else console.print(show_worth(rows))
        return
    retriever = Text(catalog, histories, titles, store)
    space = retriever.space(None)
    search = Search(histories, space.users, space.items, retriever.centre)
    whole = [slate for slate in slates(catalog, "test", SIZE) if len(slate.items) == SIZE]
    sampled_slates = draw(whole, args.rounds, SEED)
    embedders: dict[str, Embed] = {"float32": MeanOfLastHidden(args.model), "bfloat16": model}
    session = rexit.open(args.bundle, args.variant, threads=args.threads)
    session.warm_up()
    for embed in embedders.values():
        embed(titles[:1])
    found = compared(times(catalog, sampled_slates, session, search, embedders))
    users = catalog.users.find([slate.user for slate in sampled_slates])
    tokens = [model.tokens(histories.text(int(user), moment(slate))) for user, slate in zip(users, sampled_slates, strict=True)]
    if args.json:
        print(json.dumps({"ways": found, "tokens": float(np.median(tokens)), "threads": args.threads, "machine": machine()}))
        return
    console.print(show_times(found))
    console.print(f"{len(sampled_slates)} rounds, {args.threads} threads, histories of {np.median(tokens):.0f} tokens (median)")


if __name__ == "__main__":
    main()
