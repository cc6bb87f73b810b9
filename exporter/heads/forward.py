"""Slates to hidden rows: one forward pass over training and validation slates, packed as they are served."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rexit import roles
from rexit.bundle import Id
from rexit.bundle.manifest import log_odds_of
from rexit.errors import CheckpointError
from rexit.exporter.checkpoints.checkpoint import Checkpoint
from rexit.exporter.heads.rows import RowsFile
from rexit.exporter.model.heads import ExitHeads
from rexit.exporter.model.multi_exit import MultiExitModel
from rexit.exporter.model.training import Rows, batches, fast_bfloat16, packed_rows
from rexit.exporter.source import Source
from rexit.progress import Progress, silent, tracked
from rexit.slates import SIZE

SAVE_EVERY = 60.0
"""Seconds between two saved states, from which an interrupted run resumes."""


@dataclass(frozen=True)
class Slates:
    """Slates of one split, and the rows of their n candidates in the file of hidden rows.

    liked: bool [n]. users: int64 [n], numbered from 0 in order of appearance. chooses: bool [n], whether the user does, see
    `rexit.roles`. first: the first of the candidates' consecutive rows.
    """

    data: Rows
    liked: NDArray[np.bool_]
    users: NDArray[np.int64]
    chooses: NDArray[np.bool_]
    first: int

    @classmethod
    def of(cls, source: Source, split: str, count: int, first: int, progress: Progress) -> Slates:
        """At most `count` slates of a split, evenly spaced; 0: all. Raises InputError for an empty split."""
        data = packed_rows(source, split, SIZE, count, partial(tracked, what=f"prompts of {split}", progress=progress))
        numbers: dict[Id, int] = {}
        owners = [numbers.setdefault(row.user, len(numbers)) for row in data.rows]
        liked = np.concatenate([row.liked for row in data.rows])
        users = np.repeat(np.array(owners, np.int64), [len(row.liked) for row in data.rows])
        return cls(data, liked, users, np.array(list(map(roles.chooses, numbers)))[users], first)

    @property
    def rows(self) -> slice:
        """The candidates' rows in the file."""
        return slice(self.first, self.first + len(self.liked))

    @property
    def prompts(self) -> str:
        """SHA-256 of all token ids, which depend on more than a file of slates: on the tokenizer and a reranker's prompt."""
        digest = hashlib.sha256()
        for row in self.data.rows:
            for tokens in (row.prompt.prefix, *row.prompt.candidates):
                digest.update(len(tokens).to_bytes(8, "little"))
                digest.update(np.asarray(tokens, np.int32).tobytes())
        return digest.hexdigest()


@torch.no_grad()
def collect_rows(
    base: Checkpoint,
    own: ExitHeads | None,
    parts: Sequence[Slates],
    open_rows: Callable[[], RowsFile],
    batch_tokens: int,
    bfloat16: bool,
    say: Callable[[str], None],
    progress: Progress = silent,
) -> RowsFile:
    """Runs the slates whose rows are not in the file yet.

    Args:
        base: the model.
        own: the model's own last answer; None if it has none.
        parts: the slates, which share the file.
        open_rows: opens the file.
        batch_tokens: maximum number of tokens in one forward pass, including padding.
        bfloat16: whether linear layers compute in bfloat16; norms and heads stay float32.
        say: called with a line for each saved state.
        progress: called with a stage, the tokens done and the tokens in all.

    Raises:
        CheckpointError: a hidden row is not finite.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    depth = len(base.decoder.layers)
    heads, depths = ExitHeads.like(base.decoder, depth), [*range(1, depth + 1)]
    if own is not None:  # reads rows of its own
        heads, depths = ExitHeads([*heads.norms, *own.norms], [*heads.projections, *own.projections]), [*depths, depth]
    model = MultiExitModel(base.decoder, heads, depths, base.projectors)
    scale = scaling(base).to(device)
    model = model.to(device).eval()
    if bfloat16:
        for module in base.decoder.model.modules():
            if isinstance(module, nn.Linear):
                module.to(torch.bfloat16)  # once, not in each pass
    work = [(part, chosen) for part in parts for chosen in batches(part.data.lengths, batch_tokens, np.random.default_rng(0))]
    file = open_rows()
    starts = {id(part): part.first + np.cumsum([0, *(len(row.liked) for row in part.data.rows)]) for part in parts}
    sizes = [sum(part.data.rows[n].length for n in chosen) for part, chosen in work]
    total, began = sum(sizes), time.monotonic()
    tokens_done = tokens_before = sum(sizes[: file.done])
    saved = began
    if file.done:
        say(f"goes on with {file.folder}: {tokens_done} of {total} tokens are done")
    progress("forward pass, tokens", tokens_done, total)
    for number, (part, chosen) in enumerate(work[file.done :], file.done):
        places = np.concatenate([np.arange(starts[id(part)][n], starts[id(part)][n + 1]) for n in chosen])
        inputs = part.data.inputs(model, chosen, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            hidden = model.hidden_rows(*inputs)
        last = hidden[depth:]
        del hidden[depth:]
        rows = torch.stack([scale(states.float()) for states in hidden])
        if not rows.isfinite().all():
            layer = next(k for k, states in enumerate(rows, 1) if not states.isfinite().all())
            user = part.data.rows[chosen[0]].user
            raise CheckpointError(f"{base.path}: hidden rows after layer {layer} are not finite, e.g. of user {user!r}")
        file.hidden[:, places] = rows.cpu().numpy().astype(np.float16)
        file.answer[places] = log_odds_of(model.heads(last[0], depth)).float().cpu().numpy() if last else np.nan
        tokens_done += sizes[number]
        if time.monotonic() - saved > SAVE_EVERY:
            file.save(number + 1)
            saved = time.monotonic()
            speed = (tokens_done - tokens_before) / (saved - began)
            left = (total - tokens_done) / speed
            say(
                f"{tokens_done} of {total} tokens, {speed:.0f} per second, then heads are fitted; the forward pass ends in "
                f"{f'{left:.0f} s' if left < 120 else f'{left / 60:.0f} min'}"
            )
        progress("forward pass, tokens", tokens_done, total)
    if file.done < len(work):
        file.save(len(work))
    return file


def scaling(base: Checkpoint) -> nn.Module:
    """The final norm without weight or bias, which scales the stored rows."""
    norm = ExitHeads.like(base.decoder, 1).norms[0]
    plain: nn.Module = type(norm)(base.decoder.hidden_size, norm.eps)
    return plain.eval()


def uses_bfloat16(precision: str) -> bool:
    """Whether to compute in bfloat16; `auto`: if it is faster.

    Unlike in training, weights are rounded once and there is no gradient, so AVX-512's bfloat16 is faster, too: one thread runs
    460 tokens per second of SmolLM2-135M in it, and 274 in float32.
    """
    if precision != "auto":
        return precision == "bfloat16"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.10
    return fast_bfloat16(device) or bool(capabilities.get("avx512_bf16", False))
