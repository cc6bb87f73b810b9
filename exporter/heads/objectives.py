"""Heads for several objectives: each is fitted alone, on its known labels; the exits are chosen for all of them.

A user's loss at a depth is the mean over the objectives of which the user has known labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rexit.errors import InputError
from rexit.exporter.heads.forward import Slates
from rexit.exporter.heads.layers import Layers, fit_layers
from rexit.exporter.heads.rows import RowsFile
from rexit.progress import Progress


def fit_objectives(
    file: RowsFile, train: Slates, validation: Slates, names: Sequence[str], keep_last: bool | None, progress: Progress
) -> dict[str, Layers]:
    """Fits a head at every layer for each objective; for "" if none has a name. Arguments as for `fit_layers`.

    Raises:
        InputError: labels of one class; names the objective.
    """
    if not names:
        return {"": fit_layers(file, train, validation, keep_last, progress)}
    fits = {}
    for k, name in enumerate(names):
        own = replace(file, answer=file.answer[:, k])
        try:
            fits[name] = fit_layers(own, train.of_objective(k), validation.of_objective(k), keep_last, progress)
        except InputError as exc:
            raise InputError(f"objective {name!r}: {exc}") from exc
    return fits


def mean_losses(fits: Mapping[str, Layers]) -> tuple[NDArray[np.float64], float]:
    """Losses float64 [layers, users], and the mean loss of answering each objective with one probability for all."""
    users = np.unique(np.concatenate([fit.choosing for fit in fits.values()]))
    layers = len(next(iter(fits.values())).heads)
    losses = np.full((len(fits), layers + 1, len(users)), np.nan)
    for n, fit in enumerate(fits.values()):
        places = np.searchsorted(users, fit.choosing)
        losses[n][:, places] = np.stack([fit.prior_losses, *(fit.at(depth).losses for depth in range(1, layers + 1))])
    means = np.nanmean(losses, 0)
    return means[1:], float(means[0].mean())
