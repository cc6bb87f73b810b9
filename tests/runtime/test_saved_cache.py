"""Cached prefixes on disk: a session that starts warm, and every way in which a file is not what it should be."""

from __future__ import annotations

import hashlib
import json
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file, save

from builders.bundles.bundle import BundleOptions, write_bundle
from builders.bundles.bundle_files import refresh
from builders.bundles.catalog import ITEM_IDS, USER_IDS, make_catalog
from builders.bundles.model import HEAD_DIM, HEADS, HIDDEN, VOCABULARY
from builders.bundles.variants import INT8_CACHE
from rexit import runtime
from rexit.errors import BackendError, BundleError, InputError
from running.full_disk import largest_file

DIGEST = 64


@dataclass
class Saved:
    """A file of prefixes, to be changed. write() gives it the digest that fits."""

    tensors: dict[str, NDArray[Any]]
    metadata: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> Saved:
        with safe_open(path, "numpy") as file:
            return cls(load_file(path), dict(file.metadata()))

    def write(self, path: Path) -> None:
        path.write_bytes(sealed(save(self.tensors, self.metadata)))


def sealed(file: bytes) -> bytes:
    return file[:-DIGEST] + hashlib.sha256(file[:-DIGEST]).hexdigest().encode()


def fill(session: runtime.Session) -> None:
    session.trace(USER_IDS[0], ITEM_IDS)
    session.score(USER_IDS[1], ITEM_IDS, force_exit=0)
    session.score(USER_IDS[1], ITEM_IDS, force_exit=0, recent=[ITEM_IDS[3]])


@pytest.fixture
def path(tmp_path: Path, folder: Path) -> Path:
    with runtime.open(folder) as session:
        fill(session)
        session.save_cache(tmp_path / "cache")
    return tmp_path / "cache"


def test_a_session_starts_where_another_stopped(folder: Path, path: Path) -> None:
    with runtime.open(folder) as before, runtime.open(folder) as after:
        fill(before)
        after.warm_up()
        after.load_cache(str(path))
        assert 0 < after.memory.prefixes <= before.memory.prefixes  # no hidden states at full depth
        for user in USER_IDS[:2]:
            warm = after.trace_with_stats(user, ITEM_IDS)
            assert warm.stats.prefix_tokens_reused == warm.stats.prefix_tokens
            np.testing.assert_array_equal(warm.log_odds, before.trace(user, ITEM_IDS))


def test_another_process_computes_no_prefix(folder: Path, path: Path) -> None:
    program = f"""
from rexit import runtime
with runtime.open({str(folder)!r}) as session:
    session.warm_up()
    session.load_cache({str(path)!r})
    trace = session.trace_with_stats({USER_IDS[0]}, {ITEM_IDS})
    print(trace.stats.prefix_layers, trace.log_odds.tobytes().hex())
"""
    with runtime.open(folder) as before:
        fill(before)
        expected = before.trace(USER_IDS[0], ITEM_IDS)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["0", expected.tobytes().hex()], done.stderr


def test_the_file_is_as_documented(path: Path) -> None:
    saved = Saved.read(path)
    lengths, kept_tokens = saved.tensors["lengths"], saved.tensors["held"]
    assert saved.metadata.keys() == {"format", "version", "variant_sha256", "vectors_sha256"}
    assert kept_tokens.tolist()[-1] == [lengths[-1]] * 3
    assert kept_tokens.tolist()[0] == [lengths[0], 2, 2]  # the last one used is first; it shares its first piece with the deepest
    assert saved.tensors["tokens"].shape == (lengths.sum(),)
    for k, layers in enumerate((1, 1, 2)):
        assert saved.tensors[f"segment.{k}"].shape == (kept_tokens[:, k].sum(), 2 * layers * HEADS * HEAD_DIM)
    assert saved.tensors["hidden"].shape == ((kept_tokens[:, 0] - kept_tokens[:, -1]).sum(), HIDDEN)
    assert path.read_bytes() == sealed(path.read_bytes())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def shift(name: str, index: Any, by: int) -> Callable[[Saved], None]:
    def change(saved: Saved) -> None:
        saved.tensors[name] = saved.tensors[name].copy()
        saved.tensors[name][index] += by

    return change


