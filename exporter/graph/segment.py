"""A segment as a module to export: the layers after an exit up to the next, with that exit's head.

The model's own forward runs the layers, so no family needs code here. In a shallow copy of the decoder's body

1. layers outside [begin, end) return their input, so that layer numbers, masks and rotary tables stay the model's;
2. the layer before `begin` returns the segment's `hidden`, which cuts off the embeddings;
3. the final norm is the identity, as heads have their own norms.

Cut-off parts are dead code to torch's exporter.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from rexit.exporter.model.decoder import Decoder
from rexit.exporter.model.multi_exit import ExitHeads
from rexit.exporter.model.packed import Call


class SegmentModule(nn.Module):
    """Layers [begin, end) of the decoder and head k, sharing their weights. Shapes: see `forward`."""

    def __init__(self, decoder: Decoder, heads: ExitHeads, k: int, begin: int, end: int) -> None:
        super().__init__()
        self.begin, self.end = begin, end
        self.last = end == len(decoder.layers)
        self.kv_heads, self.head_dim, self.hidden_size = decoder.kv_heads, decoder.head_dim, decoder.hidden_size
        self.vocab_size, self.causal = decoder.vocab_size, decoder.causal
        self.norm, self.projection = heads.norms[k], heads.projections[k]
        self._entry, self._decoder = _Entry(), decoder
        self._own_head = heads.is_own(k)
        self.pooling_norm = decoder.pooling_norm(self._own_head)  # its weights are the segment's
        layers: list[nn.Module] = [
            layer if begin <= n < end else _Skipped(layer, self._entry if n == begin - 1 else None)
            for n, layer in enumerate(decoder.layers)
        ]
        parts = decoder.replaced(_Skipped(decoder.layers[0], self._entry) if begin > 0 else None)
        self.body = _shallow(decoder.body, {decoder.layers_name: nn.ModuleList(layers), **parts})

    def forward(
        self, x: Tensor, positions: Tensor, groups: Tensor, rows: Tensor, past_keys: list[Tensor], past_values: list[Tensor]
    ) -> tuple[Tensor, ...]:
        """Runs T tokens behind P prefix tokens (P may be 0) and reads N rows.

        Args:
            x: tokens int64 [T] in the first segment, hidden states float [T, H] in the others.
            positions: int64 [T].
            groups: int64 [T]; a token sees the prefix and earlier tokens of its own group, an encoder's all tokens of its group.
            rows: int64 [N].
            past_keys, past_values: [kv_heads, P, head_dim], by layer of the segment.

        Returns:
            hidden [T, H] (not in the last segment), logits float32 [N, 2K], and in a decoder the new keys by layer and the new
            values by layer, [kv_heads, T, head_dim]: nothing comes behind an encoder's tokens.
        """
        tokens, prefix = x.shape[0], past_keys[0].shape[1]
        index = torch.arange(tokens)
        own = groups[:, None] == groups[None]
        if self.causal:
            own = own & (index[None] <= index[:, None])
        visible = torch.cat([torch.ones(tokens, prefix, dtype=torch.bool), own], 1)
        distance = positions[:, None] - torch.cat([torch.arange(prefix), positions])[None]
        distance = distance if self.causal else distance.abs()
        layers = range(self.begin, self.end)
        past = {n: (k[None], v[None]) for n, k, v in zip(layers, past_keys, past_values, strict=True)}
        inputs = self._decoder.arguments(x[None], positions[None], embedded=self.begin > 0)
        self._entry.hidden = x[None]
        try:
            with Call(visible[None, None], distance[None, None], past) as call:
                hidden = self.body(**inputs)[0][0]
        finally:
            self._entry.hidden = None
        logits = self.projection(self.norm(self._decoder.pooled(hidden, rows, positions, self._own_head).float()))
        new = [call.new[n][part][0] for part in (0, 1) for n in layers] if self.causal else []
        return (logits, *new) if self.last else (hidden, logits, *new)


class _Entry:
    """Hands the segment's input to the layer before its first, which returns it."""

    hidden: Tensor | None = None


class _Skipped(nn.Module):
    """Replaces a layer outside the segment, or an encoder's embeddings. Exposes the layer's attributes, which some forwards
    read."""

    def __init__(self, layer: nn.Module, entry: _Entry | None) -> None:
        super().__init__()
        self.__dict__["layer"], self.__dict__["entry"] = layer, entry  # no submodule: its weights are not the segment's

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["layer"], name)

    def forward(self, hidden: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
        if self.entry is None:
            assert hidden is not None
            return hidden
        entry: Tensor | None = self.entry.hidden
        assert entry is not None
        return entry


def _shallow(module: nn.Module, replaced: dict[str, nn.Module | None]) -> nn.Module:
    """A copy with the modules at these paths replaced and everything else shared; the original is unchanged."""
    out = copy.copy(module)
    out.__dict__["_modules"] = dict(module._modules)
    for path, part in replaced.items():
        name, _, rest = path.partition(".")
        out._modules[name] = part if not rest else _shallow(module.get_submodule(name), {rest: part})
    return out
