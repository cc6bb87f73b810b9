"""The whole of calibration on files, with a stand-in for the session: what is written, when, and what stays when it fails."""

import dataclasses
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from builders.bundles.bundle_files import drop_catalog, refresh
from builders.bundles.held_out import write_two_tastes
from builders.bundles.variants import add_variant
from builders.bundles.zero import add_score_exit
from builders.data.token_slates import write_slates
from builders.policies import full_depth
from builders.traces import even_costs
from doubles.session import FakeSession
from rexit.calibration import CalibrationOptions, calibrate
from rexit.calibration.calibration import _count_as_traced, _doubt, _other_traces
from rexit.calibration.reporting import page
from rexit.calibration.traces import Recording, Traces
from rexit.data.baselines import FILE_ORDER
from rexit.data.slates import Slate, drawn
from rexit.data.slates_file import SlatesFile
from rexit.errors import BackendError, BundleError, InputError
from rexit.format.bundle import Bundle, Catalog, ExitPolicy, FileEntry, Policy, sole_writer
from rexit.format.bundle.catalog import SPLITS
from rexit.format.candidates import Candidates
from rexit.format.request import Request
from rexit.progress import silent
from rexit.upkeep.audit import read_limits
from rexit.upkeep.measure import Costs, depth_name

OPTIONS = CalibrationOptions(metrics=("ndcg@5",), max_drop=0.3, slate=5, timed_slates=4, repeats=1)
"""Eighteen users certify: that is enough for a large drop alone."""


@pytest.fixture(autouse=True, scope="module")
def without_pictures() -> Iterator[None]:
    """They take longer than all else; test_page.py sees them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "page", lambda report: "<!doctype html>")
        yield


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_two_tastes(tmp_path)
    return tmp_path


@pytest.fixture
def crowd(tmp_path: Path) -> Path:
    """Enough users to certify a drop that a fixed depth does not keep."""
    write_two_tastes(tmp_path, users=200)
    return tmp_path


DYNAMIC = {"noise": (2.5, 1.0, 0.1), "options": dataclasses.replace(OPTIONS, max_drop=0.08)}


def truth(user: int, item: int) -> float:
    return 2.0 if (user + item) % 2 else -2.0


def policy_in(folder: Path) -> Policy | None:
    return Bundle.open(folder).policy()


def sessions(noise=(0.5, 0.2, 0.1), costs: Costs | None = None, opened: list[FakeSession] | None = None):
    """Opens stand-ins that follow the policy that lies in the folder, as the runtime does."""

    def open_session(folder: Path) -> FakeSession:
        session = FakeSession(3, costs or even_costs(3, 100, 10), truth, noise, policy_in(folder))
        if opened is not None:
            opened.append(session)
        return session

    return open_session


def run(place: Path, **keywords):
    bundle, options = Bundle.open(place / "bundle"), keywords.pop("options", OPTIONS)
    progress = keywords.pop("progress", silent)
    open_session = keywords.pop("open_session", None) or sessions(**keywords)
    return bundle, calibrate(bundle, Catalog.open(place / "catalog"), options, open_session=open_session, progress=progress)


@pytest.fixture(scope="module")
def dynamic(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A crowd's folder, and a calibration there that chose a dynamic policy."""
    place = tmp_path_factory.mktemp("dynamic")
    write_two_tastes(place, users=200)
    return place, run(place, **DYNAMIC)[1]


def row(done, name: str) -> dict:
    return next(entry for entry in done.report["table"] if entry["policy"] == name)


def without_traces(bundle: Bundle) -> dict[str, bytes]:
    """Traces that were observed, float32's among them, are kept even if what follows fails."""
    kept = {"traces.safetensors", "reference.safetensors"}
    return {p.name: p.read_bytes() for p in bundle.folder.iterdir() if p.name not in kept}


def test_writes_policy_report_and_traces_of_one_run(place: Path) -> None:
    opened: list[FakeSession] = []
    steps: dict[str, tuple[int, int]] = {}
    bundle, done = run(place, opened=opened, progress=lambda what, *numbers: steps.__setitem__(what, numbers))
    # A busy machine is said behind the stage.
    assert list(dict.fromkeys(step.partition(" · ")[0] for step in steps)) == ["validation", "test", "costs", "search", "latency"]
    assert all(step == total for what, (step, total) in steps.items() if " · " not in what)
    assert bundle.policy() == Policy.read(bundle.folder / "policy.json", 3, bundle.variant_sha256)
    assert bundle.policy() == done.policy
    report = json.loads((bundle.folder / "report.json").read_text())
    assert report == json.loads(json.dumps(done.report))
    assert read_limits(bundle).to_json() == report["watch"]
    assert [s.closed for s in opened] == [True, True]
    assert report["variant_sha256"] == bundle.variant_sha256 and report["catalog_sha256"] == bundle.variant.catalog_sha256
    assert report["data"]["test"] == {"pairs": 300, "slates": 60, "users": 30}
    assert report["verdict"]["doubt"] is None, "the heads know what users like"
    assert report["users"] == {"fitting": 30, "choosing": 12, "certifying": 18, "test": 30}
    assert report["decisions"]["as_traced"] == report["decisions"]["candidates"] > 0
    names = [entry["policy"] for entry in report["table"]]
    assert names[:3] == ["full depth", "1 layer", "2 layers"] and names[-1] == "policy" and "patience" not in names
    assert sum(e["stopped"] for e in report["exits"]) == pytest.approx(1)
    assert sum(b["pairs"] for b in report["exits"][0]["reliability"]) == 300


