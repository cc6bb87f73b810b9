"""`rexit heads`: the base stays, the heads of the checkpoint are the fitted ones, and an interrupted run goes on."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification

from builders.data.indexed_catalog import WITH_VECTORS, byte_tokenizer, write_indexed_catalog
from builders.models.checkpoints import tiny_checkpoint, tiny_model
from builders.models.gguf_file import write_gguf
from rexit.data.baselines import LIGHTGCN, LIKES, baselines
from rexit.data.ranking import auc
from rexit.data.slates import cut
from rexit.errors import CheckpointError, InputError
from rexit.exporter.checkpoints.checkpoint import EXITS, HEADS, load_checkpoint
from rexit.exporter.checkpoints.weights import decoder_model
from rexit.exporter.export import export_bundle
from rexit.exporter.heads import hidden_rows as forward
from rexit.exporter.heads import layers
from rexit.exporter.heads.frozen_heads import HeadsReport, fit_heads
from rexit.exporter.heads.hidden_rows import INFO
from rexit.exporter.index import build_catalog
from rexit.exporter.model.multi_exit import ExitHeads, MultiExitModel
from rexit.exporter.options import HeadsOptions, IndexOptions, LightGCNOptions
from rexit.exporter.prompt.builder import PromptBuilder
from rexit.format import roles
from rexit.format.bundle import Catalog

USERS, WIDTH = 90, 64


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_indexed_catalog(tmp_path_factory.mktemp("catalog"), USERS, taste=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "model"
    tiny_model().save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def fitted(model: Path, catalog: Path, tmp_path_factory: pytest.TempPathFactory) -> HeadsReport:
    out = tmp_path_factory.mktemp("fitted") / "out"
    return fit_heads(model, catalog, out, HeadsOptions(exits="1,2,4", keep_last=True))


def reference(checkpoint: Path, catalog: Path) -> np.ndarray:
    """Log-odds [slates' candidates, exits] of some validation slates, one candidate after the other."""
    loaded, opened = load_checkpoint(checkpoint), Catalog.open(catalog)
    model = MultiExitModel(loaded.decoder, loaded.heads, loaded.exits).eval()
    builder = PromptBuilder.of(opened, "validation")
    prompts = [builder.prompt(slate.user, slate.items, slate.as_of) for slate in cut(opened, "validation")[:6]]
    return np.concatenate([model.reference(prompt.prefix, prompt.candidates) for prompt in prompts])


def test_files_of_the_model_stay_as_they_are(fitted: HeadsReport, model: Path) -> None:
    for path in model.iterdir():
        assert (Path(fitted.checkpoint) / path.name).read_bytes() == path.read_bytes(), path.name


def test_last_answer_stays_what_it_was(fitted: HeadsReport, model: Path, catalog: Path) -> None:
    loaded = load_checkpoint(fitted.checkpoint)
    assert fitted.own_is_last and loaded.exits == (1, 2, 4)
    own = ExitHeads.shared(loaded.decoder, 1, Catalog.open(catalog).labels)
    hidden = torch.randn(5, WIDTH)
    assert torch.equal(loaded.heads(hidden, 2), own(hidden, 0))


def test_the_checkpoint_names_the_rule_of_roles(fitted: HeadsReport, catalog: Path, tmp_path: Path) -> None:
    """Heads chosen by another rule are refused: the model's last answer may stay, and export and calibration would not know."""
    assert load_checkpoint(fitted.checkpoint).roles == roles.RULE
    before = tmp_path / "before"
    tiny_checkpoint(before, exits=(2, 4), catalog=Catalog.open(catalog))
    assert load_checkpoint(before).roles is None
    info = json.loads((before / EXITS).read_text())
    (before / EXITS).write_text(json.dumps({**info, "roles": "halves"}))
    for use in (
        lambda: fit_heads(before, catalog, tmp_path / "after", HeadsOptions(exits="1,4", max_slates=8)),
        lambda: export_bundle(before, catalog, tmp_path / "bundle"),
    ):
        with pytest.raises(
            InputError, match=r"its users are 'sha256-places', .*before was made with 'halves': who fitted or chose"
        ):
            use()


def test_log_odds_of_the_checkpoint_are_those_of_the_fit(
    model: Path, catalog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Any] = []
    real = layers.fit_layers

    def spied(file: Any, train: Any, validation: Any, *more: Any, **labels: bool) -> Any:
        kept.extend([file, validation])
        kept.append(real(file, train, validation, *more, **labels))
        return kept[-1]

    monkeypatch.setattr("rexit.exporter.heads.frozen_heads.fit_layers", spied)
    fit_heads(model, catalog, tmp_path / "out", HeadsOptions(exits="1,2,3,4", keep_last=False, precision="float32"))
    file, validation, fits = kept
    seen = reference(tmp_path / "out", catalog)
    for k in range(4):
        expected = fits.at(k + 1).head.log_odds(file.hidden[k, validation.rows])[: len(seen)]
        np.testing.assert_allclose(seen[:, k], expected, atol=2e-2)
        assert np.ptp(expected) > 0.1
    own = file.answer[validation.rows]
    assert np.isfinite(own).all() and np.ptp(own) > 0.01


def test_heads_learn_what_the_titles_tell(fitted: HeadsReport) -> None:
    assert max(row["user_auc"][0] for row in fitted.layers) > 0.9
    assert all(row["loss"] < 0.7 for row in fitted.layers) and fitted.prior_loss > min(row["loss"] for row in fitted.layers)


def test_baselines_are_of_the_users_who_do_not_choose(fitted: HeadsReport, catalog: Path) -> None:
    assert [row["name"] for row in fitted.baselines] == [LIKES, LIGHTGCN] and fitted.doubt is None
    opened = Catalog.open(catalog)
    slates = cut(opened, "validation")
    pairs = np.concatenate([[not roles.chooses(slate.user)] * len(slate.items) for slate in slates])
    liked, scores = np.concatenate([slate.liked for slate in slates]), baselines(opened, slates)
    for row in fitted.baselines:
        assert row["auc"][0] == pytest.approx(auc(scores[row["name"]][pairs], liked[pairs]))


def test_the_table_of_all_layers(fitted: HeadsReport) -> None:
    folder = Path(fitted.checkpoint)
    table = json.loads((folder / "heads.json").read_text())
    assert [row["layers"] for row in table["layers"]] == [1, 2, 3, 4] and table["exits"] == [1, 2, 4]
    assert table["layers"] == fitted.layers and table["own"]["own"]


def test_users_who_choose_give_no_figures(fitted: HeadsReport, catalog: Path, model: Path, tmp_path: Path) -> None:
    """Labels of the choosing users decide the losses, labels of the others the AUC."""
    real = forward.packed_rows

    def flipped(opened: Catalog, split: str, *more: Any) -> Any:
        rows = real(opened, split, *more)
        if split == "validation":
            for row in rows.rows:
                if not roles.chooses(row.user):
                    row.liked[:] = ~row.liked
        return rows

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forward, "packed_rows", flipped)
        other = fit_heads(model, catalog, tmp_path / "out", HeadsOptions(exits="1,2,4", keep_last=True))
    for before, after in zip(fitted.layers, other.layers, strict=True):
        assert before["loss"] == after["loss"] and before["ridge"] == after["ridge"]
        assert after["auc"][0] == pytest.approx(1 - before["auc"][0])


