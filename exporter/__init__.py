"""From interactions to a bundle. The only home of torch.

In: interactions, a tokenizer, a template, a checkpoint. Out: a catalog (`index`), a bundle (`export`), engines (`compile`).

    catalog    interactions -> splits, embeddings, neighbours, tables
    prompt     a template -> token ids
    model      a decoder -> a multi-exit model
    graph      a multi-exit model -> one ONNX graph per exit
    gate       graphs -> whether they may be written
    engine     graphs -> TensorRT engines

Names are loaded on first use: torch takes seconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rexit.exporter.compile import compile_engines
    from rexit.exporter.export import export_bundle
    from rexit.exporter.index import build_catalog
    from rexit.exporter.model.checkpoint import load_checkpoint, save_checkpoint
    from rexit.exporter.model.multi_exit import MultiExitModel
    from rexit.exporter.options import Columns, ExportOptions, IndexOptions, LightGCNOptions
    from rexit.exporter.prompt.builder import PromptBuilder

_HOME = {
    "Columns": "options",
    "ExportOptions": "options",
    "IndexOptions": "options",
    "LightGCNOptions": "options",
    "MultiExitModel": "model.multi_exit",
    "PromptBuilder": "prompt.builder",
    "build_catalog": "index",
    "compile_engines": "compile",
    "export_bundle": "export",
    "load_checkpoint": "model.checkpoint",
    "save_checkpoint": "model.checkpoint",
}

__all__ = [
    "Columns",
    "ExportOptions",
    "IndexOptions",
    "LightGCNOptions",
    "MultiExitModel",
    "PromptBuilder",
    "build_catalog",
    "compile_engines",
    "export_bundle",
    "load_checkpoint",
    "save_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
