"""`rexit build`: one command for heads, export and calibration; stopped, it continues where it was."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import rexit
from builders.data.indexed_catalog import write_indexed_catalog
from builders.data.token_slates import write_slates
from builders.models.checkpoints import tiny_checkpoint, tiny_model
from builders.models.encoders import WORDS, write_encoder
from rexit.data.slates_file import certifying_groups
from rexit.doors.cli.make import build
from rexit.doors.cli.make.build import _SHARES, _Left
from rexit.errors import BackendError, BundleError, InputError, QualityError
from rexit.exporter.gate import quality
from rexit.format.bundle import Bundle, Catalog
from rexit.format.roles import CERTIFY, CHOOSE, place
from running.command import Run, assert_one_line


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model` and `catalog`."""
    place = tmp_path_factory.mktemp("build")
    write_indexed_catalog(place, 60, taste=True)
    tiny_model().save_pretrained(place / "model")
    return place


@pytest.mark.medium
def test_a_checkpoint_with_exits_is_exported_and_calibrated(run: Run, data: Path, tmp_path: Path) -> None:
    checkpoint, out = tiny_checkpoint(tmp_path / "checkpoint", catalog=Catalog.open(data / "catalog")), tmp_path / "out"
    words = ("build", checkpoint, "--catalog", data / "catalog", "--out", out, "--precision", "fp32", "--max-drop", 0.3)
    ended = run(*words)
    assert ended.code == 0, ended.err
    assert "heads" not in ended.err and "step 2 of 3, export" in ended.err and "step 3 of 3, calibrate" in ended.err
    assert "cpu-fp32 answers" in ended.out and f'rexit.Recommender("{out}").recommend(user, top_k=10)' in ended.out
    opened = Bundle.open(out)
    assert opened.policy() is not None
    with rexit.Recommender(out) as recommender:
        assert len(recommender.recommend(opened.catalog.users.id(0), top_k=3)) == 3

    (opened.folder / "policy.json").unlink()  # as if it had been stopped before
    again = run(*words)
    assert again.code == 0 and "export" not in again.err and "step 3 of 3, calibrate" in again.err, again.err
    assert Bundle.open(out).policy() is not None
    assert_one_line(run("build", data / "model", *words[2:]), 2, "out.build: began with another model: delete it and")


