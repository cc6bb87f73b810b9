"""What can be chosen of a training, and what must stay so while it goes on."""

from __future__ import annotations

import argparse
import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rexit.errors import InputError

SETTINGS = "settings.json"


def option(default: Any, help: str, kind: Any = None, free: bool = False, **more: Any) -> Any:
    """free: may differ when a training goes on."""
    return field(default=default, metadata={"help": help, "type": kind, "free": free, **more})


@dataclass(frozen=True)
class Settings:
    """What can be chosen of a training; each is an option of the command line."""

    init: str = option("HuggingFaceTB/SmolLM2-135M-Instruct", "folder, Hub id or GGUF file of a decoder")
    exits: str = option("", "depths in layers (every five layers and the last)")
    lora: int = option(0, "rank of low-rank additions; 0 trains all weights")
    freeze_embeddings: bool = option(False, "leave the token embeddings as they are")
    distill: float = option(0.0, "weight of self-distillation from the last exit")
    teacher: str = option("", "scored training pairs, .parquet, to soften the labels with")
    teacher_weight: float = option(0.5, "share of a label that is the teacher's")
    slate: int = option(12, "interactions packed behind one prefix")
    batch_tokens: int = option(1024, "of one forward pass, padding included")
    accumulate: int = option(1, "forward passes of one step")
    epochs: float = option(1.0, "passes over the training split, unless --steps says how long")
    steps: int = option(0, "optimizer steps")
    rate: float | None = option(
        None, "peak learning rate of the deepest layers (1e-4; 1e-3 with --lora); 0: the base stays as it is", kind=float
    )
    head_rate: float = option(1e-3, "the same of the last head")
    rate_ratio: float = option(0.8, "rate of an exit's layers over that of the exit before")
    schedule: str = option("cosine", "how the rate falls after the warm-up", choices=("cosine", "linear"))
    warmup: float = option(0.05, "share of the steps in which the rate rises")
    weight_decay: float = option(0.01, "AdamW's")
    precision: str = option(
        "auto",
        "of what is computed: bfloat16 on a GPU and on a CPU with AMX, else float32",
        choices=("auto", "bfloat16", "float32"),
    )
    seed: int = option(0, "of the projectors, and of batches and their order")
    save_every: int = option(100, "steps between two states that a stopped training can go on from", free=True)
    max_minutes: float = option(0.0, "stop after so long, to go on another time; 0: when done", free=True)
    validate_slates: int = option(400, "of the validation split, to report AUC on; 0: all", free=True)

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        for one in dataclasses.fields(cls):
            name, more = "--" + one.name.replace("_", "-"), {k: v for k, v in one.metadata.items() if k == "choices"}
            if isinstance(one.default, bool):
                parser.add_argument(name, action="store_true", help=one.metadata["help"])
            else:
                shown = f" ({one.default})" if one.default else ""
                kind = one.metadata["type"] or type(one.default)
                parser.add_argument(name, type=kind, default=one.default, help=one.metadata["help"] + shown, **more)

    @classmethod
    def of(cls, args: argparse.Namespace) -> Settings:
        return cls(**{one.name: getattr(args, one.name) for one in dataclasses.fields(cls)})

    @property
    def fixed(self) -> dict[str, Any]:
        """What must not change while a training goes on."""
        return {one.name: getattr(self, one.name) for one in dataclasses.fields(self) if not one.metadata["free"]}

    @property
    def peak(self) -> float:
        if self.rate is None:
            return 1e-3 if self.lora else 1e-4
        return self.rate

    @property
    def frozen(self) -> bool:
        """Whether the base stays as it is, token embeddings and all."""
        return self.peak == 0


def check_same(work: Path, fixed: dict[str, Any]) -> None:
    """Raises InputError if a training that is to go on was begun with other settings."""
    path = work / SETTINGS
    if path.exists():
        before = json.loads(path.read_text())
        for name, value in fixed.items():
            if before.get(name) != value:
                raise InputError(
                    f"{work}: a training was begun there with --{name.replace('_', '-')} {before.get(name)!r}, "
                    f"now it is {value!r}: delete the folder to begin anew"
                )
