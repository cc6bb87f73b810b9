"""The hidden rows of all candidates at every layer, in memory-mapped files from which an interrupted run resumes.

rows.json    what the rows are made from, and how many batches of slates are done
hidden.bin   float16 [layers, candidates, H]: each candidate's last token after each layer, divided by its size as the final norm
             does, but without that norm's weight, so that no number is beyond float16
answer.bin   float32 [candidates]: the log-odds of the model's own last answer; NaN without one
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from rexit.bundle import write_json
from rexit.bundle.files import SCHEMA, read_typed
from rexit.errors import BundleError, InputError

INFO, HIDDEN, ANSWER = "rows.json", "hidden.bin", "answer.bin"


class _Info(msgspec.Struct, frozen=True):
    """rows.json. origin: see `RowsFile.open`. done: number of batches."""

    origin: dict[str, Any]
    done: int


@dataclass
class RowsFile:
    """An open folder of rows. hidden: float16 [layers, candidates, H] and answer: float32 [candidates], both mapped."""

    folder: Path
    origin: Mapping[str, Any]
    hidden: NDArray[np.float16]
    answer: NDArray[np.float32]
    done: int

    @classmethod
    def open(cls, folder: Path, origin: Mapping[str, Any], layers: int, candidates: int, width: int) -> RowsFile:
        """Opens the folder, or creates it.

        Args:
            folder: the folder.
            origin: everything that the rows depend on, as JSON values.
            layers, candidates, width: the shapes of the rows and the answers.

        Raises:
            InputError: the folder holds rows of another origin or damaged ones, or the disk is too small.
        """
        shapes: dict[str, tuple[int, ...]] = {HIDDEN: (layers, candidates, width), ANSWER: (candidates,)}
        if folder.exists():
            done = _check(folder, origin, shapes)
        else:
            _create(folder, origin, shapes)
            done = 0
        try:
            hidden = np.memmap(folder / HIDDEN, np.float16, "r+", shape=shapes[HIDDEN])
            answer = np.memmap(folder / ANSWER, np.float32, "r+", shape=shapes[ANSWER])
        except OSError as exc:
            raise InputError(f"{folder}: cannot be written: {exc.strerror or exc}") from exc
        return cls(folder, origin, hidden, answer, done)

    def save(self, done: int) -> None:
        """Flushes the rows of the first `done` batches to the disk."""
        for array in (self.hidden, self.answer):
            assert isinstance(array, np.memmap)
            array.flush()
        self.done = done
        write_json(self.folder / INFO, {"schema": SCHEMA, "origin": dict(self.origin), "done": done}, flushed=True)


def size(layers: int, candidates: int, width: int) -> int:
    """Bytes of the rows."""
    return candidates * (2 * layers * width + 4)


def _create(folder: Path, origin: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    try:
        folder.mkdir(parents=True)
        for name, kind in ((HIDDEN, np.float16), (ANSWER, np.float32)):
            with open(folder / name, "wb") as file:
                file.truncate(int(np.prod(shapes[name])) * np.dtype(kind).itemsize)
    except OSError as exc:
        raise InputError(f"{folder}: cannot be written: {exc.strerror or exc}") from exc
    write_json(folder / INFO, {"schema": SCHEMA, "origin": dict(origin), "done": 0}, flushed=True)


def _check(folder: Path, origin: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> int:
    """The number of batches done. Raises InputError."""
    try:
        info = read_typed(folder / INFO, _Info)
    except BundleError as exc:
        raise InputError(f"{folder}: not the rows of an earlier run: {exc}; delete the folder") from exc
    earlier = info.origin
    if differs := [name for name, value in origin.items() if earlier.get(name) != value]:
        name = differs[0]
        raise InputError(
            f"{folder}: holds rows of another {name}: {earlier.get(name)}, expected {origin[name]}; "
            "delete the folder to begin anew"
        )
    for name, bytes_each in ((HIDDEN, 2), (ANSWER, 4)):
        expected = int(np.prod(shapes[name])) * bytes_each
        path = folder / name
        if not path.is_file() or path.stat().st_size != expected:
            actual = f"{path.stat().st_size} bytes" if path.is_file() else "missing"
            raise InputError(f"{path}: {actual}, expected {expected} bytes; delete the folder to begin anew")
    return info.done
