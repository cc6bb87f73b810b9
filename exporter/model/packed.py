"""Packed attention: many sequences with a shared prefix, scored as one sequence.

Any Hugging Face decoder that uses the attention interface runs packed without changes to its code. The function registered here
under `ATTENTION` replaces the model's own attention. It takes the mask and the past keys and values from the active `Call`.

    call = Call(visible, distance, past)
    with call:
        body(inputs_embeds=…, position_ids=…)
    call.new[layer]  # keys and values of this forward

Training data is packed by `pack` (a user's prefix and candidates) and `batch` (several users, padded).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from contextvars import ContextVar, Token
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from transformers import AttentionInterface

from rexit.errors import CheckpointError

ATTENTION = "rexit_packed"
PREFIX = -1
"""Group of prefix tokens in `pack`: visible to every later token."""
PADDING = -2
"""Group of padding in `batch`: visible to padding only."""

_active: ContextVar[Call] = ContextVar("rexit_packed_call")

KeyValue = tuple[Tensor, Tensor]


class Call:
    """The context of a forward: T query tokens and S keys, past keys before the T new ones.

    visible: bool, broadcastable to [B, heads, T, S], the keys that a query sees
    distance: int64, broadcastable to [B, heads, T, S], query position - key position, for sliding windows
    past: keys and values [B, kv_heads, S - T, head_dim], by layer
    new: keys and values [B, kv_heads, T, head_dim] of this forward, after rotary embedding, by layer; empty unless `keep`
    """

    def __init__(self, visible: Tensor, distance: Tensor, past: dict[int, KeyValue] | None = None, *, keep: bool = True) -> None:
        self.past = past or {}
        self.new: dict[int, KeyValue] = {}
        self.keep = keep
        self._visible, self._distance = visible, distance
        self._biases: dict[tuple[int | None, torch.dtype], Tensor] = {}
        self._token: Token[Call] | None = None

    def bias(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """The additive mask: 0 where visible, else the dtype's lowest number. Built once per window and dtype."""
        key = (window, dtype)
        if key not in self._biases:
            visible = self._visible if window is None else self._visible & (self._distance < window)
            lowest = torch.finfo(dtype).min
            self._biases[key] = torch.where(visible, 0.0, lowest).to(dtype)
        return self._biases[key]

    def __enter__(self) -> Call:
        self._token = _active.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._token is not None
        _active.reset(self._token)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of the active call, in the attention interface's signature.

    Args:
        module: the attention module, with `layer_idx`.
        query: [B, heads, T, head_dim].
        key, value: [B, kv_heads, T, head_dim].
        attention_mask: ignored; the active call's mask applies.
        scaling, dropout, sliding_window, softcap: as transformers passes them.
        s_aux: attention sinks.

    Returns:
        [B, T, heads, head_dim], and None for the weights.

    Raises:
        CheckpointError: attention sinks, which no standard operator supports.
    """
    if s_aux is not None:
        raise CheckpointError(f"{type(module).__name__}: attention sinks are not supported")
    call = _active.get()
    layer = module.layer_idx
    assert isinstance(layer, int)
    if call.keep:
        call.new[layer] = (key, value)
    if layer in call.past:
        past_key, past_value = call.past[layer]
        key, value = torch.cat([past_key, key], 2), torch.cat([past_value, value], 2)
    dtype = value.dtype
    in_float32 = value.requires_grad and dtype == torch.bfloat16 and value.device.type == "cpu"
    if in_float32:  # on a CPU the backward pass of attention takes four times as long in bfloat16
        query, key, value = query.float(), key.float(), value.float()
    bias = call.bias(sliding_window, query.dtype)
    drop = dropout if module.training else 0.0
    shared = query.shape[1] // key.shape[1]
    if not softcap:
        with torch.autocast("cpu", enabled=False) if in_float32 else nullcontext():
            out = F.scaled_dot_product_attention(query, key, value, bias, drop, scale=scaling, enable_gqa=shared > 1)
    else:
        key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
        scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        scores = torch.tanh(scores / softcap) * softcap + bias
        out = F.dropout(scores.float().softmax(-1).to(value.dtype), drop) @ value
    return out.transpose(1, 2).contiguous().to(dtype), None


AttentionInterface.register(ATTENTION, packed_attention)


@dataclass(frozen=True)
class Packed:
    """A packed slate, all int64: tokens, positions, groups [T], and rows [N], the candidates' last tokens."""

    tokens: NDArray[np.int64]
    positions: NDArray[np.int64]
    groups: NDArray[np.int64]
    rows: NDArray[np.int64]


def pack(prefix: ArrayLike, candidates: Iterable[ArrayLike]) -> Packed:
    """Packs a slate: the prefix (group PREFIX, positions 0 … P-1), then the candidates (groups 0, 1, …; positions from P on).

    Args:
        prefix: token ids [P]; may be empty.
        candidates: token ids [T] of each candidate, T >= 1.
    """
    head = np.asarray(prefix, np.int64)
    parts = [np.asarray(candidate, np.int64) for candidate in candidates]
    sizes = np.array([len(part) for part in parts], np.int64)
    assert len(parts) > 0 and sizes.min() > 0, "a slate needs candidates, a candidate needs tokens"
    return Packed(
        np.concatenate([head, *parts]),
        np.concatenate([np.arange(len(head)), *(np.arange(size) + len(head) for size in sizes)]),
        np.concatenate([np.full(len(head), PREFIX), np.repeat(np.arange(len(parts)), sizes)]),
        len(head) + np.cumsum(sizes) - 1,
    )


def batch(slates: Sequence[Packed]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pads B slates to the longest, T tokens.

    Returns:
        tokens, positions, groups int64 [B, T], and rows int64 [M], indices into the B*T tokens, of all M candidates in order.
    """
    length = max(len(slate.tokens) for slate in slates)

    def padded(name: str, fill: int) -> Tensor:
        out = torch.full((len(slates), length), fill, dtype=torch.int64)
        for n, slate in enumerate(slates):
            values = getattr(slate, name)
            out[n, : len(values)] = torch.from_numpy(values)
        return out

    rows = torch.from_numpy(np.concatenate([slate.rows + n * length for n, slate in enumerate(slates)]))
    return padded("tokens", 0), padded("positions", 0), padded("groups", PADDING), rows


def causal_groups(groups: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """`visible` and `distance` of a `Call`, both [B, 1, T, T], for sequences packed by `pack`."""
    index = torch.arange(groups.shape[1], device=groups.device)
    own = (groups[:, :, None] == groups[:, None]) | (groups[:, None] == PREFIX)
    visible = own & (index[None] <= index[:, None])
    return visible[:, None], (positions[:, :, None] - positions[:, None])[:, None]


def own_groups(groups: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """As `causal_groups`, for tokens that see all tokens of their own group, on both sides of a sliding window."""
    distance = positions[:, :, None] - positions[:, None]
    return (groups[:, :, None] == groups[:, None])[:, None], distance.abs()[:, None]
