"""The parts of a Hugging Face decoder: its layers, the final norm, the shape of its cache.

They are found by inspection, not by a list of families: the layers are the module list of the config's length, and a short
forward shows the attention calls. So any family that uses the attention interface works.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rexit.errors import CheckpointError
from rexit.exporter.libraries import first_line
from rexit.exporter.model.packed import ATTENTION, Call, causal_groups

FINAL_NORMS = ("norm", "ln_f", "final_norm", "final_layer_norm", "final_layernorm")
LAYER_TYPES = ("full_attention", "sliding_attention")
"""Supported kinds of layers. Others have a state beside keys and values, or a mask of their own."""


@dataclass(frozen=True)
class Decoder:
    """A causal language model and its parts.

    model: float32, on the CPU, with attention `ATTENTION`. body: the module whose forward runs the layers.
    layers_name, norm_name: paths of modules in `body`; an encoder may have no norm, ''. kv_heads, head_dim: shape of the cache.
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
        check_layer_types(model.config)
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
        decoder = cls(model, body, layers_name, norm_name, 1, 1)
        positions = torch.arange(2)[None]
        kv_heads, head_dim = decoder.cache_shape(Call(*causal_groups(positions * 0, positions)), positions)
        return cls(model, body, layers_name, norm_name, kv_heads, head_dim)

    def cut(self, depth: int) -> Decoder:
        """Cuts the model in place to its first `depth` layers and returns it. Embeddings, final norm and LM head stay."""
        config = self.model.config
        config.num_hidden_layers = depth
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:depth]
        self.body.set_submodule(self.layers_name, nn.ModuleList(self.layers[:depth]))
        return self

    @property
    def family(self) -> str:
        """The `model_type` of the config."""
        return str(self.model.config.model_type)

    @property
    def layers(self) -> list[nn.Module]:
        """The decoder layers, in order."""
        layers = self.body.get_submodule(self.layers_name)
        assert isinstance(layers, nn.ModuleList)
        return list(layers)

    @property
    def embeddings(self) -> nn.Module:
        """What learns before the first layer."""
        embeddings: nn.Module = self.model.get_input_embeddings()
        return embeddings

    @property
    def norm(self) -> nn.Module:
        """The final norm, after the last layer."""
        norm: nn.Module = getattr(self.body, self.norm_name)
        return norm

    @property
    def causal(self) -> bool:
        """Whether a token sees the prefix and earlier tokens of its group alone, not all tokens of its group."""
        return True

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

    def arguments(self, x: Tensor, positions: Tensor, embedded: bool = False) -> dict[str, Any]:
        """Arguments of the body's forward.

        Args:
            x: tokens int64 [B, T]; if `embedded`, the first layer's input [B, T, H].
            positions: int64 [B, T].
            embedded: whether `x` is no tokens.
        """
        return {"inputs_embeds" if embedded else "input_ids": x, "position_ids": positions, "use_cache": False}

    def visible(self, groups: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """`visible` and `distance` of a `Call`, both [B, 1, T, T], for sequences packed by `pack`."""
        return causal_groups(groups, positions)

    def pooling_norm(self, own: bool) -> nn.Module | None:
        """The norm that `pooled` applies before it takes a mean; None: it takes none, or there is no norm."""
        return None

    def pooled(self, states: Tensor, rows: Tensor, positions: Tensor, own: bool = False) -> Tensor:
        """What heads read, [N, H]. states: after a layer, [T, H]. rows: the candidates' last tokens, int64 [N]. positions: int64
        [T]. own: for the model's own head."""
        return states[rows]

    def replaced(self, first: nn.Module | None) -> dict[str, nn.Module | None]:
        """Parts of the body, by path, that a segment replaces beside the layers.

        first: gives the input of a segment's first layer if this is not the model's.
        """
        parts: dict[str, nn.Module | None] = {self.norm_name: nn.Identity()} if self.norm_name else {}
        if first is not None:
            # Not the segment's weights: its input is hidden states, never tokens.
            embeddings = self.model.get_input_embeddings()
            parts |= {name: None for name, part in self.body.named_children() if part is embeddings}
        return parts

    def cache_shape(self, call: Call, positions: Tensor) -> tuple[int, int]:
        """(kv_heads, head_dim), from a forward of zeros at `positions`. Raises CheckpointError if the body cannot run packed."""
        model, layers = self.model, len(self.layers)
        was_training = model.training
        try:
            model.set_attn_implementation(ATTENTION)
            model.eval()
            with call, torch.no_grad():
                self.body(**self.arguments(torch.zeros_like(positions), positions))
        except CheckpointError:
            raise
        except Exception as exc:
            raise CheckpointError(f"{self.family}: cannot run with packed attention: {first_line(exc)}") from exc
        finally:
            model.train(was_training)
        shapes = {_sizes(tensor) for pair in call.new.values() for tensor in pair}
        if sorted(call.new) != list(range(layers)) or len(shapes) != 1:
            raise CheckpointError(
                f"{self.family}: {len(call.new)} of {layers} layers use the attention interface, with cache shapes "
                f"{sorted(shapes)}; expected every layer, all of one shape"
            )
        return shapes.pop()

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


def check_layer_types(config: Any) -> None:
    """Raises CheckpointError for a kind of layer that is not supported."""
    if others := sorted(set(getattr(config, "layer_types", None) or ()) - set(LAYER_TYPES)):
        raise CheckpointError(
            f"{config.model_type}: has layers of the kind {others[0]}, expected {' or '.join(LAYER_TYPES)} alone"
        )


@torch.no_grad()
def copy_tensors(tensors: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter], where: str) -> None:
    """Fills all parameters. Raises CheckpointError for a tensor that is missing, of another shape or not finite."""
    for name, parameter in parameters.items():
        if name not in tensors:
            raise CheckpointError(f"{where}: tensor {name!r} is missing")
        if tensors[name].shape != parameter.shape:
            raise CheckpointError(
                f"{where}: {name!r} has shape {list(tensors[name].shape)}, the model needs {list(parameter.shape)}"
            )
        if not tensors[name].isfinite().all():
            raise CheckpointError(f"{where}: {name!r} holds a number that is not finite")
        parameter.copy_(tensors[name])


def _numbered(layers: nn.ModuleList) -> bool:
    """Whether the modules contain attention modules numbered 0, 1, 2, …"""
    return all(any(getattr(part, "layer_idx", None) == n for part in layer.modules()) for n, layer in enumerate(layers))


def _sizes(tensor: Tensor) -> tuple[int, int]:
    return int(tensor.shape[1]), int(tensor.shape[3])
