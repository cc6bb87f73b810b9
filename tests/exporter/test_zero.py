"""Exit zero of a catalog: its numbers against prompts, its trees against scikit-learn, and graphs from elsewhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import polars as pl
import pytest
from onnx import TensorProto, helper
from sklearn.ensemble import HistGradientBoostingClassifier
from tokenizers import Tokenizer

from builders.bundles.watched import write_watched
from builders.data import ratings
from builders.models.checkpoints import tiny_checkpoint
from rexit import runtime
from rexit.data.baselines import ZERO as EXIT_ZERO
from rexit.data.baselines import _lightgcn, baselines
from rexit.data.ranking import auc
from rexit.data.slates import cut, runs
from rexit.data.slates_file import RequestLog
from rexit.errors import BundleError, InputError, PolicyError
from rexit.exporter import zero as fit
from rexit.exporter.export import export_bundle
from rexit.exporter.index import build_catalog
from rexit.exporter.options import ExportOptions
from rexit.exporter.prompt.builder import PromptBuilder
from rexit.exporter.source import zero_of
from rexit.exporter.zero import Graph, Logistic, logistic_graph, tree_graph
from rexit.format.bundle import Bundle, Catalog, FileEntry, Manifest
from rexit.format.bundle.catalog import ZERO
from rexit.format.candidates import Candidates
from rexit.progress import silent
from rexit.upkeep.refresh import RefreshOptions, check_fit, refresh
from running.command import Run, assert_one_line

INPUTS = ("gcn", "user.count", "user.like_rate", "item.count", "item.like_rate", "similar_like_rate:5", "nearest_like_rate:3")
OPTIONS = ratings.options(epochs=10)
INDEX = ["index", "--interactions", "ratings.csv", "--items", "items.csv", "--users", "users.csv", "--tokenizer", "tok"]
INDEX += ["--template", "prompt.toml", "--out", "catalog"]
PARTS = ["user.like_rate", "user.count", "recent", "similar_liked", "fields", "item.like_rate", "item.count"]
PARTS += ["similar_verdict", "nearest", "similar_like_rate", "nearest_like_rate"]


def template(*inputs: str) -> str:
    return ratings.TEMPLATE.replace("inputs = []", f"inputs = {json.dumps(inputs)}")


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return ratings.index_files(ratings.write(tmp_path_factory.mktemp("zero"), template(*INPUTS)), OPTIONS)


@pytest.mark.parametrize("as_of", [None, ratings.LATE, 200, 110, 0])
@pytest.mark.parametrize("recent", [[], [(3, True), (8, False), (3, False)], [(5, False)]])
def test_numbers_are_those_that_prompts_show_in_bins(catalog: Catalog, as_of: int | None, recent: list[tuple[int, bool]]) -> None:
    builder, items = PromptBuilder(catalog), list(range(1, ratings.ITEMS + 1))
    tokenizer = Tokenizer.from_file(str(catalog.path.parent / "tok/tokenizer.json"))
    for user in (1, 2, 17, 999):
        prompt, numbers = builder.prompt(user, items, as_of, recent), builder.numbers(user, items, as_of, recent)
        assert numbers.dtype == np.float32 and numbers.shape == (len(items), len(INPUTS))
        for tokens, row in zip(prompt.candidates, numbers, strict=True):
            text = tokenizer.decode(np.concatenate([prompt.prefix, tokens]).tolist()).split("|")[1:-1]
            shown = dict(zip(PARTS, text, strict=True))
            for name, value in zip(INPUTS[1:], row[1:], strict=True):
                count = name.endswith("count")
                expected = "unknown" if np.isnan(value) else f"{int(value * 10 + 1e-5) * 10}%"
                if count:
                    expected = ["0", "2^0", "2^1", "2^2", "2^3", "2^4"][min(5, int(value).bit_length())]
                assert shown[name.partition(":")[0]] == expected


def test_the_product_is_that_of_the_folded_in_user_at_length_one(catalog: Catalog) -> None:
    slates, builder = cut(catalog, "test"), PromptBuilder(catalog)
    products = np.concatenate([builder.numbers(slate.user, slate.items, slate.as_of)[:, 0] for slate in slates])
    rows = catalog.items.rows([item for slate in slates for item in slate.items])
    np.testing.assert_allclose(products, _lightgcn(catalog, slates, rows), atol=2e-3)
    assert np.isnan(builder.numbers(None, [1, 2])[:, 0]).all(), "nobody's likes"


def test_training_reads_snapshots(catalog: Catalog) -> None:
    training, begins = PromptBuilder.of(catalog, "train"), catalog.snapshots["begins"][0]
    first, last = (training.numbers(1, [7, 8], as_of)[:, 0] for as_of in (int(begins[0]) - 1, int(begins[-1])))
    assert np.isnan(first).all() and not np.isnan(last).any()
    assert (last != PromptBuilder(catalog).numbers(1, [7, 8], int(begins[-1]))[:, 0]).any()


def test_it_is_fitted_on_the_last_part(catalog: Catalog) -> None:
    """Earlier snapshots know less than what serves; first prompts have no history at all."""
    (pairs, _), (split, slates) = fit._pairs(catalog, silent), runs(catalog, "train", fit.SIZE)
    sizes, starts = np.array([part.stop - part.start for part in slates]), [part.start for part in slates]
    users, times = split.users[starts], split.times[starts]
    *_, before_last, last_begin = catalog.snapshots["begins"][users].T
    last, before = times >= last_begin, (before_last <= times) & (times < last_begin)
    first = times == np.array([split.times[split.users == user].min() for user in users])
    chosen = before | last | first
    for actual, expected in ((pairs.judged, last), (pairs.fits, last | first), (pairs.before, before | first)):
        assert 0 < expected.sum() < chosen.sum() and (actual == np.repeat(expected[chosen], sizes[chosen])).all()


def test_items_that_nobody_had_met_teach_nothing_where_candidates_are_drawn(tmp_path: Path) -> None:
    """They may not have existed. A user's own interactions with them did happen."""
    for candidates, teach in ((Candidates("uniform", 5), False), (Candidates(), True)):
        data = ratings.write(tmp_path / candidates.kind, template("item.count"))
        indexed = ratings.index_files(data, replace(OPTIONS, candidates=candidates))
        pairs, _ = fit._pairs(indexed, silent)
        assert (pairs.numbers == 0).any() == teach and pairs.liked.any() and not pairs.liked.all()


