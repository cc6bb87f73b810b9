"""Projectors: from an item's or user's data in the catalog to vectors among a prompt's token embeddings.

They are trained with the model and saved beside it. `rexit.exporter.model.vectors` has their inputs.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rexit.bundle.vectors import GCN, MAX_VECTORS, MAX_WIDTH, USER, VectorIds
from rexit.errors import CheckpointError
from rexit.exporter.model.decoder import Decoder
from rexit.exporter.model.heads import copy_tensors


class OfEmbedding(nn.Module):
    """From a GCN embedding or a column's vector, scaled to unit length, to one vector: two linear layers with a GELU between.

    scale: initial standard deviation of the result. A zero row gives the last bias, which is not zero: through a norm the
    gradients of zeros would be a thousand times larger.
    """

    def __init__(self, dim: int, width: int, scale: float) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(dim, width), nn.Linear(width, width)
        nn.init.normal_(self.inner.weight)
        nn.init.zeros_(self.inner.bias)
        # 0.425 is the mean square of GELU of a standard normal number.
        nn.init.normal_(self.outer.weight, std=scale / (0.425 * width) ** 0.5)
        nn.init.normal_(self.outer.bias, std=scale)

    def forward(self, rows: Tensor) -> Tensor:
        """[n, D] to [n, H]."""
        out: Tensor = self.outer(F.gelu(self.inner(F.normalize(rows.float(), dim=-1))))
        return out


class OfUser(OfEmbedding):
    """A liked item's contribution to the user's vector, which is the mean over likes; and the vector of a user without likes."""

    def __init__(self, dim: int, width: int, scale: float) -> None:
        super().__init__(dim, width, scale)
        self.none = nn.Parameter(scale * torch.randn(width))


class OfText(nn.Module):
    """From a text's token embeddings to `count` vectors: `count` learned queries attend over them.

    A learned row joins the tokens, so that an empty text has something to attend to.
    """

    def __init__(self, count: int, width: int, scale: float) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(count, width) / (scale * width**0.5))
        self.nothing = nn.Parameter(scale * torch.randn(width))
        self.outer = nn.Linear(width, width)
        nn.init.eye_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, embeddings: Tensor, present: Tensor) -> Tensor:
        """[n, count, H] from embeddings [n, L, H]; present: bool [n, L], which of them belong to the text."""
        rows = torch.cat([self.nothing.expand(len(embeddings), 1, -1), embeddings.float()], 1)
        scores = (self.queries @ rows.transpose(1, 2)).masked_fill(~F.pad(present, (1, 0), value=True)[:, None], -torch.inf)
        out: Tensor = self.outer(scores.softmax(-1) @ rows)
        return out


class Projectors(nn.Module):
    """A projector per table of a program's vectors, and one for the user's vector if the program places it.

    kinds: `projectors` of `exits.json`, by name: `count` for texts, else `dim` of the input: GCN embeddings for `gcn` and `user`,
    a column's vectors for the others. width: H. scale: standard deviation of the initial results.
    """

    def __init__(self, kinds: Mapping[str, Mapping[str, int]], width: int, scale: float = 1.0) -> None:
        super().__init__()
        self.kinds = {name: dict(kind) for name, kind in kinds.items()}
        self.parts = nn.ModuleList(_projector(name, kind, width, scale) for name, kind in self.kinds.items())

    @classmethod
    def like(cls, decoder: Decoder, ids: VectorIds, dim: int) -> Projectors:
        """Untrained projectors for a catalog's vectors, on the scale of the decoder's token embeddings.

        Args:
            decoder: the model.
            ids: the catalog's `vector_ids`.
            dim: width of the catalog's embeddings.

        Raises:
            CheckpointError: the decoder's embeddings are not as wide as its hidden states.
        """
        check_width(decoder)
        dims = {GCN: dim, **ids.dims}
        kinds: dict[str, dict[str, int]] = {
            name: {"dim": dims[name]} if name in dims else {"count": count} for name, count in ids.tables.items()
        }
        if ids.user:
            kinds[USER] = {"dim": dim}
        with torch.no_grad():
            scale = float(decoder.model.get_input_embeddings()(torch.arange(min(1000, decoder.vocab_size))).std())
        return cls(kinds, decoder.hidden_size, scale)

    def __getitem__(self, name: str) -> nn.Module:
        return self.parts[list(self.kinds).index(name)]

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of `projectors.safetensors`, float32, by `NAME.PARAMETER`."""
        return {name: value.detach().float().cpu().contiguous() for name, value in self._named()}

    def fill(self, tensors: Mapping[str, Tensor], where: str) -> None:
        """Copies all parameters from `tensors`. Raises CheckpointError, naming `where`."""
        own = dict(self._named())
        if unknown := sorted(set(tensors) - set(own)):
            raise CheckpointError(f"{where}: tensor {unknown[0]!r} belongs to no projector of {', '.join(self.kinds)}")
        copy_tensors(tensors, own, where)

    def _named(self) -> list[tuple[str, nn.Parameter]]:
        named = zip(self.kinds, self.parts, strict=True)
        return [(f"{name}.{parameter}", value) for name, part in named for parameter, value in part.named_parameters()]


def check_width(decoder: Decoder) -> None:
    """Raises CheckpointError if token embeddings and hidden states differ in width."""
    width = int(decoder.model.get_input_embeddings().weight.shape[1])
    if width != decoder.hidden_size:
        raise CheckpointError(
            f"{decoder.family}: token embeddings have {width} numbers, hidden states {decoder.hidden_size}: "
            "vectors cannot stand among its tokens"
        )


def check_kinds(kinds: Mapping[str, Mapping[str, int]], where: str) -> None:
    """Checks `projectors` of exits.json. Raises CheckpointError."""
    for name, kind in kinds.items():
        key, most = ("count", MAX_VECTORS) if ":" in name else ("dim", MAX_WIDTH)
        if not 1 <= kind.get(key, 0) <= most:
            raise CheckpointError(f"{where}: projectors {name}: is {dict(kind)}, expected a `{key}` of 1 to {most}")


def _projector(name: str, kind: Mapping[str, int], width: int, scale: float) -> nn.Module:
    if name == USER:
        return OfUser(kind["dim"], width, scale)
    return OfEmbedding(kind["dim"], width, scale) if "dim" in kind else OfText(kind["count"], width, scale)
