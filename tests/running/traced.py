"""Traces of torch's exporter, kept for the session: torch takes seconds for a segment of a few kilobytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock

if TYPE_CHECKING:
    import onnx_ir as ir

    from rexit.bundle import Segment
    from rexit.exporter.graph.segment import SegmentModule


def session_folder(factory: pytest.TempPathFactory, name: str) -> Path:
    """A folder that all processes of a test run share."""
    base = factory.getbasetemp()
    shared = base.parent if base.name.startswith("popen-") else base
    folder = shared / name
    folder.mkdir(exist_ok=True)
    return folder


@contextmanager
def traced_once(folder: Path) -> Iterator[None]:
    """Within it, `rexit.exporter` asks torch once for each segment and operator set, and then reads the graph from `folder`.

    Passes, types and files are made anew each time. A segment is known by its weights, its configuration and its modules, so a
    test that changes how torch traces takes `untraced`.
    """
    import onnx_ir as ir

    from rexit.exporter.graph import trace as module

    trace = module.trace

    @wraps(trace)
    def read_or_trace(segment: SegmentModule, described: Segment, opset: int) -> ir.Model:
        path = folder / f"{_digest(segment, described, opset)}.onnx"
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                unfinished = path.with_suffix(".tmp")
                ir.save(trace(segment, described, opset), unfinished)
                unfinished.rename(path)
        return ir.load(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "trace", read_or_trace)
        yield


def _digest(segment: SegmentModule, described: Segment, opset: int) -> str:
    layout = (segment, segment.begin, segment.end, segment.vocabulary, described.inputs, described.outputs, opset)
    digest = hashlib.sha256(repr(layout).encode())
    config: Any = segment.body.config  # transformers' PretrainedConfig, which torch's modules take for one of theirs
    digest.update(config.to_json_string(use_diff=False).encode())
    for name, tensor in (*segment.named_parameters(), *segment.named_buffers()):
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()
