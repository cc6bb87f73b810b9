"""Bundles from an archive, by path and by bytes, and the check of parity when a bundle is opened."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from builders.bundles.bundle import BundleOptions, write_bundle
from builders.bundles.bundle_files import add_tokenizer, drop_catalog, refresh
from builders.bundles.catalog import ITEM_IDS, USER_IDS, make_catalog, with_request
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
        with runtime.open(place, check_parity=True) as session, session.another() as another:
            assert np.array_equal(session.trace(USER, ITEMS), expected)
            assert np.array_equal(another.trace(USER, ITEMS), expected)
            assert session.reloaded() is None
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
    with pytest.raises(BundleError, match="`serve` and `rexit-run` read an archive, here unpack it"):
        Bundle.open(tmp_path / "bundle.tar")


def test_the_program_reads_an_archive(bundle: Path, tmp_path: Path) -> None:
    archive = pack(bundle, tmp_path / "bundle.tar")
    verified = run_program("verify", archive)
    assert verified.code == 0 and "All checks passed." in verified.out
    score = ("--user", USER, "--items=" + ",".join(map(str, ITEMS)), "--json")
    answers = [run_program("score", place, *score).out.split('"stats"')[0] for place in (bundle, archive)]
    assert answers[0] == answers[1] and "log_odds" in answers[0]


def test_request_texts_by_the_archives_tokenizer(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", BundleOptions(with_request(make_catalog())))
    add_tokenizer(folder, words_tokenizer().to_str())
    request = {"query": "wing drag"}
    with runtime.open(folder) as session, runtime.open(pack(folder, tmp_path / "bundle.tar").read_bytes()) as archived:
        assert np.array_equal(archived.trace(USER, ITEMS, request=request), session.trace(USER, ITEMS, request=request))
        with pytest.raises(InputError, match="unknown"):
            archived.trace(USER, ITEMS, request={"unknown": "wing"})


def edit_golden(folder: Path, name: str, index: tuple[int, ...], value: float) -> None:
    path = folder / "variants" / "cpu-fp32" / "golden.safetensors"
    table = load_file(path)
    table[name] = table[name].copy()
    table[name][index] = value
    save_file(table, path)
    (folder / "variants" / "cpu-fp32" / "policy.json").unlink(missing_ok=True)
    refresh(folder)


def test_parity_is_checked_at_open_on_request(bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    edit_golden(folder, "log_odds", (2, 1), 100.0)
    runtime.open(folder).close()
    line = (
        r"variants/cpu-fp32/golden\.safetensors: slate 0, candidate 2, exit 1: log-odds [-0-9.]+, recorded 100: "
        r"a difference of [0-9.]+, allowed 0\.001$"
    )
    with pytest.raises(BundleError, match=line) as refusal:
        runtime.open(folder, check_parity=True)
    assert refusal.value.status == "REXIT_MISMATCH"
    ended = run_program("score", folder, "--user", USER, f"--items={ITEMS[0]}", "--check-parity")
    assert ended.code == 4 and "exit 1: log-odds" in ended.err
    edit_golden(folder, "log_odds", (2, 1), float("nan"))
    with pytest.raises(BundleError, match="exit 1: log-odds"):
        runtime.open(folder, check_parity=True)
    edit_golden(folder, "user", (0,), 1 << 20)
    with pytest.raises(BundleError, match=r"`user`\[0\] is 1048576, expected 0 to"):
        runtime.open(folder, check_parity=True)


def test_parity_without_a_catalog(bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    drop_catalog(folder)
    path = folder / "variants" / "cpu-fp32" / "golden.safetensors"
    save_file({name: array for name, array in load_file(path).items() if name not in ("user", "item", "as_of")}, path)
    (folder / "variants" / "cpu-fp32" / "policy.json").unlink(missing_ok=True)
    refresh(folder)
    runtime.open(folder, check_parity=True).close()
    edit_golden(folder, "log_odds", (0, 0), 100.0)
    with pytest.raises(BundleError, match="slate 0, candidate 0, exit 0: log-odds"):
        runtime.open(folder, check_parity=True)


def test_parity_with_contexts_and_request_texts(tmp_path: Path) -> None:
    """The golden samples' values reach the prompt: those of the runtime's own trace pass, others do not."""
    folder = write_bundle(tmp_path / "bundle", BundleOptions(with_request(make_catalog())))
    texts = {"query": [5, 6, 7], "note": [8]}
    with runtime.open(folder) as session:
        log_odds = session.trace(USER, ITEMS, as_of=100, request=texts)
        names = list(texts)
    golden = {
        "user": np.array([0], np.int32),
        "item": np.arange(len(ITEMS), dtype=np.int32),
        "as_of": np.array([100], np.int64),
        "slate_offsets": np.array([0, len(ITEMS)], np.int64),
        "log_odds": log_odds,
        "request_offsets": np.cumsum([0, *(len(texts[name]) for name in names)]).astype(np.int64),
        "request_tokens": np.concatenate([texts[name] for name in names]).astype(np.int32),
    }
    save_file(golden, folder / "variants" / "cpu-fp32" / "golden.safetensors")
    runtime.open(folder, check_parity=True).close()
    save_file(golden | {"request_tokens": golden["request_tokens"] + 1}, folder / "variants" / "cpu-fp32" / "golden.safetensors")
    with pytest.raises(BundleError, match="slate 0, candidate 0, exit 0: log-odds"):
        runtime.open(folder, check_parity=True)