def put(name: str, value: Any) -> Callable[[Saved], None]:
    def change(saved: Saved) -> None:
        saved.tensors[name] = value(saved.tensors[name])

    return change


def tell(key: str, value: str) -> Callable[[Saved], None]:
    def change(saved: Saved) -> None:
        saved.metadata[key] = value

    return change


def nan(array: NDArray[Any]) -> NDArray[Any]:
    return np.where(np.arange(array.size).reshape(array.shape) == 5, np.float32("nan"), array)


@pytest.mark.parametrize(
    ("change", "status", "text"),
    [
        (tell("format", "pt"), "CORRUPT", "is not a file of saved prefixes"),
        (tell("version", "2"), "UNSUPPORTED", "version 2 of saved prefixes, this version of rexit reads 1"),
        (
            tell("variant_sha256", "f" * 64),
            "MISMATCH",
            "was saved from another variant or bundle: variant_sha256 is `ffffffffffff…`",
        ),
        (tell("vectors_sha256", "f" * 64), "MISMATCH", "was saved from a bundle with other vectors"),
        (lambda saved: saved.tensors.pop("held"), "CORRUPT", "tensor `held` is missing"),
        (lambda saved: saved.tensors.pop("hidden"), "CORRUPT", "tensor `hidden` is missing"),
        (lambda saved: saved.metadata.clear(), "CORRUPT", "is not a file of saved prefixes"),
        (put("lengths", lambda a: a.astype(np.int32)), "CORRUPT", "`lengths` is I32, expected I64"),
        (put("held", lambda a: a[:, :2]), "CORRUPT", "`held` has shape [3, 2], expected [3, 3]"),
        (put("held", lambda a: np.pad(a, ((0, 0), (0, 1)))), "CORRUPT", "`held` has shape [3, 4], expected [3, 3]"),
        (put("segment.1", lambda a: a.astype(np.float16)), "CORRUPT", "`segment.1` is F16, expected F32"),
        (put("segment.1", lambda a: a[:-1]), "CORRUPT", "`segment.1` has shape"),
        (put("hidden", lambda a: a[:, :-1]), "CORRUPT", "`hidden` has shape"),
        (put("hidden", nan), "CORRUPT", "`hidden` has numbers that are not finite"),
        (put("segment.0", nan), "CORRUPT", "`segment.0` has numbers that are not finite"),
        (shift("lengths", 0, -100), "CORRUPT", "`lengths`[0] is -"),
        (shift("lengths", 1, 1 << 62), "CORRUPT", "`lengths`[1] is 4611686018427387"),
        (shift("lengths", 2, 1), "CORRUPT", "`lengths`[2] is "),
        (put("tokens", lambda a: np.append(a, 1)), "CORRUPT", "`tokens` has more than `lengths` says"),
        (shift("held", (0, 0), 1), "CORRUPT", "`held`[0] is "),
        (shift("held", (0, 1), 1 << 62), "CORRUPT", "`held`[1] is 4611686018427387906, expected 0 to "),
        (shift("held", (0, 2), 1), "CORRUPT", "`held`[2] is 3, expected 0 to 2"),  # ahead of the segment before it
        (shift("held", (2, 0), -1000), "CORRUPT", "`held`[6] is -"),
        (shift("held", (2, 2), -1), "CORRUPT", "`segment.2` has shape"),
        (shift("tokens", 3, VOCABULARY), "CORRUPT", f"expected 0 to {VOCABULARY - 1}"),
        (shift("tokens", 3, -VOCABULARY), "CORRUPT", f"expected 0 to {VOCABULARY - 1}"),
        (shift("tokens", 3, 1 << 62), "CORRUPT", f"expected 0 to {VOCABULARY - 1}"),  # a user's vector, of which there are none
    ],
)
def test_what_is_refused(change: Callable[[Saved], None], status: str, text: str, folder: Path, path: Path) -> None:
    saved = Saved.read(path)
    change(saved)
    saved.write(path)
    assert_refused(folder, path, status, text)


