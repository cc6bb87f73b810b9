"""`rexit index --ray-workers` on a local cluster of two workers."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (Ray's own spelling): at Ray's 15, a busy machine starts no worker in time
ray = pytest.importorskip("ray")

from builders.data import ratings  # noqa: E402
from rexit.errors import InputError  # noqa: E402
from rexit.exporter.prompt import pieces  # noqa: E402
from rexit.exporter.ray_workers import OnRay  # noqa: E402
from rexit.exporter.retriever import lists, neighbours  # noqa: E402
from rexit.exporter.workers import Local  # noqa: E402
from running.indexing import Run  # noqa: E402
from running.local_cluster import local_cluster, one_worker_killed  # noqa: E402

pytestmark = pytest.mark.slow
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with local_cluster(cpus=2):
        yield


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("with_lists", [False, True])
@pytest.mark.parametrize("external", [False, True])
def test_same_catalog_to_the_byte_though_a_worker_is_killed(
    run: Run,
    data: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    with_lists: bool,
    external: bool,
) -> None:
    extra: list[str] = []
    if external:
        place = tmp_path_factory.mktemp("given")
        for name, count in (("item", ratings.ITEMS), ("user", ratings.USERS)):
            np.save(place / f"{name}.npy", np.random.default_rng(count).normal(size=(count, 8)).astype(np.float32))
            np.save(place / f"{name}.ids.npy", np.arange(1, count + 1))
            extra += [f"--{name}-embeddings", str(place / f"{name}.npy")]
    if with_lists:
        monkeypatch.setattr(lists, "EXACT", 5)
    outcome = run(*extra)
    assert outcome[0] == 0, outcome[2]
    local = files(data / "catalog")
    shutil.rmtree(data / "catalog")
    monkeypatch.setattr(pieces, "BATCH", 16)  # ranges for both workers
    monkeypatch.setattr(neighbours, "CHUNK", 2)
    with one_worker_killed() as killed:
        outcome = run(*extra, "--ray-workers", "2")
    assert outcome[0] == 0 and killed, outcome[2]
    assert files(data / "catalog") == local and (b"centres" in local["users.safetensors"][:2000]) == with_lists


class Slow:
    """A task that leaves time to kill who works on it."""

    def __init__(self, numbers: np.ndarray, started: str) -> None:
        self._numbers, self._started = numbers, Path(started)

    def __call__(self, begin: int, end: int) -> np.ndarray:
        (self._started / f"{begin}-{os.getpid()}").touch()
        time.sleep(0.05)
        return self._numbers[begin:end] * 2


def test_a_killed_worker_loses_nothing(tmp_path: Path) -> None:
    numbers = np.arange(100)
    shared = {"numbers": numbers, "started": str(tmp_path)}
    with one_worker_killed(lambda: len(list(tmp_path.iterdir())) > 3) as killed:
        results = {begin: result for begin, _, result in OnRay(2).run(Slow, shared, len(numbers), 2)}
    assert killed and len({path.name.partition("-")[2] for path in tmp_path.iterdir()}) > 2, "another took its place"
    assert np.concatenate([results[begin] for begin in sorted(results)]).tolist() == (numbers * 2).tolist()


class Refusing:
    def __call__(self, begin: int, end: int) -> None:
        raise InputError(f"row {begin} is not as expected")


def test_what_a_worker_raises_is_raised_here() -> None:
    with pytest.raises(InputError, match="row 0 is not as expected"):
        list(OnRay(1).run(Refusing, {}, 1, 1))


def test_ranges_cover_every_row_once() -> None:
    numbers = np.arange(1003)
    for engine in (OnRay(2), Local()):
        results = sorted(
            (begin, end, result.tolist()) for begin, end, result in engine.run(Double, {"numbers": numbers}, 1003, 2)
        )
        assert [row for _, _, result in results for row in result] == (numbers * 2).tolist()


class Double:
    def __init__(self, numbers: np.ndarray) -> None:
        self._numbers = numbers

    def __call__(self, begin: int, end: int) -> np.ndarray:
        return self._numbers[begin:end] * 2
