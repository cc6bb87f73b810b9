"""`rexit train` of an encoder: pairs of queries and documents, and a checkpoint that is a cross-encoder of transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from builders.data.token_slates import write_slates
from builders.models.encoders import (
    FAMILIES,
    POSITIONS,
    WORDS,
    logits,
    pairs,
    write_dense_score,
    write_encoder,
    write_plain,
)
from rexit import Request, runtime
from rexit.data.slates_file import SlatesFile
from rexit.data.texts import bundle_encoder
from rexit.exporter.assembly import encoder_of
from rexit.exporter.checkpoints.checkpoint import load_checkpoint
from rexit.exporter.export import export_bundle
from rexit.exporter.model.multi_exit import MultiExitModel
from rexit.exporter.model.training import parameter_groups
from rexit.exporter.options import ExportOptions, TrainOptions
from rexit.exporter.training.fine_tuning import make_model, train_model
from rexit.exporter.training.trainer import Pairs, first_loss
from rexit.format.bundle import Bundle
from running.command import Run, assert_one_line

QUERY, DOCUMENTS = "word1", ["word1 word2", "word3", "", " ".join(WORDS)]
PLAIN, TWO_LABELS, MODULES = "plain", "two labels", "modules"


@pytest.fixture(scope="module")
def slates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slates(tmp_path_factory.mktemp("slates") / "slates.jsonl", pairs(60))


@pytest.mark.medium
@pytest.mark.parametrize(
    ("family", "form", "lora"),
    [*((family, PLAIN, 0) for family in FAMILIES), ("bert", PLAIN, 2), ("bert", TWO_LABELS, 0), ("modernbert", MODULES, 0)],
)
def test_the_checkpoint_is_a_cross_encoder(family: str, form: str, lora: int, slates: Path, tmp_path: Path) -> None:
    """Its last exit answers as transformers does with the folder, and as sentence-transformers' modules would."""
    model, out = tmp_path / "model", tmp_path / "out"
    if form == PLAIN:
        write_plain(model, family)
    elif form == MODULES:
        write_dense_score(model, family, "mean")
    else:
        write_encoder(model, family, 2, id2label={0: "relevant", 1: "other"})
    options = TrainOptions(exits="1,3", steps=4, lora=lora, rate=1e-2, batch_tokens=400)
    train_model(model, None, out, options, slates=slates)
    checkpoint, expected = load_checkpoint(out), logits(out, QUERY, DOCUMENTS)
    assert checkpoint.exits == (1, 3) == (1, len(checkpoint.decoder.layers)) and np.ptp(expected) > 1e-3
    _, candidates = encoder_of(checkpoint, POSITIONS).prompt(QUERY, DOCUMENTS)
    found = MultiExitModel(checkpoint.decoder, checkpoint.heads, checkpoint.exits).reference([], candidates)
    np.testing.assert_allclose(found[:, -1], expected[:, 0] - (expected[:, 1] if form == TWO_LABELS else 0), atol=1e-5)


@pytest.mark.medium
def test_a_plain_encoder_learns_and_is_exported(slates: Path, tmp_path: Path) -> None:
    model, out, bundle, lines = write_plain(tmp_path / "model"), tmp_path / "out", tmp_path / "bundle", list[str]()
    options = TrainOptions(exits="2,4", steps=60, rate=3e-3, batch_tokens=400)
    report = train_model(model, None, out, options, slates=slates, say=lines.append)
    losses = [float(line.split("loss ")[1].split()[0]) for line in lines if line.startswith("step ")]
    assert losses[-1] < losses[0] - 0.2, losses
    assert report is not None and report.exits == (2, 4)
    export_bundle(out, None, bundle, ExportOptions(golden_slates=2, with_tokenizer=True), slates=slates)
    prefix, candidates = bundle_encoder(Bundle.open(bundle)).prompt(QUERY, DOCUMENTS)
    with runtime.open(bundle) as session:
        traced = session.trace(Request.tokens(prefix, candidates))
    np.testing.assert_allclose(traced[:, -1], logits(out, QUERY, DOCUMENTS)[:, 0], atol=1e-4)


@pytest.mark.medium
def test_a_stopped_training_draws_the_same_pairs_again(slates: Path, tmp_path: Path) -> None:
    def stop(line: str) -> None:
        if line.startswith("step 10/"):
            raise KeyboardInterrupt

    model = write_plain(tmp_path / "model")
    options = TrainOptions(exits="2,4", steps=12, save_every=3, batch_tokens=400)
    train_model(model, None, tmp_path / "whole", options, slates=slates)
    with pytest.raises(KeyboardInterrupt):
        train_model(model, None, tmp_path / "parts", options, slates=slates, say=stop)
    train_model(model, None, tmp_path / "parts", options, slates=slates)
    whole, parts = (logits(tmp_path / name, QUERY, DOCUMENTS) for name in ("whole", "parts"))
    np.testing.assert_array_equal(whole, parts)