def test_a_catalog_without_zero_has_neither_file_nor_numbers(tmp_path: Path) -> None:
    plain = ratings.index(tmp_path)
    assert plain.numbers == [] and ZERO not in plain.files and not (tmp_path / "catalog" / ZERO).exists()
    assert zero_of(plain, cut(plain, "test")) == []


def test_training_pairs_of_one_label_make_no_exit_zero(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor can an update's template bring one, though it is the same."""
    data = ratings.write(tmp_path, template("gcn", "item.count"))
    early = pl.col("timestamp") < ratings.LATE
    ratings.interactions().with_columns(pl.when(early).then(5).otherwise("rating").alias("rating")).write_csv(
        data / "ratings.csv"
    )
    monkeypatch.chdir(data)
    ended = run(*INDEX)
    assert ended.code == 0 and "training pairs of one label only" in " ".join(ended.out.split())
    all_liked = Catalog.open(data / "catalog")
    assert all_liked.numbers == [] and ZERO not in all_liked.files and not (data / "catalog" / ZERO).exists()
    (data / "new.csv").write_text("user_id,item_id,rating,timestamp\n1,2,5,20000\n")
    build_catalog(data / "new.csv", None, str(data / "tok"), data / "prompt.toml", data / "newer", old=data / "catalog")
    assert Catalog.open(data / "newer").numbers == []


def test_it_is_a_baseline_that_reads_the_catalog_s_graph(catalog: Catalog) -> None:
    slates = cut(catalog, "test")
    scores = baselines(catalog, slates, zero=zero_of(catalog, slates))[EXIT_ZERO]
    builder = PromptBuilder(catalog)
    numbers = np.concatenate([builder.numbers(slate.user, slate.items, slate.as_of) for slate in slates])
    assert (scores == Graph(catalog.path / ZERO, len(INPUTS)).log_odds(numbers)).all()
    assert catalog.info["zero"]["logistic"], "24 users are too few for trees"


@pytest.mark.parametrize("leaves", [2, 16])
def test_trees_answer_as_scikit_learn_s_do(tmp_path: Path, leaves: int) -> None:
    """Missing values and values on thresholds included."""
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 50, (4000, 3)).astype(np.float32) / np.float32(7)
    numbers[rng.random(numbers.shape) < 0.05] = np.nan
    liked = np.nan_to_num(numbers[:, 0]) - np.nan_to_num(numbers[:, 1]) ** 2 + rng.normal(size=4000) > 0
    model = HistGradientBoostingClassifier(max_iter=30, max_leaf_nodes=leaves, max_bins=20).fit(numbers, liked)
    (tmp_path / ZERO).write_bytes(tree_graph(model))
    graph = Graph(tmp_path / ZERO, 3)
    assert abs(graph.log_odds(numbers) - model.decision_function(numbers)).max() < 1e-5
    thresholds = np.concatenate([tree.nodes["num_threshold"] for (tree,) in model._predictors]).astype(np.float32)
    for column in range(3):
        edges = np.full((len(thresholds), 3), np.nan, np.float32)
        edges[:, column] = thresholds
        assert abs(graph.log_odds(edges) - model.decision_function(edges)).max() < 1e-5


