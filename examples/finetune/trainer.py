"""The Trainer of transformers: rates by depth, states to go on from, and what is printed on the way."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from learner import Collator, Learner
from safetensors.torch import load_file, save_file
from settings import Settings
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import SaveStrategy

from rexit.exporter.model.training import fast_bfloat16, parameter_groups

TRAINED = "trained.safetensors"


class MultiExitTrainer(Trainer):
    """Rates by depth; a state to go on from holds the weights that are trained, each once."""

    def __init__(self, learner: Learner, chosen: Settings, **more: Any) -> None:
        super().__init__(learner, **more)
        self._learner, self._chosen = learner, chosen
        self.model_accepts_loss_kwargs = False  # the loss is a batch's mean

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            chosen = self._chosen
            groups = parameter_groups(self._learner.model, chosen.peak, chosen.rate_ratio, chosen.head_rate)
            self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=chosen.weight_decay, fused=True)
        return self.optimizer

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if not self.args.should_save:
            return
        assert output_dir is not None
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        save_file({name: p.detach().contiguous() for name, p in self._trained().items()}, Path(output_dir) / TRAINED)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        saved, own = load_file(Path(resume_from_checkpoint) / TRAINED), self._trained()
        assert saved.keys() == own.keys(), "the settings are the same, so is what is trained"
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(saved[name])

    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self._learner.named_parameters() if p.requires_grad}


class Progress(TrainerCallback):
    """Prints loss, speed and the end that is to be expected; stops when time is over."""

    def __init__(self, made: Collator, minutes: float) -> None:
        self._made, self._minutes, self._start = made, minutes, time.monotonic()
        self._begun = 0
        self._mark = (0.0, 0)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._begun, self._mark = state.global_step, (time.monotonic(), self._made.tokens)
        self._first = self._mark[0]

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if "loss" not in (logs or {}) or not state.is_world_process_zero:
            return
        assert logs is not None
        now, tokens = time.monotonic(), self._made.tokens
        speed = (tokens - self._mark[1]) * args.world_size / (now - self._mark[0])
        self._mark = (now, tokens)
        left = (now - self._first) / (state.global_step - self._begun) * (state.max_steps - state.global_step)
        ends = time.strftime("%a %H:%M", time.localtime(time.time() + left))
        print(
            f"step {state.global_step}/{state.max_steps}  loss {logs['loss']:.4f}  {speed:.0f} tokens/s  ends {ends}", flush=True
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not self._minutes:
            return
        over = torch.tensor(float(time.monotonic() - self._start > 60 * self._minutes), device=args.device)
        if torch.distributed.is_initialized():  # clocks differ, and all processes have to stop at the same step
            torch.distributed.all_reduce(over, torch.distributed.ReduceOp.MAX)
        if over:
            control.should_training_stop = control.should_save = True


def last_state(work: Path) -> Path | None:
    """The latest whole state of a training: the Trainer writes this file last."""
    states = [path.parent for path in work.glob("checkpoint-*/trainer_state.json")]
    return max(states, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def arguments(work: Path, chosen: Settings, steps: int) -> TrainingArguments:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return TrainingArguments(
        output_dir=str(work),
        per_device_train_batch_size=1,  # one element of the data set is a whole batch
        gradient_accumulation_steps=chosen.accumulate,
        max_steps=steps,
        lr_scheduler_type=chosen.schedule,
        warmup_steps=round(chosen.warmup * steps),
        max_grad_norm=1.0,
        bf16=fast_bfloat16(device) if chosen.precision == "auto" else chosen.precision == "bfloat16",
        use_cpu=device.type == "cpu",
        seed=chosen.seed,
        logging_steps=10,
        save_strategy=SaveStrategy.STEPS,
        save_steps=chosen.save_every,
        save_total_limit=2,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        ddp_find_unused_parameters=False,
        report_to="none",
        disable_tqdm=True,
    )
