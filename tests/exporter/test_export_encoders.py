"""Encoders from a folder to heads, bundles and `rexit rerank`, whose last answers are transformers'."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from builders.data.indexed_catalog import write_indexed_catalog
from builders.data.token_slates import write_slates
from builders.models.encoders import FAMILIES, POSITIONS, WORDS, logits, pairs, write_dense_score, write_encoder
from rexit import Request, runtime
from rexit.data.slates_file import SlatesFile
from rexit.data.texts import bundle_encoder
from rexit.doors.pool import Pool
from rexit.errors import InputError, RexitError
from rexit.exporter.checkpoints.checkpoint import load_checkpoint
from rexit.exporter.export import export_bundle
from rexit.exporter.heads.frozen_heads import fit_heads
from rexit.exporter.options import ExportOptions, HeadsOptions
from rexit.exporter.preflight import check_slates_fit
from rexit.format.bundle import Bundle
from running.command import Run, assert_one_line
from running.fast import fast
from running.service import serving

REQUESTS = Path(__file__).parents[1] / "serve" / "requests"
QUERY = "word1 word2 word3"
DOCUMENTS = ["word4", "", " ".join(WORDS[10:40]), "word5 [PAD] word6 [SEP] word7 other", " ".join(WORDS), "word1 word2"]
PARITY = 1e-4
MEAN = ("modernbert", "mean")


@pytest.fixture(scope="module")
def slates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slates(tmp_path_factory.mktemp("slates") / "slates.jsonl", pairs(40))


@pytest.mark.medium
@pytest.mark.parametrize(("family", "pooling"), fast([*((name, None) for name in FAMILIES), MEAN], ("bert", None)))
def test_a_cross_encoder(run: Run, family: str, pooling: str | None, slates: Path, tmp_path: Path) -> None:
    """pooling: of modules of sentence-transformers; None: the family's own classifier."""
    folder, heads, bundle = tmp_path / "model", tmp_path / "heads", tmp_path / "bundle"
    write_encoder(folder, family) if pooling is None else write_dense_score(folder, family, pooling)
    expected = logits(folder, QUERY, DOCUMENTS)[:, 0]
    exits = "1,3,4" if pooling is None else "2,4"
    fit_heads(folder, None, heads, HeadsOptions(exits=exits, keep_last=True, precision="float32"), slates=slates)
    export_bundle(heads, None, bundle, ExportOptions(golden_slates=2, with_tokenizer=True), slates=slates)
    prefix, candidates = bundle_encoder(Bundle.open(bundle)).prompt(QUERY, DOCUMENTS)
    with runtime.open(bundle) as session:
        traced = session.trace(Request.tokens(prefix, candidates))
        np.testing.assert_allclose(traced[:, -1], expected, atol=PARITY)
        alone = [session.trace(Request.tokens([], [candidate]))[0] for candidate in candidates]
        np.testing.assert_allclose(traced, alone, atol=PARITY)
        with pytest.raises(RexitError, match=r"prefix has 2 tokens, expected none: the model is an encoder"):
            session.score(Request.tokens([2, 5], candidates))
        with pytest.raises(RexitError, match=rf"candidates\[1\] has {POSITIONS + 1} tokens .* at most {POSITIONS} together"):
            session.score(Request.tokens([], [candidates[0], [5] * (POSITIONS + 1)]))
    documents = tmp_path / "documents.jsonl"
    documents.write_text("\n".join(map(json.dumps, DOCUMENTS)))
    ended = run("rerank", bundle, "--query", QUERY, "--documents", documents, "--json")
    assert ended.code == 0, ended.err
    assert [row["log_odds"] for row in ended.json["results"]] == pytest.approx(sorted(expected, reverse=True), abs=PARITY)
    assert [row["index"] for row in ended.json["results"] if row["truncated"]] == [4]
    if (family, pooling) == ("bert", None):
        check_clients(bundle, folder)


def check_clients(bundle: Path, folder: Path) -> None:
    """What rerankers' clients send (tests/doors/serve/requests) gets the scores of a CrossEncoder."""
    with serving(Pool(partial(runtime.open, bundle), 1, 4)) as service:
        for path in sorted(REQUESTS.glob("*.json")):
            request = json.loads(path.read_text())
            body = request["body"]
            reply = service.ask("POST", request["path"], json.dumps(body).encode())
            assert reply.status == 200, reply.text
            rows = reply.json if isinstance(reply.json, list) else reply.json["results"]
            scores = {row["index"]: row.get("relevance_score", row.get("score")) for row in rows}
            documents = [text if isinstance(text, str) else text["text"] for text in body.get("documents") or body["texts"]]
            expected = expit(logits(folder, body["query"], documents)[:, 0])
            assert scores == pytest.approx({n: expected[n] for n in scores}, abs=PARITY) and rows, path.name


def test_slates_with_a_prefix_are_refused(tmp_path: Path) -> None:
    rows = [{"group": n, "prefix": [2, 5], "candidates": [[6], [7]], "label": [0, 1]} for n in range(5)]
    slates = SlatesFile.read(write_slates(tmp_path / "slates.jsonl", rows))
    checkpoint = load_checkpoint(write_encoder(tmp_path / "model"))
    with pytest.raises(InputError, match=r"group \d: has a prefix of 2 tokens, expected none: bert is an encoder, .* `query`$"):
        check_slates_fit(checkpoint, slates, 64)


@pytest.mark.parametrize("command", ["heads", "train"])
def test_a_catalogs_prompts_have_a_prefix(run: Run, command: str, tmp_path: Path) -> None:
    model, catalog = write_encoder(tmp_path / "model"), write_indexed_catalog(tmp_path / "catalog")
    ended = run(command, model, "--catalog", catalog, "--out", tmp_path / "out")
    assert_one_line(ended, 2, "bert is an encoder, which reads pairs of texts without a common prefix: use --slates")
    assert not (tmp_path / "out").exists()
