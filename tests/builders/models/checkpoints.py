"""Kilobyte models for the exporter's tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rexit.exporter.checkpoints.checkpoint import save_checkpoint
from rexit.exporter.libraries import quiet
from rexit.exporter.model.decoder import Decoder
from rexit.exporter.model.multi_exit import ExitHeads
from rexit.exporter.model.packed import ATTENTION
from rexit.exporter.model.prompt_vectors import Projectors
from rexit.format.bundle import Catalog

FAMILIES = {
    "llama": "Llama, SmolLM2",
    "mistral": "Mistral",
    "qwen2": "Qwen2, Qwen2.5",
    "qwen3": "Qwen3",
    "gemma2": "Gemma 2",
    "gemma3_text": "Gemma 3, text",
    "phi3": "Phi-3",
    "smollm3": "SmolLM3",
    "gpt2": "GPT-2",
    "opt": "OPT",
    "phi": "Phi",
    "olmo2": "OLMo 2",
    "granite": "Granite",
    "stablelm": "StableLM",
    "gpt_neox": "GPT-NeoX, Pythia",
    "cohere": "Cohere",
}
"""By `model_type`. All of them go through TensorRT-RTX, too."""
MORE_FAMILIES = {
    "ernie4_5": "ERNIE 4.5",
    "exaone4": "EXAONE 4",
    "gemma": "Gemma",
    "glm4": "GLM-4",
    "hunyuan_v1_dense": "HunYuan, dense",
    "ministral": "Ministral",
    "nemotron": "Nemotron",
    "seed_oss": "Seed-OSS",
    "starcoder2": "StarCoder2",
}
REFUSED_FAMILIES = {
    "bloom": "BLOOM",
    "falcon": "Falcon",
    "falcon_h1": "Falcon-H1",
    "gpt_oss": "gpt-oss",
    "lfm2": "LFM2",
    "mamba": "Mamba",
    "mixtral": "Mixtral",
    "qwen2_moe": "Qwen2-MoE",
}
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
    "bloom": {"vocab_size": VOCAB, "hidden_size": 64, "n_layer": LAYERS, "n_head": 4},
    "falcon": _NO_HEAD_DIM,
    "lfm2": _SHAPE | {"layer_types": ["conv", "full_attention"] * (LAYERS // 2)},
}


def tiny_model(family: str = "llama", attention: str | None = ATTENTION, **changes: Any) -> Any:
    """A random decoder of the family whose norms are not the identity. attention: None for the family's own."""
    torch.manual_seed(0)
    with quiet():
        config = AutoConfig.for_model(family, **{**_SPECIAL.get(family, _SHAPE), **changes})
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
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
    folder: Path, exits: tuple[int, ...] = (1, 2, 4), family: str = "llama", catalog: Catalog | None = None, **changes: Any
) -> Path:
    """catalog: what it says it was trained on; if prompts have vectors, it gets projectors for them."""
    model = tiny_model(family, **changes)
    decoder, projectors = Decoder.of(model), None
    heads = tiny_heads(decoder, len(exits))
    if catalog is not None and (ids := catalog.vector_ids):
        projectors = Projectors.like(decoder, ids, catalog.info["embedding"]["dim"])
    labels, traits = (LABELS, None) if catalog is None else (catalog.labels, catalog.traits)
    save_checkpoint(folder, model, exits, heads, labels, traits, projectors=projectors)
    return folder
