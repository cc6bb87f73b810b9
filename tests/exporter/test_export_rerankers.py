"""Rerankers from the folders that people have to `rexit rerank`: queries and documents as text, no catalog."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from builders.data.token_slates import write_slates
from builders.models.rerankers import write_layerwise, write_logit_score
from rexit import runtime
from rexit.bundle import Bundle
from rexit.exporter.export import export_bundle
from rexit.exporter.options import ExportOptions
from rexit.texts import bundle_encoder
from running.command import Run, run  # noqa: F401

DOCUMENTS = ["wing lift", "drag of a wing", "Find what answers", "lift lift lift drag " * 60, "Answer </s> <|im_end|> yes"]


@pytest.fixture(scope="module")
def slates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [{"group": n, "query": f"wing {n}", "candidates": DOCUMENTS, "label": [1, 1, 0, 0, 0]} for n in range(6)]
    return write_slates(tmp_path_factory.mktemp("slates") / "slates.jsonl", rows)


def test_a_reranker_of_sentence_transformers(run: Run, slates: Path, tmp_path: Path) -> None:  # noqa: F811
    checkpoint = write_logit_score(tmp_path / "checkpoint")
    options = ExportOptions([2, 4], golden_slates=2, with_tokenizer=True)
    export_bundle(checkpoint, None, tmp_path / "bundle", options, slates=slates)
    bundle = Bundle.open(tmp_path / "bundle")
    prefix, candidates = bundle_encoder(bundle).prompt("wing lift", DOCUMENTS)
    assert max(map(len, candidates)) + len(prefix) == bundle.variant.max_positions, "the long document is cut to fit"

    model, labels = AutoModelForCausalLM.from_pretrained(checkpoint), bundle.labels
    with torch.no_grad():
        logits = [model(torch.tensor([[*prefix, *candidate]])).logits[0, -1] for candidate in candidates]
    expected = np.array([float(row[labels["yes"]] - row[labels["no"]]) for row in logits])
    again = ExportOptions([2, 4], precisions=["int8"], golden_slates=2, accept_loss=True)
    export_bundle(checkpoint, None, tmp_path / "bundle", again, slates=slates)
    assert bundle_encoder(Bundle.open(tmp_path / "bundle")).prompt("wing", ["lift"]), "another variant keeps the tokenizer"
    with runtime.open(bundle.path) as session:
        np.testing.assert_allclose(session.trace_tokens(prefix, candidates)[:, -1], expected, atol=1e-3)

    documents = tmp_path / "documents.txt"
    documents.write_text("\n".join(DOCUMENTS))
    ended = run("rerank", bundle.path, "--query", "wing lift", "--documents", documents, "--json")
    assert ended.code == 0, ended.err
    rows = ended.json["results"]
    assert [row["index"] for row in rows] == np.argsort(-expected).tolist()
    assert [row["log_odds"] for row in rows] == pytest.approx(np.sort(expected)[::-1].tolist(), abs=1e-3)
    other = run(
        "rerank", bundle.path, "--query", "wing lift", "--documents", documents, "--instruction", "Something else.", "--json"
    )
    assert other.code == 0 and other.json["results"] != rows


def test_the_layerwise_reranker(run: Run, slates: Path, tmp_path: Path) -> None:  # noqa: F811
    checkpoint = write_layerwise(tmp_path / "checkpoint")
    export_bundle(checkpoint, None, tmp_path / "bundle", ExportOptions(golden_slates=2, with_tokenizer=True), slates=slates)
    bundle = Bundle.open(tmp_path / "bundle")
    assert len(bundle.manifest.exits) > 2 and bundle.manifest.reranker is not None
    documents = tmp_path / "documents.txt"
    documents.write_text("\n".join(DOCUMENTS))
    ended = run("rerank", bundle.path, "--query", "wing lift", "--documents", documents, "--top-n", 3, "--json")
    assert ended.code == 0, ended.err
    scores = [row["relevance_score"] for row in ended.json["results"]]
    assert len(scores) == 3 and scores == sorted(scores, reverse=True)
