"""transformers' Trainer with the loss of all exits on a batch of packed rows, learning rates by depth, states to resume from
(`settings.json` beside them has what must stay the same), and lines about progress.

An encoder learns from pairs of a query and a document, drawn anew for every pass over a file of slates.

1. A row is a query with `slate` documents: a relevant one first, then others. Half of these are its own, which the first stage
   found, and half come from any query: a model that never read pairs learns by them first.
2. Queries whose documents are all relevant, or none is, are left out.
3. A batch has rows of similar length, as many as `batch_tokens` allows with their pairs padded to the longest.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import SaveStrategy

from rexit import interrupts
from rexit.data.slates_file import Query, SlatesFile
from rexit.data.texts import TextEncoder
from rexit.errors import InputError
from rexit.exporter.libraries import uses_bfloat16
from rexit.exporter.model.multi_exit import MultiExitModel
from rexit.exporter.model.training import POOL, Row, Rows, batches, parameter_groups, with_vectors
from rexit.exporter.options import TrainOptions
from rexit.exporter.prompt.builder import Prompt
from rexit.format.bundle.manifest import log_odds_of

SETTINGS = "settings.json"
FREE = ("save_every", "validation_slates")
"""Options that may change when a training resumes."""


def fixed_settings(options: TrainOptions) -> dict[str, Any]:
    """Returns all other options, by name."""
    values = dataclasses.asdict(options).items()
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values if name not in FREE}


def check_same(work: Path, settings: Mapping[str, Any]) -> None:
    """Raises InputError if the training in `work` was begun with other settings."""
    path = work / SETTINGS
    if not path.exists():
        return
    try:
        before = json.loads(path.read_text())
    except ValueError as exc:
        raise InputError(f"{path}: not valid JSON: {exc}; delete the folder to begin anew") from exc
    if not isinstance(before, dict):
        raise InputError(f"{path}: holds {json.dumps(before)[:40]}, expected an object; delete the folder to begin anew")
    for name, value in settings.items():
        if before.get(name) != value:
            option = name if name in ("model", "catalog") else "--" + name.replace("_", "-")
            raise InputError(
                f"{work}: a training was begun there with {option} {before.get(name)!r}, now it is {value!r}: "
                "delete the folder to begin anew"
            )


def joint_loss(logits: Tensor, liked: Tensor) -> Tensor:
    """Returns the mean of all exits' cross-entropies. logits: float32 [E, M, 2]. liked: 1 or 0, float32 [M]."""
    return F.cross_entropy(logits.flatten(0, 1), torch.stack([1 - liked, liked], -1).repeat(len(logits), 1))


def first_loss(logits: Tensor, queries: int) -> Tensor:
    """Returns the mean of all exits' cross-entropies of a query's first candidate among all of that query's.

    logits: float32 [E, M, 2], with as many candidates of each query.
    """
    among = log_odds_of(logits).view(len(logits) * queries, -1)
    return F.cross_entropy(among, torch.zeros(len(among), dtype=torch.int64, device=among.device))


class Learner(nn.Module):
    """The module that is trained: its forward turns a batch of `Collator` into the loss, with all trained weights inside."""

    def __init__(self, model: MultiExitModel, rows: Rows) -> None:
        super().__init__()
        self.model, self._rows = model, rows

    def forward(
        self, tokens: Tensor, positions: Tensor, groups: Tensor, rows: Tensor, liked: Tensor, prompts: Sequence[Prompt]
    ) -> dict[str, Tensor]:
        passed, vectors = with_vectors(self.model, self._rows.sources, tokens, prompts)
        logits = self.model(passed, positions, groups, rows, vectors)
        loss = joint_loss(logits, liked)
        if not self.model.decoder.causal:
            loss = loss + first_loss(logits, len(prompts))
        return {"loss": loss}


class Collator:
    """Makes a batch from the numbers of its rows, and counts their tokens."""

    def __init__(self, data: Rows) -> None:
        self._data = data
        self._liked = np.split(data.targets(), np.cumsum([len(row.liked) for row in data.rows])[:-1])
        self.tokens = 0

    def __call__(self, chosen: Sequence[Sequence[int]]) -> dict[str, Any]:
        (numbers,) = chosen  # the data set's elements are whole batches
        tokens, positions, groups, rows = self._data.packed(numbers)
        liked = torch.from_numpy(np.concatenate([self._liked[n] for n in numbers]))
        self.tokens += sum(self._data.rows[n].length for n in numbers)
        prompts = [self._data.rows[n].prompt for n in numbers]
        return {"tokens": tokens, "positions": positions, "groups": groups, "rows": rows, "liked": liked, "prompts": prompts}


