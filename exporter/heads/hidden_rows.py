"""The hidden rows of all candidates at every layer, by one forward pass over slates packed as they are served, in memory-mapped
files from which an interrupted run resumes.

rows.json    what the rows are made from, and how many batches of slates are done
hidden.bin   float16 [layers, candidates, H]: each candidate's last token after each layer, divided by its size as the final norm
             does, but without that norm's weight, so that no number is beyond float16
answer.bin   float32 [candidates]: the log-odds of the model's own last answer; NaN without one
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rexit.data.slates import SIZE
from rexit.errors import BundleError, CheckpointError, InputError
from rexit.exporter.checkpoints.checkpoint import Checkpoint
from rexit.exporter.model.multi_exit import ExitHeads, MultiExitModel
from rexit.exporter.model.training import Rows, batches, packed_rows
from rexit.exporter.source import Source
from rexit.format import roles
from rexit.format.bundle import Id, write_json
from rexit.format.bundle.files import SCHEMA, read_typed
from rexit.format.bundle.manifest import log_odds_of
from rexit.progress import Progress, silent, tracked

INFO, HIDDEN, ANSWER = "rows.json", "hidden.bin", "answer.bin"


class _Info(msgspec.Struct, frozen=True):
    """rows.json. origin: see `RowsFile.open`. done: number of batches."""

    origin: dict[str, Any]
    done: int


@dataclass
class RowsFile:
    """An open folder of rows. hidden: float16 [layers, candidates, H] and answer: float32 [candidates], both mapped."""

    folder: Path
    origin: Mapping[str, Any]
    hidden: NDArray[np.float16]
    answer: NDArray[np.float32]
    done: int

    @classmethod
    def open(cls, folder: Path, origin: Mapping[str, Any], layers: int, candidates: int, width: int) -> RowsFile:
        """Opens the folder, or creates it.

        Args:
            folder: the folder.
            origin: everything that the rows depend on, as JSON values.
            layers, candidates, width: the shapes of the rows and the answers.

        Raises:
            InputError: the folder holds rows of another origin or damaged ones, or the disk is too small.
        """
        shapes: dict[str, tuple[int, ...]] = {HIDDEN: (layers, candidates, width), ANSWER: (candidates,)}
        if folder.exists():
            done = _check(folder, origin, shapes)
        else:
            _create(folder, origin, shapes)
            done = 0
        try:
            hidden = np.memmap(folder / HIDDEN, np.float16, "r+", shape=shapes[HIDDEN])
            answer = np.memmap(folder / ANSWER, np.float32, "r+", shape=shapes[ANSWER])
        except OSError as exc:
            raise InputError(f"{folder}: cannot be written: {exc.strerror or exc}") from exc
        return cls(folder, origin, hidden, answer, done)

    def save(self, done: int) -> None:
        """Flushes the rows of the first `done` batches to the disk."""
        for array in (self.hidden, self.answer):
            assert isinstance(array, np.memmap)
            array.flush()
        self.done = done
        write_json(self.folder / INFO, {"schema": SCHEMA, "origin": dict(self.origin), "done": done}, flushed=True)


def size(layers: int, candidates: int, width: int) -> int:
    """Bytes of the rows."""
    return candidates * (2 * layers * width + 4)


def _create(folder: Path, origin: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    try:
        folder.mkdir(parents=True)
        for name, kind in ((HIDDEN, np.float16), (ANSWER, np.float32)):
            with open(folder / name, "wb") as file:
                file.truncate(int(np.prod(shapes[name])) * np.dtype(kind).itemsize)
    except OSError as exc:
        raise InputError(f"{folder}: cannot be written: {exc.strerror or exc}") from exc
    write_json(folder / INFO, {"schema": SCHEMA, "origin": dict(origin), "done": 0}, flushed=True)


def _check(folder: Path, origin: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> int:
    """The number of batches done. Raises InputError."""
    try:
        info = read_typed(folder / INFO, _Info)
    except BundleError as exc:
        raise InputError(f"{folder}: not the rows of an earlier run: {exc}; delete the folder") from exc
    earlier = info.origin
    if differs := [name for name, value in origin.items() if earlier.get(name) != value]:
        name = differs[0]
        raise InputError(
            f"{folder}: holds rows of another {name}: {earlier.get(name)}, expected {origin[name]}; "
            "delete the folder to begin anew"
        )
    for name, bytes_each in ((HIDDEN, 2), (ANSWER, 4)):
        expected = int(np.prod(shapes[name])) * bytes_each
        path = folder / name
        if not path.is_file() or path.stat().st_size != expected:
            actual = f"{path.stat().st_size} bytes" if path.is_file() else "missing"
            raise InputError(f"{path}: {actual}, expected {expected} bytes; delete the folder to begin anew")
    return info.done


SAVE_EVERY = 60.0
"""Seconds between two saved states, from which an interrupted run resumes."""


@dataclass(frozen=True)
class Slates:
    """Slates of one split, and the rows of their n candidates in the file of hidden rows.

    liked: bool [n]. users: int64 [n], numbered from 0 in order of appearance. chooses: bool [n], whether the user does, see
    `rexit.format.roles`. first: the first of the candidates' consecutive rows.
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
    def sizes(self) -> NDArray[np.int64]:
        """Candidates of each slate, int64 [S]."""
        return np.array([len(row.liked) for row in self.data.rows], np.int64)

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