def write_log(path: Path, queries: int) -> Path:
    """Writes what was shown to so many queries, a third of which were asked twice: nothing but `query` and `candidates`."""
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(WORDS[:20], 4)) for _ in range(queries)]
    asked = [*texts, *texts[: queries // 3]]
    rows = [{"query": text, "candidates": [" ".join(random.choice(WORDS[:20], 5)) for _ in range(12)]} for text in asked]
    return write_slates(path, rows)


@pytest.mark.medium
def test_a_log_without_labels_is_enough(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "chooses", lambda user: True)  # 16 queries are too few for the gate
    model, log, out = write_encoder(tmp_path / "model"), write_log(tmp_path / "log.jsonl", 150), tmp_path / "out"
    ended = run("build", model, "--slates", log, "--out", out, "--precision", "int8,fp32")
    assert ended.code == 0, ended.err
    assert "certify: a loss of 0.1 can be confirmed; 0.01 takes 314" in ended.err
    assert "against the full model, not against the truth" in ended.out.partition("\n\n")[0]
    opened = Bundle.open(out)
    assert len(opened.exits) > 1 and opened.policy() is not None
    for text in ("the model, float32", "full depth", "policy", "same first 10 as above", "expected-ndcg@10"):
        assert text in ended.out, ended.out
    with rexit.Reranker(out) as reranker:
        assert len(reranker.rank(WORDS[0], [WORDS[0], WORDS[1]])) == 2


def test_a_log_that_can_confirm_nothing_is_refused_first(run: Run, tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.jsonl", 20)
    ended = run("build", tmp_path / "no model", "--slates", log, "--out", tmp_path / "out")
    assert_one_line(ended, 2, "log.jsonl: ", " of its queries certify, expected at least 30: about a quarter of a log does")


def test_a_log_with_some_labels_is_labelled(tmp_path: Path) -> None:
    """Only queries with labels calibrate, so only they certify."""
    rows: list[dict[str, Any]] = [
        {"query": str(n), "candidates": ["a", "b"]} | ({"label": [0, 1]} if n % 2 else {}) for n in range(200)
    ]
    for part, labelled in ((rows, True), (rows[::2], False)):
        count, some = certifying_groups(write_slates(tmp_path / "some.jsonl", part))
        groups = [row["query"] for row in part if ("label" in row) == labelled]
        assert (count, some) == (sum(CHOOSE <= place(group) < CERTIFY for group in groups), labelled)


class Steps:
    """Stand-ins of the three steps, which record that they ran.

    exits: of each exported variant. failure: what a step raises.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls, self.failure = list[str](), dict[str, Exception]()
        self.exits: dict[str, tuple[int, ...]] = {"cpu-fp32": (1, 2)}
        self.export: Any = None
        monkeypatch.setattr("rexit.exporter.heads.frozen_heads.fit_heads", self._fit)
        monkeypatch.setattr("rexit.exporter.export.export_bundle", self._export)
        monkeypatch.setattr("rexit.format.bundle.Bundle", SimpleNamespace(open=self._open))
        monkeypatch.setattr(build, "calibrate_variant", lambda bundle, *_: self._step(f"calibrate {bundle.name}"))

    def _step(self, name: str, folder: Path | None = None) -> None:
        self.calls.append(name)
        if (failure := self.failure.pop(name, None)) is not None:
            raise failure
        if folder is not None:
            folder.mkdir(parents=True)

    def _fit(self, model: str, catalog: Path | None, out: Path, *_: Any, **__: Any) -> None:
        self._step("heads", out)

    def _export(self, model: Path, catalog: Path | None, out: Path, options: Any, **_: Any) -> Any:
        self.export = options
        self._step("export", out)
        return SimpleNamespace(refused={})

    def _open(self, out: Path, name: str | None = None) -> Any:
        name = name or next(iter(self.exits))
        return SimpleNamespace(name=name, exits=self.exits[name], manifest=SimpleNamespace(variants=tuple(self.exits)))

    def build(self, place: Path, precision: str | None = "fp32", drop: float = 0.1, reranker: str | None = None) -> list[str]:
        """Builds of `model` and `log.jsonl` there; returns the steps that ran."""
        self.calls.clear()
        build._build(str(place / "model"), place / "out", None, place / "log.jsonl", precision, drop, reranker)
        return self.calls


@pytest.fixture
def steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Steps:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llama", "is_decoder": true}')
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    write_slates(tmp_path / "log.jsonl", [{"query": "a", "candidates": ["b", "c"]}])
    return Steps(monkeypatch)


@pytest.mark.parametrize("stopped", ["heads", "export", "calibrate cpu-fp32"])
def test_stopped_it_continues_where_it_was(steps: Steps, tmp_path: Path, stopped: str) -> None:
    steps.failure[stopped] = BackendError("stopped")
    with pytest.raises(BackendError, match="stopped"):
        steps.build(tmp_path)
    before = list(steps.calls)
    assert before[-1] == stopped and steps.build(tmp_path) == [stopped, *["export", "calibrate cpu-fp32"][len(before) - 1 :]]


def test_a_model_trained_again_in_its_folder_is_another(steps: Steps, tmp_path: Path) -> None:
    steps.build(tmp_path)
    (tmp_path / "model" / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(InputError, match=r"out.build: began with another model: delete it and .*out, or choose another"):
        steps.build(tmp_path)


def test_a_precision_that_is_refused_costs_no_heads(steps: Steps, tmp_path: Path) -> None:
    for precision, drop, message in (("int9", 0.1, "no target 'cpu' with precision 'int9'"), ("fp32", 0.7, "max drop 0.7")):
        with pytest.raises(InputError, match=message):
            steps.build(tmp_path, precision, drop)
    assert steps.calls == []
    steps.failure["export"] = QualityError("int8 fails")
    with pytest.raises(QualityError):
        steps.build(tmp_path, "int8")
    assert steps.build(tmp_path, "fp32") == ["export", "calibrate cpu-fp32"] and steps.export.precisions == ("fp32",)
    with pytest.raises(InputError, match=r"out: was exported with precision 'fp32', expected 'int8': delete it, or"):
        steps.build(tmp_path, "int8")


def test_the_first_variant_with_an_earlier_exit_is_calibrated(steps: Steps, tmp_path: Path) -> None:
    """int8's gate may leave it only its last exit."""
    steps.exits = {"cpu-int8": (2,), "cpu-fp32": (1, 2)}
    assert steps.build(tmp_path)[-1] == "calibrate cpu-fp32"
    steps.exits = {"cpu-int8": (2,)}
    assert steps.build(tmp_path) == []


def test_a_checkpoint_with_exits_gets_the_answers_that_are_named(steps: Steps, tmp_path: Path) -> None:
    (tmp_path / "model" / "exits.json").write_text("{}")
    assert steps.build(tmp_path, reranker="1,2") == ["export", "calibrate cpu-fp32"]
    assert steps.export.label_ids == (1, 2)


def test_a_state_without_its_beginning_is_refused(steps: Steps, tmp_path: Path) -> None:
    (tmp_path / "out.build").mkdir()
    (tmp_path / "out.build" / "build.json").write_text('{"schema": 3, "steps": {}}')
    with pytest.raises(BundleError, match=r"build\.json: `begun` is missing"):
        steps.build(tmp_path)


@pytest.mark.slow
def test_heads_come_first(run: Run, data: Path, tmp_path: Path) -> None:
    """Of an untrained model no earlier layer is worth an exit."""
    words = ("build", data / "model", "--catalog", data / "catalog", "--out", tmp_path / "out", "--precision", "fp32")
    ended = run(*words)
    assert ended.code == 0, ended.err
    assert "step 1 of 3, heads" in ended.err and "the bundle has one exit" in ended.out
    assert (tmp_path / "out.build" / "checkpoint" / "exits.json").is_file() and Bundle.open(tmp_path / "out").policy() is None


def test_what_cannot_be_built_is_one_line(run: Run, data: Path, tmp_path: Path) -> None:
    catalog, out = ("--catalog", data / "catalog"), ("--out", tmp_path / "out")
    for words, code, line in (
        (("build", data / "model", *out), 2, "neither --catalog nor --slates given"),
        (("build", data / "model", *out, "--catalog", tmp_path / "none"), 2, "none: no such catalog folder"),
        (("build", data / "model", *out, "--slates", tmp_path / "none"), 2, "none: no such file"),
        (("build", data / "model", *catalog, *out, "--reranker", "1,2"), 2, "--reranker"),
        (("build", tmp_path / "none", *catalog, *out), 3, "none: no such folder"),
        (("build", data / "model", *catalog, "--out", data / "catalog"), 2, "catalog: exists, and no catalog.build beside it"),
    ):
        assert_one_line(run(*words), code, line)
    (tmp_path / "out.build").mkdir(exist_ok=True)
    (tmp_path / "out.build" / "build.json").write_text("{")
    assert_one_line(run("build", data / "model", *catalog, *out), 4, "build.json")


def test_minutes_left() -> None:
    """Of steps that take as long as their shares, whatever the machine."""
    now, lines = 0.0, list[str]()
    left = _Left(lines.append, lambda: now)
    stages = {"heads": "forward pass, tokens", "export": "validation slates, int8", "calibrate": "validation"}
    for step, stage in stages.items():
        seconds = round(1000 * _SHARES[step])
        begin, report = now, left.step(step, lambda *_: None)
        report("load", 0, 1)
        for n in range(seconds // 10 + 1):
            now = begin + n * 10
            report(stage, n, seconds // 10)
    assert [line.partition(", ")[2] for line in lines if "step 1" in line][:3] == [
        "heads",
        "heads, about 16 min left",
        "heads, about 15 min left",
    ]
    assert lines[-1] == "rexit: step 3 of 3, calibrate, about 1 min left"
    rest = round((1000 - 1000 * _SHARES["heads"]) / 60)
    assert json.dumps(lines).count(f"step 2 of 3, export, about {rest} min left") == 1