def test_a_logistic_model_clips_what_it_has_not_met(tmp_path: Path) -> None:
    """The graph answers as the model does, for missing numbers and for numbers of any size; log(1 + count) for counts."""
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(500, 4)).astype(np.float32)
    numbers[:, 1] = rng.integers(0, 500, 500)
    numbers[rng.random(numbers.shape) < 0.1] = np.nan
    numbers[:, 3] = np.nan
    logit = np.nan_to_num(numbers[:, 0]) + np.log1p(np.nan_to_num(numbers[:, 1])) - 5
    model = Logistic.fit(numbers, logit + rng.logistic(size=500) > 0, np.array([False, True, False, False]))
    assert abs(model.weights[:2] - 1).max() < 0.35 and abs(model.weights[2]) < 0.35
    (tmp_path / ZERO).write_bytes(logistic_graph(model))
    graph = Graph(tmp_path / ZERO, 4)
    far = np.concatenate([numbers, np.nan_to_num(numbers, nan=1) * np.float32(1e30), -numbers * np.float32(1e30)])
    np.testing.assert_allclose(graph.log_odds(far), model.log_odds(far), atol=1e-4)
    edge = np.vstack([np.fmax.reduce(numbers), np.full(4, 1e38)]).astype(np.float32)
    edge[:, 3] = np.nan
    assert len(set(graph.log_odds(edge).tolist())) == 1


@pytest.mark.parametrize(("users", "steps", "trees"), [(400, True, True), (400, False, False), (40, True, False)])
def test_trees_where_they_are_better_and_users_many(users: int, steps: bool, trees: bool) -> None:
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(10 * users, 2)).astype(np.float32)
    logit = 4.0 * (numbers.prod(1) > 0) - 2 if steps else numbers.sum(1)
    rows = np.ones(len(numbers), np.bool_)
    liked = logit + rng.logistic(size=len(numbers)) > 0
    pairs = fit._Pairs(numbers, np.repeat(np.arange(users), 10), liked, rows, rows, rows)
    size, _, loss = fit._choose(pairs, np.zeros(2, np.bool_))
    assert (size > 0) == trees and (loss is None) == (users < fit.MIN_USERS)