class Words:
    """An encoder of texts whose tokens are the words' numbers."""

    def prompt(self, query: str, documents: list[str]) -> tuple[list[int], list[list[int]]]:
        return [], [[int(word.removeprefix("word")) for word in f"{query} {text}".split()] for text in documents]


def test_rows_are_a_relevant_document_among_own_and_any_others(tmp_path: Path) -> None:
    own = [[f"word{10 * query + n}" for n in range(5)] for query in range(4)]
    labels = [[0, 2, 0, 0, 0], [1, 0, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]]
    made = [{"group": n, "split": "train", "query": f"word{90 + n}", "candidates": own[n], "label": labels[n]} for n in range(4)]
    texts = SlatesFile.read(write_slates(tmp_path / "slates.jsonl", made), lambda: Words())  # type: ignore[arg-type, return-value]
    options = TrainOptions(slate=6, batch_tokens=12, epochs=1.5)
    drawn = Pairs(texts, Words(), options, np.random.default_rng(0))  # type: ignore[arg-type]
    data, batches, passes = drawn.drawn(0, iter)
    assert passes == 2 and sorted(n for batch in batches for n in batch) == [0, 1, 2, 3]
    assert [len(batch) for batch in batches] == [1] * 4, "six pairs of two tokens fill a batch"
    assert {row.user for row in data.rows} == {0, 1}, "queries with one kind of label are left out"
    seen: set[int] = set()
    for row in data.rows:
        query, documents = row.user, [int(tokens[1]) for tokens in row.prompt.candidates]
        relevant = {10 * query + n for n, label in enumerate(labels[query]) if label}
        assert row.liked.tolist() == [True] + [False] * 5 and documents[0] in relevant
        assert not relevant & set(documents[1:]), "a relevant document is never a wrong one"
        hard = documents[1:4]
        assert len(set(hard)) == 3 and all(document // 10 == query for document in hard)
        seen |= set(documents[4:])
    assert seen - set(range(20)), "documents of queries that are left out are drawn too"
    assert len(drawn.drawn(7, iter)[1]) == 8, "whole passes"


def test_loss_of_the_first_among_a_querys_documents() -> None:
    log_odds = torch.tensor([[1.0, -1.0, 0.0, 2.0], [0.5, 0.5, -3.0, 0.0]])
    alone = [functional.cross_entropy(part[None], torch.tensor([0])) for part in log_odds.view(4, 2)]
    loss = first_loss(torch.stack([-log_odds / 2, log_odds / 2], -1), 2)
    assert loss.item() == pytest.approx(torch.stack(alone).mean().item())


def test_what_no_head_reads_is_not_trained(tmp_path: Path) -> None:
    write_plain(tmp_path / "model")
    _, model, _ = make_model(str(tmp_path / "model"), None, TrainOptions(exits="2,4", freeze_embeddings=True))
    names = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert not any("pooler" in name or "classifier" in name or "word_embeddings" in name for name in names)
    assert any("position_embeddings" in name for name in names) and "heads.norms.1.0.weight" in names
    rates = {id(weight): group["lr"] for group in parameter_groups(model, 0.2, 0.5, 1.0) for weight in group["params"]}
    by_name = {name: rates[id(weight)] for name, weight in model.named_parameters() if weight.requires_grad}
    assert by_name["heads.norms.1.0.weight"] == by_name["heads.projections.1.weight"] == 0.2, "a classifier that knows something"
    assert by_name["heads.projections.0.weight"] == 2.0
    assert next(value for name, value in by_name.items() if "position_embeddings" in name) == 0.4


def test_mistakes_are_one_line(run: Run, slates: Path, tmp_path: Path) -> None:
    plain = write_plain(tmp_path / "plain")
    *relevant, other = pairs(3)
    relevant = [*(row | {"label": [1] * 6, "split": "train"} for row in relevant), other | {"split": "test"}]
    ids = [{"group": n, "prefix": [], "candidates": [[2, 6, 3], [2, 7, 3]], "label": [0, 1]} for n in range(40)]
    same, tokens = write_slates(tmp_path / "same.jsonl", relevant), write_slates(tmp_path / "ids.jsonl", ids)
    for words, line in (
        (("--slates", slates, "--slate", 1), "--slate 1, expected at least 2: an encoder learns the order"),
        (("--slates", same), "none of 2 training slates has relevant and other candidates"),
        (("--slates", tokens), "no column `query`, expected queries and documents as texts"),
    ):
        assert_one_line(run("train", plain, *words, "--out", tmp_path / "out"), 2, line)
    assert not (tmp_path / "out").exists()