@pytest.mark.medium
def test_gain_is_over_the_best_fixed_depth_that_takes_no_longer(dynamic: tuple[Path, Any]) -> None:
    """As timed where it was, else by the cost model."""
    place, done = dynamic
    policy, depths = row(done, "policy"), {1: row(done, "1 layer"), 2: row(done, "2 layers")}
    assert done.report["policy"]["kind"] == "dynamic" and done.verdict.action == "use the policy"
    assert row(done, "full depth")["ms_per_slate"] > 1.2 * policy["ms_per_slate"]
    cheap = [layers for layers, entry in depths.items() if entry["ms_per_slate"] <= policy["ms_per_slate"]]
    assert cheap and done.report["gain"]["layers"] == max(cheap), "the second head is the better one"
    slow = dataclasses.replace(DYNAMIC["options"], from_traces=True)
    _, again = run(place, options=slow, open_session=never)
    cheap = [layers for layers in depths if row(again, depth_name(layers))["cost_us"] <= row(again, "policy")["cost_us"]]
    assert again.report["gain"]["layers"] == max(cheap)


class TokenSession(FakeSession):
    """A group's prefix is its number, a candidate its item."""

    def trace(self, request):
        return super().trace(
            Request(60 * int(request.prefix[0]) + int(request.prefix[1]), tuple(int(tokens[0]) for tokens in request.candidates))
        )

    def prompt(self, request):
        return request.prefix, list(request.candidates)


