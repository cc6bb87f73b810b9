"""transformers' Trainer with learning rates by depth, states to resume from, and lines about progress."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import SaveStrategy

from rexit import interrupts
from rexit.exporter.model.training import fast_bfloat16, parameter_groups
from rexit.exporter.options import TrainOptions
from rexit.exporter.training.learner import Collator, Learner

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
        bf16=fast_bfloat16(device) if options.precision == "auto" else options.precision == "bfloat16",
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
