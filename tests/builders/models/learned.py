"""A model that has learned something: heads fitted to tell the films that everybody likes from the others, a random decoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from builders.data.indexed_catalog import LABELS, write_indexed_catalog
from builders.models.checkpoints import tiny_model
from rexit.data.slates import cut, draw
from rexit.exporter.checkpoints.checkpoint import save_checkpoint
from rexit.exporter.model.decoder import Decoder
from rexit.exporter.model.multi_exit import ExitHeads, MultiExitModel
from rexit.exporter.prompt.builder import PromptBuilder
from rexit.format.bundle import Catalog

EXITS, USERS, SLATES = (1, 2), 24, 24
LATER = 150  # with histories in the prefix, as validation has them


def write_learned(folder: Path) -> tuple[Path, Path]:
    """Returns the checkpoint's and the catalog's folders."""
    catalog_folder = write_indexed_catalog(folder / "data", USERS, taste=True)
    catalog, model = Catalog.open(catalog_folder), tiny_model(num_hidden_layers=EXITS[-1])
    decoder = Decoder.of(model)
    heads = ExitHeads.like(decoder, len(EXITS))
    hidden_states: list[list[torch.Tensor]] = [[] for _ in EXITS]
    hooks = [
        norm.register_forward_hook(lambda _m, _i, out, k=k: hidden_states[k].append(out)) for k, norm in enumerate(heads.norms)
    ]
    samples, builder = draw(cut(catalog, "train"), SLATES), PromptBuilder(catalog)
    for sample in samples:
        assert sample.as_of is not None
        prompt = builder.prompt(sample.user, sample.items, sample.as_of + LATER)
        MultiExitModel(decoder, heads, EXITS).reference(prompt.prefix, prompt.candidates)
    for hook in hooks:
        hook.remove()
    liked = torch.from_numpy(np.concatenate([sample.liked for sample in samples]))
    for projection, parts in zip(heads.projections, hidden_states, strict=True):
        features = torch.cat(parts)
        yes, no = features[liked].mean(0), features[~liked].mean(0)
        within = torch.cat([features[liked] - yes, features[~liked] - no]).T.cov()  # what users differ in, above all
        direction = torch.linalg.solve(within + 0.01 * within.trace() / len(within) * torch.eye(len(within)), yes - no)
        direction *= 4 / ((yes - no) @ direction)  # log-odds of 2 and -2 in the mean
        projection.weight.data = torch.stack([-direction, direction]) / 2
        middle = (yes + no) @ direction / 2
        projection.bias.data = torch.stack([middle, -middle]) / 2
    save_checkpoint(folder / "checkpoint", model, EXITS, heads, LABELS, catalog.traits)
    return folder / "checkpoint", catalog_folder
