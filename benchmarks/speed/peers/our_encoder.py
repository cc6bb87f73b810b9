"""rexit on a query's texts: a bundle at full depth, and under its policy if it has one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from protocol import NoCache, serve

import rexit
from rexit.bundle import Bundle
from rexit.prompts.texts import TextEncoder, bundle_encoder
from rexit.runtime import Session


class Pairs(NoCache):
    """how: force_exit of `Session.score`, or nothing."""

    def __init__(self, encoder: TextEncoder, session: Session, **how: Any) -> None:
        self.encoder, self.session, self.how = encoder, session, how

    def score(self, request: Mapping[str, Any]) -> Sequence[float]:
        tokens = self.encoder.prompt(request["query"], request["candidates"])
        first = request["scores"] if self.session.info.scores else None
        log_odds: list[float] = self.session.score(rexit.Request.tokens(*tokens, scores=first), **self.how).log_odds.tolist()
        return log_odds


def load(setup: Mapping[str, Any]) -> tuple[dict[str, Pairs], dict[str, Any]]:
    bundle = Bundle.open(setup["bundle"], setup["variant"])
    encoder, session = bundle_encoder(bundle), rexit.open(setup["bundle"], setup["variant"], threads=setup["threads"])
    session.warm_up()
    ways = {"full": Pairs(encoder, session, force_exit=session.info.exits - 1)}
    if bundle.policy() is not None:
        ways["policy"] = Pairs(encoder, session)
    return ways, {"rexit": rexit.__version__, "variant": setup["variant"]}


if __name__ == "__main__":
    serve(load)
