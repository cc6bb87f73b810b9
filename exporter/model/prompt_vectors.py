"""Vectors among a prompt's token embeddings, and the projectors that compute them from an item's or user's data in the catalog.

Projectors are trained with the model and saved beside it. Training computes the vectors of each batch, each prompt's from the
snapshot of its moment. An export computes all vectors of the catalog's own graph once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from rexit.errors import CheckpointError, InputError
from rexit.exporter.model.decoder import Decoder, copy_tensors
from rexit.exporter.prompt.builder import Prompt
from rexit.format.bundle import Catalog, Vectors
from rexit.format.bundle.vectors import GCN, MAX_VECTORS, MAX_WIDTH, USER, VectorIds


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


CHUNK = 1024  # items projected at once

Embed = Callable[[Tensor], Tensor]
"""The model's token embeddings: int64 [...] to [..., H]."""


@dataclass(frozen=True)
class PassVectors:
    """The vectors of a pass, [R, H]: token `vocabulary` + r is row r; lower tokens are the vocabulary's."""

    vocabulary: int
    vectors: Tensor

    def embed(self, embeddings: Embed, tokens: Tensor) -> Tensor:
        """The first layer's input [..., H] for tokens int64 [...]."""
        embedded = embeddings(torch.minimum(tokens, torch.tensor(self.vocabulary - 1)))
        rows = torch.maximum(tokens - self.vocabulary, torch.tensor(0))
        return torch.where((tokens >= self.vocabulary)[..., None], nn.functional.embedding(rows, self.vectors), embedded)


