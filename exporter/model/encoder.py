"""An encoder and its parts: a token sees every token of its own pair, and a head reads the mean of their rows.

tokens     a pair without padding and without a prefix; with token types, those of type 1 are raised by the size of the vocabulary
positions  from 0 in every pair; families that begin behind their padding's number (RoBERTa) are shifted here
pooling    what the own head reads: `cls`, the first token's row, or `mean`, as other heads do: the mean of the pair's rows,
           behind the final norm, if any. The first token's row hardly differs between pairs before the last layers: in a
           MiniLM by 0.05 to 0.2 of 20 after layers 1 to 4, the mean by 8, so that int8 would drown what a head reads of it.
own head   what the model's classifier computes from a pair's row after the last layer, such as pooler and tanh
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rexit.errors import CheckpointError
from rexit.exporter.libraries import first_line
from rexit.exporter.model.decoder import FINAL_NORMS, Decoder, check_layer_types
from rexit.exporter.model.packed import Call, own_groups

SCORES = "sentence_scores"
"""Attribute of a model whose modules of sentence-transformers compute its scores (`checkpoints.sentence_modules`)."""

_EXAMPLE = 8
"""Tokens of the pair on which the own head is compared with the model."""


@dataclass(frozen=True)
class Encoder(Decoder):
    """An encoder, with or without a classifier of pairs.

    types: number of token types that the model reads; 0: none. padding: the number of the padding token in a family whose
    positions begin behind it; None: positions begin at 0. pooling: see the module.
    """

    types: int = 0
    padding: int | None = None
    pooling: str = "cls"

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
        pooling = getattr(config, "classifier_pooling", "cls")
        if (scores := getattr(model, SCORES, None)) is not None:
            pooling = scores.pooling
        encoder = cls(model, body, stacks[0], norm, 1, 1, types, padding, pooling)
        positions = torch.arange(2)[None]
        kv_heads, head_dim = encoder.cache_shape(Call(*own_groups(positions * 0, positions)), positions)
        return dataclasses.replace(encoder, kv_heads=kv_heads, head_dim=head_dim)

    @property
    def causal(self) -> bool:
        return False

    @property
    def embeddings(self) -> nn.Module:
        return self.body.get_submodule("embeddings")

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
            before = torch.cumsum(counts.float(), 1).long() - counts  # TensorRT sums no integers
            starts = torch.arange(ids.shape[1], device=ids.device) - positions
            inputs["position_ids"] = (before - before.gather(1, starts) + 1) * counts + self.padding
            inputs["attention_mask"] = torch.ones_like(
                ids
            )  # without it, transformers takes positions that fall for several texts
        if self.types:
            inputs["token_type_ids"] = second.long() if self.types > 1 else torch.zeros_like(ids)
        return inputs

    def visible(self, groups: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        return own_groups(groups, positions)

    def pooled(self, states: Tensor, rows: Tensor, positions: Tensor, own: bool = False) -> Tensor:
        first = rows - positions[rows]
        if own and self.pooling == "cls":
            return states[first]
        index = torch.arange(states.shape[0], device=states.device)
        inside = (first[:, None] <= index) & (index <= rows[:, None])
        shares = inside.to(states.dtype) / (positions[rows] + 1)[:, None].to(states.dtype)
        norm = self.pooling_norm(own)
        return shares @ (states if norm is None else norm(states))

    def pooling_norm(self, own: bool) -> nn.Module | None:
        return self.body.get_submodule(self.norm_name) if self.norm_name and not (own and self.pooling == "cls") else None

    def replaced(self, first: nn.Module | None) -> dict[str, nn.Module | None]:
        parts = {"embeddings": first} if first is not None else {}
        return super().replaced(None) | parts | ({"pooler": None} if hasattr(self.body, "pooler") else {})

    def own_head(self) -> tuple[nn.Module, nn.Linear]:
        """The model's classifier of a row: its features and its last projection. Raises CheckpointError."""
        before = [self.body.get_submodule(self.norm_name)] if self.norm_name and self.pooling == "cls" else []
        for own, projection in _classifiers(self.model):
            features = nn.Sequential(*before, *own)
            if hasattr(self.model, SCORES) or self._is_own(features, projection):
                return features, projection
        raise CheckpointError(
            f"{self.family}: its classifier does not answer from the first token's row, or the mean of all, through one or two "
            "dense layers, as those of BERT, RoBERTa, ModernBERT, DistilBERT and Electra do"
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
            own = projection(features(self.pooled(states[0][0], torch.tensor([_EXAMPLE - 1]), torch.arange(_EXAMPLE), own=True)))
        except RuntimeError as exc:
            raise CheckpointError(f"{self.family}: its classifier cannot run: {first_line(exc)}") from exc
        finally:
            hook.remove()
        return torch.allclose(own, logits, rtol=1e-4, atol=1e-5)


def _classifiers(model: Any) -> Iterator[tuple[nn.Sequential, nn.Linear]]:
    """Features and projections of the classifiers that families have, behind the final norm."""
    if (scores := getattr(model, SCORES, None)) is not None:
        yield scores.features, scores.projection
        return
    body: Any = model.base_model
    classifier: Any = getattr(model, "classifier", None)
    if isinstance(getattr(classifier, "out_proj", None), nn.Linear):
        for activation in (nn.Tanh(), nn.GELU()):
            yield nn.Sequential(classifier.dense, activation), classifier.out_proj
    elif isinstance(classifier, nn.Linear):
        if isinstance(getattr(body, "pooler", None), nn.Module):
            yield nn.Sequential(body.pooler.dense, nn.Tanh()), classifier
        if hasattr(model, "head") and hasattr(body, "final_norm"):
            yield nn.Sequential(model.head), classifier
        if hasattr(model, "pre_classifier"):
            yield nn.Sequential(model.pre_classifier, nn.ReLU()), classifier


def split(model: Any) -> Decoder:
    """The parts of a decoder or an encoder. Raises CheckpointError if it cannot be split."""
    return Encoder.of(model) if is_encoder(model.config) else Decoder.of(model)


def is_encoder(config: Any) -> bool:
    """Whether a config is that of a family whose tokens see all others."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False)
