"""Encoders of every family: packed, split and with their own heads they answer as transformers does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from builders.models.encoders import FAMILIES, WORDS, logits, write_dense_score, write_encoder
from rexit.exporter.assembly import encoder_of
from rexit.exporter.checkpoints.checkpoint import load_checkpoint
from rexit.exporter.model.multi_exit import MultiExitModel
from rexit.exporter.model.packed import batch, pack

PARITY = 1e-5
QUERY = "word1 word2 word3"
DOCUMENTS = ["word4", " ".join(WORDS[10:40]), "", "word5 [PAD] word6 [SEP] word7 other", " ".join(WORDS)]


def check(folder: Path, labels: int = 1) -> None:
    """Alone and packed, pairs have the log-odds that transformers gives them."""
    expected = logits(folder, QUERY, DOCUMENTS)
    checkpoint = load_checkpoint(folder)
    prefix, candidates = encoder_of(checkpoint, 64).prompt(QUERY, DOCUMENTS)
    model = MultiExitModel(checkpoint.decoder, checkpoint.heads, checkpoint.exits).eval()
    log_odds = expected[:, 0] if labels == 1 else expected[:, 1] - expected[:, 0]
    assert log_odds.std() > 0.1
    np.testing.assert_allclose(model.reference(prefix, candidates)[:, 0], log_odds, rtol=1e-5, atol=PARITY)
    packed = pack(prefix, candidates)
    with torch.no_grad():
        out = model(*batch([packed, pack([], candidates[:2])]))
    differences = (out[0, :, 1] - out[0, :, 0]).numpy()
    np.testing.assert_allclose(differences, [*log_odds, *log_odds[:2]], rtol=1e-5, atol=PARITY)


@pytest.mark.medium
@pytest.mark.parametrize("labels", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_transformers(tmp_path: Path, family: str, labels: int) -> None:
    check(write_encoder(tmp_path, family, labels), labels)


def test_a_classifier_of_the_mean(tmp_path: Path) -> None:
    check(write_encoder(tmp_path, "modernbert", classifier_pooling="mean"))


@pytest.mark.medium
@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("family", ["bert", "modernbert", "xlm-roberta"])
def test_modules_of_sentence_transformers(tmp_path: Path, family: str, pooling: str) -> None:
    check(write_dense_score(tmp_path, family, pooling))