def groups(random: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Rows of 120 groups of a file of slates: twelve of forty items each, without labels and scores."""
    for group in range(120):
        candidates = [[item] for item in random.permutation(40)[:12].tolist()]
        yield {"group": group, "split": SPLITS[group % 3], "prefix": [group // 60, group % 60], "candidates": candidates}


def calibrate_slates(place: Path, rows: list[dict[str, Any]], noise: tuple[float, ...], **changes: Any) -> Any:
    """changes: to OPTIONS."""
    options, exits = dataclasses.replace(OPTIONS, **changes), len(noise)
    file = SlatesFile.read(write_slates(place / "slates.jsonl", rows), labels="label" in rows[0])
    return calibrate(
        Bundle.open(place / "bundle"),
        file,
        options,
        open_session=lambda folder: TokenSession(exits, even_costs(exits, 100, 10), truth, noise, policy_in(folder)),
    )


@pytest.mark.medium
@pytest.mark.parametrize(("weight", "below"), [(1.0, True), (0.0, False)], ids=["first stage", "shuffled"])
def test_a_reranker_below_the_order_of_its_file_is_told_so(place: Path, weight: float, below: bool) -> None:
    drop_catalog(place / "bundle")
    random, rows = np.random.default_rng(0), []
    for slate in groups(random):
        odds = weight * (3 - np.arange(12)) + [0.5 * truth(slate["group"], item) for (item,) in slate["candidates"]]
        rows.append({**slate, "label": (random.random(12) < 1 / (1 + np.exp(-odds))).astype(int).tolist()})
    done = calibrate_slates(place, rows, (0.5, 0.2, 0.1))
    (first,) = done.report["baselines"]
    assert first["name"] == FILE_ORDER and first["values"].keys() == {"ndcg@5", "ndcg@10", "user-auc", "auc"}
    assert (first["values"]["ndcg@10"] > row(done, "full depth")["values"]["ndcg@10"]) == below
    assert (done.verdict.action == "check the model") == below
    assert done.verdict.text.startswith(f"Check the model first. This model ranks below a baseline ({FILE_ORDER}): its ") == below


@pytest.mark.medium
@pytest.mark.parametrize("noise", [1.0, 1000.0], ids=["ranks", "by chance"])
def test_without_labels_a_first_stage_that_nothing_agrees_with_is_told_first(place: Path, noise: float) -> None:
    """The labels would come from the model itself, so no other check sees it."""
    drop_catalog(place / "bundle")
    add_score_exit(place / "bundle")
    random = np.random.default_rng(0)
    rows = [{**slate, "score.bm25": random.normal(size=12).tolist()} for slate in groups(random)]
    done = calibrate_slates(place, rows, (noise, 0.5, 0.2, 0.1), metrics=("expected-ndcg@5",))
    shown = (
        "Check the model first. This model is not shown to rank: exit zero finds the upper half of its order with an AUC of 0."
    )
    assert done.verdict.text.startswith(shown) == (noise > 1) and done.report["baselines"] == []
    assert "so nobody has checked that it ranks" in done.verdict.text and row(done, "exit zero")["mean_layers"] == 0


@pytest.mark.medium
def test_full_depth_where_nothing_is_certified_with_the_maps_kept(place: Path) -> None:
    bundle, done = run(place, options=dataclasses.replace(OPTIONS, max_drop=0.05))
    assert done.verdict.text.startswith(
        "Keep the full model: no policy that loses at most 0.05 of NDCG@5 is certified with 95 % confidence. 18 users are too few"
    )
    policy = bundle.policy()
    assert policy is not None and (policy.stops(np.full((1, 3), 50, np.float32), np.array([0, 1])) == 2).all()
    assert policy.exits[2].a != 1.0
    assert row(done, "policy")["ms_per_slate"] == row(done, "full depth")["ms_per_slate"]
    assert done.verdict.guarantee is None and done.report["users_needed"] is not None


@pytest.mark.medium
def test_what_is_over_pairs_is_promised_by_the_bootstrap(crowd: Path) -> None:
    """And in no certificate: that is about users."""
    _, done = run(crowd, noise=(2.5, 0.3, 0.1), options=dataclasses.replace(OPTIONS, metrics=("auc",), max_drop=0.2))
    assert done.report["policy"]["kind"] != "full depth" and done.policy.certificate is None
    assert done.verdict.guarantee == (
        "With 95 % confidence, AUC over all pairs drops by at most 0.2: by a bootstrap over 124 users, which is right for many, "
        "not for few."
    )
    _, done = run(crowd, noise=(2.5, 2.0, 0.1), options=dataclasses.replace(OPTIONS, metrics=("auc",), max_drop=0.001))
    failed = done.report["candidates"][0]
    assert done.report["users_needed"] is None and failed["p_value"] > 0.05, "the test shows nothing"
    assert done.verdict.summary[0] == (
        "no policy that loses at most 0.001 of AUC over all pairs is certified with 95 % confidence. A bootstrap over 124 users "
        f"does not confirm the policy likeliest to pass, p = {failed['p_value']:.3g} for auc."
    )


def test_policy_that_is_a_fixed_depth_is_a_smaller_model(place: Path) -> None:
    _, done = run(place, noise=(0.0, 0.0, 0.0))
    assert done.report["policy"]["kind"] == "fixed depth" and done.report["gain"] is None
    assert done.verdict.text.startswith("Export a one-layer model: ") and "`rexit export --exits 1`" in done.verdict.text
    assert (done.policy.stops(np.float32([[0, 9, 9], [-9, 0, 0]]), np.array([0, 2])) == 0).all()


def test_model_that_ranks_nothing_is_called_so(place: Path) -> None:
    backwards = lambda user, item: -truth(user, item)  # noqa: E731
    _, done = run(place, open_session=lambda _: FakeSession(3, even_costs(3), backwards, (0.5, 0.2, 0.1)))
    assert done.verdict.text.startswith(
        "Train the model first. This model is not shown to rank: its user AUC at the last exit is 0."
    )
    assert done.verdict.doubt in done.verdict.summary and "chance is 0.5. " in done.verdict.text
    assert done.verdict.text.endswith("The policy written is full depth.") and done.verdict.action == "check the model"


def test_full_depth_is_doubted_by_what_it_answers_not_by_its_last_head_alone() -> None:
    rng, users = np.random.default_rng(0), np.repeat(np.arange(200), 6)
    liked = rng.random(1200) < 0.4
    last, zero = (np.float32(liked + noise * rng.normal(size=1200)) for noise in (1.5, 0.7))
    test = Traces(last[:, None], liked, users, np.arange(0, 1201, 6), tuple(range(200)))
    others = {"exit zero": zero.astype(np.float64)}
    alone = _doubt(last, last, others, test, "users")
    assert alone is not None and "below a baseline (exit zero)" in alone
    assert _doubt(last, 5 * zero + last, others, test, "users") is None
    chance = np.float32(rng.normal(size=1200))
    assert "chance is 0.5" in str(_doubt(chance, 5 * zero + chance, others, test, "users"))


def test_without_labels_too_few_users_are_refused_before_anything_is_scored(place: Path) -> None:
    with pytest.raises(InputError, match="has no policy to audit, expected one from `rexit calibrate`"):
        read_limits(Bundle.open(place / "bundle"))
    options = dataclasses.replace(OPTIONS, metrics=("agreement",), max_drop=0.01, labels=False)
    with pytest.raises(
        InputError, match=r"18 users certify, expected at least 314: with fewer a drop of 0.01 cannot be certified"
    ):
        run(place, options=options, open_session=never)


def never(folder: Path) -> FakeSession:
    pytest.fail("the model ran")


@pytest.mark.medium
def test_another_goal_on_kept_traces_runs_no_model(place: Path) -> None:
    bundle, first = run(place)
    again, written = dataclasses.replace(OPTIONS, from_traces=True), (bundle.folder / "policy.json").read_bytes()
    _, same = run(place, options=again, open_session=never)
    assert same.policy == first.policy and (bundle.folder / "policy.json").read_bytes() == written
    assert [(r["values"], r["drops"]) for r in same.report["table"]] == [(r["values"], r["drops"]) for r in first.report["table"]]
    assert same.report["decisions"] is None and row(same, "policy")["ms_per_slate"] is None
    assert "by the cost model, not timed" in same.verdict.text
    fewer = dataclasses.replace(OPTIONS, test_slates=20)  # as `rexit build` traces
    run(place, options=fewer)
    _, of_fewer = run(place, options=again, open_session=never)
    assert of_fewer.report["data"]["test"]["slates"] == 20
    _, careful = run(place, options=dataclasses.replace(again, max_drop=0.01), open_session=never)
    assert careful.report["policy"]["kind"] == "full depth" and bundle.policy() == careful.policy


@pytest.mark.medium
def test_the_prior_shift_moves_probabilities_and_no_decision(place: Path) -> None:
    bundle, plain = run(place)
    again = dataclasses.replace(OPTIONS, from_traces=True)
    (_, before), (_, after) = (
        run(place, options=dataclasses.replace(again, negative_rate=rate), open_session=never) for rate in (1.0, 0.1)
    )
    assert after.policy.prior_shift == np.float32(np.log(0.1)) and before.policy.prior_shift == 0 == plain.policy.prior_shift
    assert dataclasses.replace(after.policy, prior_shift=0.0) == before.policy and bundle.policy() == after.policy
    assert after.report["table"] == before.report["table"] and after.report["probabilities"]["negative_rate"] == 0.1
    shown, was = (done.report["probabilities"]["table"] for done in (after, before))
    assert [row["by"] for row in shown] == ["answers", "exit", "exit", "exit"]
    odds = [row["observed"] / (1 - row["observed"]) for row in (shown[0], was[0])]
    assert odds[0] == pytest.approx(0.1 * odds[1])


def test_heads_chosen_by_another_division_of_users_are_refused(place: Path) -> None:
    """Users who chose them would be among those who certify."""
    file = place / "bundle" / "manifest.json"
    manifest = json.loads(file.read_text())
    file.write_text(json.dumps({**manifest, "roles": "halves"}))
    with pytest.raises(
        InputError, match=r"its users are 'sha256-places', .*bundle was made with 'halves': who fitted or chose there"
    ):
        run(place, open_session=never)


def test_traces_of_other_slates_and_foreign_missing_or_damaged_ones_are_refused(place: Path) -> None:
    bundle, first = run(place)
    other_size = "slates of at most 5, now it is 4: give --slate 5, or run `rexit calibrate` without --from-traces"
    for change, message in (({"slate": 4}, other_size), ({"max_slates": 4999}, "recorded with max_slates 5000, expected 4999")):
        with pytest.raises(BundleError, match=message):
            run(place, options=dataclasses.replace(OPTIONS, from_traces=True, **change), open_session=never)
    assert bundle.policy() == first.policy
    path = bundle.folder / "traces.safetensors"
    whole, options = path.read_bytes(), dataclasses.replace(OPTIONS, from_traces=True)

    def assert_refused(damaged: bytes | None, message: str) -> None:
        path.unlink(missing_ok=True)
        if damaged is not None:
            path.write_bytes(damaged)
        with pytest.raises(BundleError, match=message):
            run(place, options=options, open_session=never)

    assert_refused(None, "traces.safetensors: no such file: run `rexit calibrate` without --from-traces first")
    assert_refused(whole[:100], "not a recording of traces")
    assert_refused(whole[:-40], "not a recording of traces")
    assert_refused(
        whole.replace(b'\\"prefix_tokens\\": ', b'\\"prefix_takens\\": '), "its SHA-256 is .*, expected .*: run `rexit calibrate`"
    )
    assert_refused(whole[:-1] + bytes([whole[-1] ^ 1]), "its SHA-256 is .*, expected .*: run `rexit calibrate`")

    path.write_bytes(whole)
    made_of = {"variant_sha256": bundle.variant_sha256}
    good = Recording.read(path, 3, made_of, {"validation": 300, "test": 300})

    def written(**changes: Any) -> bytes:
        dataclasses.replace(good, **changes).write(path)
        return path.read_bytes()

    assert_refused(written(made_of={"variant_sha256": "f" * 64}), "recorded with another variant: run")
    nan = {**good.log_odds, "test": np.full((300, 3), np.nan, np.float32)}
    assert_refused(written(log_odds=nan), r"expected finite float32 \[300, 3\]")
    assert_refused(written(prefix_tokens=-1.0), "has -1 and 4 tokens per prefix and candidate")
    written(prefix_tokens=0.0)
    assert Recording.read(path, 3, made_of, {"validation": 300, "test": 300}).prefix_tokens == 0, "an encoder has no prefix"


def test_promise_that_the_clock_does_not_keep_is_taken_back(place: Path) -> None:
    bundle = Bundle.open(place / "bundle")
    opened = 0

    def open_session(folder: Path) -> FakeSession:
        nonlocal opened
        opened += 1
        costs = even_costs(3, 100, 10) if opened == 1 else Costs(500.0, np.zeros(3), np.zeros(3), np.zeros(3), 1)
        return FakeSession(3, costs, truth, (0.5, 0.2, 0.1), policy_in(folder))

    _, done = run(place, open_session=open_session)
    assert re.search(
        r"^Keep the full model: the certified policy should save [1-9]\d\.\d % of the time, but is not faster", done.verdict.text
    )
    assert done.report["policy"]["kind"] == "full depth"
    assert (done.policy.stops(np.full((1, 3), 50, np.float32), np.array([0, 1])) == 2).all()
    assert bundle.policy() == done.policy


@pytest.mark.medium
@pytest.mark.parametrize("before", [True, False], ids=["recalibration", "first"])
def test_no_policy_is_in_force_before_it_was_tried(place: Path, before: bool) -> None:
    """One that decides otherwise than traced, or is slower, must never answer anybody."""
    bundle = Bundle.open(place / "bundle")
    if before:
        full_depth(3, bundle.variant_sha256).write(bundle.folder / "policy.json")
    former, in_force = bundle.policy_sha256, []

    class Watched(FakeSession):
        def score(self, *words, **keywords):
            in_force.append(bundle.policy_sha256)
            return super().score(*words, **keywords)

    run(place, open_session=lambda at: Watched(3, even_costs(3, 100, 10), truth, (0.5, 0.2, 0.1), policy_in(at)))
    assert set(in_force) == {former} and bundle.policy_sha256 != former
    assert [path.name for path in bundle.path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.medium
@pytest.mark.parametrize(("disturbed", "counted"), [(1, False), (2, True)])
def test_costs_that_fit_badly_are_measured_again_and_then_counted(crowd: Path, disturbed: int, counted: bool) -> None:
    """Times that other programs disturb, in the first measurement alone or in both: the traces are good, and so is the policy."""
    random, measured = np.random.default_rng(0), [0]

    class Disturbed(FakeSession):
        def warm_up(self) -> None:
            measured[0] += 1

        def score(self, *words, **keywords):
            scores = super().score(*words, **keywords)
            if measured[0] <= disturbed:
                scores.stats.slate_us *= float(np.exp(random.normal(0, 4)))
            return scores

    def open_session(at: Path) -> FakeSession:
        return Disturbed(3, even_costs(3, 100, 10), truth, DYNAMIC["noise"], policy_in(at))

    bundle, done = run(crowd, options=DYNAMIC["options"], open_session=open_session)
    policy, said = bundle.policy(), "fit no cost model (its median error is"
    assert done.report["policy"]["kind"] != "full depth" and policy is not None and policy.certificate is not None
    assert (said in done.verdict.text) == counted
    _, again = run(crowd, options=dataclasses.replace(DYNAMIC["options"], from_traces=True), open_session=never)
    assert (said in again.verdict.text) == counted and again.report["policy"]["kind"] != "full depth"
    _, quiet = run(
        crowd,
        options=dataclasses.replace(DYNAMIC["options"], from_traces=True, measure_costs=True),
        open_session=lambda at: NoTraces(3, even_costs(3, 100, 10), truth, DYNAMIC["noise"], policy_in(at)),
    )
    assert said not in quiet.verdict.text and quiet.report["decisions"] is not None, "timed as deployed"
    assert quiet.report["profile"]["fit_error"] < 0.01
    _, kept = run(crowd, options=dataclasses.replace(DYNAMIC["options"], from_traces=True), open_session=never)
    assert kept.report["profile"] == quiet.report["profile"], "what was measured again is kept"


class NoTraces(FakeSession):
    """Traces the slates that are timed alone."""

    def trace(self, request):
        if sys._getframe(1).f_code.co_name == "collect":
            pytest.fail("traced again")
        return super().trace(request)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"device": "cuda"}, "was recorded on cpu, not on cuda: calibrate without --from-traces"),
        ({"threads": 63}, "costs were measured with [0-9]+ threads, not 63: measure them again by --measure-costs"),
    ],
)
def test_options_that_would_change_nothing_on_kept_traces_are_refused(place: Path, change: dict[str, Any], message: str) -> None:
    run(place)
    with pytest.raises(InputError, match=message):
        run(place, options=dataclasses.replace(OPTIONS, from_traces=True, **change), open_session=never)
    with pytest.raises(InputError, match="measure costs: is for `--from-traces`"):
        run(place, options=dataclasses.replace(OPTIONS, measure_costs=True), open_session=never)


def test_metrics_that_were_asked_for_are_never_replaced(place: Path) -> None:
    """Not even if they are those that labels have by default."""
    options = dataclasses.replace(OPTIONS, labels=False, metrics=("ndcg@10", "user-auc"), max_drop=0.3)
    with pytest.raises(InputError, match="metric ndcg@10: needs labels and there are none"):
        run(place, options=options)
    _, done = run(place, options=dataclasses.replace(options, metrics=None))
    assert done.report["settings"]["metrics"] == ["expected-ndcg@10"]


@pytest.mark.medium
def test_the_policy_says_what_requests_were_like(place: Path) -> None:
    bundle, _ = run(place)
    policy = bundle.policy()
    assert policy is not None and policy.made_on is not None
    assert policy.made_on["requests"] == {"candidates": [5] * 4, "prefix_tokens": [30] * 4, "candidate_tokens": [4] * 4}
    _, again = run(place, options=dataclasses.replace(OPTIONS, from_traces=True), open_session=never)
    assert again.policy.made_on == policy.made_on


def test_traces_of_a_log_are_not_those_of_the_catalog(place: Path) -> None:
    bundle, _ = run(place)
    path = bundle.folder / "traces.safetensors"
    pairs = {"validation": 300, "test": 300}
    of_catalog = Recording.read(path, 3, {}, pairs)
    dataclasses.replace(of_catalog, made_of={**of_catalog.made_of, "slates_sha256": "f" * 64}).write(path)
    with pytest.raises(BundleError, match="recorded with another file of slates: run"):
        run(place, options=dataclasses.replace(OPTIONS, from_traces=True), open_session=never)


def test_sampled_negatives_shift_probabilities_without_labels_too(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The full model learned from the sample."""
    monkeypatch.setattr("rexit.calibration.probabilities.negative_rate", lambda source: 0.1)
    options = dataclasses.replace(OPTIONS, labels=False, metrics=("agreement",), max_drop=0.3)
    _, done = run(place, options=options)
    assert done.policy.prior_shift == np.float32(np.log(0.1))


class StopsElsewhere(FakeSession):
    """Lets one candidate of each slate run to the end, whatever the policy says."""

    def score(self, *words, force_exit=None, **keywords):
        scores = super().score(*words, force_exit=force_exit, **keywords)
        if force_exit is None:
            scores.exit[-1] = 2
        return scores


class Interrupted(FakeSession):
    """Ctrl-C while the policy is timed, which the session after the traces' does."""

    def warm_up(self) -> None:
        if self.policy is not None:
            raise KeyboardInterrupt
        super().warm_up()


@pytest.mark.medium
@pytest.mark.parametrize("before", [True, False], ids=["recalibration", "first"])
@pytest.mark.parametrize(
    ("kind", "full", "error", "message"),
    [
        (
            StopsElsewhere,
            None,
            BackendError,
            r"user 100, item -?\d+: stopped at exit 2, the trace says [01]: .*no policy was written",
        ),
        (Interrupted, None, KeyboardInterrupt, None),
        (FakeSession, "write_json", InputError, r"report\.json: cannot be written: No space left"),
        (FakeSession, "write_file", InputError, r"report\.html: cannot be written: No space left"),
    ],
    ids=["decides otherwise than traced", "Ctrl-C while timing", "no room for the report", "no room for the page"],
)
def test_what_fails_leaves_the_former_policy_and_report(
    place: Path, monkeypatch: pytest.MonkeyPatch, before: bool, kind: Any, full: str | None, error: Any, message: str | None
) -> None:
    bundle = Bundle.open(place / "bundle")
    if before:
        full_depth(3, bundle.variant_sha256).write(bundle.folder / "policy.json")
        (bundle.folder / "report.json").write_text("{}")
    files = without_traces(bundle)
    opened: list[Path] = []

    def open_session(at: Path) -> FakeSession:
        opened.append(at)
        policy = None if len(opened) == 1 else policy_in(at)
        return kind(3, even_costs(3, 100, 10), truth, (0.5, 0.2, 0.1), policy)

    def no_room(path: Path, value: object, flushed: bool) -> None:
        raise InputError(f"{path}: cannot be written: No space left on device")

    if full is not None:
        monkeypatch.setattr(f"rexit.calibration.calibration.{full}", no_room)
    with pytest.raises(error, match=message):
        run(place, open_session=open_session)
    assert len(opened) == 2 and without_traces(bundle) == files


@pytest.mark.parametrize(("distance", "refused"), [(0.5, False), (2.0, True)])
def test_within_rounding_of_a_threshold_there_are_two_right_exits(distance: float, refused: bool) -> None:
    """The trace's log-odds lie this many roundings above the threshold; the session has not stopped there."""
    session = FakeSession(2, even_costs(2), lambda user, item: 1.0 + distance * 0.01 if item == 7 else 9.0, (0.0, 0.0))
    policy = Policy((ExitPolicy(1.0, 0.0, 1.0, 1.0), ExitPolicy()), 1, "")
    slate = Slate(1, (5, 7), None, np.array([True, False]))
    if refused:
        with pytest.raises(BackendError, match="user 1, item 7: stopped at exit 1, the trace says 0"):
            _count_as_traced(session, policy, [slate], [np.array([0, 1])], 0.01 / 9)
    else:
        assert _count_as_traced(session, policy, [slate], [np.array([0, 1])], 0.01 / 9) == 1
    assert _count_as_traced(session, policy, [slate], [np.array([0, 0])], 0.01 / 9) == 2


@pytest.mark.medium
def test_policy_of_another_variant_is_replaced(place: Path) -> None:
    bundle = Bundle.open(place / "bundle")
    full_depth(3, "another").write(bundle.folder / "policy.json")
    with pytest.raises(BundleError, match="made for another export of this variant"):
        bundle.policy()
    _, done = run(place)
    assert bundle.policy() == done.policy


def test_nothing_is_calibrated_in_a_bundle_that_is_being_written(place: Path) -> None:
    bundle = Bundle.open(place / "bundle")
    with sole_writer(place / "bundle"), pytest.raises(InputError, match="bundle: another process is writing to it"):
        run(place, open_session=never)
    assert bundle.policy() is None


def test_unwritable_folder_is_found_before_any_work(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **keywords: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("rexit.format.bundle.files.tempfile.TemporaryFile", refuse)
    with pytest.raises(InputError, match="cpu-fp32: cannot be written: Read-only file system"):
        run(place, open_session=never)


def test_one_exit_has_nothing_to_calibrate(tmp_path: Path) -> None:
    write_two_tastes(tmp_path, exits=(4,))
    with pytest.raises(InputError, match="one exit, nothing to calibrate"):
        run(tmp_path)


def test_log_odds_that_are_not_finite_are_refused(place: Path) -> None:
    with pytest.raises(InputError, match="log-odds are not finite"):
        run(place, noise=(float("nan"), 0.2, 0.1))


def test_labels_all_alike_are_refused(place: Path) -> None:
    path = place / "catalog" / "splits" / "validation.parquet"
    info = json.loads((place / "catalog" / "catalog.json").read_text())
    pl.read_parquet(path).with_columns(liked=pl.lit(True)).write_parquet(path)
    info["splits"]["validation"].update(FileEntry.of(path).to_json())
    (place / "catalog" / "catalog.json").write_text(json.dumps(info))
    shutil.copy(place / "catalog" / "catalog.json", place / "bundle" / "catalog")
    refresh(place / "bundle")
    shutil.copy(place / "bundle" / "catalog" / "catalog.json", place / "catalog")
    with pytest.raises(InputError, match="validation: all 300 interactions are liked, expected both kinds"):
        run(place)


def test_users_who_retrieve_nothing_are_not_judged_and_nobody_is_refused_first(place: Path) -> None:
    """A user without a like that has an embedding ended a calibration at its last step."""
    catalog, ids = Catalog.open(place / "catalog"), Catalog.open(place / "catalog").items.take(np.arange(7))

    class Retrieving:
        def __init__(self, known: int) -> None:
            self.known, self.users = known, list[Any]()

        def score(self, request: Request, force_exit: int) -> Any:
            self.users.append(request.user)
            if len(self.users) > self.known:
                raise InputError("likes no item that has an embedding")
            return SimpleNamespace(items=np.array(ids))

        def trace(self, request: Request) -> Any:
            return np.zeros((len(request.items or ()), 3), np.float32)

    some: Any = Retrieving(5)
    traces = _other_traces(some, catalog, Candidates("retrieved", 7), silent)
    assert list(traces.ids) == some.users[:5] and len(some.users) > 5
    nobody: Any = Retrieving(0)
    with pytest.raises(InputError, match="also retrieved:7: no like of the test split is among them"):
        _other_traces(nobody, catalog, Candidates("retrieved", 7), silent)


@pytest.mark.medium
def test_the_policy_is_judged_on_other_candidates_for_information(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One slate of each test user: all likes and drawn items, on which nothing is chosen or certified."""
    plain = run(place)[1]
    _, done = run(place, options=dataclasses.replace(OPTIONS, also=Candidates("uniform", 1)))
    assert done.policy == plain.policy and done.report["table"] == plain.report["table"]
    also = done.report["also"]
    assert also["candidates"] == "uniform:1" and also["users"] == 30 and set(also["metrics"]) == {"ndcg@5"}
    values = also["metrics"]["ndcg@5"]
    lost, low, high = values["lost"]
    assert low <= lost <= high and lost == pytest.approx(values["full"] - values["policy"]) and 0.5 < values["full"] <= 1
    sentence = f"On other candidates (uniform:1, 30 test users, not certified): NDCG@5 {values['policy']:.4f}, "
    assert done.verdict.also is not None and done.verdict.also.startswith(sentence)
    assert plain.report["also"] is None and plain.verdict.also is None
    catalog = Catalog.open(place / "catalog")
    for slate in drawn(catalog, "test", Candidates("popularity", 1)):
        row = catalog.users.row(slate.user)
        split = catalog.split("test")
        own = split.users == row
        assert (
            set(slate.items) > set(catalog.items.take(split.items[own & split.liked])) == set(np.array(slate.items)[slate.liked])
        )
        assert len(set(slate.items)) == len(slate.items) and slate.as_of == split.times[own & split.liked].min()
    requests: list[Request] = []
    ids = catalog.items.take(np.arange(7))

    def retrieve(request: Request) -> list[Any]:
        requests.append(request)
        return list(ids)

    retrieved = drawn(catalog, "test", Candidates("retrieved", 7), retrieve=retrieve)
    for slate, request in zip(retrieved, requests, strict=True):
        own = split.users == catalog.users.row(slate.user)
        likes = set(catalog.items.take(split.items[own & split.liked]))
        assert slate.items == tuple(ids) and set(np.array(slate.items)[slate.liked]) == likes & set(ids)
        assert (request.user, request.retrieve, request.as_of) == (slate.user, 7, split.times[own & split.liked].min())
    for options in (OPTIONS, dataclasses.replace(OPTIONS, labels=False)):
        bad = Candidates("rated") if options.labels else Candidates("uniform", 1)
        with pytest.raises(InputError, match=rf"also {bad}: expected uniform.*, and a catalog with labels"):
            run(place, options=dataclasses.replace(options, also=bad), open_session=never)
    with pytest.raises(InputError, match=r"also retrieved:999: expected at most the \d+ items of"):
        run(place, options=dataclasses.replace(OPTIONS, also=Candidates("retrieved", 999)), open_session=never)
    with monkeypatch.context() as patched, pytest.raises(InputError, match="also uniform:1: has no scores of first stages"):
        patched.setattr(Catalog, "score_names", ["bm25"])
        run(place, options=dataclasses.replace(OPTIONS, also=Candidates("uniform", 1)), open_session=never)
    with pytest.raises(InputError, match=r"candidates uniform:39: a user has not met \d+ items that may be drawn"):
        run(place, options=dataclasses.replace(OPTIONS, also=Candidates("uniform", 39)))


def test_what_a_precision_loses_is_not_certified_away(crowd: Path) -> None:
    """A variant whose exits all rank as badly as its full depth: against itself it loses nothing by stopping."""
    name = "cpu-int8"
    add_variant(crowd / "bundle", name)
    bundle, catalog = Bundle.open(crowd / "bundle", name), Catalog.open(crowd / "catalog")
    options = dataclasses.replace(OPTIONS, max_drop=0.08)

    def worse(folder: Path) -> FakeSession:
        policy = Bundle.open(folder, name).policy()
        return FakeSession(3, even_costs(3, 100, 10), lambda user, item: 0.2 * truth(user, item), (1.0, 1.0, 1.0), policy)

    def float32() -> FakeSession:
        return sessions()(crowd / "bundle")

    def unable() -> FakeSession:
        raise BackendError("no kernel")

    alone = calibrate(bundle, catalog, options, open_session=worse, open_reference=unable)
    whole = calibrate(bundle, catalog, options, open_session=worse, open_reference=float32)
    assert alone.report["losses"] == {} and alone.verdict.losses is None
    assert alone.policy.certificate is not None and alone.policy.certificate["against"] == "this variant's own full depth"
    losses = whole.report["losses"]["ndcg@5"]
    assert losses["precision"] > 0.08
    assert whole.policy.certificate is None and whole.report["table"][0]["drops"]["ndcg@5"][0] == losses["precision"]
    assert whole.verdict.losses is not None and "lost by precision" in whole.verdict.losses
    read = calibrate(bundle, catalog, dataclasses.replace(options, from_traces=True), open_session=unable)  # type: ignore[arg-type]
    assert read.report["losses"]["ndcg@5"]["precision"] == losses["precision"], "the file is read, no model runs"
