"""From interactions to a bundle. Only this package imports torch.

In: interactions, a tokenizer, a template, a model. Out: a catalog (`index`), a multi-exit checkpoint (`heads`, `train`), a bundle
(`export`), engines (`compile`).

    catalog      interactions -> splits, tables
    retriever    likes, or external embeddings -> similar users, fold-in
    prompt       a template -> token ids
    model        a decoder -> a multi-exit model
    checkpoints  a folder, GGUF file or Hub id -> a multi-exit model, and back
    heads        a model with one answer -> one with early exits, its weights untouched
    training     a decoder -> one that is trained with its exits
    graph        a multi-exit model -> one ONNX graph per exit
    gate         graphs -> whether they may be written
    engine       graphs -> TensorRT engines
    libraries    what other libraries print, download and use

Names are loaded on first use, because torch takes seconds to import.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rexit.exporter.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
    from rexit.exporter.engine.compile import CompileReport, compile_engines
    from rexit.exporter.export import ExportReport, export_bundle
    from rexit.exporter.heads.frozen_heads import HeadsReport, fit_heads
    from rexit.exporter.index import build_catalog
    from rexit.exporter.model.decoder import Decoder
    from rexit.exporter.model.multi_exit import ExitHeads, MultiExitModel
    from rexit.exporter.model.packed import Packed, batch, pack
    from rexit.exporter.options import Columns, ExportOptions, HeadsOptions, IndexOptions, LightGCNOptions, TrainOptions
    from rexit.exporter.prompt.builder import Prompt, PromptBuilder
    from rexit.exporter.training.fine_tuning import TrainReport, train_model

_NAMES = {
    "checkpoints.checkpoint": ("Checkpoint", "load_checkpoint", "save_checkpoint"),
    "engine.compile": ("CompileReport", "compile_engines"),
    "export": ("ExportReport", "export_bundle"),
    "heads.frozen_heads": ("HeadsReport", "fit_heads"),
    "index": ("build_catalog",),
    "model.decoder": ("Decoder",),
    "model.multi_exit": ("ExitHeads", "MultiExitModel"),
    "model.packed": ("Packed", "batch", "pack"),
    "options": ("Columns", "ExportOptions", "HeadsOptions", "IndexOptions", "LightGCNOptions", "TrainOptions"),
    "prompt.builder": ("Prompt", "PromptBuilder"),
    "training.fine_tuning": ("TrainReport", "train_model"),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "Checkpoint",
    "Columns",
    "CompileReport",
    "Decoder",
    "ExitHeads",
    "ExportOptions",
    "ExportReport",
    "HeadsOptions",
    "HeadsReport",
    "IndexOptions",
    "LightGCNOptions",
    "MultiExitModel",
    "Packed",
    "Prompt",
    "PromptBuilder",
    "TrainOptions",
    "TrainReport",
    "batch",
    "build_catalog",
    "compile_engines",
    "export_bundle",
    "fit_heads",
    "load_checkpoint",
    "pack",
    "save_checkpoint",
    "train_model",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
