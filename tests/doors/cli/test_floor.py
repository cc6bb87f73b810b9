"""A request's `floor`: what the policy stopped below its floor is left out, at every door."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.bundles.bundle import write_bundle
from builders.bundles.bundle_files import write_policy
from builders.bundles.catalog import ITEM_IDS, USER_IDS
from builders.bundles.reranker import write_reranker
from rexit import Request, runtime
from rexit.doors.pool import Pool
from rexit.doors.rankers import Recommender, Reranker
from rexit.errors import DeadlineError, InputError
from rexit.format.bundle import Bundle
from rexit.runtime import StopRule
from running.command import Run, assert_one_line
from running.service import serving

QUERY, DOCUMENTS = "wing drag", ["heat flow", "wing", "layer layer", "drag heat wing", "flow"]
EXITS = [{"a": 1.0, "b": 0.0, "upper": None, "lower": None}] * 3
PROMPT: dict[str, Any] = {"prefix": [3], "candidates": [[6], [7, 8], [5, 5], [9]]}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reranker(tmp_path_factory.mktemp("floor") / "bundle")


@pytest.fixture
def floors(bundle: Path) -> Iterator[list[float]]:
    """Between which two of the prompt's candidates a floor may be; without one there is no policy."""
    (bundle / "variants/cpu-fp32/policy.json").unlink(missing_ok=True)
    with runtime.open(bundle) as session:
        c = np.sort(session.score(Request(**PROMPT)).log_odds.astype(float))
    yield [c[0] - 1, *((c[1:] + c[:-1]) / 2).tolist(), c[-1] + 1]


def put(bundle: Path, floor: float) -> None:
    write_policy(bundle, EXITS, floor={"c": floor, "recall": 0.95, "confidence": 0.95, "users": 90}, prior_shift=0.5)


def test_what_is_below_is_left_out_and_an_answer_may_be_empty(bundle: Path, floors: list[float]) -> None:
    with runtime.open(bundle) as session:
        whole = session.score(Request(**PROMPT))
    for left_out, floor in enumerate(floors):
        put(bundle, floor)
        with runtime.open(bundle) as session:
            for top_k in (0, 2):
                scores = session.score(Request(**PROMPT, floor=True), top_k=top_k)
                kept = [n for n in range(4) if whole.log_odds[n] >= floor]
                best = sorted(kept, key=lambda n: -whole.log_odds[n])[: top_k or None]
                assert scores.index.tolist() == best and len(kept) == 4 - left_out
                np.testing.assert_array_equal(scores.log_odds, whole.log_odds[best])
                body = json.dumps({**PROMPT, "floor": True, "top_k": top_k})
                assert [row["item"] for row in json.loads(session.score_json(body).text)["scores"]] == best
            assert len(session.score(Request(**PROMPT, floor=False))) == len(session.score(Request(**PROMPT))) == 4
            forced = session.score_json(json.dumps({**PROMPT, "floor": True}), force_exit=2)
            assert len(json.loads(forced.text)["scores"]) == 4, "the floor is of the bundle's own rules"
            own = session.score(Request(**PROMPT, floor=True), policy=StopRule([9.0] * 3, [9.0] * 3))
            assert len(own) == 4
            assert session.trace(Request(**PROMPT, floor=True)).shape == (4, 3)
    assert left_out == 4


def test_what_a_deadline_cut_short_stays(bundle: Path, floors: list[float]) -> None:
    put(bundle, floors[-1])
    with runtime.open(bundle) as session:
        session.score(Request(**PROMPT))
        for deadline_ms in (1e-3, 0.02, 0.05, 0.1, 1, 1e6):
            try:
                scores = session.score(Request(**PROMPT, floor=True, deadline_ms=deadline_ms))
            except DeadlineError:
                continue
            assert scores.cut_short.all()
        assert len(scores) == 0, "there was time"


def test_a_recommender(tmp_path: Path) -> None:
    folder, items = write_bundle(tmp_path / "bundle"), list(ITEM_IDS[:6])
    with Recommender(folder) as recommender:
        c = sorted(hit["log_odds"] for hit in recommender.recommend(USER_IDS[0], items=items))
    put(folder, (c[1] + c[2]) / 2)
    with Recommender(folder) as recommender:
        assert [len(recommender.recommend(USER_IDS[0], items=items, floor=floor)) for floor in (False, True)] == [6, 4]


def test_what_cannot_be_is_refused(bundle: Path, floors: list[float]) -> None:
    missing = "floor is true, but the policy has no floor: `rexit calibrate --recall` finds one, if labels show one"
    with runtime.open(bundle) as session, pytest.raises(InputError, match=f"^{missing}$"):
        session.score(Request(**PROMPT, floor=True))
    put(bundle, 0.0)
    with runtime.open(bundle) as session:
        for fields, message in (
            ({"floor": 0.5}, "floor is 0.5, expected true or false"),
            ({"floor": "true"}, "floor is 'true', expected true or false"),
            ({"floor": [True]}, "floor is an array, expected true or false"),
            ({"floor": True, "force_exit": 1}, "floor is true, but force_exit is set: the floor is of candidates that the po"),
        ):
            with pytest.raises(InputError, match=f"^{message}"):
                session.score_json(json.dumps({**PROMPT, **fields}))


def test_every_door(run: Run, bundle: Path, tmp_path: Path, floors: list[float]) -> None:
    (path := tmp_path / "documents.txt").write_text("\n".join(DOCUMENTS) + "\n")
    with Reranker(bundle) as reranker:
        hits = reranker.rank(QUERY, DOCUMENTS)
    put(bundle, (hits[1]["log_odds"] + hits[2]["log_odds"]) / 2)
    best = [hit["corpus_id"] for hit in hits[:2]]
    policy = Bundle.open(bundle).policy()
    assert policy is not None and policy.floor is not None and policy.floor["users"] == 90
    with Reranker(bundle) as reranker:
        assert [hit["corpus_id"] for hit in reranker.rank(QUERY, DOCUMENTS, floor=True)] == best
        (many,) = reranker.rank_many([(QUERY, DOCUMENTS)], floor=True)
        assert [hit["corpus_id"] for hit in many] == best
        assert len(reranker.rank(QUERY, DOCUMENTS, 1, floor=True)) == 1 and len(reranker.rank(QUERY, DOCUMENTS)) == 5
        assert reranker.rank(QUERY, [DOCUMENTS[hits[-1]["corpus_id"]]], floor=True) == []
    ended = run("rerank", bundle, "--query", QUERY, "--documents", path, "--floor", "--json")
    assert [row["index"] for row in ended.json["results"]] == best
    with serving(Pool(partial(runtime.open, bundle), 1, 4)) as service:
        body = {"query": QUERY, "documents": DOCUMENTS, "floor": True}
        reply = service.ask("POST", "/v1/rerank", json.dumps(body).encode())
        assert [row["index"] for row in reply.json["results"]] == best
        low = {**body, "documents": [DOCUMENTS[hits[-1]["corpus_id"]]]}
        assert service.ask("POST", "/v1/rerank", json.dumps(low).encode()).json["results"] == []
        scored = service.ask("POST", "/v1/score", json.dumps({**PROMPT, "floor": True}).encode())
        assert scored.status == 200 and len(scored.json["scores"]) < 4
    path.write_text(DOCUMENTS[hits[-1]["corpus_id"]] + "\n")
    assert run("rerank", bundle, "--query", QUERY, "--documents", path, "--floor").code == 0
    write_policy(bundle, EXITS)
    assert_one_line(run("rerank", bundle, "--query", QUERY, "--documents", path, "--floor"), 2, "the policy has no floor")
