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
from numpy.typing import NDArray

from running.session import session_folder

if TYPE_CHECKING:
    import onnx_ir as ir

    from rexit.exporter.graph.segment import SegmentModule
    from rexit.format.bundle import Segment


@pytest.fixture(scope="session", autouse=True)
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Of each folder whose conftest.py imports it."""
    with traced_once(session_folder(tmp_path_factory, "traced")):
        yield


@contextmanager
def traced_once(folder: Path) -> Iterator[None]:
    """Within it, `rexit.exporter` asks torch once for each form of segment and operator set, then reads the graph in `folder`.

    Weights are set, passes run and files made anew each time. A form is the configuration, the modules, and which weights are
    equal, as torch's exporter stores those once. A test that changes how torch traces takes `untraced`.
    """
    import onnx_ir as ir

    from rexit.exporter.graph import trace as module

    trace = module.trace
    if hasattr(trace, "__wrapped__"):  # by another folder's fixture, which stays to the end
        yield
        return

    @wraps(trace)
    def read_or_trace(segment: SegmentModule, described: Segment, opset: int) -> ir.Model:
        form = _form(segment, described, opset)
        with FileLock(folder / f"{form}.lock"):
            path = folder / f"{form}.onnx"
            if path.exists():
                _set_weights(model := ir.load(path), segment)
                return model
            path = folder / f"{form}-{_values(segment)}.onnx"  # of a graph that holds what was computed from the weights
            if not path.exists():
                unfinished = path.with_suffix(".tmp")
                ir.save(model := trace(segment, described, opset), unfinished)
                unfinished.rename(path := folder / f"{form}.onnx" if _set_weights(model, segment) else path)
        return ir.load(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "trace", read_or_trace)
        yield


def _weights(segment: SegmentModule) -> dict[str, NDArray[Any]]:
    """All parameters and buffers by name."""
    named = (*segment.named_parameters(), *segment.named_buffers())
    return {name: tensor.detach().contiguous().numpy() for name, tensor in named}


def _set_weights(model: ir.Model, segment: SegmentModule) -> bool:
    """Gives the graph the segment's weights; False if it holds others, which are no single numbers."""
    import onnx_ir as ir
    from onnx import numpy_helper

    named = _weights(segment)
    named |= {f"{name}.transposed": array.T.copy() for name, array in named.items() if array.ndim == 2}
    for name, value in model.graph.initializers.items():
        assert value.const_value is not None
        if name in named:
            value.const_value = ir.serde.TensorProtoTensor(numpy_helper.from_array(named[name], name))
        elif value.const_value.size > 1 and value.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
            return False
    return True


def _form(segment: SegmentModule, described: Segment, opset: int) -> str:
    config: Any = segment.body.config  # transformers' PretrainedConfig, which torch's modules take for one of theirs
    settings = {name: value for name, value in config.to_dict().items() if name != "_name_or_path"}
    layout = (settings, segment, segment.begin, segment.end, segment.vocabulary, described.inputs, described.outputs, opset)
    weights = _weights(segment)
    shapes = [(name, array.shape, array.dtype.str) for name, array in weights.items()]
    contents = [array.tobytes() for array in weights.values()]
    equal = [contents.index(content) for content in contents]
    return hashlib.sha256(repr((layout, shapes, equal)).encode()).hexdigest()


def _values(segment: SegmentModule) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for array in _weights(segment).values())).hexdigest()
