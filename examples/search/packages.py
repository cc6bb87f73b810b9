"""Find a Debian package by what it is for: its short description is a query, its long one the document that answers.

    python examples/search/packages.py OUT [--queries 3400] [--candidates 20] [--words 40] [--ask "edit pictures"]

Descriptions come from Debian's package index, which apt fetches (17 MB; neither root nor the system's own lists are needed).
Needs apt and the package bm25s. Writes

    OUT/slates.jsonl   a query's best documents by BM25, with its scores; the package's own is relevant, found or not
    OUT/asked.json     the best documents for --ask, which is no package's description: `query` and `documents`

A document is cut to --words; packages with fewer than 15 words, or with the text of another, are left out.

Three splits of queries, drawn at random: 1,600 of 3,400 train, 1,000 validate, 800 test.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import bm25

from rexit.errors import script
from rexit.format.bundle import write_json
from rexit.format.bundle.writer import new_folder

SPLITS = {"train": 8, "validation": 5, "test": 4}
"""Shares of the queries."""
FEWEST_WORDS = 15
_SANDBOX = ["APT::Sandbox::User=root"] if os.geteuid() == 0 else []  # a temporary folder is not apt's own user's
HELPER = "/usr/lib/apt/apt-helper"  # reads whatever compression a mirror has


def apt(*arguments: object, lists: Path) -> str:
    options = [f"Dir::State::Lists={lists}", f"Dir::Cache={lists.parent / 'cache'}", "Acquire::Languages=en", *_SANDBOX]
    command = [str(word) for word in (*arguments, *(word for option in options for word in ("-o", option)))]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    except OSError as exc:
        sys.exit(f"packages: {command[0]}: {exc.strerror}: the descriptions are Debian's, and apt fetches them")
    if done.returncode:
        sys.exit(f"packages: {' '.join(command[:2])} failed with exit code {done.returncode} (see above)")
    return done.stdout


def descriptions(work: Path) -> dict[str, tuple[str, str]]:
    """Returns the short and the long description by package, of packages whose long one is no other's, in the index's order."""
    lists = work / "lists"
    for folder in (lists / "partial", work / "cache" / "archives" / "partial"):
        folder.mkdir(parents=True, exist_ok=True)
    apt("apt-get", "update", "-qq", lists=lists)
    files = apt("apt-get", "indextargets", "--format", "$(FILENAME)", "Created-By: Translations", lists=lists).split()
    packages: dict[str, tuple[str, str]] = {}
    known: set[str] = set()
    for file in sorted(files):
        for block in apt(HELPER, "cat-file", file, lists=lists).split("\n\n"):
            name = re.search(r"^Package: (\S+)", block, re.MULTILINE)
            text = re.search(r"^Description-en: (.*)\n((?: .*\n?)*)", block, re.MULTILINE)
            if name is None or text is None or name[1] in packages:
                continue
            long = re.sub(r"\s+", " ", text[2].replace("\n .\n", "\n")).strip()
            if len(long.split()) >= FEWEST_WORDS and long not in known:
                known.add(long)
                packages[name[1]] = text[1].strip(), long
    if not packages:
        sys.exit("packages: apt has no English descriptions of packages")
    return packages


@dataclass(frozen=True)
class Document:
    """A document that BM25 found: its package, its text and its score."""

    package: str
    text: str
    score: float


def slates(queries: Mapping[str, str], best: Iterable[Sequence[Document]]) -> Iterator[dict[str, Any]]:
    """Yields the rows of a file of slates. queries: by the package that answers. best: what BM25 found for each."""
    splits = [split for split, share in SPLITS.items() for _ in range(share)]
    for n, ((package, query), documents) in enumerate(zip(queries.items(), best, strict=True)):
        yield {
            "group": package,
            "split": splits[n % len(splits)],
            "query": query,
            "candidates": [document.text for document in documents],
            "label": [int(document.package == package) for document in documents],
            "score.bm25": [document.score for document in documents],
            "grades": [1],
        }


@script
def main(out: Path, count: int, candidates: int, words: int, ask: str) -> None:
    if count < len(SPLITS) or candidates < 2 or words < FEWEST_WORDS:
        limits = f"--queries {count} --candidates {candidates} --words {words}"
        sys.exit(f"packages: {limits}, expected at least {len(SPLITS)}, 2 and {FEWEST_WORDS}")
    with new_folder(out) as folder, tempfile.TemporaryDirectory() as work:
        packages = descriptions(Path(work))
        names, texts = list(packages), [long for _, long in packages.values()]
        chosen = random.Random(0).sample(names, min(count, len(names)))
        queries = {name: packages[name][0] for name in chosen}
        best = [
            [Document(names[n], " ".join(texts[n].split()[:words]), round(score, 4)) for n, score in ranked]
            for ranked in bm25.best(texts, [*queries.values(), ask], candidates)
        ]
        rows = list(slates(queries, best[: len(queries)]))
        (folder / "slates.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        write_json(folder / "asked.json", {"query": ask, "documents": [asdict(document) for document in best[-1]]})
    share = sum(sum(row["label"]) for row in rows) / len(rows)
    counts = ", ".join(f"{sum(row['split'] == split for row in rows)} {split}" for split in SPLITS)
    print(f"{len(texts)} packages; {len(rows)} queries ({counts}); BM25's best {candidates} have the package of {share:.1%}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--queries", type=int, default=3400)
    parser.add_argument("--candidates", type=int, default=20)
    parser.add_argument("--words", type=int, default=40)
    parser.add_argument("--ask", default="edit pictures on the command line")
    args = parser.parse_args()
    main(args.out, args.queries, args.candidates, args.words, args.ask)
