"""The float32 model's log-odds on a calibration's slates: what every variant's losses are counted against.

The bundle's `cpu-fp32` variant is the reference: its graphs agree with PyTorch's model to `EXACT`. Its log-odds lie beside it, in
`reference.safetensors`, bound by digest to its graphs and to the slates. Another variant reads them; so does a device that cannot
run float32.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rexit.calibration.traces import FILES, collect, read_sealed, write_sealed
from rexit.data.slates import AnySlate
from rexit.errors import BackendError, BundleError
from rexit.format.bundle import Bundle
from rexit.progress import Progress

VARIANT = "cpu-fp32"
FILE = "reference.safetensors"

LogOdds = Mapping[str, NDArray[np.float32]]
"""By split, float32 [n, E]."""


def reference(
    bundle: Bundle,
    made_of: Mapping[str, Any],
    slates: Mapping[str, Sequence[AnySlate]],
    own: LogOdds,
    open_session: Callable[[], Any] | None,
    progress: Progress,
) -> LogOdds | None:
    """Returns the float32 model's log-odds of the slates at the selected variant's exits; None if the bundle has no float32
    variant, or nothing to read.

    1. The float32 variant is its own reference: `own` is written for the others.
    2. A file of these graphs and slates is read.
    3. Otherwise float32 runs, and the file is written.

    Args:
        bundle: its selected variant is calibrated.
        made_of: what the recording was made of.
        slates: by split.
        own: the selected variant's log-odds.
        open_session: opens a session of the float32 variant; None: no model may run.
        progress: called as the work goes on.

    Raises:
        BundleError: the file is damaged; or it is of other slates or graphs, and float32 cannot run here.
    """
    if VARIANT not in bundle.manifest.variants:
        return None
    float32 = Bundle.open(bundle.path, VARIANT)
    path, made_of = float32.folder / FILE, {**made_of, "variant_sha256": float32.variant_sha256}
    if bundle.variant.name == VARIANT:
        _write(path, made_of, own)
        return own
    columns, problem = [float32.exits.index(depth) for depth in bundle.exits], None

    def of_exits(log_odds: LogOdds) -> LogOdds:
        return {name: np.ascontiguousarray(z[:, columns]) for name, z in log_odds.items()}

    if path.is_file():
        shapes = {name: (len(z), len(float32.exits)) for name, z in own.items()}
        log_odds, problem = _read(path, made_of, shapes)
        if log_odds is not None:
            return of_exits(log_odds)
    if open_session is None:
        if problem is not None:
            raise BundleError(problem)
        return None
    try:
        session = open_session()
    except BackendError as exc:
        if problem is not None:
            raise BundleError(f"{problem} Float32 cannot run here: {exc}") from exc
        return None
    with contextlib.closing(session):
        log_odds = {name: collect(session, part, f"{name}, float32", progress) for name, part in slates.items()}
    _write(path, made_of, log_odds)
    return of_exits(log_odds)


def _write(path: Path, made_of: Mapping[str, Any], log_odds: LogOdds) -> None:
    write_sealed(path, json.dumps({"made_of": dict(made_of)}), log_odds)


def _read(path: Path, made_of: Mapping[str, Any], shapes: Mapping[str, tuple[int, int]]) -> tuple[LogOdds | None, str]:
    """The file's log-odds; or None, and what it was made of instead. Raises BundleError: the file is damaged."""
    text, tensors = read_sealed(path)
    try:
        recorded = dict(json.loads(text)["made_of"])
    except (KeyError, TypeError, ValueError, RecursionError) as exc:
        raise BundleError(f"{path}: not a reference of log-odds: {exc}") from exc
    for name, expected in made_of.items():
        if recorded.get(name) != expected:
            what = f"another {FILES[name]}" if name in FILES else f"{name} {recorded.get(name)}, expected {expected}"
            return None, f"{path}: the float32 reference was recorded with {what}: run `rexit calibrate --variant {VARIANT}`."
    for name, expected in shapes.items():
        part = tensors.get(name)
        if part is None or part.dtype != np.float32 or part.shape != expected or not np.isfinite(part).all():
            shape = None if part is None else f"{part.dtype} {list(part.shape)}"
            raise BundleError(f"{path}: {name}: is {shape}, expected finite float32 {list(expected)}")
    return {name: tensors[name] for name in shapes}, ""