class Sources:
    """The inputs of projectors, from a catalog."""

    def __init__(self, catalog: Catalog, training: bool = False) -> None:
        """training: with snapshots, for prompts of the train split. Raises InputError for a catalog without vectors."""
        if (ids := catalog.vector_ids) is None:
            raise InputError(f"{catalog.path}: its prompts have no vectors")
        self.ids: VectorIds = ids
        items = catalog.item_table
        self._gcn: dict[int | None, tuple[Tensor, Tensor]] = {None: (_tensor(items["embeddings"]), _tensor(items["fold_in"]))}
        if training:
            earlier = catalog.snapshots
            nothing = torch.zeros_like(self._gcn[None][0])
            self._gcn |= {0: (nothing, nothing)}
            for k, (embeddings, fold_in) in enumerate(zip(earlier["items"], earlier["fold_in"], strict=True), 1):
                self._gcn[k] = _tensor(embeddings), _tensor(fold_in)
        self._offsets, self._tokens = catalog.piece_table["offsets"], catalog.piece_table["tokens"]
        self._encoded = {name: _tensor(table) for name, table in catalog.encoded.items()}
        texts = [name for name in ids.tables if name != GCN and name not in ids.dims]
        self._pieces = {name: items[f"field.{name.rpartition(':')[0]}"] for name in texts}

    def batch(
        self, projectors: Projectors, embed: Embed, tokens: Tensor, prompts: Sequence[Prompt]
    ) -> tuple[Tensor, PassVectors]:
        """Computes a batch's vectors, each distinct vector once.

        Args:
            projectors: the model's projectors.
            embed: the model's token embeddings.
            tokens: the prompts' tokens, int64 [B, T].
            prompts: B prompts.

        Returns:
            The tokens, with vector ids renumbered by row, and the vectors.
        """
        begins, all_parts = self.ids.begins(), list(self._gcn)
        where = (tokens >= self.ids.vocabulary).nonzero(as_tuple=True)
        slate, number = where[0].cpu().numpy(), tokens[where].cpu().numpy() - self.ids.vocabulary
        part = np.array([all_parts.index(prompt.part) for prompt in prompts])[slate]
        last = self.ids.user_id - self.ids.vocabulary
        # A user's vector is its prompt's own; an item's is shared by all prompts of the same part.
        keys = np.stack([np.where(number == last, slate, part), number], 1)
        distinct, inverse = np.unique(keys, axis=0, return_inverse=True)
        parts: list[tuple[NDArray[np.int64], Tensor]] = []  # indices into `distinct`, and their vectors
        for name, begin in begins.items():
            first = begin - self.ids.vocabulary
            count = self.ids.tables[name]
            index = np.flatnonzero((distinct[:, 1] >= first) & (distinct[:, 1] < first + self.ids.items * count))
            item, which = np.divmod(distinct[index, 1] - first, count)
            pairs, of_pair = np.unique(np.stack([distinct[index, 0], item], 1), axis=0, return_inverse=True)
            vectors = self.items(projectors, embed, name, pairs[:, 1], [all_parts[p] for p in pairs[:, 0]])
            parts.append((index, vectors[torch.from_numpy(of_pair.reshape(-1)), torch.from_numpy(which)]))
        index = np.flatnonzero(distinct[:, 1] == last)
        if len(index):
            parts.append((index, self.users(projectors, [prompts[n] for n in distinct[index, 0]])))
        passed = tokens.clone()
        passed[where] = torch.from_numpy(self.ids.vocabulary + inverse.reshape(-1)).to(tokens.device)
        if not len(distinct):
            return passed, PassVectors(self.ids.vocabulary, torch.zeros(1, embed(tokens[:1, :1]).shape[-1], device=tokens.device))
        order = np.argsort(np.concatenate([index for index, _ in parts]))
        return passed, PassVectors(self.ids.vocabulary, torch.cat([vectors for _, vectors in parts])[torch.from_numpy(order)])

    def items(
        self, projectors: Projectors, embed: Embed, name: str, items: NDArray[np.int64], parts: Sequence[int | None]
    ) -> Tensor:
        """Vectors [n, count, H] of table `name`. items: rows int64 [n]. parts: each one's snapshot; None: the catalog's graph."""
        projector = projectors[name]
        if isinstance(projector, OfEmbedding):
            table = self._encoded[name][torch.from_numpy(items)] if name in self._encoded else self._embeddings(items, parts)
            vectors: Tensor = projector(table.to(projector.inner.weight.device))[:, None]
            return vectors
        assert isinstance(projector, OfText)
        device = projector.nothing.device
        tokens, present = self._texts(name, items)
        vectors = projector(embed(tokens.to(device)), present.to(device))
        return vectors

    def _embeddings(self, items: NDArray[np.int64], parts: Sequence[int | None]) -> Tensor:
        """GCN embeddings float16 [n, D] of items, each from its part's snapshot."""
        table = torch.empty(len(items), self._gcn[None][0].shape[1], dtype=torch.float16)
        for part in set(parts):
            mask = torch.tensor([other == part for other in parts])
            table[mask] = self._gcn[part][0][torch.from_numpy(items)[mask]]
        return table

    def users(self, projectors: Projectors, prompts: Sequence[Prompt]) -> Tensor:
        """The user's vector of each prompt, [n, H]."""
        projector = projectors[USER]
        assert isinstance(projector, OfUser)
        device = projector.none.device
        rows = torch.cat([self._gcn[prompt.part][1][torch.from_numpy(prompt.liked)] for prompt in prompts]).to(device)
        owner = torch.from_numpy(np.repeat(np.arange(len(prompts)), [len(prompt.liked) for prompt in prompts])).to(device)
        sums = torch.zeros(len(prompts), projector.none.shape[0], device=device).index_add(0, owner, projector(rows))
        likes = torch.bincount(owner, minlength=len(prompts))[:, None]
        return torch.where(likes > 0, sums / likes.clamp(min=1), projector.none)

    @torch.no_grad()
    def vectors(self, projectors: Projectors, embed: Embed, turn: Tensor | None = None) -> Vectors:
        """Computes all vectors of the catalog's own graph, for `vectors.safetensors`.

        Args:
            projectors: the model's projectors.
            embed: the model's token embeddings.
            turn: float64 [H, H], the rotation of model and vectors (`rexit.exporter.model.rotation`); None: not rotated.

        Raises:
            CheckpointError: a number is beyond float16.
        """
        chunks = np.array_split(np.arange(self.ids.items), -(-self.ids.items // CHUNK))
        tables = {
            name: _half(torch.cat([self.items(projectors, embed, name, c, [None] * len(c)) for c in chunks]), name, turn)
            for name in self.ids.tables
        }
        if not self.ids.user:
            return Vectors(self.ids, tables, None, None)
        projector = projectors[USER]
        assert isinstance(projector, OfUser)
        liked = torch.cat([projector(self._gcn[None][1][torch.from_numpy(c)]) for c in chunks])
        return Vectors(self.ids, tables, _half(liked, USER, turn), _half(projector.none, USER, turn))

    def _texts(self, name: str, items: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Tokens of the items' texts, int64 [n, L], and a mask of those that are not padding, bool [n, L]."""
        pieces = self._pieces[name][items]
        begin, sizes = self._offsets[pieces], self._offsets[pieces + 1] - self._offsets[pieces]
        index = np.arange(max(1, int(sizes.max(initial=0))))
        present = index < sizes[:, None]
        tokens = np.zeros(present.shape, np.int64)
        tokens[present] = self._tokens[(begin[:, None] + index)[present]]
        return torch.from_numpy(tokens), torch.from_numpy(present)


def _tensor(table: NDArray[np.float16]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(table))


def _half(vectors: Tensor, name: str, turn: Tensor | None) -> NDArray[np.float16]:
    if turn is not None:
        vectors = vectors.double() @ turn
    with np.errstate(over="ignore"):
        out: NDArray[np.float16] = vectors.numpy().astype(np.float16)
    if not np.isfinite(out).all():
        raise CheckpointError(f"projector {name!r}: gives {float(vectors.abs().max()):.6g}, float16 ends at 65504")
    return out
