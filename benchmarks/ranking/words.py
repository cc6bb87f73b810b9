"""What an item's words tell beyond the numbers: the best baseline, told them as well, less that baseline alone.

    python benchmarks/ranking/words.py CATALOG --items items.tsv --columns title,author

1. Words of the item: a logistic regression on the boosting's log-odds and tf-idf of words and pairs of words. In training those
   log-odds are out of fold (teacher.py); the penalty has the most AUC on validation.
2. Likes of items worded alike: boosting with two more features. Each visible interaction of the user counts by the cosine of the
   two items' tf-idf; the sum of that, and the share of it that was liked, less the user's like rate.
3. The boosting is teacher.py's. Judged on test, 95 % intervals over users.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import polars as pl
from as_of import Features, Pairs
from baselines import boosting_inputs
from boosting import Scores, boosted
from judgement import METRICS, Judgement
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table
from scipy.sparse import csr_array, hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from teacher import best

from rexit.bundle import Catalog
from rexit.bundle.catalog import SPLITS
from rexit.errors import InputError
from rexit.exporter.catalog.entities import read_entities
from rexit.exporter.catalog.source_tables import read_table
from rexit.ranking import auc
from rexit.scripts import script

PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3)
"""Inverse, as scikit-learn has them."""
PRIOR = 0.3
"""How much the user's own like rate weighs beside items worded alike."""
LEAST = 3
"""Items that a word or pair of words stands in, or it is left out."""


def tf_idf(catalog: Catalog, items: Path, columns: list[str]) -> csr_array:
    """Of each item's texts, unit rows [I, words]. Raises InputError for a column that is not there."""
    entities = read_entities(items, read_table(items).columns[0], "--items")
    if missing := [name for name in columns if name not in entities.columns]:
        raise InputError(f"{items}: no column {missing[0]!r}, it has: {', '.join(entities.columns[1:])}")
    ids = pl.Series("id", catalog.items.take(np.arange(len(catalog.items))))
    rows = ids.to_frame().join(entities.cast({"id": ids.dtype}), on="id", how="left", maintain_order="left")
    texts = rows.select(pl.concat_str(pl.col(columns).fill_null(""), separator=" | ")).to_series().to_list()
    return csr_array(TfidfVectorizer(min_df=LEAST, ngram_range=(1, 2), sublinear_tf=True).fit_transform(texts))


def beside(known: tuple[Pairs, Scores], parts: list[tuple[Pairs, Scores]], words: csr_array) -> Scores:
    """Log-odds of the last part's pairs. known: what is fitted on; parts: validation, which chooses, and the part asked for."""

    def inputs(pairs: Pairs, score: Scores) -> csr_array:
        return csr_array(hstack([words[pairs.items], score[:, None]]))

    fits = [LogisticRegression(C=penalty, max_iter=1000).fit(inputs(*known), known[0].liked) for penalty in PENALTIES]
    (validation, predicted), test_part = parts
    model = max(fits, key=lambda fit: auc(fit.decision_function(inputs(validation, predicted)), validation.liked))
    scores: Scores = model.decision_function(inputs(*test_part))
    return scores


def worded_alike(catalog: Catalog, parts: list[Pairs], words: csr_array) -> list[Features]:
    """float32 [n, 2] of the pairs of each part."""
    splits = [catalog.split(name) for name in SPLITS]
    users, items, times, liked = (np.concatenate([getattr(s, k) for s in splits]) for k in ("users", "items", "times", "liked"))
    order = np.lexsort((times, users))
    users, items, times, liked = (penalty[order] for penalty in (users, items, times, liked))
    begins = np.searchsorted(users, np.arange(len(catalog.users) + 1))
    rows = []
    for pairs in parts:
        features = np.zeros((len(pairs), 2), np.float32)
        for a, b in zip(pairs.first, np.r_[pairs.first[1:], len(pairs)], strict=True):
            begin, end = begins[pairs.users[a] :][:2]
            visible = slice(begin, begin + np.searchsorted(times[begin:end], pairs.as_of[a]))
            if visible.start == visible.stop:
                continue
            alike = (words[pairs.items[a:b]] @ words[items[visible]].T).toarray()
            alike[pairs.items[a:b, None] == items[visible]] = 0
            total, rate = alike.sum(1), liked[visible].mean()
            features[a:b, 0] = total
            features[a:b, 1] = (alike @ liked[visible] + PRIOR * rate) / (total + PRIOR) - rate
        rows.append(features)
    return rows


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("catalog", type=Path)
    parser.add_argument("--items", type=Path, required=True, help="the table that the catalog was indexed with")
    parser.add_argument("--columns", required=True, help="of texts: title,author")
    args = parser.parse_args()
    catalog, console = Catalog.open(args.catalog), Console(highlight=False, width=160)
    words = tf_idf(catalog, args.items, args.columns.split(","))
    parts, inputs = boosting_inputs(catalog)
    train, validation, test = parts
    name, predicted = best(parts, inputs, console)

    def fitted(features: list[Features]) -> tuple[Scores, Scores]:
        return boosted((features[0], train.liked), (features[1], validation.liked), features[2])

    alone = fitted(inputs[name])
    more = [np.concatenate(both, 1) for both in zip(inputs[name], worded_alike(catalog, parts, words), strict=True)]
    record = {
        "words of the item": beside(
            (train, np.log(predicted / (1 - predicted))), list(zip(parts[1:], alone, strict=True)), words
        ),
        "likes of items worded alike": fitted(more)[1],
    }
    judgement = Judgement(test.users, test.liked)
    before = judgement.of(alone[1])
    table = Table(f"{name}, told also", *METRICS[:3], box=MARKDOWN)
    for what, score in record.items():
        gain = judgement.of(score).minus(before).interval()
        table.add_row(what, *("{:+.4f} ({:+.4f} to {:+.4f})".format(*gain[metric]) for metric in METRICS[:3]))
    console.print(table)


if __name__ == "__main__":
    main()
