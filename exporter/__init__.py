"""From interactions to a bundle. Only this package imports torch.

In: interactions, a tokenizer, a template, a model. Out: a catalog (`index`), a multi-exit checkpoint (`heads`, `train`), a bundle
(`export`), engines (`compile`).

    catalog    interactions -> splits, tables
    retriever  likes, or embeddings from elsewhere -> similar users, fold-in
    prompt     a template -> token ids
    model      a decoder -> a multi-exit model
    heads      a model with one answer -> one with early exits, its weights untouched
    training   a decoder -> one that is trained with its exits
    graph      a multi-exit model -> one ONNX graph per exit
    gate       graphs -> whether they may be written
    engine     graphs -> TensorRT engines

Names are loaded on first use, because torch takes seconds to import.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rexit.exporter.compile import CompileReport, compile_engines
    from rexit.exporter.export import ExportReport, export_bundle
    from rexit.exporter.heads.run import HeadsReport, fit_heads
    from rexit.exporter.index import build_catalog
    from rexit.exporter.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
    from rexit.exporter.model.decoder import Decoder
    from rexit.exporter.model.heads import ExitHeads
    from rexit.exporter.model.multi_exit import MultiExitModel
    from rexit.exporter.model.packed import Packed, batch, pack
    from rexit.exporter.options import Columns, ExportOptions, HeadsOptions, IndexOptions, LightGCNOptions, TrainOptions
    from rexit.exporter.prompt.builder import Prompt, PromptBuilder
    from rexit.exporter.training.run import TrainReport, train_model

_HOME = {
    "Checkpoint": "model.checkpoint",
    "Columns": "options",
    "CompileReport": "compile",
    "Decoder": "model.decoder",
    "ExitHeads": "model.heads",
    "ExportOptions": "options",
    "ExportReport": "export",
    "HeadsOptions": "options",
    "HeadsReport": "heads.run",
    "IndexOptions": "options",
    "LightGCNOptions": "options",
    "MultiExitModel": "model.multi_exit",
    "Packed": "model.packed",
    "Prompt": "prompt.builder",
    "PromptBuilder": "prompt.builder",
    "TrainOptions": "options",
    "TrainReport": "training.run",
    "batch": "model.packed",
    "build_catalog": "index",
    "compile_engines": "compile",
    "export_bundle": "export",
    "fit_heads": "heads.run",
    "load_checkpoint": "model.checkpoint",
    "pack": "model.packed",
    "save_checkpoint": "model.checkpoint",
    "train_model": "training.run",
}

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