class Pairs:
    """Draws the pairs of a training. Raises InputError for a file without queries, or without any that can be learned from."""

    def __init__(self, source: SlatesFile, encoder: TextEncoder, options: TrainOptions, rng: np.random.Generator) -> None:
        self._encoder, self._options, self._rng = encoder, options, rng
        self._others = options.slate_size(False) - 1
        if not self._others:
            raise InputError("--slate 1, expected at least 2: an encoder learns the order of a query's documents")
        queries = source.queries("train")
        self._queries = [query for query in queries if any(query.liked) and not all(query.liked)]
        self._documents = [document for query in queries for document in query.documents]
        if not self._queries:
            raise InputError(
                f"{source.path}: none of {len(queries)} training slates has relevant and other candidates, expected some to "
                "learn their order from"
            )

    def drawn(self, steps: int, track: Callable[[Sequence[Any]], Iterable[Any]]) -> tuple[Rows, list[list[int]], int]:
        """Returns rows, batches of them and the number of passes: enough for `steps`, or if it is 0 for the option `epochs`."""
        rows: list[Row] = []
        chosen: list[list[int]] = []
        passes = 0
        while len(chosen) < steps if steps else passes < self._options.epochs:
            order = self._rng.permutation(len(self._queries))
            for part in np.array_split(order, math.ceil(len(order) / POOL)):
                if steps and len(chosen) >= steps:
                    break
                new = [self._row(self._queries[n]) for n in track(part.tolist())]
                lengths = np.array([len(row.liked) * max(map(len, row.prompt.candidates)) for row in new], np.int64)
                parts = batches(lengths, self._options.step_tokens(False), self._rng)
                chosen += [[len(rows) + n for n in batch] for batch in parts]
                rows += new
            passes += 1
        return Rows(rows, None), chosen, passes

    def _row(self, query: Query) -> Row:
        relevant, others = (
            [document for document, liked in zip(query.documents, query.liked, strict=True) if liked is kind]
            for kind in (True, False)
        )
        hard = self._drawn(others, min(math.ceil(self._others / 2), len(others)), replace=False)
        drawn = self._drawn(self._documents, self._others - len(hard))
        any_query = [document if document not in relevant else self._drawn(others, 1)[0] for document in drawn]
        _, tokens = self._encoder.prompt(query.text, [*self._drawn(relevant, 1), *hard, *any_query])
        candidates, nothing = [np.array(ids, np.int32) for ids in tokens], np.zeros(0, np.int32)
        return Row(query.group, Prompt(nothing, candidates, nothing.astype(np.int64), None), np.arange(len(candidates)) == 0)

    def _drawn(self, documents: Sequence[str], count: int, replace: bool = True) -> list[str]:
        return [documents[n] for n in self._rng.choice(len(documents), count, replace)]


TRAINED = "trained.safetensors"
RATE_RATIO = 0.8  # learning rate of an exit's layers, over that of the exit before


class MultiExitTrainer(Trainer):
    """Trains with rates by depth. A state to resume from holds each trained weight once."""

    def __init__(self, learner: Learner, options: TrainOptions, **more: Any) -> None:
        super().__init__(learner, **more)
        self._learner, self._options = learner, options
        self.model_accepts_loss_kwargs = False  # the loss is a batch's mean

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            options = self._options
            groups = parameter_groups(self._learner.model, options.peak_rate, RATE_RATIO, options.head_rate)
            self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
        return self.optimizer

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if not self.args.should_save:
            return
        assert output_dir is not None
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        save_file({name: p.detach().contiguous() for name, p in self._trained().items()}, Path(output_dir) / TRAINED)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        saved, own = load_file(Path(resume_from_checkpoint) / TRAINED), self._trained()
        assert saved.keys() == own.keys(), "the same settings train the same weights"
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(saved[name])

    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self._learner.named_parameters() if p.requires_grad}


class Progress(TrainerCallback):
    """Reports loss, speed and the expected end; ends the training after a signal, which `deferred` holds back during a step."""

    def __init__(self, collator: Collator, say: Callable[[str], None]) -> None:
        self._collator, self._say = collator, say
        self._begun = 0
        self._mark = (0.0, 0)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._begun, self._mark = state.global_step, (time.monotonic(), self._collator.tokens)
        self._first = self._mark[0]

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """After a signal the training saves its state and ends."""
        if interrupts.pending():
            control.should_save = control.should_training_stop = True
            self._say(f"interrupted: saves step {state.global_step}, from which the same command goes on")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if "loss" not in (logs or {}) or not state.is_world_process_zero:
            return
        assert logs is not None
        now, tokens = time.monotonic(), self._collator.tokens
        speed = (tokens - self._mark[1]) * args.world_size / (now - self._mark[0])
        self._mark = (now, tokens)
        left = (now - self._first) / (state.global_step - self._begun) * (state.max_steps - state.global_step)
        ends = time.strftime("%a %H:%M", time.localtime(time.time() + left))
        self._say(f"step {state.global_step}/{state.max_steps}  loss {logs['loss']:.4f}  {speed:.0f} tokens/s  ends {ends}")


def last_state(work: Path) -> Path | None:
    """Returns the latest whole state of a training: the Trainer writes trainer_state.json last."""
    states = [path.parent for path in work.glob("checkpoint-*/trainer_state.json")]
    return max(states, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def arguments(work: Path, options: TrainOptions, steps: int) -> TrainingArguments:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return TrainingArguments(
        output_dir=str(work),
        per_device_train_batch_size=1,  # one element of the data set is a whole batch
        max_steps=steps,
        lr_scheduler_type="cosine",
        warmup_steps=round(options.warmup * steps),
        max_grad_norm=1.0,
        bf16=uses_bfloat16(options.precision),
        use_cpu=device.type == "cpu",
        seed=options.seed,
        logging_steps=10,
        save_strategy=SaveStrategy.STEPS,
        save_steps=options.save_every,
        save_total_limit=2,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        ddp_find_unused_parameters=False,
        report_to="none",
        disable_tqdm=True,
    )
