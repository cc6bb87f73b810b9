"""SciFact's claims and 5,183 abstracts (D. Wadden and others, EMNLP 2020; CC BY 4.0 and ODC-By) as a file of slates.

    pip install bm25s
    python examples/reranker/scifact.py OUT --from scifact.zip [--candidates 50] [--words 110]

The zip has `corpus_train.csv`, `claims_train.csv` and `claims_validation.csv`. Writes

    OUT/slates.jsonl   a claim's BM25 candidates, in that order, with their scores; a cited abstract is relevant

Claims in three splits: `test` is the data set's validation, 300 claims. Of its training claims, 809, those about one abstract
are all in `train` or all in `validation`, since many differ in a word. `grades` has a 1 for each cited abstract, found by BM25 or
not: `ndcg.py` takes its ideal ranking from it. A document is its title and abstract, cut to `--words`.
"""

from __future__ import annotations

import argparse
import ast
import csv
import hashlib
import io
import json
import re
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import bm25

from rexit.errors import script
from rexit.format.bundle.writer import new_folder

CORPUS = "corpus_train.csv"
CLAIMS = {"train": "claims_train.csv", "test": "claims_validation.csv"}
VALIDATION_SHARE = 0.4
"""Of the training claims, about."""
_LITERAL = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)


def sentences(abstract: str) -> str:
    """Returns the text of an abstract, which the file has as NumPy prints an array of sentences."""
    return " ".join(ast.literal_eval(literal) for literal in _LITERAL.findall(abstract))


def split_of(split: str, cited: list[int]) -> str:
    """Returns a claim's split, by the digest of one abstract that it cites, that of the lowest number."""
    digest = hashlib.sha256(str(min(cited)).encode()).digest()
    return "validation" if split == "train" and digest[0] < VALIDATION_SHARE * 256 else split


def slates(tables: Mapping[str, list[dict[str, str]]], candidates: int, words: int) -> Iterator[dict[str, Any]]:
    """Yields the rows of a file of slates. tables: rows of each file, by name."""
    numbers = [int(row["doc_id"]) for row in tables[CORPUS]]
    texts = [f"{row['title']} {sentences(row['abstract'])}" for row in tables[CORPUS]]
    claims = [(split, row) for split, name in CLAIMS.items() for row in {row["id"]: row for row in tables[name]}.values()]
    rankings = bm25.best(texts, [row["claim"] for _, row in claims], candidates)
    for (split, row), ranked in zip(claims, rankings, strict=True):
        cited = [int(number) for number in re.findall(r"\d+", row["cited_doc_ids"])]
        yield {
            "group": int(row["id"]),
            "split": split_of(split, cited),
            "query": row["claim"],
            "candidates": [" ".join(texts[place].split()[:words]) for place, _ in ranked],
            "label": [int(numbers[place] in cited) for place, _ in ranked],
            "score.bm25": [round(score, 4) for _, score in ranked],
            "grades": [1] * len(set(cited)),
        }


@script
def main(out: Path, source: Path, candidates: int, words: int) -> None:
    if candidates < 2 or words < 1:
        sys.exit(f"scifact: --candidates {candidates} --words {words}, expected at least 2 and 1")
    try:
        with zipfile.ZipFile(source) as archive:
            tables = {
                name: list(csv.DictReader(io.StringIO(archive.read(name).decode("utf-8")))) for name in (CORPUS, *CLAIMS.values())
            }
    except (zipfile.BadZipFile, KeyError) as exc:
        sys.exit(f"scifact: {source}: {exc.args[0]}, expected a zip file of SciFact")
    with new_folder(out) as folder:
        rows = list(slates(tables, candidates, words))
        (folder / "slates.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    relevant, judged = (sum(sum(row[name]) for row in rows) for name in ("label", "grades"))
    counts = ", ".join(f"{sum(row['split'] == name for row in rows)} {name}" for name in ("train", "validation", "test"))
    print(f"{len(rows)} claims ({counts}), {relevant} of {judged} cited abstracts are candidates, in {out / 'slates.jsonl'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--from", dest="source", type=Path, required=True)
    parser.add_argument("--candidates", type=int, default=50)
    parser.add_argument("--words", type=int, default=110)
    args = parser.parse_args()
    main(args.out, args.source, args.candidates, args.words)