def assert_refused(folder: Path, path: Path, status: str, text: str) -> None:
    """With this status and text, by a session that then is as it was."""
    with runtime.open(folder) as session:
        expected = session.trace(USER_IDS[4], ITEM_IDS)
        prefix_bytes = session.memory.prefixes
        with pytest.raises(BundleError) as caught:
            session.load_cache(path)
        assert caught.value.status == f"REXIT_{status}" and text in str(caught.value) and str(path) in str(caught.value)
        assert session.memory.prefixes == prefix_bytes
        again = session.trace_with_stats(USER_IDS[4], ITEM_IDS)
        assert again.stats.prefix_layers == 0
        np.testing.assert_array_equal(again.log_odds, expected)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda file: b"", "too short for a safetensors file"),
        (lambda file: b"PK\x03\x04" + file, "the header should have"),
        (lambda file: file[: len(file) // 2], "segment.0 data_offsets[1]: is "),
        (lambda file: file[:-1], "sha256 data_offsets[1]: is "),
        (lambda file: file + b"\0", "`sha256` is not at the end"),
        (lambda file: file[:3000] + bytes([file[3000] ^ 1]) + file[3001:], "do not match the SHA-256"),
        (lambda file: file[:-3] + bytes([file[-3] ^ 1]) + file[-2:], "do not match the SHA-256"),
        (lambda file: (1 << 60).to_bytes(8, "little") + file[8:], "the header should have 1152921504606846976 bytes"),
    ],
)
def test_damaged_bytes(change: Callable[[bytes], bytes], text: str, folder: Path, path: Path) -> None:
    path.write_bytes(change(path.read_bytes()))
    assert_refused(folder, path, "CORRUPT", text)


def test_a_shape_beyond_the_file_is_refused_first(folder: Path, path: Path) -> None:
    """So nothing of that size is ever allocated."""
    file = path.read_bytes()
    size = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + size])
    for shape in ([1 << 40, header["segment.2"]["shape"][1]], [1 << 62, 1 << 62]):
        header["segment.2"]["shape"] = shape
        text = json.dumps(header).encode()
        path.write_bytes(sealed(len(text).to_bytes(8, "little") + text + file[8 + size :]))
        assert_refused(folder, path, "CORRUPT", "segment.2")


def test_what_stands_in_the_files_place(folder: Path, tmp_path: Path, path: Path) -> None:
    (tmp_path / "link").symlink_to(path)
    assert_refused(folder, tmp_path / "link", "CORRUPT", "is a symbolic link")
    assert_refused(folder, tmp_path, "CORRUPT", "is not a plain file")
    assert_refused(folder, tmp_path / "nowhere" / "cache", "NOT_FOUND", "cannot be opened")
    with runtime.open(folder) as session, pytest.raises(InputError, match="NUL"):
        session.load_cache("a\0b")


def test_other_bundles(tmp_path: Path, path: Path) -> None:
    assert_refused(
        write_bundle(tmp_path / "other", BundleOptions(make_catalog(seed=2))), path, "MISMATCH", "another variant or bundle"
    )
    options = BundleOptions(variants=("cpu-int8",))
    with runtime.open(write_bundle(tmp_path / "two", options), "cpu-int8") as session:
        fill(session)
        session.save_cache(path)
    assert_refused(tmp_path / "two", path, "MISMATCH", "another variant or bundle")


def test_keys_and_values_in_int8(tmp_path: Path) -> None:
    """Rows of an odd number of bytes, each with its exponent."""
    folder, path = write_bundle(tmp_path / "bundle", BundleOptions(variants=(INT8_CACHE,))), tmp_path / "cache"
    with runtime.open(folder, INT8_CACHE) as before, runtime.open(folder, INT8_CACHE) as after:
        fill(before)
        before.save_cache(path)
        after.load_cache(path)
        warm = after.trace_with_stats(USER_IDS[0], ITEM_IDS)
        assert warm.stats.prefix_tokens_reused == warm.stats.prefix_tokens
        np.testing.assert_array_equal(warm.log_odds, before.trace(USER_IDS[0], ITEM_IDS))
    saved = Saved.read(path)
    rows = saved.tensors["segment.2"].copy()
    assert rows.dtype == np.int8 and rows.shape[1] == 2 * 2 * HEADS * (HEAD_DIM + 1)
    rows.reshape(-1, HEAD_DIM + 1)[-1, -1] = -128
    saved.tensors["segment.2"] = rows
    # As rexit writes it: behind all whose numbers want an alignment.
    saved.write(path)
    with runtime.open(folder, INT8_CACHE) as session, pytest.raises(BundleError) as caught:
        session.load_cache(path)
    assert caught.value.status == "REXIT_CORRUPT" and "`segment.2` has numbers that are not finite" in str(caught.value)


