"""Tiny cross-encoders of every family: random weights, a tokenizer of words that writes pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast

FAMILIES = ("bert", "roberta", "xlm-roberta", "modernbert", "distilbert", "electra")
WORDS = [f"word{n}" for n in range(90)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
VOCAB = len(SPECIAL) + len(WORDS)
POSITIONS = 64
_SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": POSITIONS,
    "pad_token_id": 0,
}
_OWN: dict[str, dict[str, Any]] = {
    "roberta": {"type_vocab_size": 1, "max_position_embeddings": POSITIONS + 1},
    "xlm-roberta": {"type_vocab_size": 1, "max_position_embeddings": POSITIONS + 1},
    "modernbert": {
        "local_attention": 8,
        "global_attn_every_n_layers": 2,
        "cls_token_id": 2,
        "sep_token_id": 3,
        "bos_token_id": 2,
    },
    "electra": {"embedding_size": 32},
}


def write_encoder(folder: Path, family: str = "bert", labels: int = 1, **changes: Any) -> Path:
    """Writes a cross-encoder's folder and returns it. changes: of its config."""
    tiny_encoder(family, labels, **changes).save_pretrained(folder)
    write_tokenizer(folder, "token_type_ids" if family in ("bert", "electra") else "attention_mask")
    return folder


def tiny_encoder(family: str = "bert", labels: int = 1, **changes: Any) -> Any:
    """A cross-encoder. changes: of its config."""
    torch.manual_seed(1)
    config = AutoConfig.for_model(family, **_SMALL | _OWN.get(family, {}) | {"num_labels": labels} | changes)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter) * (parameter.ndim > 1))
    return model


def write_tokenizer(folder: Path, *names: str, template: bool = True) -> None:
    """Writes a tokenizer of words. names: of its outputs beside `input_ids`. template: whether it writes pairs."""
    tokenizer = Tokenizer(WordLevel({word: n for n, word in enumerate((*SPECIAL, *WORDS))}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if template:
        ends = [("[CLS]", 2), ("[SEP]", 3)]
        tokenizer.post_processor = TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ends)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=POSITIONS,
        model_input_names=["input_ids", *names],
    ).save_pretrained(folder)


def logits(folder: Path, query: str, documents: Sequence[str]) -> NDArray[np.float32]:
    """Logits [documents, labels] of each pair alone, by transformers."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pairs = [tokenizer([(query, document)], truncation=True, return_tensors="pt") for document in documents]
    with torch.no_grad():
        return np.concatenate([model(**pair).logits.numpy() for pair in pairs])
