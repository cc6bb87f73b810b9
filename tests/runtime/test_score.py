"""Scores against the same model in NumPy: packing, prefix, chunks, compaction and exits must not change them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from builders.bundles.bundle import BundleOptions, write_bundle
from builders.bundles.bundle_files import refresh, write_policy
from builders.bundles.catalog import ITEM_IDS, USER_IDS, CatalogContents, make_catalog, string_id
from builders.bundles.model import EXITS, make_weights, reference
from rexit import runtime
from rexit.errors import BackendError, DeadlineError, InputError
from rexit.format.bundle import Bundle, ExitPolicy, Policy, TopK

USER, AS_OF = USER_IDS[2], 40
# Log-odds here are up to 30; float32 against float64.
CLOSE = {"rtol": 1e-4, "atol": 1e-3}


@pytest.fixture(scope="module")
def expected(folder: Path) -> NDArray[np.float64]:
    prefix, candidates = runtime.open(folder).prompt(USER, ITEM_IDS, as_of=AS_OF)
    weights = make_weights()
    return np.array([reference(weights, prefix, candidate) for candidate in candidates])


def test_trace_is_the_reference(session: runtime.Session, expected: NDArray[np.float64]) -> None:
    log_odds = session.trace(USER, ITEM_IDS, as_of=AS_OF)
    assert log_odds.dtype == np.float32 and log_odds.shape == (len(ITEM_IDS), len(EXITS))
    np.testing.assert_allclose(log_odds, expected, **CLOSE)


@pytest.mark.parametrize("max_tokens", [1, 17, 40, 10_000])
def test_chunks_do_not_change_scores(max_tokens: int, tmp_path: Path, expected: NDArray[np.float64]) -> None:
    session = runtime.open(write_bundle(tmp_path / "bundle", BundleOptions(max_tokens=max_tokens)))
    np.testing.assert_allclose(session.trace(USER, ITEM_IDS, as_of=AS_OF), expected, **CLOSE)


@pytest.mark.parametrize("cache_bytes", [0, 1])
def test_shared_starts_do_not_change_scores(folder: Path, cache_bytes: int) -> None:
    """Prefixes that grow by one interaction after another: most of each is copied, or with a budget for one taken over in place;
    in a session that forgets nothing is."""
    session, cold = runtime.open(folder, cache_bytes=cache_bytes), runtime.open(folder)
    copied = 0
    for user in USER_IDS[:4]:
        for count in range(8):
            recent = [(item, bool(n % 2)) for n, item in enumerate(ITEM_IDS[:count])]
            warm = session.trace_with_stats(user, ITEM_IDS, recent=recent)
            cold.clear_cache()
            np.testing.assert_allclose(warm.log_odds, cold.trace(user, ITEM_IDS, recent=recent), atol=1e-5)
            copied += 0 < warm.stats.prefix_tokens_reused < warm.stats.prefix_tokens
    assert copied > 0


def test_memory_is_taken_for_what_comes(tmp_path: Path, session: runtime.Session) -> None:
    info, tables = make_catalog()
    info["prompt"] = {**info["prompt"], "max_prefix_tokens": 1 << 20}  # as one long title makes it
    other = runtime.open(write_bundle(tmp_path / "bundle", BundleOptions(CatalogContents(info, tables))))
    np.testing.assert_array_equal(other.trace(USER, ITEM_IDS), session.trace(USER, ITEM_IDS))
    assert other.memory.buffers == session.memory.buffers and other.memory.prefixes == session.memory.prefixes


def test_segments_tell_where_the_time_goes(session: runtime.Session) -> None:
    scores = session.score(USER, ITEM_IDS, as_of=AS_OF, force_exit=1)
    first, second, third = scores.stats.segments
    assert first.prefix_tokens == second.prefix_tokens == scores.stats.prefix_tokens > 0
    assert first.candidates == second.candidates == len(ITEM_IDS) and first.candidate_tokens == scores.stats.candidate_tokens
    assert min(first.prefix_us, first.slate_us, second.prefix_us, second.slate_us) > 0
    assert third.prefix_tokens == third.candidates == third.candidate_tokens == third.prefix_us == third.slate_us == 0
    assert first.prefix_us + second.prefix_us <= scores.stats.prefix_us
    assert first.slate_us + second.slate_us <= scores.stats.slate_us
    again = session.trace_with_stats(USER, ITEM_IDS, as_of=AS_OF).stats.segments
    assert [segment.prefix_tokens for segment in again] == [0, 0, scores.stats.prefix_tokens]


@pytest.mark.parametrize("exit", range(len(EXITS)))
def test_force_exit(exit: int, session: runtime.Session, expected: NDArray[np.float64]) -> None:
    scores = session.score(USER, ITEM_IDS, as_of=AS_OF, force_exit=exit)
    np.testing.assert_allclose(scores.log_odds, expected[:, exit], **CLOSE)
    assert scores.exit.tolist() == [exit] * len(ITEM_IDS)
    assert scores.stats.candidate_layers == EXITS[exit] * len(ITEM_IDS)
    assert scores.items.tolist() == ITEM_IDS and not scores.cut_short.any()


def test_without_a_policy_only_the_last_exit_stops(session: runtime.Session, expected: NDArray[np.float64]) -> None:
    scores = session.score(USER, ITEM_IDS, as_of=AS_OF)
    assert set(scores.exit) == {len(EXITS) - 1} and not session.info.calibrated
    np.testing.assert_allclose(scores.probability, 1 / (1 + np.exp(-expected[:, -1])), atol=1e-4)


def test_the_best_come_first_where_all_probabilities_round_to_one(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle")
    write_policy(folder, [{"a": 1.0, "b": 200.0, "upper": None, "lower": None}] * 3)
    scores = runtime.open(folder).score(USER, ITEM_IDS, as_of=AS_OF, top_k=len(ITEM_IDS))
    assert (scores.probability == 1).all() and len(np.unique(scores.log_odds)) > 5
    assert (np.diff(scores.log_odds) <= 0).all()


def random_policy(random: np.random.Generator, variant_sha256: str, slate_rules: bool) -> Policy:
    """Numbers that are the same in float32. slate_rules: with a quorum, a top-k rule or limits of what goes on."""

    def draw(low: float, high: float) -> float:
        return float(np.float32(random.uniform(low, high)))

    def limit() -> float:
        return math.inf if random.random() < 0.3 else draw(0, 6)

    def exit(k: int) -> ExitPolicy:
        earlier = tuple(draw(-1, 1) for _ in range(k if all_heads else 0))
        keep = int(random.integers(0, 8)) if slate_rules and k < 2 else 0
        return ExitPolicy(draw(-1, 1) if earlier else draw(0.1, 1.5), draw(-1, 1), limit(), limit(), earlier, keep=keep)

    all_heads = random.random() < 0.5
    exits, patience = tuple(map(exit, range(3))), int(random.integers(1, 4))
    if not slate_rules:
        return Policy(exits, patience, variant_sha256)
    rise, fall = ((draw(0, 4), draw(0, 2)) for _ in range(2))
    rule = None if random.random() < 0.4 else TopK(int(random.integers(1, 8)), bool(random.integers(2)), rise, fall)
    return Policy(exits, patience, variant_sha256, int(random.integers(0, 5)), rule)


def assert_follows(scores: runtime.Scores, policy: Policy, trace: NDArray[np.float32]) -> None:
    """Exits, log-odds and probabilities are those of the trace, replayed."""
    stops = policy.stops(trace, np.array([0, len(trace)]))
    assert scores.exit.tolist() == stops[scores.index].tolist()
    assert scores.stats.candidate_layers == np.array(EXITS)[stops].sum()
    np.testing.assert_allclose(scores.log_odds, trace[scores.index, scores.exit], **CLOSE)
    c = policy.calibrated(trace)[scores.index, scores.exit].astype(np.float64)
    np.testing.assert_allclose(scores.probability, 1 / (1 + np.exp(-c)), atol=1e-4)


@pytest.mark.medium
@pytest.mark.parametrize(("slate_rules", "slate_bytes"), [(False, 0), (False, 1), (True, 0)])
def test_policies_stop_where_replays_do(slate_rules: bool, slate_bytes: int, tmp_path: Path) -> None:
    """In passes and parts of a slate, as the bundle's policy, under a request's own rules, and with its own k."""
    folder = write_bundle(tmp_path / "bundle", BundleOptions(max_tokens=50))
    random, variant_sha256 = np.random.default_rng(slate_bytes), Bundle.open(folder).variant_sha256
    answered = set()
    for n in range(24):
        policy, other = (random_policy(random, variant_sha256, slate_rules) for _ in range(2))
        policy.write(folder / "variants/cpu-fp32/policy.json")
        with runtime.open(folder, slate_bytes=slate_bytes) as session:
            assert [(e.upper, e.lower, e.earlier, e.keep) for e in session.exits] == [
                (e.upper, e.lower, e.earlier, e.keep) for e in policy.exits
            ]
            pairs = zip(policy.exits, other.exits, strict=True)
            own = replace(other, exits=tuple(replace(e, upper=o.upper, lower=o.lower, keep=o.keep) for e, o in pairs))
            upper, lower = zip(*((e.upper, e.lower) for e in own.exits), strict=True)
            rule = runtime.StopRule(upper, lower, own.patience, own.quorum, own.top_k, own.keep)
            user, k = USER_IDS[n % 6], int(random.choice([0, 1, 3, 5, len(ITEM_IDS), 99]))
            trace = session.trace(user, ITEM_IDS, as_of=AS_OF)
            for followed, options in ((policy, {}), (own, {"policy": rule})):
                scores = session.score(user, ITEM_IDS, as_of=AS_OF, top_k=k, **options)
                if followed.top_k is not None and 0 < k < len(ITEM_IDS):
                    followed = replace(followed, top_k=replace(followed.top_k, k=k))
                assert_follows(scores, followed, trace)
                answered |= set(scores.exit.tolist())
            best = session.score(user, ITEM_IDS, as_of=AS_OF, force_exit=2, top_k=5)
            assert best.index.tolist() == np.argsort(-policy.calibrated(trace)[:, 2], kind="stable")[:5].tolist()
    assert answered == {0, 1, 2}


def test_the_prior_shift_moves_probabilities_and_nothing_else(tmp_path: Path) -> None:
    """Also where the request has its own thresholds, or forces an exit."""
    folder = write_bundle(tmp_path / "bundle")
    plain = Policy((ExitPolicy(0.05, 0.1, 0.3, 0.3),) * 3, 2, Bundle.open(folder).variant_sha256, quorum=1)
    shifted = replace(plain, prior_shift=float(np.float32(np.log(0.1))))
    sessions = []
    for policy in (plain, shifted):
        policy.write(folder / "variants/cpu-fp32/policy.json")
        sessions.append(runtime.open(folder))
    assert [session.info.prior_shift for session in sessions] == [0, shifted.prior_shift]
    rules = runtime.StopRule([0.1] * 3, [0.1] * 3)
    for options in ({}, {"policy": rules}, {"force_exit": 1}, {"top_k": 4}):
        before, after = (session.score(USER, ITEM_IDS, as_of=AS_OF, **options) for session in sessions)
        for name in ("index", "exit", "log_odds"):
            np.testing.assert_array_equal(getattr(before, name), getattr(after, name))
        p = shifted.probabilities(np.tile(before.log_odds[:, None], 3))[:, 0]  # all exits have the same map
        np.testing.assert_allclose(after.probability, p, rtol=1e-6)
        odds = [scores.probability / (1 - scores.probability.astype(np.float64)) for scores in (before, after)]
        known = before.probability < 0.9  # above, float32 has few digits of 1 - p
        assert known.any()
        np.testing.assert_allclose(odds[1][known], 0.1 * odds[0][known], rtol=1e-4)


def test_top_k_is_the_head_of_the_whole(session: runtime.Session) -> None:
    slate = [*ITEM_IDS, *ITEM_IDS[:5]]  # repeated candidates tie
    scores = session.score(USER, slate)
    best = np.lexsort((np.arange(len(slate)), -scores.log_odds))
    for k in (1, 4, len(slate), len(slate) + 10):
        top = session.score(USER, slate, top_k=k)
        assert len(top) == min(k, len(slate))
        assert [slate[i] for i in top.index] == top.items.tolist()
        np.testing.assert_allclose(top.log_odds, scores.log_odds[best[:k]], **CLOSE)
    assert session.score(USER, [ITEM_IDS[3]] * 4, top_k=4).index.tolist() == [0, 1, 2, 3]


def test_the_best_have_the_largest_calibrated_log_odds(tmp_path: Path) -> None:
    """Some stop at an exit whose log-odds are scaled down, the others at one that scales them up."""
    folder = write_bundle(tmp_path / "bundle")
    exits = [(0.1, 0.0, 1.0), (1.0, -2.0, None), (3.0, 1.0, None)]
    write_policy(folder, [{"a": a, "b": b, "upper": c and c * a, "lower": c and c * a} for a, b, c in exits])
    top = runtime.open(folder).score(USER, ITEM_IDS, as_of=AS_OF, top_k=len(ITEM_IDS))
    assert set(top.exit) == {0, 2}
    a, b = (np.array([exit_[n] for exit_ in exits], np.float32)[top.exit] for n in (0, 1))
    assert (np.diff(a * top.log_odds + b) <= 0).all() and (np.diff(top.log_odds) > 0).any()


def test_string_ids(tmp_path: Path, session: runtime.Session) -> None:
    named = runtime.open(write_bundle(tmp_path / "bundle", BundleOptions(make_catalog(strings=True))))
    slate = [string_id("item", n) for n in (3, 0, 19)]
    scores = named.score(string_id("user", 2), slate, recent=[(slate[0], False)])
    same = session.score(USER, [ITEM_IDS[n] for n in (3, 0, 19)], recent=[(ITEM_IDS[3], False)])
    np.testing.assert_array_equal(scores.log_odds, same.log_odds)
    assert scores.items.tolist() == [score.item for score in scores] == slate
    with pytest.raises(InputError, match=r"items\[1\]: item 'nobody' is not in the catalog"):
        named.score("someone", [slate[0], "nobody"])
    with pytest.raises(InputError, match="user is 7, the catalog's ids are strings"):
        named.score(7, slate)


def test_weights_that_give_nan(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle")
    weights = folder / "variants/cpu-fp32/segment-1.onnx.data"
    weights.write_bytes(b"\xff" * weights.stat().st_size)
    refresh(folder)
    session = runtime.open(folder)
    assert session.score(USER, ITEM_IDS, force_exit=0).exit.tolist() == [0] * len(ITEM_IDS)
    for call in (lambda: session.score(USER, ITEM_IDS), session.warm_up):
        with pytest.raises(BackendError, match=r"segment-1\.onnx: candidate 0's logits") as caught:
            call()
        assert caught.value.status == "REXIT_BACKEND_FAILED"


def test_graph_that_breaks_its_shapes(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle")
    value = json.loads((folder / "variants/cpu-fp32/variant.json").read_text())
    import onnx

    path = folder / "variants/cpu-fp32/segment-0.onnx"
    model = onnx.load(path, load_external_data=False)
    logits = value["segments"][0]["outputs"]["logits"]
    node = next(n for n in model.graph.node if logits in n.output)
    node.output[0] = "inner"
    model.graph.node.append(onnx.helper.make_node("Concat", ["inner", "inner"], [logits], axis=0))
    del model.graph.value_info[:]
    onnx.save(model, path)
    refresh(folder)
    with pytest.raises(BackendError, match=r"segment-0\.onnx") as caught:
        runtime.open(folder).score(USER, ITEM_IDS)
    assert caught.value.status == "REXIT_BACKEND_FAILED"


def test_nothing_is_left_of_a_failed_request(session: runtime.Session, expected: NDArray[np.float64]) -> None:
    for _ in range(3):
        with pytest.raises(DeadlineError):
            session.score(USER, ITEM_IDS, as_of=AS_OF, deadline_ms=0.001)
        with pytest.raises(InputError):
            session.score(USER, [*ITEM_IDS, 10**9])
    np.testing.assert_allclose(session.trace(USER, ITEM_IDS, as_of=AS_OF), expected, **CLOSE)
