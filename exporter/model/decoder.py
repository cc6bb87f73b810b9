"""The parts of a Hugging Face decoder: its layers, the final norm, the shape of its cache.

They are found by inspection, not by a list of families: the layers are the module list of the config's length, and a short
forward shows the attention calls. So any family that uses the attention interface works.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rexit.errors import CheckpointError
from rexit.exporter.libraries.silence import first_line
from rexit.exporter.model.packed import ATTENTION, Call

FINAL_NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm")
LAYER_TYPES = ("full_attention", "sliding_attention")
"""Supported kinds of layers. Others have a state beside keys and values, or a mask of their own."""


@dataclass(frozen=True)
class Decoder:
    """A causal language model and its parts.

    model: float32, on the CPU, with attention `ATTENTION`. body: the module whose forward runs the layers.
    layers_name, norm_name: attributes of `body`. kv_heads, head_dim: shape of the cache.
    """

    model: Any
    body: nn.Module
    layers_name: str
    norm_name: str
    kv_heads: int
    head_dim: int

    @classmethod
    def of(cls, model: Any) -> Decoder:
        """Inspects a model. Raises CheckpointError, naming the family, if it cannot be split."""
        family, layers = model.config.model_type, model.config.num_hidden_layers
        if others := sorted(set(getattr(model.config, "layer_types", None) or ()) - set(LAYER_TYPES)):
            raise CheckpointError(f"{family}: has layers of the kind {others[0]}, expected {' or '.join(LAYER_TYPES)} alone")
        stacks = [
            (body, name)
            for body in model.modules()
            for name, child in body.named_children()
            if isinstance(child, nn.ModuleList) and len(child) == layers and _numbered(child)
        ]
        if len(stacks) != 1:
            raise CheckpointError(f"{family}: expected one list of {layers} decoder layers, found {len(stacks)}")
        body, layers_name = stacks[0]
        norm_name = next((name for name in FINAL_NORMS if isinstance(getattr(body, name, None), nn.Module)), None)
        if norm_name is None:
            raise CheckpointError(f"{family}: no final norm next to the layers, looked for {', '.join(FINAL_NORMS)}")
        if experts := next((name for name, part in getattr(body, layers_name)[-1].named_parameters() if part.ndim == 3), None):
            raise CheckpointError(f"{family}: its layers have experts (`{experts}`), expected one feed-forward block in each")
        kv_heads, head_dim = _cache_shape(model, body, layers)
        return cls(model, body, layers_name, norm_name, kv_heads, head_dim)

    def cut(self, depth: int) -> Decoder:
        """Cuts the model in place to its first `depth` layers and returns it. Embeddings, final norm and LM head stay."""
        config = self.model.config
        config.num_hidden_layers = depth
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:depth]
        setattr(self.body, self.layers_name, nn.ModuleList(self.layers[:depth]))
        return self

    @property
    def family(self) -> str:
        """The `model_type` of the config."""
        return str(self.model.config.model_type)

    @property
    def layers(self) -> list[nn.Module]:
        """The decoder layers, in order."""
        return list(getattr(self.body, self.layers_name))

    @property
    def norm(self) -> nn.Module:
        """The final norm, after the last layer."""
        norm: nn.Module = getattr(self.body, self.norm_name)
        return norm

    @property
    def hidden_size(self) -> int:
        """H, the width of hidden states."""
        return int(self.model.config.hidden_size)

    @property
    def vocab_size(self) -> int:
        """V, the rows of the embedding table."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    @property
    def max_positions(self) -> int:
        """The longest sequence that the model takes. Raises CheckpointError for a family without a limit."""
        limit = getattr(self.model.config, "max_position_embeddings", None)
        if not isinstance(limit, int):
            raise CheckpointError(f"{self.family}: its config has no max_position_embeddings")
        return limit

    @contextlib.contextmanager
    def stock_attention(self) -> Iterator[None]:
        """Uses the family's own attention while the block runs: a reference without rexit's code.

        `eager`, because other stock implementations omit soft-capping.
        """
        self.model.set_attn_implementation("eager")
        try:
            yield
        finally:
            self.model.set_attn_implementation(ATTENTION)


def _numbered(layers: nn.ModuleList) -> bool:
    """Whether the modules contain attention modules numbered 0, 1, 2, …"""
    return all(any(getattr(part, "layer_idx", None) == n for part in layer.modules()) for n, layer in enumerate(layers))


def _cache_shape(model: Any, body: nn.Module, layers: int) -> tuple[int, int]:
    """(kv_heads, head_dim), from a forward of two tokens."""
    family = model.config.model_type
    positions = torch.arange(2)
    call = Call((positions[None] <= positions[:, None])[None, None], (positions[:, None] - positions[None])[None, None])
    was_training = model.training
    try:
        model.set_attn_implementation(ATTENTION)
        model.eval()
        with call, torch.no_grad():
            body(input_ids=torch.zeros(1, 2, dtype=torch.int64), position_ids=positions[None], use_cache=False)
    except CheckpointError:
        raise
    except Exception as exc:
        raise CheckpointError(f"{family}: its decoder cannot run with packed attention: {first_line(exc)}") from exc
    finally:
        model.train(was_training)
    shapes = {_sizes(tensor) for pair in call.new.values() for tensor in pair}
    if sorted(call.new) != list(range(layers)) or len(shapes) != 1:
        raise CheckpointError(
            f"{family}: {len(call.new)} of {layers} layers use the attention interface, with cache shapes {sorted(shapes)}; "
            "expected every layer, all of one shape"
        )
    return shapes.pop()


def _sizes(tensor: Tensor) -> tuple[int, int]:
    return int(tensor.shape[1]), int(tensor.shape[3])
