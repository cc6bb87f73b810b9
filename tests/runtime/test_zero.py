"""Exit zero in a session: who stops there costs no prompt and no layer, and the others are scored as without it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import polars as pl
import pytest

from builders.bundles.bundle import BundleOptions, write_bundle
from builders.bundles.bundle_files import drop_catalog, write_policy
from builders.bundles.catalog import ITEM_IDS, USER_IDS, make_catalog
from builders.bundles.model import EXITS
from builders.bundles.zero import (
    MISSING,
    NUMBERS,
    SCORES,
    add_score_exit,
    column_graph,
    tree_graph,
    with_numbers,
    with_vectors,
    write_zero,
)
from oracles.by_the_book import by_the_book
from rexit import Request, runtime
from rexit.errors import InputError
from rexit.format.bundle import Bundle, ExitPolicy, Policy, TopK

USER, AS_OF, DEPTHS = USER_IDS[2], 40, np.array([0, *EXITS])
OPTIONS = BundleOptions(with_numbers(make_catalog()), max_tokens=50)
NEVER: dict[str, Any] = {"a": 1.0, "b": 0.0, "upper": None, "lower": None}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("zero") / "bundle", OPTIONS)


def first(stops: Sequence[int | None], a: float = 1.0) -> list[dict[str, Any]]:
    """Exits of a policy that lets so many go on after each."""
    return [{**NEVER, "a": a, "keep": most} for most in stops]


def test_the_other_exits_answer_as_without_it(folder: Path, tmp_path: Path) -> None:
    plain = runtime.open(write_bundle(tmp_path / "bundle", BundleOptions(max_tokens=50)))
    session = runtime.open(folder)
    assert [exit_.layers for exit_ in session.exits] == DEPTHS.tolist()
    assert (session.info.exits, session.info.segments, session.info.scores) == (4, 3, [])
    for user in USER_IDS:
        trace = session.trace(user, ITEM_IDS, as_of=AS_OF)
        np.testing.assert_array_equal(trace[:, 1:], plain.trace(user, ITEM_IDS, as_of=AS_OF))
        scores = session.score(user, ITEM_IDS, as_of=AS_OF, force_exit=0)
        np.testing.assert_array_equal(scores.log_odds, trace[:, 0])
        assert set(scores.exit) == set(scores.layers) == {0} and len(scores.stats.segments) == 3
        stats = scores.stats
        assert stats.candidates == len(ITEM_IDS) and stats.candidate_tokens == stats.prefix_tokens == stats.prefix_layers == 0


def test_only_who_goes_on_has_a_prompt(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", OPTIONS)
    session = runtime.open(folder)
    trace, (_, candidates) = session.trace(USER, ITEM_IDS), session.prompt(USER, ITEM_IDS)
    write_policy(folder, first([3, None, None, None]))
    scores = runtime.open(folder).score(USER, ITEM_IDS)
    best = np.flatnonzero(trace[:, 0] >= np.sort(trace[:, 0])[-3])  # those that tie at the cut share one fate
    assert len(best) > 3
    assert np.flatnonzero(scores.exit == 3).tolist() == sorted(best) and set(scores.exit) == {0, 3}
    np.testing.assert_allclose(scores.log_odds[best], trace[best, 3], atol=1e-4)
    assert scores.stats.candidate_tokens == sum(len(candidates[n]) for n in best)
    assert scores.stats.candidate_layers == len(best) * EXITS[-1] and scores.stats.candidates == len(ITEM_IDS)


@pytest.mark.medium
@pytest.mark.parametrize("slate_bytes", [0, 1])
@pytest.mark.parametrize("rule", [None, TopK(4, True, (3.0, 2.0, 0.5), (3.0, 2.0, 0.5))])
def test_stops_are_those_of_numpy(rule: TopK | None, slate_bytes: int, tmp_path: Path) -> None:
    """Thresholds, patience that counts exit zero, maps that read it, limits: by ids, by token ids, in parts of a slate."""
    folder = write_bundle(tmp_path / "bundle", OPTIONS)
    exits = (
        ExitPolicy(0.6, -0.5, 4.0, 2.0, keep=9),
        ExitPolicy(0.4, 0.1, 3.0, 3.0, (0.5,), keep=0 if slate_bytes else 5),
        ExitPolicy(0.2, 0.0, 3.0, 3.0, (0.3, 0.1)),
        ExitPolicy(0.1, 0.0, earlier=(0.4, 0.1, 0.1)),
    )
    stopped, compared = set(), 0
    for patience in (1, 2):
        policy = Policy(
            exits, patience, Bundle.open(folder).variant_sha256, 0 if slate_bytes else 2, None if slate_bytes else rule
        )
        policy.write(folder / "variants/cpu-fp32/policy.json")
        limits = replace(
            policy,
            exits=tuple(replace(e, upper=9.0, lower=9.0, keep=keep) for e, keep in zip(exits, (2, 1, 1, 0), strict=True)),
            patience=1,
            quorum=0,
            top_k=None,
        )
        session = runtime.open(folder, slate_bytes=slate_bytes)
        assert [exit_.keep for exit_ in session.exits] == list(policy.keep)
        for user in (*USER_IDS, -1):
            trace, scores = session.trace(user, ITEM_IDS, as_of=AS_OF), session.score(user, ITEM_IDS, as_of=AS_OF)
            stops = policy.stops(trace, np.array([0, len(trace)]))
            assert scores.exit.tolist() == stops.tolist() and scores.layers.tolist() == DEPTHS[stops].tolist()
            np.testing.assert_allclose(scores.log_odds, trace[np.arange(len(stops)), stops], atol=1e-4)
            own = runtime.StopRule([9.0] * 4, [9.0] * 4, keep=[2, 1, 1, 0])
            expected = by_the_book(limits, trace)[0]
            if not slate_bytes or np.count_nonzero(expected) <= 2:  # more that tie for the second place may not fit
                assert session.score(user, ITEM_IDS, as_of=AS_OF, policy=own).exit.tolist() == expected
                compared += 1
            stopped |= set(stops.tolist())
    assert stopped == {0, 1, 2, 3} and compared >= 2


def test_a_request_brings_scores_exactly_if_they_are_read(folder: Path, tmp_path: Path) -> None:
    reading = write_bundle(tmp_path / "bundle", BundleOptions(with_numbers(make_catalog(), [*NUMBERS[:1], *SCORES])))
    write_zero(reading, column_graph(3, 2))
    session, scores = runtime.open(reading), np.linspace(-3, 3, len(ITEM_IDS), dtype=np.float32)
    assert session.info.scores == ["bm25", "age"]
    missing = np.where(np.arange(len(ITEM_IDS)) % 3 == 0, np.float32(np.nan), scores)
    for given, expected in (
        ({"age": scores}, scores),
        ({"age": missing, "bm25": scores[::-1]}, np.where(np.isnan(missing), np.float32(MISSING), missing)),
        ({"bm25": scores}, np.full_like(scores, MISSING)),
    ):
        answers = session.score(USER, ITEM_IDS, scores=given, force_exit=0)
        np.testing.assert_array_equal(answers.log_odds, expected)
    body = f'{{"user": {USER}, "items": {ITEM_IDS}, "scores": {{"age": {scores.tolist()}}}, "force_exit": 0}}'
    assert [entry["exit"] for entry in json.loads(session.score_json(body).text)["scores"]] == [0] * len(ITEM_IDS)
    plain = runtime.open(folder)
    for opened, given, message in (
        (session, None, "scores is missing, expected a number for each candidate: exit zero reads bm25, age"),
        (session, {}, "scores is empty, expected a number for each candidate: exit zero reads bm25, age"),
        (session, {"bm25": None}, "scores is empty"),
        (session, {"age": scores[:-1]}, r"scores\.age has 19 numbers, expected one for each of items, 20"),
        (session, {"vector": scores}, r"scores\.vector: exit zero reads no such score, it reads bm25, age"),
        (session, {"age": [*scores[:-1], -np.inf]}, r"scores\.age\[19\] is -inf, expected a finite number"),
        (session, {"age": pl.Series([*scores[:-1], np.inf])}, r"scores\.age\[19\] is inf, expected a finite number"),
        (session, {"age": (number for number in [0.0, -np.inf])}, r"scores\.age\[1\] is -inf, expected a finite number"),
        (session, {"age": [10**400] * 20}, "not valid JSON: number overflow"),
        (session, {"age": [1e39] * 20}, r"scores\.age\[0\] is inf, expected a finite number or null"),
        (session, {"age": ["1"] * 20}, r"scores\.age\[0\] is '1', expected a number or null"),
        (session, scores, "scores is an array, expected an object of arrays of numbers by name"),
        (plain, {"age": scores}, r"scores\.age: exit zero reads no such score, it reads none"),
        (plain, {}, "scores is set, but nothing reads it"),
    ):
        with pytest.raises(InputError, match=message):
            opened.score(USER, ITEM_IDS, scores=given)


def test_an_item_that_a_user_liked_again_takes_no_memory(tmp_path: Path) -> None:
    contents = with_vectors(make_catalog())
    wide = contents.tables["items.safetensors"]
    wide["vector.text"] = np.tile(wide["vector.text"], (1, 40))
    numbers = [{"op": "max_cosine", "column": "text", "limit": limit} for limit in (2, 1000)]
    folder = write_bundle(tmp_path / "bundle", BundleOptions(with_numbers(contents, numbers)))
    write_zero(folder, column_graph(2, 1))
    item = ITEM_IDS[int(np.flatnonzero(wide["vector.text"].any(1))[0])]
    with runtime.open(folder) as session:
        once, *again = (session.score(USER, ITEM_IDS, recent=[item] * times, force_exit=0) for times in (1, 1, 900))
        buffers = session.memory.buffers
        session.trim()
        session.score(USER, ITEM_IDS, recent=[item], force_exit=0)
        assert once == again[0] == again[1] and buffers < session.memory.buffers + 100_000


def test_exit_zero_of_a_catalog_answers_no_token_ids(folder: Path) -> None:
    """The scores that such a request could bring are not the numbers that its graph reads."""
    with pytest.raises(InputError, match="candidates is set, but the bundle's exit zero reads its catalog"):
        runtime.open(folder).score(Request.tokens([1], [[2], [3]]))


def test_without_a_catalog_exit_zero_reads_the_scores(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle")
    drop_catalog(folder)
    without = runtime.open(folder).trace(Request.tokens([1, 2], [[3, 4], [5], [6, 7]]))
    add_score_exit(folder)
    session = runtime.open(folder)
    request = Request.tokens([1, 2], [[3, 4], [5], [6, 7]], {"bm25": [0.5, -2.0, 7.0]})
    trace = session.trace(request)
    assert session.info.scores == ["bm25"] and trace[:, 0].tolist() == [0.5, -2.0, 7.0]
    np.testing.assert_array_equal(trace[:, 1:], without)
    write_policy(folder, first([1, None, None, None]))
    scores = runtime.open(folder).score(request)
    assert scores.exit.tolist() == [0, 0, 3] and scores.stats.candidate_tokens == 2
    with pytest.raises(InputError, match="scores is missing"):
        session.score(Request.tokens([1, 2], [[3, 4]]))


def test_a_reload_takes_the_graph_of_the_new_catalog(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", OPTIONS)
    session = runtime.open(folder)
    before = session.score(USER, ITEM_IDS, force_exit=0).log_odds
    model = tree_graph(len(NUMBERS))
    node = model.graph.node[0]
    next(attribute for attribute in node.attribute if attribute.name == "base_values").floats[:] = [1.25]
    copied = folder.with_name("next")
    folder.rename(copied)
    write_bundle(folder, OPTIONS)
    onnx.save(model, folder / "catalog/zero.onnx")
    write_policy(folder, first([None] * 4))
    reloaded = session.reloaded()
    assert reloaded is not None
    np.testing.assert_array_equal(reloaded.score(USER, ITEM_IDS, force_exit=0).log_odds, before + 1)
    np.testing.assert_array_equal(session.score(USER, ITEM_IDS, force_exit=0).log_odds, before)
