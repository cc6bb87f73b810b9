"""Exit zero's graph: run on ONNX Runtime's CPU with one thread, as the runtime does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from rexit.bundle.catalog import ZERO, Catalog
from rexit.errors import InputError
from rexit.exporter.prompt.builder import PromptBuilder
from rexit.slates import Slate


class Graph:
    """A loaded graph. path: for messages; it is read once, so weights in other files are refused.

    Raises:
        InputError: It cannot be read or run, or is not from float numbers [N, F] to float log-odds [N] or [N, 1].
    """

    def __init__(self, path: Path, width: int) -> None:
        self._path = path
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        try:
            self._session = ort.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        except OSError as exc:
            raise InputError(f"{path}: cannot be read: {exc.strerror}") from exc
        except Exception as exc:  # ONNX Runtime's own classes have no common base
            raise InputError(f"{path}: ONNX Runtime's CPU cannot run it: {str(exc).splitlines()[0]}") from exc
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)" or len(inputs[0].shape) != 2:
            shown = ", ".join(f"`{entry.name}` {entry.type} {entry.shape}" for entry in inputs)
            raise InputError(f"{path}: its inputs are {shown or 'none'}, expected one tensor(float) of [N, {width}]")
        count, columns = inputs[0].shape
        if isinstance(columns, int) and columns != width:
            raise InputError(f"{path}: reads {columns} numbers of a candidate, the template's [zero] has {width}")
        output = self._session.get_outputs()[0]
        rows, *rest = output.shape or [0]
        one_each = len(rest) <= 1 and all(n == 1 or not isinstance(n, int) for n in rest)
        if isinstance(count, int) or isinstance(rows, int) or not one_each:
            shapes = f"`{inputs[0].name}` is {inputs[0].shape} and `{output.name}` is {output.shape}"
            raise InputError(f"{path}: {shapes}, expected [N, {width}] and [N] or [N, 1] for any number N of candidates")
        self._input, self._output = inputs[0].name, output.name

    def log_odds(self, numbers: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns log-odds, float32 [N]. numbers: float32 [N, F], N > 0. Raises InputError."""
        try:
            (values,) = self._session.run([self._output], {self._input: numbers})
        except Exception as exc:
            raise InputError(f"{self._path}: ONNX Runtime's CPU cannot run it: {str(exc).splitlines()[0]}") from exc
        rows = len(numbers)
        if not isinstance(values, np.ndarray) or values.dtype != np.float32 or values.shape not in ((rows,), (rows, 1)):
            shown = f"{values.dtype} {list(values.shape)}" if isinstance(values, np.ndarray) else "no tensor"
            raise InputError(
                f"{self._path}: `{self._output}` is {shown} of {rows} rows, expected float32 [{rows}] or [{rows}, 1]"
            )
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values.ravel()))[0])
            raise InputError(
                f"{self._path}: `{self._output}` is {values.ravel()[row]} for {numbers[row].tolist()}, expected finite"
            )
        return values.reshape(rows)


def zero_log_odds(catalog: Catalog, slates: Sequence[Slate]) -> list[NDArray[np.float32]]:
    """Returns exit zero's log-odds of the candidates of every slate, as the runtime computes them, float32 [n] each."""
    graph, builder = Graph(catalog.path / ZERO, len(catalog.numbers)), PromptBuilder(catalog)
    numbers = (builder.numbers(slate.user, slate.items, slate.as_of, scores=slate.scores) for slate in slates)
    return [graph.log_odds(table) for table in numbers]
