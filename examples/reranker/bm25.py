"""A first stage for the examples: each query's best documents by BM25."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence


def best(documents: Sequence[str], queries: Sequence[str], count: int) -> list[list[tuple[int, float]]]:
    """Returns the places of each query's best documents, and their scores."""
    try:
        bm25s = importlib.import_module("bm25s")
    except ImportError:
        sys.exit("bm25: needs the package bm25s: pip install bm25s")
    retriever = bm25s.BM25()
    retriever.index(bm25s.tokenize(list(documents), stopwords="en", show_progress=False), show_progress=False)
    tokens = bm25s.tokenize(list(queries), stopwords="en", show_progress=False)
    places, scores = retriever.retrieve(tokens, k=min(count, len(documents)), show_progress=False)
    return [[(int(place), float(score)) for place, score in zip(*row, strict=True)] for row in zip(places, scores, strict=True)]
