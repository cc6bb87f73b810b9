"""Exit zero of slates: fitted on the training queries' first-stage scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from builders.data.token_slates import write_slates
from rexit.data.baselines import baselines
from rexit.data.ranking import auc
from rexit.data.slates import TokenSlate
from rexit.data.slates_file import SlatesFile
from rexit.errors import InputError
from rexit.exporter.zero import Graph, _choose_by_ranking, _Pairs, fitted_zero, stage_numbers

SIZE = 20


def rows(queries: int, split: str = "train", truth: str = "line") -> list[dict[str, Any]]:
    """Slates whose truth is in `bm25`, which some lack, and `vector`; `noise` says nothing. truth: `line`: their sum; `band`: the
    middle of bm25 is relevant, which no line finds."""
    random, written = np.random.default_rng(queries), []
    for query in range(queries):
        bm25, vector, noise = random.normal(size=(3, SIZE))
        known = random.random(SIZE) < 0.7
        log_odds = np.where(known, 2 * bm25, 0) + 2 * vector if truth == "line" else 4 - 8 * np.abs(bm25)
        label = (random.random(SIZE) < 1 / (1 + np.exp(-log_odds))).astype(int).tolist()
        written.append(
            {
                **{"group": f"{split} {query}", "split": split, "prefix": [1], "candidates": [[2]] * SIZE, "label": label},
                "score.bm25": [x if k else None for x, k in zip((50 * bm25 + 200).tolist(), known.tolist(), strict=True)],
                "score.vector": vector.tolist(),
                "score.noise": noise.tolist(),
            }
        )
    return written


def read(path: Path, written: Sequence[dict[str, Any]]) -> SlatesFile:
    return SlatesFile.read(write_slates(path / "slates.jsonl", written), labels=False)


def never(slates: Sequence[TokenSlate]) -> NDArray[np.float32]:
    raise AssertionError("there are labels")


def log_odds(path: Path, graph: bytes, file: SlatesFile, split: str) -> NDArray[np.float32]:
    (path / "zero.onnx").write_bytes(graph)
    return Graph(path / "zero.onnx", len(file.score_names)).log_odds(stage_numbers(file.cut(split), file.score_names))


@pytest.mark.medium
@pytest.mark.parametrize("truth", ["line", "band"])
def test_it_ranks_unseen_queries_better_than_any_first_stage(tmp_path: Path, truth: str) -> None:
    """Also where scores are missing, where a large and a small score are both bad, and whatever the order of the file."""
    written = [*rows(120, truth=truth), *rows(60, "test", truth)]
    file = read(tmp_path, written)
    assert file.score_names == ["bm25", "noise", "vector"]
    graph = fitted_zero(file, never)
    slates = file.cut("test")
    liked, values = np.concatenate([slate.liked for slate in slates]), log_odds(tmp_path, graph, file, "test")
    alone = {name: auc(scores, liked) for name, scores in baselines(file, slates).items()}
    assert alone.keys() == {"score.bm25", "score.noise", "score.vector"} and abs(alone["score.noise"] - 0.5) < 0.05
    assert auc(values, liked) > max(alone.values()) + 0.05
    assert (b"TreeEnsemble" in graph) == (truth == "band")
    means = [(values[part].mean(), liked[part].mean()) for part in np.array_split(np.argsort(values), 5)]
    assert all(abs(1 / (1 + np.exp(-z)) - share) < 0.12 for z, share in means), "its log-odds are probabilities"
    assert fitted_zero(file, never) == graph
    changed = [row if row["split"] == "train" else {**row, "label": row["label"][::-1]} for row in written]
    assert fitted_zero(read(tmp_path, changed), never) == graph, "only training queries fit"


@pytest.mark.parametrize("seed", [14, 19])
def test_trees_are_chosen_by_other_judges_than_those_who_test_them(seed: int) -> None:
    """Of 300 sizes on noise the best beats a line by two standard errors, for those who chose it."""
    random, users = np.random.default_rng(seed), np.repeat(np.arange(250), 4)
    numbers, liked = random.normal(size=(1000, 2)).astype(np.float32), random.random(1000) < 0.5
    everything, counts = np.ones(1000, np.bool_), np.zeros(2, np.bool_)
    pairs = _Pairs(numbers, users, liked, everything, everything, everything)
    assert _choose_by_ranking(pairs, counts) == (0, 0)
    alike = replace(pairs, liked=users % 2 == 0)  # nobody has both labels
    assert _choose_by_ranking(alike, counts) == (0, 0)


def test_without_labels_it_learns_the_models_answers(tmp_path: Path) -> None:
    file = read(tmp_path, [{key: value for key, value in row.items() if key != "label"} for row in rows(80)])

    def answers(slates: Sequence[TokenSlate]) -> NDArray[np.float32]:
        return np.concatenate([2 * slate.scores["vector"] - 1 for slate in slates])

    values = log_odds(tmp_path, fitted_zero(file, answers), file, "train")
    assert np.corrcoef(values, answers(file.cut("train")))[0, 1] > 0.99 and abs(values.mean() + 1) < 0.1


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ([{**row, "label": [0] * SIZE} for row in rows(3)] + rows(3, "test"), "the 60 training pairs .* are of one label only"),
        (rows(9, "test"), "the train split is empty"),
    ],
)
def test_what_cannot_be_fitted_is_refused(tmp_path: Path, written: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        fitted_zero(read(tmp_path, written), never)