@pytest.mark.medium
def test_interrupted_run_goes_on(
    fitted: HeadsReport, model: Path, catalog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = HeadsOptions(exits="1,2,4", keep_last=True)
    calls = []

    def counted(*words: Any) -> Any:
        calls.append(words)
        return real(*words)

    real = MultiExitModel.hidden_rows
    monkeypatch.setattr(MultiExitModel, "hidden_rows", counted)
    monkeypatch.setattr(forward, "SAVE_EVERY", 0.0)

    def stop(what: str, done: int, total: int) -> None:
        if what.startswith("forward") and len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_heads(model, catalog, tmp_path / "out", options, progress=stop)
    assert not (tmp_path / "out").exists()
    done = json.loads((tmp_path / "out.rows" / INFO).read_text())["done"]
    assert done == 3
    lines: list[str] = []
    fit_heads(model, catalog, tmp_path / "out", options, say=lines.append)
    whole = len(calls)
    assert "candidates in" in lines[0] and " MB in " in lines[0]
    assert "tokens are done" in lines[1] and re.search(r"the forward pass ends in \d+ s$", lines[2])
    assert (tmp_path / "out" / HEADS).read_bytes() == (Path(fitted.checkpoint) / HEADS).read_bytes()
    steps: list[tuple[str, int, int]] = []
    again = HeadsOptions(exits="auto:2", keep_last=False)
    fit_heads(model, catalog, tmp_path / "out", again, progress=lambda *step: steps.append(step))
    assert len(calls) == whole, "another choice needs no forward pass"
    assert [step for step in steps if step[0] == "heads"] == [("heads", layer, 4) for layer in range(5)]


@pytest.mark.slow
def test_adapter_and_gguf(model: Path, catalog: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    adapted = get_peft_model(tiny_model(), LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.peft_config["default"].base_model_name_or_path = str(model)
    adapted.save_pretrained(tmp_path / "adapter")
    separate = tiny_model(tie_word_embeddings=False)
    for source in (tmp_path / "adapter", write_gguf(separate, tmp_path / "model.gguf")):
        out = tmp_path / f"{source.stem}-heads"
        fit_heads(source, catalog, out, HeadsOptions(exits="2,4", precision="bfloat16", max_slates=8))
        assert (out / "adapter_config.json").exists() == source.is_dir()
        before, after = decoder_model(source).state_dict(), decoder_model(out).state_dict()
        assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
        assert load_checkpoint(out).exits == (2, 4)


@pytest.mark.medium
@pytest.mark.parametrize("outputs", [1, 2])
def test_answer_of_a_classifier(catalog: Path, tmp_path: Path, outputs: int) -> None:
    torch.manual_seed(0)
    config = tiny_model(attention=None).config
    config.num_labels = outputs
    classifier = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").eval()
    classifier.save_pretrained(tmp_path / "ranker")
    fit_heads(tmp_path / "ranker", catalog, tmp_path / "out", HeadsOptions(exits="1,4", keep_last=True, max_slates=8))
    opened = Catalog.open(catalog)
    slate = cut(opened, "validation")[0]
    prompt = PromptBuilder.of(opened, "validation").prompt(slate.user, slate.items, slate.as_of)
    loaded = load_checkpoint(tmp_path / "out")
    seen = MultiExitModel(loaded.decoder, loaded.heads, loaded.exits).eval().reference(prompt.prefix, prompt.candidates)
    tokens = torch.from_numpy(np.concatenate([prompt.prefix, prompt.candidates[0]]).astype(np.int64))[None]
    with torch.no_grad():
        logits = classifier.score(classifier.model(tokens, use_cache=False).last_hidden_state[0, -1])
    assert seen[0, 1] == pytest.approx(float(logits[-1] - (logits[0] if outputs == 2 else 0)), abs=1e-5)


def test_more_exits_for_a_checkpoint_that_has_some(catalog: Path, tmp_path: Path) -> None:
    before = load_checkpoint(tiny_checkpoint(tmp_path / "before", exits=(2, 4), catalog=Catalog.open(catalog)))
    options = HeadsOptions(exits="1,3,4", keep_last=True, max_slates=8)
    report = fit_heads(tmp_path / "before", catalog, tmp_path / "after", options)
    after, hidden = load_checkpoint(tmp_path / "after"), torch.randn(3, WIDTH)
    assert report.own_is_last and torch.equal(before.heads(hidden, 1), after.heads(hidden, 2))


def test_vectors_come_from_the_checkpoints_own_projectors(tmp_path: Path) -> None:
    catalog = write_indexed_catalog(tmp_path / "data", 60, template=WITH_VECTORS)
    tiny_checkpoint(tmp_path / "before", exits=(2, 4), catalog=Catalog.open(catalog))
    fit_heads(tmp_path / "before", catalog, tmp_path / "after", HeadsOptions(exits="1,4", max_slates=8))
    before, after = (load_checkpoint(tmp_path / name).projectors for name in ("before", "after"))
    assert before and after and all(torch.equal(before.tensors()[name], value) for name, value in after.tensors().items())


def refused(message: str, *words: Any) -> None:
    with pytest.raises(InputError) as error:
        fit_heads(*words)
    assert message in str(error.value) and "\n" not in str(error.value)
    out = words[2]
    assert not out.exists() and not out.with_name(out.name + ".rows").exists()


def test_no_last_answer_to_keep(catalog: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> None:
        raise CheckpointError("none")

    monkeypatch.setattr(ExitHeads, "shared", none)
    kept = HeadsOptions(exits="1,4", keep_last=True)
    refused("has no last answer for --keep-last", model, catalog, tmp_path / "out", kept)
    report = fit_heads(model, catalog, tmp_path / "out", HeadsOptions(exits="1,4", max_slates=8))
    assert report.own is None and not report.own_is_last and {row["target"] for row in report.layers} == {"labels"}


def test_target_of_an_answer_that_does_not_rank(
    model: Path, catalog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "MIN_USERS", USERS)  # so many users no third has
    report = fit_heads(model, catalog, tmp_path / "out", HeadsOptions(exits="1,4", max_slates=8))
    assert not report.own_is_last and {row["target"] for row in report.layers} == {"labels"}


def test_catalog_of_another_tokenizer(model: Path, catalog: Path, tmp_path: Path) -> None:
    tiny_model(vocab_size=90).save_pretrained(tmp_path / "small")
    line = "the catalog's tokenizer has 95 tokens, the model's embeddings only 90"
    refused(line, tmp_path / "small", catalog, tmp_path / "out")

    other, tokenizer = Path(shutil.copytree(model, tmp_path / "other")), byte_tokenizer()
    tokenizer.save(str(other / "tokenizer.json"))
    assert fit_heads(other, catalog, tmp_path / "same", HeadsOptions(exits="1,4", max_slates=8)).exits == [1, 4]
    tokenizer.add_tokens(["one more"])
    tokenizer.save(str(other / "tokenizer.json"))
    refused("is another tokenizer than that of", other, catalog, tmp_path / "out", HeadsOptions(exits="1,4"))
    accepted = HeadsOptions(exits="1,4", max_slates=8, accept_catalog=True)
    assert fit_heads(other, catalog, tmp_path / "out", accepted).exits == [1, 4]


def test_one_class(model: Path, tmp_path: Path) -> None:
    """Everybody likes what is in the training split."""
    data = tmp_path / "data"
    shutil.rmtree(write_indexed_catalog(data))
    ratings = pl.read_csv(data / "interactions.csv")
    train = pl.col("timestamp") < 160  # 16 of 20
    ratings.with_columns(rating=pl.when(train).then(5).otherwise("rating")).write_csv(data / "interactions.csv")
    files = (data / "interactions.csv", data / "items.csv", str(data / "tokenizer.json"), data / "prompt.toml")
    build_catalog(*files, data / "catalog", IndexOptions(neighbours=2, lightgcn=LightGCNOptions(dim=8, epochs=1)))
    line = "candidates are liked, expected likes and others to fit heads on"
    refused(line, model, data / "catalog", tmp_path / "out", HeadsOptions("1,4"))


def test_disk_too_small(model: Path, catalog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))  # type: ignore[attr-defined]
    refused("--max-slates bounds them", model, catalog, tmp_path / "out", HeadsOptions("1,4"))


def test_rows_of_another_model(catalog: Path, model: Path, tmp_path: Path) -> None:
    fit_heads(model, catalog, tmp_path / "out", HeadsOptions("1,4", max_slates=8))
    before = (tmp_path / "out" / EXITS).read_bytes()
    tiny_model("mistral").save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match=r"out\.rows: holds rows of another model"):
        fit_heads(tmp_path / "other", catalog, tmp_path / "out", HeadsOptions("1,2,4", max_slates=8))
    assert (tmp_path / "out" / EXITS).read_bytes() == before


def test_place_that_is_no_checkpoint(model: Path, catalog: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="exists and is not a multi-exit checkpoint"):
        fit_heads(model, catalog, tmp_path / "out", HeadsOptions("1,4"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (HeadsOptions(precision="int8"), "--precision int8, expected one of auto, bfloat16, float32"),
        (HeadsOptions(max_slates=-1), "--max-slates -1, expected at least 1, or 0 for all"),
        (HeadsOptions(batch_tokens=0), "batch tokens 0, expected at least 1"),
    ],
)
def test_options_out_of_range(model: Path, catalog: Path, tmp_path: Path, options: HeadsOptions, message: str) -> None:
    refused(message, model, catalog, tmp_path / "out", options)
