"""Classifiers of pairs: what an encoder reads of a query and a document, and which of its labels is positive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer

from rexit.bundle.manifest import Pair, RerankerPrompt
from rexit.errors import CheckpointError
from rexit.exporter.checkpoints.configs import read_object
from rexit.exporter.checkpoints.logit_score import SETTINGS
from rexit.exporter.libraries import first_line, quiet

POSITIVE = ("label_1", "1", "yes", "true", "positive", "relevant")
"""Names of a positive label, in lower case. `LABEL_1` is transformers' own."""


def pair_prompt(folder: Path) -> RerankerPrompt:
    """How the tokenizer of an encoder's folder writes a pair. Raises CheckpointError."""
    tokenizer = pair_tokenizer(folder)
    config = AutoConfig.from_pretrained(folder)
    types = "token_type_ids" in tokenizer.model_input_names and (getattr(config, "type_vocab_size", 0) or 0) > 1
    longest = read_object(folder / SETTINGS).get("max_seq_length")
    positions = config.max_position_embeddings - first_position(config)
    limits = (tokenizer.model_max_length, positions, *([longest] if isinstance(longest, int) else []))
    return RerankerPrompt(pair=Pair(min(limits), config.vocab_size if types else 0))


def first_position(config: Any) -> int:
    """The position of a text's first token: RoBERTa's and its like's follow the padding's, so 514 positions take 512 tokens."""
    with torch.device("meta"):
        body = AutoModel.from_config(config)
    padding = getattr(getattr(getattr(body, "embeddings", None), "position_embeddings", None), "padding_idx", None)
    return 0 if padding is None else int(padding) + 1


def pair_tokenizer(folder: Path) -> Any:
    """The tokenizer, as transformers reads it. Raises CheckpointError, also for one that writes no pairs."""
    try:
        with quiet():
            tokenizer: Any = AutoTokenizer.from_pretrained(folder)
            special = tokenizer.backend_tokenizer.num_special_tokens_to_add(True)
    except Exception as exc:
        raise CheckpointError(f"{folder}: its tokenizer cannot be read: {first_line(exc)}") from exc
    if special == 0:
        raise CheckpointError(f"{folder}: its tokenizer has no template for pairs, so query and document could not be told apart")
    return tokenizer


def positive_label(config: Any) -> int:
    """The positive one of two labels; 1 if there is one label. Raises CheckpointError if the outputs are no log-odds."""
    if config.num_labels not in (1, 2):
        raise CheckpointError(
            f"{config.model_type}: has {config.num_labels} labels, expected one, or two of which one is positive"
        )
    if getattr(config, "problem_type", None) == "regression":
        raise CheckpointError(
            f"{config.model_type}: is a regression head, whose outputs are no log-odds: if its logits are, remove `problem_type` "
            "from config.json"
        )
    names = [str(config.id2label.get(n, "")).lower() for n in range(config.num_labels)]
    if len(names) == 1:
        return 1
    positive = [n for n, name in enumerate(names) if name in POSITIVE]
    if len(positive) != 1:
        raise CheckpointError(f"{config.model_type}: its labels are {' and '.join(names)}, expected one of {', '.join(POSITIVE)}")
    return positive[0]
