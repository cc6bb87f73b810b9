"""Shared by every training of a multi-exit model: rows of packed slates, batches, learning rates by depth.

A row is a slate as served: a user's prefix as of some moment, with the next few interactions packed behind it as candidates. So a
forward uses many labels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rexit.data.slates import cut, draw, runs, spread
from rexit.exporter.model.decoder import Decoder
from rexit.exporter.model.multi_exit import MultiExitModel
from rexit.exporter.model.packed import batch, pack
from rexit.exporter.model.prompt_vectors import PassVectors, Projectors, Sources
from rexit.exporter.prompt.builder import Prompt, PromptBuilder, RowSlate
from rexit.exporter.source import Source, prompt_maker
from rexit.format.bundle import Catalog
from rexit.format.bundle.catalog import SPLITS
from rexit.format.ids import Id

POOL = 512
"""Rows sorted by length together: enough to match lengths, few enough to keep batches random."""


@dataclass(frozen=True)
class Row:
    """A slate: user, prompt, and whether each candidate was liked, bool [N]."""

    user: Id
    prompt: Prompt
    liked: NDArray[np.bool_]

    @property
    def length(self) -> int:
        """Tokens of the packed slate."""
        return len(self.prompt.prefix) + sum(map(len, self.prompt.candidates))


@dataclass(frozen=True)
class Rows:
    """A split's rows, and the sources of the vectors in their prompts (None: no vectors).

    Prompts are stored as token ids and packed per batch: packed they take six times the memory.
    """

    rows: list[Row]
    sources: Sources | None

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, int64 [rows]."""
        return np.array([row.length for row in self.rows], np.int64)

    def liked(self, chosen: Iterable[int]) -> NDArray[np.int64]:
        """Labels of the chosen rows' candidates, in order, int64 [M]."""
        return np.concatenate([self.rows[n].liked for n in chosen]).astype(np.int64)

    def targets(self, chosen: Iterable[int] | None = None) -> NDArray[np.float32]:
        """How likely each candidate's label is yes, in order, float32 [n]. chosen: indices of rows; None: all."""
        rows = self.rows if chosen is None else [self.rows[n] for n in chosen]
        return np.concatenate([row.liked for row in rows]).astype(np.float32)

    def packed(self, chosen: Iterable[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`packed.batch` of the chosen rows. Candidates that share nothing are a sequence each: attention in the mask of a whole
        slate takes several times as long as their layers."""
        prompts = [self.rows[n].prompt for n in chosen]
        if self.sources is None and not any(len(prompt.prefix) for prompt in prompts):
            return batch([pack((), [candidate]) for prompt in prompts for candidate in prompt.candidates])
        return batch([pack(prompt.prefix, prompt.candidates) for prompt in prompts])

    def inputs(self, model: MultiExitModel, chosen: Sequence[int], device: torch.device | str = "cpu") -> tuple[Any, ...]:
        """The arguments of `MultiExitModel.forward` for the chosen rows. device: the model's."""
        tokens, *rest = (tensor.to(device) for tensor in self.packed(chosen))
        tokens, vectors = with_vectors(model, self.sources, tokens, [self.rows[n].prompt for n in chosen])
        return tokens, *rest, vectors


def with_vectors(
    model: MultiExitModel, sources: Sources | None, tokens: Tensor, prompts: Sequence[Prompt]
) -> tuple[Tensor, PassVectors | None]:
    """Renumbers vector ids and computes the vectors, in float32 also under autocast, as an export does.

    Args:
        model: the model with its projectors.
        sources: inputs of the projectors; None if prompts have no vectors.
        tokens: the prompts' tokens, int64 [B, T].
        prompts: B prompts.

    Returns:
        Tokens and vectors for `MultiExitModel.forward`.
    """
    if sources is None or model.projectors is None:
        return tokens, None
    with torch.autocast(tokens.device.type, enabled=False):
        return sources.batch(model.projectors, model.model.get_input_embeddings(), tokens, prompts)


def packed_rows(
    source: Source,
    split: str,
    size: int,
    most: int = 0,
    track: Callable[[Sequence[Any]], Iterable[Any]] = iter,
    seed: int | None = None,
) -> Rows:
    """Assembles a split's slates; a catalog's, each as of its first interaction.

    Candidates of a training slate may differ in inputs behind the prefix.

    Args:
        source: a catalog, or a file of slates.
        split: `train`, `validation` or `test`.
        size: most candidates of a slate.
        most: number of slates; 0: all.
        track: wraps the slates, to show progress.
        seed: draws the slates; None: they are evenly spaced.
    """

    def chosen(slates: Sequence[Any]) -> Iterable[Any]:
        return track(spread(slates, most) if seed is None or not most else draw(slates, most, seed))

    if isinstance(source, Catalog):
        rows = _catalog_rows(source, split, size, chosen)
        return Rows(rows, None if source.vector_ids is None else Sources(source, training=split == SPLITS[0]))
    prompt_of = prompt_maker(source, split)
    return Rows([Row(slate.user, prompt_of(slate), slate.liked) for slate in chosen(cut(source, split, size))], None)


def _catalog_rows(catalog: Catalog, split: str, size: int, chosen: Callable[[Sequence[slice]], Iterable[slice]]) -> list[Row]:
    builder = PromptBuilder.of(catalog, split)
    rows, parts = runs(catalog, split, size, one_request=split != SPLITS[0])

    def slate_of(part: slice) -> RowSlate:
        inputs = [rows.codes_of(at) for at in range(part.start, part.stop)]
        return RowSlate(int(rows.users[part.start]), rows.items[part], int(rows.times[part.start]), inputs=inputs)

    drawn, tracked = itertools.tee(chosen(parts))
    prompts = builder.prompts(map(slate_of, tracked))
    return [
        Row(catalog.users.id(int(rows.users[part.start])), prompt, rows.liked[part])
        for prompt, part in zip(prompts, drawn, strict=True)
    ]


def batches(lengths: NDArray[np.int64], tokens: int, rng: np.random.Generator) -> list[list[int]]:
    """Groups all rows into batches of similar length, in random order.

    Args:
        lengths: int64 [rows], in tokens.
        tokens: maximum number of tokens in a batch, including padding; a longer row is a batch of its own.
        rng: shuffles the rows.

    Returns:
        The batches, as indices of rows.
    """
    order = rng.permutation(len(lengths))
    groups: list[list[int]] = []
    for pool in np.array_split(order, math.ceil(len(order) / POOL)):
        current: list[int] = []
        for n in pool[np.argsort(lengths[pool])]:
            if current and lengths[n] * (len(current) + 1) > tokens:
                groups.append(current)
                current = []
            current.append(int(n))
        groups.append(current)
    return [groups[n] for n in rng.permutation(len(groups))]


def fresh_projectors(catalog: Catalog, decoder: Decoder) -> Projectors | None:
    """Untrained projectors for a catalog's vectors; None if its prompts have none."""
    ids = catalog.vector_ids
    return None if ids is None else Projectors.like(decoder, ids, catalog.info["embedding"]["dim"])


def parameter_groups(model: MultiExitModel, rate: float, ratio: float, head_rate: float | None = None) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer, with learning rates by depth.

    The layers between two exits learn at rate / ratio^k, with k exits left to the last, and an exit's head at head_rate /
    ratio^k. Token embeddings learn as the first layers, projectors as the first head, an encoder's classifier as the last layers.

    Args:
        model: the model; parameters without `requires_grad` are left out.
        rate: learning rate of the deepest layers.
        ratio: below 1, shallower layers learn faster.
        head_rate: learning rate of the deepest head; None: `rate`.
    """
    layers, groups = model.decoder.layers, []
    assigned: set[int] = set()
    for k, (begin, end) in enumerate(zip([0, *model.exits[:-1]], model.exits, strict=True)):
        own: list[nn.Module] = [*layers[begin:end]]
        new: list[nn.Module] = []
        is_classifier = isinstance(model.heads.norms[k], nn.Sequential)
        (own if is_classifier and rate else new).extend([model.heads.norms[k], model.heads.projections[k]])
        if k == 0:
            own.append(model.decoder.embeddings)
            new += [] if model.projectors is None else [model.projectors]
        scale = ratio ** (len(model.exits) - 1 - k)
        for modules, peak in ((own, rate), (new, rate if head_rate is None else head_rate)):
            parameters = [p for module in modules for p in module.parameters() if p.requires_grad and id(p) not in assigned]
            assigned.update(map(id, parameters))
            if parameters:
                groups.append({"params": parameters, "lr": peak / scale})
    return groups