def graph_file(path: Path, op: str, width: Any = 2, kind: int = TensorProto.FLOAT, **attributes: Any) -> Path:
    """A graph of one op over numbers [N, width]."""
    node = helper.make_node(op, ["numbers"], ["answers"], **attributes)
    graph = helper.make_graph(
        [node],
        "own",
        [helper.make_tensor_value_info("numbers", kind, ["N", width])],
        [helper.make_empty_tensor_value_info("answers")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    path.write_bytes(onnx.ModelProto.SerializeToString(model))
    return path


def column_mean(path: Path, **options: Any) -> Path:
    return graph_file(path, "ReduceMean", axes=[1], **options)


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda path: path, "cannot be read: No such file"),
    "no graph": (lambda path: path.write_text("trees") and path, "ONNX Runtime's CPU cannot run it: "),
    "unknown operator": (lambda path: graph_file(path, "Rank9"), "ONNX Runtime's CPU cannot run it: .*Rank9"),
    "another width": (lambda path: column_mean(path, width=3), "reads 3 numbers of a candidate, the template's \\[zero\\] has 2"),
    "doubles": (lambda path: column_mean(path, kind=TensorProto.DOUBLE), "`numbers` tensor\\(double\\) .*expected one tensor"),
    "a row each": (lambda path: graph_file(path, "Identity"), "`answers` is \\['N', 2\\], expected"),
    "one answer": (lambda path: graph_file(path, "ReduceSum", keepdims=0), "`answers` is \\[\\], expected"),
    "one row": (lambda path: graph_file(path, "ReduceMean"), "`answers` is \\[1, 1\\], expected"),
    "not finite": (lambda path: column_mean(path), "`answers` is nan for .*, expected finite"),
}
"""By name: what writes the file, and what the message says. Products are missing in a user's first part: NaN."""


@pytest.mark.parametrize("name", REFUSED)
def test_graphs_that_cannot_be_exit_zero_are_refused(tmp_path: Path, name: str) -> None:
    write, message = REFUSED[name]
    folder = ratings.write(tmp_path / "data", template("gcn", "item.count"))
    own = write(tmp_path / "own.onnx")
    with pytest.raises(InputError, match=f"^{own}: .*{message}"):
        ratings.index_files(folder, replace(OPTIONS, zero=own))
    assert not (folder / "catalog").exists()


