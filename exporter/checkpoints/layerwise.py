"""BAAI's layerwise reranker (`bge-reranker-v2-minicpm-layerwise`): MiniCPM with a head behind each of its later layers.

MiniCPM is Granite with other names for its factors, so that its weights load into transformers' Granite as they are:

    Granite                  MiniCPM
    embedding_multiplier     scale_emb
    residual_multiplier      scale_depth / sqrt(num_hidden_layers), of the uncut model
    attention_multiplier     head_dim ** -0.5

The head after layer d, from `start_layer` on, is one row without a bias, `lm_head.{d - start_layer}.linear_head.weight` [1, H],
behind the final norm that all share. Its output is the log-odds. With `head_multi` false one head serves all depths.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import msgspec
from torch import nn
from transformers import GraniteConfig, GraniteForCausalLM

from rexit.bundle import RerankerPrompt
from rexit.bundle.files import Positive, typed
from rexit.errors import CheckpointError
from rexit.exporter.libraries import read_config, read_object
from rexit.exporter.model.decoder import Decoder
from rexit.exporter.model.multi_exit import ExitHeads

ARCHITECTURE = "LayerWiseMiniCPMForCausalLM"
PROMPT = RerankerPrompt(
    ("<s>", "A: {query}"),
    ("\n", "B: {document}", "\n", "{instruction}"),
    "Given a query A and a passage B, determine whether the passage contains an answer to the query by providing a prediction of "
    "either 'Yes' or 'No'.",
)
"""As FlagEmbedding 1.4.2 writes it."""
Factor = Annotated[float, msgspec.Meta(gt=0, lt=1e9)]
_SAME = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "attention_bias",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
"""Names that both configs have."""


class _Config(msgspec.Struct, frozen=True):
    """The fields of MiniCPM's config that are read, besides `_SAME`. Granite has no other head types and no scaled positions."""

    hidden_size: Positive
    num_hidden_layers: Positive
    num_attention_heads: Positive
    scale_emb: Factor
    scale_depth: Factor
    start_layer: Positive = 1
    head_multi: bool = True
    head_type: Annotated[str, msgspec.Meta(pattern="^(simple)$")] = "simple"
    rope_scaling: None = None
    rope_theta: float = 10000.0

    def __post_init__(self) -> None:
        if self.start_layer > self.num_hidden_layers:
            raise ValueError(f"start_layer: is {self.start_layer}, expected at most the model's {self.num_hidden_layers} layers")


class _Head(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear_head = nn.Linear(size, 1, bias=False)


class LayerwiseGranite(GraniteForCausalLM):
    """Granite with a layerwise reranker's heads instead of an LM head. Its forward pass is not used."""

    _tied_weights_keys = {}  # noqa: RUF012, as in the base class

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        heads = [_Head(config.hidden_size) for _ in exit_depths(config)]
        self.lm_head: Any = nn.ModuleList(heads) if config.head_multi else heads[0]
        self.post_init()  # type: ignore[no-untyped-call]

    def get_output_embeddings(self) -> None:
        """There is no LM head."""


def is_layerwise(folder: Path) -> bool:
    """Whether a folder's `config.json` is a layerwise reranker's."""
    try:
        architectures = read_object(folder / "config.json").get("architectures")
    except CheckpointError:
        return False  # transformers says what is wrong with it
    return isinstance(architectures, list) and ARCHITECTURE in architectures


def granite_config(folder: Path) -> GraniteConfig:
    """Granite's config with the same meaning. Raises CheckpointError for a variation that it has no names for."""
    path = folder / "config.json"
    value = read_config(path)
    config = typed(value, _Config, str(path), error=CheckpointError)
    same: dict[str, Any] = {name: value[name] for name in _SAME if name in value}
    return GraniteConfig(
        **same,
        start_layer=config.start_layer,  # type: ignore[call-arg]
        head_multi=config.head_multi,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        embedding_multiplier=config.scale_emb,
        residual_multiplier=config.scale_depth / math.sqrt(config.num_hidden_layers),
        attention_multiplier=(config.hidden_size // config.num_attention_heads) ** -0.5,
        logits_scaling=1.0,
        tie_word_embeddings=False,
    )


def exit_depths(config: Any) -> range:
    """The depths with a head, in layers, of the uncut model's config."""
    return range(config.start_layer, config.num_hidden_layers + 1)


def layerwise_heads(decoder: Decoder) -> ExitHeads:
    """The heads of all depths in `exit_depths`."""
    model = decoder.model
    heads = model.lm_head if model.config.head_multi else [model.lm_head] * len(exit_depths(model.config))
    return ExitHeads.of_rows(decoder, [head.linear_head.weight for head in heads])
