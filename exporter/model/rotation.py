"""Rotates a decoder's residual stream: outliers of a few channels spread over all channels, so that int8 loses less.

    h' = h Q          Q [H, H] orthogonal, random, fixed for each width

The model's results do not change: Q is folded into its weights, in float64. The free part of QuaRot (Ashkboos et al., arXiv
2404.00456) and SpinQuant (Liu et al., arXiv 2405.16406).

1. x / rms(x) commutes with Q. A norm's weight does not, so it first moves into the layers that read the norm.
2. Layers that read the stream (q, k, v, gate, up, the heads) become W Q; layers that write to it (o, down) Q^T W and Q^T b; token
   embeddings E Q. The LM head and the final norm do not change: segments end in heads of their own.
3. In each layer the values of a head are rotated, too, in v and back in o, if both are separate layers. Caches then hold rotated
   values.
4. A block must be h + attention(norm(h)), then h + mlp(norm(h)), up to constant factors, with RMSNorm and no other weights.
   LayerNorm subtracts a mean, which Q does not preserve; a norm before an addition keeps its weight. `obstacle` checks this. The
   export's parity with the unrotated model then shows that the rotated model is equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rexit.exporter.model.decoder import Decoder
from rexit.exporter.model.multi_exit import ExitHeads

_BLOCK = ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")
_WRITERS = {"self_attn": "o_proj", "mlp": "down_proj"}


def orthogonal(size: int, seed: int = 0) -> Tensor:
    """A random orthogonal matrix, uniformly distributed: float64 [size, size]."""
    q, r = np.linalg.qr(np.random.default_rng([size, seed]).standard_normal((size, size)))
    return torch.from_numpy(q * np.sign(np.diag(r)))


def obstacle(decoder: Decoder) -> str | None:
    """Why the decoder cannot be rotated, with its family's name; None if it can."""
    reason = _obstacle(decoder)
    return reason and f"{decoder.family}: {reason}"


def _obstacle(decoder: Decoder) -> str | None:
    embeddings = decoder.model.get_input_embeddings()
    if embeddings.weight.shape[1] != decoder.hidden_size:
        return f"its token embeddings have {embeddings.weight.shape[1]} numbers, hidden states {decoder.hidden_size}"
    if gain(decoder.norm, decoder.hidden_size) is None:
        return f"its final norm, {type(decoder.norm).__name__}, is not RMSNorm"
    weighted = {name for name, part in decoder.body.named_children() if next(part.parameters(), None) is not None}
    others = {name for name in weighted if name not in (decoder.layers_name, decoder.norm_name)}
    if more := sorted(name for name in others if getattr(decoder.body, name) is not embeddings):
        return f"it has `{more[0]}` beside its layers"
    return next((reason for layer in decoder.layers if (reason := _obstacle_in(layer, decoder.hidden_size))), None)


@torch.no_grad()
def rotate(decoder: Decoder, heads: ExitHeads, turn: Tensor) -> None:
    """Rotates a decoder without an `obstacle` and its heads in place, by Q = `turn`, float64 [H, H]."""
    embeddings = decoder.model.get_input_embeddings()
    embeddings.weight = nn.Parameter(_folded(embeddings.weight, right=turn))  # a new parameter: the LM head may share the old one
    layer: Any
    for n, layer in enumerate(decoder.layers):
        for name, part in _WRITERS.items():
            norm, block = getattr(layer, _BLOCK[_BLOCK.index(name) - 1]), getattr(layer, name)
            own = gain(norm, decoder.hidden_size)
            assert own is not None
            for reader in _readers(block, part):
                reader.weight.copy_(_folded(reader.weight * own, right=turn))
            norm.weight.sub_(own - 1)  # 1, or 0 where the norm adds 1
            writer = getattr(block, part)
            writer.weight.copy_(_folded(writer.weight, left=turn))
            if writer.bias is not None:
                writer.bias.copy_(_folded(writer.bias, right=turn))
        _rotate_values(layer.self_attn, orthogonal(decoder.head_dim, n + 1))
    last: Any
    projection: Any
    for last, projection in zip(heads.norms, heads.projections, strict=True):
        projection.weight.copy_(_folded(projection.weight * last.weight.double(), right=turn))
        last.weight.fill_(1)


def gain(norm: nn.Module, size: int) -> Tensor | None:
    """g, float64 [H], of a norm g x / rms(x) that stores g or g - 1; None for any other norm."""
    weight = getattr(norm, "weight", None)
    if [name for name, _ in norm.named_parameters()] != ["weight"] or weight is None or weight.shape != (size,):
        return None
    x = 1 + torch.randn(4, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        candidate: Tensor
        for candidate in (weight.detach().double(), 1 + weight.detach().double()):
            if torch.allclose(norm(x).double(), candidate * x / x.square().mean(-1, keepdim=True).sqrt(), rtol=1e-3, atol=1e-4):
                return candidate
    return None


def _obstacle_in(layer: nn.Module, size: int) -> str | None:
    parts = {name for name, part in layer.named_children() if next(part.parameters(), None) is not None}
    if more := sorted(parts ^ set(_BLOCK)):
        return f"its layers {'have' if more[0] in parts else 'lack'} `{more[0]}`"
    for name, writer in _WRITERS.items():
        block = getattr(layer, name)
        if not isinstance(getattr(block, writer, None), nn.Linear):
            return f"its `{name}` has no linear layer `{writer}`"
        inner = [name for name, _ in block.named_parameters() if name.rpartition(".")[0] not in dict(_linears(block))]
        if name == "mlp" and inner:
            return f"its `{name}` has `{inner[0]}`"
        if any(reader.in_features != size for reader in _readers(block, writer)):
            return f"its `{name}` has layers inside that do not read hidden states"
    norms = [getattr(layer, name) for name in _BLOCK if "norm" in name]
    return next((f"its {type(norm).__name__} is not RMSNorm" for norm in norms if gain(norm, size) is None), None)


def _linears(block: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    yield from ((name, part) for name, part in block.named_modules() if isinstance(part, nn.Linear))


def _readers(block: nn.Module, writer: str) -> list[nn.Linear]:
    return [part for name, part in _linears(block) if name != writer]


def _rotate_values(attention: nn.Module, turn: Tensor) -> None:
    """Rotates v [kv_heads * D, H] and o [H, heads * D] in place, each head by `turn` [D, D]."""
    v, o = getattr(attention, "v_proj", None), attention.o_proj
    size = len(turn)
    if not isinstance(v, nn.Linear) or hasattr(attention, "v_norm"):
        return
    assert isinstance(o, nn.Linear)
    weight, out = v.weight.double(), o.weight.double()
    v.weight.copy_(torch.einsum("hdi,de->hei", weight.view(-1, size, weight.shape[1]), turn).flatten(0, 1))
    if v.bias is not None:
        v.bias.copy_((v.bias.double().view(-1, size) @ turn).flatten())
    o.weight.copy_((out.view(len(out), -1, size) @ turn).flatten(1))


def _folded(weight: Tensor, left: Tensor | None = None, right: Tensor | None = None) -> Tensor:
    """Q^T W or W Q, as float32."""
    out = weight.detach().double()
    if left is not None:
        out = left.T @ out
    if right is not None:
        out = out @ right
    return out.float()