def test_a_graph_of_one_s_own_is_copied(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, own = ratings.write(tmp_path, template("item.count", "user.count")), column_mean(tmp_path / "own.onnx", width="F")
    monkeypatch.chdir(data)
    words = [*INDEX, "--zero", own]
    ended = run(*words)
    assert ended.code == 0 and "Exit zero: own.onnx." in ended.out
    assert (data / "catalog" / ZERO).read_bytes() == own.read_bytes()
    (data / "prompt.toml").write_text(ratings.TEMPLATE)
    assert_one_line(run(*words), 2, "prompt.toml has no exit zero to read it")


def test_an_update_keeps_the_graph_and_the_numbers(catalog: Catalog, tmp_path: Path) -> None:
    data = Path(shutil.copytree(catalog.path.parent, tmp_path / "data"))
    (data / "new.csv").write_text("user_id,item_id,rating,timestamp\n1,2,5,20000\n")
    rest = (data / "new.csv", None, str(data / "tok"), data / "prompt.toml", data / "newer")
    build_catalog(*rest, old=data / "catalog")
    newer = Catalog.open(data / "newer")
    assert newer.numbers == catalog.numbers and newer.files[ZERO] == catalog.files[ZERO] and not newer.edited()
    (data / "prompt.toml").write_text(template("gcn"))
    with pytest.raises(InputError, match=r"is another template .*: its \[zero\] lacks user.count, which exit zero reads"):
        build_catalog(*rest, old=data / "catalog")


def damaged(catalog: Catalog, place: Path, numbers: list[dict[str, object]] | None = None, without: str = "") -> Catalog:
    folder = Path(shutil.copytree(catalog.path, place / "catalog"))
    info = json.loads((folder / "catalog.json").read_text())
    if numbers is not None:
        info["prompt"]["numbers"] = numbers
    info["files"][ZERO] = FileEntry.of(folder / ZERO).to_json()
    info["files"].pop(without, None)
    (folder / "catalog.json").write_text(json.dumps(info))
    return Catalog.open(folder)


@pytest.mark.parametrize(
    ("numbers", "without", "message"),
    [
        ([{"op": "age"}], "", r"prompt numbers\[0\] op: is 'age', expected gcn"),
        ([{"op": "gcn"}, {"op": "gcn"}], "", "numbers: has a number twice"),
        ([{"op": "similar_like_rate"}], "", "limit: is None with the number 'similar_like_rate'"),
        ([{"op": "gcn", "limit": 3}], "", "limit: is 3 with the number 'gcn'"),
        ([{"op": "nearest_like_rate", "limit": 0}], "", "limit"),
        ([], "", "files: lists .*zero.onnx"),
        (None, ZERO, "files: lists .*expected .*zero.onnx"),
    ],
)
def test_a_catalog_whose_numbers_or_graph_are_damaged(
    catalog: Catalog, tmp_path: Path, numbers: list[dict[str, object]] | None, without: str, message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        damaged(catalog, tmp_path, numbers, without)


def test_an_edited_graph_is_named(catalog: Catalog, tmp_path: Path) -> None:
    own = damaged(catalog, tmp_path)
    content = bytearray((own.path / ZERO).read_bytes())
    content[-1] ^= 1
    (own.path / ZERO).write_bytes(content)
    assert len(own.edited()) == 1 and ZERO in own.edited()[0]


def exported(catalog: Catalog, place: Path) -> Path:
    """`place/bundle` of a model of one layer."""
    shape = {"vocab_size": 400, "max_position_embeddings": 512, "num_hidden_layers": 1}
    checkpoint = tiny_checkpoint(place / "own", exits=(1,), catalog=catalog, **shape)
    export_bundle(checkpoint, catalog.path, place / "bundle", ExportOptions(golden_slates=2))
    return place / "bundle"


@pytest.mark.medium
def test_a_bundle_has_the_graph_and_a_refresh_brings_the_newer_one(catalog: Catalog, tmp_path: Path) -> None:
    folder = exported(catalog, tmp_path)
    bundle, manifest = Bundle.open(folder), Manifest.read(folder)
    assert bundle.catalog.files == catalog.files and not bundle.edited() and not bundle.catalog.edited()
    assert manifest.files[f"catalog/{ZERO}"] == catalog.files[ZERO]
    place = Path(shutil.copytree(catalog.path, tmp_path / "newer" / "catalog"))
    ones = np.ones(len(INPUTS), np.float32)
    other = Logistic(-ones, ones, ones > 1, np.zeros(len(INPUTS)), -np.ones(2 * len(INPUTS)), 0.0)
    (place / ZERO).write_bytes(logistic_graph(other))
    newer = damaged(replace(catalog, path=place), tmp_path)
    check_fit(folder, manifest, [], newer)
    write_watched(folder, 0.9)
    with pytest.raises(PolicyError, match=r"zero\.onnx is another than that of .*bundle, which cpu-fp32's policy was fitted to"):
        refresh(folder, newer.path, RefreshOptions(golden_slates=2))
    refresh(folder, newer.path, RefreshOptions(golden_slates=2, keep_policy=True))
    assert Bundle.open(folder).catalog.files[ZERO] == newer.files[ZERO] != catalog.files[ZERO]
    scored = damaged(replace(catalog, path=place), tmp_path / "other", [*catalog.numbers[1:], {"op": "score", "name": "bm25"}])
    with pytest.raises(InputError, match=r"scores for exit zero are \['bm25'\], that of .* is \[\]: nothing was swapped"):
        check_fit(folder, Manifest.read(folder), [], scored)


@pytest.mark.medium
def test_the_first_stage_s_scores_are_fitted_and_served(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Column, splits, graph, golden samples, requests, pairs, an update and a log of requests; and what is refused."""
    rated = ratings.interactions()
    noise = np.random.default_rng(1).normal(size=len(rated))
    data = ratings.write(tmp_path, template("item.count", "score.bm25"), rated)
    monkeypatch.chdir(data)
    assert_one_line(run(*INDEX), 2, "ratings.csv: no column 'score.bm25' (zero.inputs of the template)")
    rated = rated.with_columns(pl.Series("score.bm25", np.where(rated["rating"] >= 4, 3, 0) + noise))
    rated.write_csv("ratings.csv")
    drawn = run(*INDEX, "--candidates", "uniform:2")
    assert_one_line(drawn, 2, "candidates uniform:2 have no scores of first stages")
    assert run(*INDEX).code == 0
    catalog = Catalog.open(data / "catalog")
    slates = cut(catalog, "test")
    builder, slate = PromptBuilder(catalog), slates[0]
    numbers = builder.numbers(slate.user, slate.items, slate.as_of, scores=slate.scores)
    written = {(row[0], row[1]): np.float32(row[4]) for row in rated.rows()}
    assert numbers[:, 1].tolist() == [written[slate.user, item] for item in slate.items]
    assert slate.scores.keys() == {"bm25"}
    zero, liked = np.concatenate(zero_of(catalog, slates)), np.concatenate([slate.liked for slate in slates])
    assert auc(zero, liked) > 0.85, "the column says what was liked"

    exported(catalog, tmp_path)
    assert run("verify", "bundle").code == 0
    assert run("bench", "bundle", "--requests", 2, "--slate", 3).code == 0
    first = runtime.open(tmp_path / "bundle").score(slate.request, force_exit=0)
    np.testing.assert_allclose(first.log_odds, zero_of(catalog, slates[:1])[0], atol=1e-6)
    ids = ("--user", slate.user, "--items", ",".join(map(str, slate.items)))
    scored = run("score", "bundle", *ids, "--scores", "bm25=" + ",".join(map(str, slate.scores["bm25"])), "--json")
    assert scored.code == 0 and len(scored.json["scores"]) == len(slate.items)
    assert run("inspect", "bundle", *ids).code == 0
    assert_one_line(run("score", "bundle", *ids, "--scores", "bm25=1,x"), 2, "--scores bm25 is 'x', expected a finite number")
    assert_one_line(run("score", "bundle", *ids, "--scores", "bm25=1_0,2"), 2, "--scores bm25 is '1_0', expected a finite number")

    rated.head(30).write_csv("pairs.csv")
    words = ("score", "bundle", "--pairs", "pairs.csv", "--out", "out.csv")
    assert run(*words).code == 0 and len(pl.read_csv("out.csv")) == 30
    (data / "pairs.csv").write_text("user_id,item_id,score.bm25\n1,2,nan\n")
    assert_one_line(run(*words), 2, "row 1: `score.bm25` is 'nan', expected a finite number")

    request = {"user": 1, "items": [1, 2], "as_of": 20000}
    (data / "log.jsonl").write_text(json.dumps({**request, "scores": {"bm25": [1.5, None]}}) + "\n")
    (logged,) = RequestLog.read(data / "log.jsonl", catalog).all_slates
    np.testing.assert_array_equal(logged.scores["bm25"], [1.5, np.nan])
    for fields, problem in (
        ({}, "scores is missing, expected a number for each candidate: exit zero reads bm25"),
        ({"scores": {"bm25": None}}, "scores is missing"),
        ({"scores": {"bm25": [1, 2], "vectr": [1, 2]}}, r"scores\.vectr: exit zero reads no such score, it reads bm25"),
    ):
        (data / "log.jsonl").write_text(json.dumps({**request, **fields}) + "\n")
        with pytest.raises(InputError, match=problem):
            RequestLog.read(data / "log.jsonl", catalog)

    (data / "new.csv").write_text("user_id,item_id,rating,timestamp,score.bm25\n1,2,5,20000,7.5\n")
    build_catalog(data / "new.csv", None, str(data / "tok"), data / "prompt.toml", data / "newer", old=data / "catalog")
    newer, split = Catalog.open(data / "newer"), Catalog.open(data / "newer").split("train")
    assert split.scores["bm25"][split.times == 20000].tolist() == [7.5]
    assert len(newer.split("train")) == len(catalog.split("train")) + 1
