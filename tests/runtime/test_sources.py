"""Bundles from an archive, by path and by bytes."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest

from builders.bundles.bundle import BundleOptions, write_bundle
from builders.bundles.bundle_files import add_tokenizer
from builders.bundles.catalog import ITEM_IDS, USER_IDS, make_catalog, with_inputs
from builders.bundles.held_out import write_ranked
from builders.bundles.reranker import words_tokenizer
from rexit import runtime
from rexit.bundle import Bundle
from rexit.errors import BundleError, InputError
from running.program import run_program

ITEMS = [int(item) for item in ITEM_IDS[:6]]
USER = int(USER_IDS[0])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With golden samples."""
    return write_ranked(tmp_path_factory.mktemp("sources")).bundle


def pack(bundle: Path, archive: Path, *options: str) -> Path:
    subprocess.run(["tar", *options, "-cf", archive, "-C", bundle, "."], check=True)
    return archive


@pytest.mark.parametrize("options", [("--format=ustar",), ("--format=gnu",)])
def test_what_tar_writes_is_a_bundle(bundle: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    archive = pack(bundle, tmp_path / "bundle.tar", *options)
    with runtime.open(bundle) as session:
        expected = session.trace(USER, ITEMS)
    for place in (archive, archive.read_bytes()):
        with runtime.open(place) as session, session.another() as another:
            assert np.array_equal(session.trace(USER, ITEMS), expected)
            assert np.array_equal(another.trace(USER, ITEMS), expected)
            assert session.reloaded() is None and session.check_golden(0).log_odds == ""
        runtime.verify(place)


def test_what_python_writes_is_a_bundle(bundle: Path) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        archive.add(bundle, ".")
    with runtime.open(file.getvalue()) as session:  # which alone keeps the bytes
        assert session.info.has_catalog


def test_damaged_archives(bundle: Path, tmp_path: Path) -> None:
    data = pack(bundle, tmp_path / "bundle.tar").read_bytes()
    with pytest.raises(BundleError, match=r"^bundle: .*\(truncated\)$"):
        runtime.open(data[: len(data) // 2])
    (tmp_path / "bundle.tar.gz").write_bytes(b"\x1f\x8b" + data)
    with pytest.raises(BundleError, match="expected a folder, or an uncompressed tar archive"):
        runtime.open(tmp_path / "bundle.tar.gz")
    with pytest.raises(BundleError, match="`rexit serve` and `rexit-run` read an archive, here unpack it"):
        Bundle.open(tmp_path / "bundle.tar")


def test_the_program_reads_an_archive(bundle: Path, tmp_path: Path) -> None:
    archive = pack(bundle, tmp_path / "bundle.tar")
    verified = run_program("verify", archive)
    assert verified.code == 0 and "All checks passed." in verified.out
    score = ("--user", USER, "--items=" + ",".join(map(str, ITEMS)), "--json")
    answers = [run_program("score", place, *score).out.split('"stats"')[0] for place in (bundle, archive)]
    assert answers[0] == answers[1] and "log_odds" in answers[0]


def test_texts_by_the_archives_tokenizer(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", BundleOptions(with_inputs(make_catalog(), "query")))
    add_tokenizer(folder, words_tokenizer().to_str())
    inputs = {"query": "wing drag"}
    with runtime.open(folder) as session, runtime.open(pack(folder, tmp_path / "bundle.tar").read_bytes()) as archived:
        assert np.array_equal(archived.trace(USER, ITEMS, inputs=inputs), session.trace(USER, ITEMS, inputs=inputs))
        with pytest.raises(InputError, match="unknown"):
            archived.trace(USER, ITEMS, inputs={"unknown": "wing"})