@pytest.mark.parametrize("variant", ["cpu-fp32", INT8_CACHE])
def test_a_grown_prefix_scores_as_a_cold_one(tmp_path: Path, variant: str) -> None:
    folder = write_bundle(tmp_path / "bundle", BundleOptions(variants=() if variant == "cpu-fp32" else (variant,)))
    with runtime.open(folder, variant) as session:
        grown, likes = [], ITEM_IDS[3:6]
        for n in range(len(likes) + 1):
            grown.append(session.trace_with_stats(USER_IDS[1], ITEM_IDS, recent=likes[:n]))
        assert any(0 < scores.stats.prefix_tokens_reused < scores.stats.prefix_tokens for scores in grown)
        for n, scores in enumerate(grown):
            session.clear_cache()
            np.testing.assert_allclose(scores.log_odds, session.trace(USER_IDS[1], ITEM_IDS, recent=likes[:n]), atol=1e-4)


def test_a_user_vector_is_saved_as_its_hash(tmp_path: Path) -> None:
    folder, path = write_bundle(tmp_path / "bundle", BundleOptions(make_catalog(vectors=True))), tmp_path / "cache"
    with runtime.open(folder) as before, runtime.open(folder) as after:
        fill(before)
        before.save_cache(path)
        after.load_cache(path)
        warm = after.trace_with_stats(USER_IDS[0], ITEM_IDS)
        assert warm.stats.prefix_layers == 0
        np.testing.assert_array_equal(warm.log_odds, before.trace(USER_IDS[0], ITEM_IDS))
    saved = Saved.read(path)
    of_items = VOCABULARY + 3 * len(ITEM_IDS)
    assert {token >> 62 for token in saved.tensors["tokens"].tolist() if token >= of_items} == {1}
    saved.tensors["tokens"][0] = of_items  # the id that stands for the user's vector in a prompt
    saved.write(path)
    assert_refused(folder, path, "CORRUPT", f"expected 0 to {of_items - 1}, or the hash of a user's vector")


def test_what_would_be_refused_is_not_saved(tmp_path: Path) -> None:
    """Keys that are infinite in the last segment: fuzzing found that the whole file was refused then."""
    broken = write_bundle(tmp_path / "broken")
    graph = broken / "variants/cpu-fp32/segment-2.onnx"
    model = onnx.load(graph, load_external_data=False)
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = ["finite" if name == "nk3" else name for name in names]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0), "nothing"))
    model.graph.node.append(onnx.helper.make_node("Div", ["finite", "nothing"], ["nk3"]))
    onnx.save(model, graph)
    refresh(broken)
    with runtime.open(broken) as before, runtime.open(broken) as after:
        before.score(USER_IDS[1], ITEM_IDS, force_exit=1)
        with pytest.raises(BackendError, match="are not finite"):
            before.trace(USER_IDS[0], ITEM_IDS)
        before.save_cache(tmp_path / "cache")
        after.load_cache(tmp_path / "cache")
        assert len(Saved.read(tmp_path / "cache").tensors["lengths"]) == 1
        warm = after.score(USER_IDS[1], ITEM_IDS, force_exit=1)
        assert warm.stats.prefix_tokens_reused == warm.stats.prefix_tokens


def test_a_full_disk_leaves_the_older_file(folder: Path, path: Path) -> None:
    before = path.read_bytes()
    with runtime.open(folder) as session:
        fill(session)
        with largest_file(2000), pytest.raises(BundleError, match="cannot be written: File too large") as caught:
            session.save_cache(path)
        assert caught.value.status == "REXIT_WRITE_FAILED"
        assert path.read_bytes() == before and list(path.parent.glob("cache*")) == [path]
        session.save_cache(path)  # over the older file
        assert path.read_bytes() == before


def test_where_nothing_can_be_written(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with runtime.open(folder) as session:
        for place, text in (
            (tmp_path / "nowhere" / "cache", "cannot be created: No such file"),
            (tmp_path / "taken", "cannot be put in place: Is a directory"),
        ):
            with pytest.raises(BundleError, match=text):
                session.save_cache(place)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken"]
