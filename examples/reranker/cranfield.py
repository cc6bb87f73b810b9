"""Cranfield's 225 queries and 1,400 abstracts (C. W. Cleverdon, 1967; a public test collection) as files of slates.

    pip install bm25s
    python examples/reranker/cranfield.py OUT --from cranfield.zip [--candidates 100] [--words 100] [--scores] …

The zip has `cran.all.1400`, `cran.qry` and `cranqrel`, the judgements. Writes

    OUT/slates.jsonl   a query's BM25 candidates, in that order, each with its score and grade; queries in three splits
    OUT/prompt.json    a prompt for a decoder that is no reranker yet: `rexit heads --reranker OUT/prompt.json`

A grade is 3 for a complete answer, 2 for high relevance, 1 for a useful reference, 0 for the rest, those of minimum interest
among them. `grades` has the ten best of all documents, found by BM25 or not: an ideal ranking. Abstracts are cut to `--words`.
With `--scores` a candidate ends in its BM25 score as a share of the best one's, in two digits: a first stage's score as text
helps a reranker (Askari et al., ECIR 2023). Training queries keep the first `--train-candidates` alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import bm25

from rexit.errors import script
from rexit.format.bundle.writer import new_folder

DOCUMENTS, QUERIES, JUDGEMENTS = "cran.all.1400", "cran.qry", "cranqrel"
SPLITS = {"train": 0.4, "validation": 0.7, "test": 1.0}
"""The share of queries up to a split's end."""
PROMPT = {
    "prefix": ["Query: {query}\n"],
    "document": ["Passage: {document}", "\nRelevant:"],
    "answers": {"no": " no", "yes": " yes"},
}


def records(text: str) -> Iterator[dict[str, str]]:
    """Yields the fields of each record: I, T, A, B and W, as the collection has them."""
    for record in re.split(r"^\.I ", text, flags=re.MULTILINE)[1:]:
        number, *fields = re.split(r"^\.([TABW])\n", record, flags=re.MULTILINE)
        yield {
            "I": number.strip(),
            **{name: " ".join(value.split()) for name, value in zip(fields[::2], fields[1::2], strict=True)},
        }


def judgements(text: str) -> dict[int, dict[int, int]]:
    """Returns the grades of each query's documents, by number. Queries are numbered by their place in the file of queries."""
    grades: dict[int, dict[int, int]] = defaultdict(dict)
    for line in text.splitlines():
        query, document, code = map(int, line.split())
        grades[query][document] = 4 - code if code in (1, 2, 3) else 0
    return grades


def split_of(query: int, count: int) -> str:
    """Returns a query's split, by the digest of its number, whatever the order of the file."""
    order = sorted(range(1, count + 1), key=lambda number: hashlib.sha256(str(number).encode()).digest())
    place = order.index(query) / count
    return next(name for name, end in SPLITS.items() if place < end)


def text_of(document: str, words: int, share: float | None) -> str:
    """Returns a candidate's text. share: its score over the best candidate's; None: left out."""
    text = " ".join(document.split()[:words])
    return text if share is None else f"{text}\nMatch: {min(99, round(100 * share)):02d}"


def slates(
    files: Mapping[str, str], candidates: int, words: int, train_candidates: int | None = None, scores: bool = False
) -> Iterator[dict[str, Any]]:
    """Yields the rows of a file of slates. train_candidates: the most of a training query; None: as for the others."""
    documents = [record for record in records(files[DOCUMENTS]) if record.get("W")]
    queries = [record["W"] for record in records(files[QUERIES])]
    graded = judgements(files[JUDGEMENTS])
    rankings = bm25.best([record["W"] for record in documents], queries, candidates)
    for n, (query, ranked) in enumerate(zip(queries, rankings, strict=True), 1):
        split, highest = split_of(n, len(queries)), ranked[0][1] or 1.0
        chosen = [(documents[place], score) for place, score in ranked]
        if split == "train":
            chosen = chosen[:train_candidates]
        yield {
            "group": n,
            "split": split,
            "query": query,
            "candidates": [text_of(record["W"], words, score / highest if scores else None) for record, score in chosen],
            "score.bm25": [round(score, 4) for _, score in chosen],
            "label": [graded[n].get(int(record["I"]), 0) for record, _ in chosen],
            "grades": sorted(graded[n].values(), reverse=True)[:10],
        }


@script
def main(out: Path, source: Path, candidates: int, train_candidates: int | None, words: int, scores: bool) -> None:
    try:
        with zipfile.ZipFile(source) as archive:
            files = {name: archive.read(name).decode("latin-1") for name in (DOCUMENTS, QUERIES, JUDGEMENTS)}
    except (zipfile.BadZipFile, KeyError) as exc:
        sys.exit(f"cranfield: {source}: {exc.args[0]}, expected a zip file of Cranfield")
    if candidates < 2 or words < 1:
        sys.exit(f"cranfield: --candidates {candidates} --words {words}, expected at least 2 and 1")
    if train_candidates is not None and not 2 <= train_candidates <= candidates:
        sys.exit(f"cranfield: --train-candidates {train_candidates}, expected 2 to {candidates}")
    with new_folder(out) as folder:
        rows = list(slates(files, candidates, words, train_candidates, scores))
        (folder / "slates.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        (folder / "prompt.json").write_text(json.dumps(PROMPT, indent=1) + "\n", encoding="utf-8")
    labels = [grade for row in rows for grade in row["label"]]
    relevant = sum(grade > 0 for grade in labels)
    print(f"{len(rows)} queries, {len(labels)} candidates, {relevant} of them relevant, in {out / 'slates.jsonl'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--from", dest="source", type=Path, required=True)
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--train-candidates", type=int)
    parser.add_argument("--words", type=int, default=100)
    parser.add_argument("--scores", action="store_true")
    args = parser.parse_args()
    main(args.out, args.source, args.candidates, args.train_candidates, args.words, args.scores)
