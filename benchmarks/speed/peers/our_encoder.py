"""rexit on a query's texts: a bundle at full depth, and under its policy if it has one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from protocol import NoCache, serve

import rexit


class Pairs(NoCache):
    """`Reranker.rank`, whose answers are put in the documents' order. force_exit: None: the bundle's policy."""

    def __init__(self, reranker: rexit.Reranker, force_exit: int | None = None) -> None:
        self.reranker, self.force_exit = reranker, force_exit

    def score(self, request: Mapping[str, Any]) -> Sequence[float]:
        first = request["scores"] if self.reranker.info.scores else None
        hits = self.reranker.rank(request["query"], request["candidates"], scores=first, force_exit=self.force_exit)
        log_odds = {hit["corpus_id"]: hit["log_odds"] for hit in hits}
        return [log_odds[n] for n in range(len(log_odds))]


def load(setup: Mapping[str, Any]) -> tuple[dict[str, Pairs], dict[str, Any]]:
    reranker = rexit.Reranker(setup["bundle"], setup["variant"], threads=setup["threads"])
    ways = {"full": Pairs(reranker, reranker.info.exits - 1)}
    if reranker.info.calibrated:
        ways["policy"] = Pairs(reranker)
    return ways, {"rexit": rexit.__version__, "variant": setup["variant"]}


if __name__ == "__main__":
    serve(load)
