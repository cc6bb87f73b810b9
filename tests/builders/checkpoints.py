"""Kilobyte models for the exporter's tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rexit.bundle import Catalog
from rexit.exporter.model.checkpoint import save_checkpoint
from rexit.exporter.model.decoder import Decoder
from rexit.exporter.model.heads import ExitHeads
from rexit.exporter.model.packed import ATTENTION
from rexit.exporter.model.projectors import Projectors
from rexit.exporter.quiet import quiet

FAMILIES = (
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3_text",
    "phi3",
    "smollm3",
    "gpt2",
    "opt",
    "phi",
    "olmo2",
    "granite",
    "stablelm",
    "gpt_neox",
    "cohere",
)
VOCAB, LAYERS, LABELS = 200, 4, {"no": 5, "yes": 9}
_SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "sliding_window": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_NO_HEAD_DIM = {key: value for key, value in _SHAPE.items() if key != "head_dim"}
_SPECIAL: dict[str, dict[str, Any]] = {
    "gpt2": {"vocab_size": VOCAB, "n_embd": 64, "n_layer": LAYERS, "n_head": 4, "n_positions": 256},
    "opt": _NO_HEAD_DIM | {"ffn_dim": 96, "word_embed_proj_dim": 64},
    "gpt_neox": _NO_HEAD_DIM,
    "phi": _NO_HEAD_DIM,
    "stablelm": _NO_HEAD_DIM,
}


def tiny_model(family: str = "llama", **changes: Any) -> Any:
    """A random decoder of the family whose norms are not the identity."""
    torch.manual_seed(0)
    with quiet():
        config = AutoConfig.for_model(family, **{**_SPECIAL.get(family, _SHAPE), **changes})
        model = AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def tiny_heads(decoder: Decoder, exits: int) -> ExitHeads:
    """Heads of their own, log-odds of a few units."""
    heads = ExitHeads.like(decoder, exits)
    for parameter in heads.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return heads


def tiny_checkpoint(
    folder: Path,
    exits: tuple[int, ...] = (1, 2, 4),
    family: str = "llama",
    labels: dict[str, int] = LABELS,
    catalog: Catalog | None = None,
    **changes: Any,
) -> Path:
    """catalog: one whose prompts have vectors, for which it gets projectors."""
    model = tiny_model(family, **changes)
    decoder, projectors = Decoder.of(model), None
    heads = tiny_heads(decoder, len(exits))
    if catalog is not None and (ids := catalog.vector_ids):
        projectors = Projectors.like(decoder, ids, catalog.info["embedding"]["dim"])
    save_checkpoint(folder, model, exits, heads, labels, projectors=projectors)
    return folder
