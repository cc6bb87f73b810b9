"""An encoder and its parts: a token sees every token of its own pair, and a head reads the pair's first token.

tokens     a pair without padding and without a prefix; with token types, those of type 1 are raised by the size of the vocabulary
positions  from 0 in every pair; families that begin behind their padding's number (RoBERTa) are shifted here
own head   what the model's classifier computes from the first token's row after the last layer, such as pooler and tanh
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rexit.errors import CheckpointError
from rexit.exporter.libraries.silence import first_line
from rexit.exporter.model.decoder import FINAL_NORMS, Decoder, check_layer_types
from rexit.exporter.model.packed import Call, own_groups

_EXAMPLE = 8
"""Tokens of the pair on which the own head is compared with the model."""


@dataclass(frozen=True)
class Encoder(Decoder):
    """An encoder, with or without a classifier of pairs.

    types: number of token types that the model reads; 0: none. padding: the number of the padding token in a family whose
    positions begin behind it; None: positions begin at 0.
    """

    types: int = 0
    padding: int | None = None

    @classmethod
    def of(cls, model: Any) -> Encoder:
        """Inspects a model. Raises CheckpointError, naming the family, if it cannot be split."""
        config, body = model.config, model.base_model
        family, depth = config.model_type, config.num_hidden_layers
        check_layer_types(config)
        stacks = [name for name, part in body.named_modules() if isinstance(part, nn.ModuleList) and len(part) == depth]
        if len(stacks) != 1:
            raise CheckpointError(f"{family}: expected one list of {depth} encoder layers, found {len(stacks)}")
        for n, layer in enumerate(body.get_submodule(stacks[0])):
            for part in layer.modules():
                part.layer_idx = n  # DistilBERT's attention has no number
        norm = next((name for name in FINAL_NORMS if isinstance(getattr(body, name, None), nn.Module)), "")
        padding = getattr(getattr(body.embeddings, "position_embeddings", None), "padding_idx", None)
        takes_types = "token_type_ids" in inspect.signature(body.forward).parameters
        types = min(2, config.type_vocab_size) if takes_types else 0
        encoder = cls(model, body, stacks[0], norm, 1, 1, types, padding)
        positions = torch.arange(2)[None]
        kv_heads, head_dim = encoder.cache_shape(Call(*own_groups(positions * 0, positions)), positions)
        return cls(model, body, stacks[0], norm, kv_heads, head_dim, types, padding)

    @property
    def causal(self) -> bool:
        return False

    @property
    def norm(self) -> nn.Module:
        """The norm before the heads of earlier exits; the own head brings what it needs."""
        return nn.LayerNorm(self.hidden_size)

    @property
    def words(self) -> int:
        """Rows of the embedding table."""
        return super().vocab_size

    @property
    def vocab_size(self) -> int:
        return self.words * max(1, self.types)

    @property
    def max_positions(self) -> int:
        return super().max_positions - (0 if self.padding is None else self.padding + 1)

    def arguments(self, x: Tensor, positions: Tensor, embedded: bool = False) -> dict[str, Any]:
        if embedded:
            return {"inputs_embeds": x}
        second = x >= self.words
        ids = torch.where(second, x - self.words, x) if self.types > 1 else x
        inputs: dict[str, Any] = {"input_ids": ids, "position_ids": positions}
        if self.padding is not None:
            # As the family does: padding in a text has the padding's position, and other tokens do not count it.
            counts = (ids != self.padding).long()
            before = torch.cumsum(counts, 1) - counts
            starts = torch.arange(ids.shape[1], device=ids.device) - positions
            inputs["position_ids"] = (before - before.gather(1, starts) + 1) * counts + self.padding
        if self.types:
            inputs["token_type_ids"] = second.long() if self.types > 1 else torch.zeros_like(ids)
        return inputs

    def visible(self, groups: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        return own_groups(groups, positions)

    def read(self, rows: Tensor, positions: Tensor) -> Tensor:
        """The first tokens of the pairs whose last tokens are `rows`."""
        return rows - positions[rows]

    def replaced(self, first: nn.Module | None) -> dict[str, nn.Module | None]:
        parts = {"embeddings": first} if first is not None else {}
        return super().replaced(None) | parts | ({"pooler": None} if hasattr(self.body, "pooler") else {})

    def own_head(self) -> tuple[nn.Module, nn.Linear]:
        """The model's classifier of a row: its features and its last projection, copies. Raises CheckpointError."""
        for features, projection in _classifiers(self.model):
            if self._is_own(features, projection):
                return copy.deepcopy(features).eval(), copy.deepcopy(projection)
        raise CheckpointError(
            f"{self.family}: its classifier does not answer from the first token's row through one or two dense layers, as those "
            "of BERT, RoBERTa, ModernBERT, DistilBERT and Electra do"
        )

    @torch.no_grad()
    def _is_own(self, features: nn.Module, projection: nn.Linear) -> bool:
        tokens = torch.randint(5, self.words, (1, _EXAMPLE), generator=torch.Generator().manual_seed(0))
        states: list[Tensor] = []
        hook = self.layers[-1].register_forward_hook(
            lambda _module, _inputs, output: states.append(output if isinstance(output, Tensor) else output[0])
        )
        try:
            with self.stock_attention():
                logits = self.model(input_ids=tokens).logits
            own = projection(features(states[0][:, 0]))
        except RuntimeError as exc:
            raise CheckpointError(f"{self.family}: its classifier cannot run: {first_line(exc)}") from exc
        finally:
            hook.remove()
        return torch.allclose(own, logits, rtol=1e-4, atol=1e-5)


def _classifiers(model: Any) -> Iterator[tuple[nn.Module, nn.Linear]]:
    """Features and projections of the classifiers that families have."""
    body: Any = model.base_model
    classifier: Any = getattr(model, "classifier", None)
    if isinstance(getattr(classifier, "out_proj", None), nn.Linear):
        for activation in (nn.Tanh(), nn.GELU()):
            yield nn.Sequential(classifier.dense, activation), classifier.out_proj
    elif isinstance(classifier, nn.Linear):
        if isinstance(getattr(body, "pooler", None), nn.Module):
            yield nn.Sequential(body.pooler.dense, nn.Tanh()), classifier
        if hasattr(model, "head") and hasattr(body, "final_norm"):
            yield nn.Sequential(body.final_norm, model.head), classifier
        if hasattr(model, "pre_classifier"):
            yield nn.Sequential(model.pre_classifier, nn.ReLU()), classifier


def split(model: Any) -> Decoder:
    """The parts of a decoder or an encoder. Raises CheckpointError if it cannot be split."""
    return Encoder.of(model) if is_encoder(model.config) else Decoder.of(model)


def is_encoder(config: Any) -> bool:
    """Whether a config is that of a family whose tokens see all others."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False)
