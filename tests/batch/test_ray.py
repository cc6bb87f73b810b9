"""The engine `ray` on a local cluster of two workers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (Ray's own spelling): at Ray's 15, a busy machine starts no worker in time
ray = pytest.importorskip("ray")

from builders.bundles.bundle import BundleOptions, write_bundle  # noqa: E402
from builders.bundles.bundle_files import add_tokenizer  # noqa: E402
from builders.bundles.catalog import ITEM_IDS, USER_IDS, make_catalog, with_inputs  # noqa: E402
from builders.bundles.reranker import words_tokenizer  # noqa: E402
from rexit.batch import BatchOptions, ColumnNames, Report, score_files  # noqa: E402
from rexit.batch.engine import Engine, Local, Opening  # noqa: E402
from rexit.batch.ray_engine import OnRay  # noqa: E402
from rexit.bundle import Bundle, Policy  # noqa: E402
from rexit.errors import BundleError  # noqa: E402
from running.local_cluster import local_cluster, one_worker_killed  # noqa: E402


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with local_cluster(cpus=2):
        yield


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """Users of all 256 partitions, so that there is time to kill a worker."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    random = np.random.default_rng(3)
    users = random.choice([*USER_IDS, *range(10_000, 10_500)], 20_000)
    frame = pl.DataFrame({"user_id": users, "item_id": random.choice(ITEM_IDS, 20_000)})
    for n in range(2):
        frame[n * 10_000 : (n + 1) * 10_000].write_parquet(folder / f"{n}.parquet")
    return folder


def score(engine: Engine, bundle: Bundle, given: Path, out: Path) -> Report:
    return score_files(Opening(bundle, 0), BatchOptions(given, out, ColumnNames(), 100), engine)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_equal_to_the_local_engine_though_a_worker_is_killed(bundle: Bundle, given: Path, tmp_path: Path) -> None:
    out = tmp_path / "ray.parquet"
    with one_worker_killed(lambda: len(list((tmp_path / "ray.parquet.partial").glob("scored-*.json"))) > 3) as killed:
        report = score(OnRay(2), bundle, given, out)
    assert killed and report.pairs == report.rows == 20_000
    local = ("score", bundle.path, "--pairs", given, "--out", tmp_path / "local.parquet", "--as-of", 100, "--threads", 1)
    subprocess.run([sys.executable, "-m", "rexit", *map(str, local)], check=True, capture_output=True)
    scored, expected = pl.read_parquet(out), pl.read_parquet(tmp_path / "local.parquet")
    assert scored.equals(expected), "to the bit, in the same order"


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_run_begun_here_goes_on_there(bundle: Bundle, given: Path, tmp_path: Path) -> None:
    class Stopped(Local):
        def score(self, *words, **keywords):  # type: ignore[no-untyped-def]
            scored = super().score(*words, **keywords)
            for _ in range(10):
                yield next(scored)
            raise KeyboardInterrupt

    out = tmp_path / "out.parquet"
    with pytest.raises(KeyboardInterrupt):
        score(Stopped(), bundle, given, out)
    assert 0 < score(OnRay(2), bundle, given, out).resumed < 20_000
    assert pl.read_parquet(out).height == 20_000


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_signal_interrupts_as_everywhere(bundle: Bundle, given: Path, tmp_path: Path) -> None:
    """Joining a cluster sets a handler of Ray's, whose exit code would be 15, without a word."""
    out = tmp_path / "out.parquet"
    words = ("score", bundle.path, "--pairs", given, "--out", out, "--as-of", 100, "--ray-workers", 1)
    cluster = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    with subprocess.Popen([sys.executable, "-m", "rexit", *map(str, words)], env=cluster, stderr=subprocess.PIPE) as run:
        while run.poll() is None and not any(not path.suffix for path in Path(f"{out}.partial").glob("scored-*")):
            time.sleep(0.01)  # until the scores of a partition are there, which are written last
        run.terminate()
        _, err = run.communicate(timeout=60)
    assert run.returncode == 143 and err.decode().endswith("rexit: interrupted; nothing was left half-written\n")
    assert not out.exists() and score(OnRay(2), bundle, given, out).resumed > 0


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_inputs_reach_the_workers(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", BundleOptions(with_inputs(make_catalog())))
    add_tokenizer(folder, words_tokenizer().to_str())
    random = np.random.default_rng(5)
    columns = {"device": ["tv", "phone", "7"], "query": ["wing drag", "heat", "B : flow ?"], "note": ["A", None, "B"]}
    rows = {"user_id": random.choice(USER_IDS, 400), "item_id": random.choice(ITEM_IDS, 400)}
    texts = {name: [values[n] for n in random.integers(0, 3, 400)] for name, values in columns.items()}
    pl.DataFrame({**rows, **texts, "hour": random.integers(0, 30, 400)}).write_parquet(tmp_path / "pairs.parquet")
    bundle, scored = Bundle.open(folder), {}
    for name, engine in (("ray", OnRay(2)), ("local", Local())):
        report = score(engine, bundle, tmp_path / "pairs.parquet", tmp_path / f"{name}.parquet")
        assert report.slates > 200, "nearly each pair has other values"
        scored[name] = pl.read_parquet(tmp_path / f"{name}.parquet")
    assert scored["ray"].equals(scored["local"]), "to the bit"


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_what_a_worker_raises_is_raised_here(bundle: Bundle, given: Path, tmp_path: Path) -> None:
    """The policy changes between the plan and the workers."""

    class Changed(OnRay):
        def score(self, *words, **keywords):  # type: ignore[no-untyped-def]
            Policy.full_depth(3, bundle.variant_sha256).write(bundle.folder / "policy.json")
            yield from super().score(*words, **keywords)

    try:
        with pytest.raises(BundleError, match="this bundle has another policy than when the run began"):
            score(Changed(2), bundle, given, tmp_path / "out.parquet")
    finally:
        (bundle.folder / "policy.json").unlink()
    assert not (tmp_path / "out.parquet").exists()
