"""Tiny cross-encoders of every family: random weights, a tokenizer of words that writes pairs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from tokenizers.processors import TemplateProcessing
from torch import nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast

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


def write_dense_score(folder: Path, family: str = "bert", pooling: str = "cls") -> Path:
    """Writes a cross-encoder as sentence-transformers saves one with modules behind it, and returns its folder."""
    model = tiny_encoder(family).base_model
    model.save_pretrained(folder)
    write_tokenizer(folder, "token_type_ids" if family in ("bert", "electra") else "attention_mask")
    width = model.config.hidden_size
    places = {"Pooling": "sentence_transformer.modules.pooling", "LayerNorm": "sentence_transformer.modules.layer_norm"}
    dense = {"in_features": width, "bias": False, "activation_function": "torch.nn.modules.activation.GELU"}
    last = {"in_features": width, "out_features": 1, "activation_function": "torch.nn.modules.linear.Identity"}
    modules: list[tuple[str, dict[str, Any], nn.Module | None]] = [
        ("Pooling", {"embedding_dimension": width, "pooling_mode": pooling}, None),
        ("Dense", {**dense, "out_features": width, "module_input_name": "sentence_embedding"}, nn.Linear(width, width, False)),
        ("LayerNorm", {"dimension": width}, nn.LayerNorm(width)),
        ("Dense", {**last, "bias": True, "module_output_name": "scores"}, nn.Linear(width, 1)),
    ]
    entries = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}]
    for n, (kind, config, module) in enumerate(modules, 1):
        (place := folder / f"{n}_{kind}").mkdir()
        (place / "config.json").write_text(json.dumps(config))
        entries.append(
            {
                "idx": n,
                "name": str(n),
                "path": place.name,
                "type": f"sentence_transformers.{places.get(kind, 'base.modules.dense')}.{kind}",
            }
        )
        if module is not None:
            prefix = "norm" if kind == "LayerNorm" else "linear"
            tensors = {f"{prefix}.{name}": 0.3 * torch.randn_like(tensor) for name, tensor in module.state_dict().items()}
            save_file(tensors, place / "model.safetensors")
    (folder / "modules.json").write_text(json.dumps(entries))
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"model_type": "CrossEncoder"}))
    return folder


def pairs(count: int) -> list[dict[str, Any]]:
    """Rows of a file of slates, in which documents with the word of the query are relevant."""
    random, rows = np.random.default_rng(0), []
    for n in range(count):
        word, texts = WORDS[n % 8], [" ".join(random.choice(WORDS[:8], 5)) for _ in range(6)]
        rows.append({"group": n, "query": word, "candidates": texts, "label": [int(word in text.split()) for text in texts]})
    return rows


def write_plain(folder: Path, family: str = "bert") -> Path:
    """Writes an encoder without a classifier and returns its folder."""
    tiny_encoder(family).base_model.save_pretrained(folder)
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


@torch.no_grad()
def logits(folder: Path, query: str, documents: Sequence[str]) -> NDArray[np.float32]:
    """Logits [documents, labels] of each pair alone, by transformers, and by torch for modules of sentence-transformers."""
    with_modules = (folder / "modules.json").exists()
    kind = AutoModel if with_modules else AutoModelForSequenceClassification
    model = kind.from_pretrained(folder, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pairs = [tokenizer([(query, document)], truncation=True, return_tensors="pt") for document in documents]
    if not with_modules:
        return np.concatenate([model(**pair).logits.numpy() for pair in pairs])
    first, norm, last = (load_file(folder / name / "model.safetensors") for name in ("2_Dense", "3_LayerNorm", "4_Dense"))
    mean = json.loads((folder / "1_Pooling" / "config.json").read_text())["pooling_mode"] == "mean"
    states = [model(**pair).last_hidden_state for pair in pairs]
    rows = torch.cat([state.mean(1) if mean else state[:, 0] for state in states])
    rows = functional.gelu(rows @ first["linear.weight"].T + first.get("linear.bias", torch.tensor(0.0)))
    rows = functional.layer_norm(rows, rows.shape[1:], norm["norm.weight"], norm["norm.bias"])
    return np.asarray(rows @ last["linear.weight"].T + last["linear.bias"])
