"""`rexit export` as a whole: what it writes, what it refuses, and that it leaves nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import pytest
from typer.testing import CliRunner

from limits import largest_file
from rexit.bundle import Bundle, Catalog, Policy, digest, sole_writer
from rexit.cli import app
from rexit.errors import CheckpointError, InputError, ParityError, RexitError
from rexit.exporter import export as module
from rexit.exporter.export import export_bundle
from rexit.exporter.options import ExportOptions
from rexit.exporter.prompt.builder import PromptBuilder
from tiny_catalog import LABELS
from tiny_models import tiny_checkpoint

COMMAND = [sys.executable, "-c", "from rexit.cli import main; main()", "export"]


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    """A copy of the exported bundle, alone in its folder."""
    return Path(shutil.copytree(exported, tmp_path / "place" / "bundle"))


def test_bundle_is_what_the_format_says(exported: Path, catalog_folder: Path) -> None:
    bundle = Bundle.open(exported)
    assert bundle.manifest.exits == (1, 2, 4) and bundle.manifest.variants == ("cpu-fp32",)
    assert bundle.manifest.model.family == "llama" and bundle.manifest.model.max_positions == 256
    assert bundle.manifest.model.head == "own"
    assert [s.layers for s in bundle.variant.segments] == [(0, 1), (1, 2), (2, 4)]
    assert bundle.edited() == []
    assert _names(exported / "catalog") == ["catalog.json", "items.safetensors", "pieces.safetensors", "users.safetensors"]
    assert digest(exported / "catalog" / "catalog.json") == Catalog.open(catalog_folder).sha256 == bundle.variant.catalog_sha256
    assert _names(bundle.folder) == sorted([*bundle.variant.files, "variant.json"])
    assert [row["layers"] for row in bundle.variant.parity["exits"]] == [1, 2, 4]
    assert max(row[mode] for row in bundle.variant.parity["exits"] for mode in ("single", "cached", "slate")) < 1e-4
    assert not list(exported.parent.glob(".*"))


def test_golden_samples_are_real_prompts(exported: Path, catalog_folder: Path) -> None:
    bundle = Bundle.open(exported)
    slates = bundle.golden().slates
    split = Catalog.open(catalog_folder).split("validation")
    assert len(slates) == 6
    builder = PromptBuilder(bundle.catalog)
    for slate in slates:
        mine = split.users == slate.user
        assert slate.items.tolist() == split.items[mine].tolist()
        assert slate.as_of == split.times[mine][0]
        prompt = builder.prompt_rows(slate.user, slate.items, as_of=slate.as_of)
        np.testing.assert_array_equal(prompt.prefix, slate.prefix)
        assert [c.tolist() for c in prompt.candidates] == [c.tolist() for c in slate.candidates]


def test_existing_bundle_keeps_its_other_variants(
    bundle: Path, checkpoint_folder: Path, catalog_folder: Path, reuse_graphs: Callable[[], None]
) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    other = bundle / "variants" / "cpu-other"
    shutil.copytree(bundle / "variants" / "cpu-fp32", other)
    (other / "variant.json").write_text((other / "variant.json").read_text().replace('"cpu-fp32"', '"cpu-other"'))
    entry = {"bytes": (other / "variant.json").stat().st_size, "sha256": digest(other / "variant.json")}
    manifest["variants"].append("cpu-other")
    manifest["files"]["variants/cpu-other/variant.json"] = entry
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    for name in ("cpu-fp32", "cpu-other"):
        Policy.full_depth(3, manifest["files"][f"variants/{name}/variant.json"]["sha256"]).write(
            bundle / "variants" / name / "policy.json"
        )
    reuse_graphs()
    export_bundle(checkpoint_folder, catalog_folder, bundle, ExportOptions(golden_slates=2))
    kept, new = Bundle.open(bundle, "cpu-other"), Bundle.open(bundle)
    assert kept.manifest.variants == ("cpu-fp32", "cpu-other")
    assert kept.edited() == [] == new.edited()
    assert kept.policy() is not None and new.policy() is None


@pytest.mark.parametrize("other", ["checkpoint", "exits", "heads"])
def test_bundle_of_another_origin_is_refused(
    bundle: Path, checkpoint_folder: Path, catalog_folder: Path, tmp_path: Path, other: str
) -> None:
    before = digest(bundle / "manifest.json")
    different = tiny_checkpoint(tmp_path / "other", labels=LABELS, rms_norm_eps=1e-4)
    checkpoint = different if other == "checkpoint" else checkpoint_folder
    heads = r"choice of heads \(own, these are shared\)"
    args, said = {
        "checkpoint": ({}, "checkpoint;"),
        "exits": ({"exits": [2, 4], "head": "shared"}, f"{heads} and choice of exits;"),
        # The same exits: only whose heads they are differs, as in fp32 with one and int8 with the other.
        "heads": ({"precisions": ["int8"], "accept_loss": True, "head": "shared"}, f"{heads};"),
    }[other]
    with pytest.raises(InputError, match=f"bundle: holds a bundle made from another {said} remove it or choose another place"):
        export_bundle(checkpoint, catalog_folder, bundle, ExportOptions(**args))  # type: ignore[arg-type]
    assert digest(bundle / "manifest.json") == before and _names(bundle.parent) == ["bundle"]


def test_folder_that_is_no_bundle_is_never_replaced(checkpoint_folder: Path, catalog_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="exists and is not a bundle"):
        export_bundle(checkpoint_folder, catalog_folder, tmp_path)
    assert _names(tmp_path) == ["thesis.txt"]


def test_parity_above_the_tolerance_writes_nothing(
    checkpoint_folder: Path, catalog_folder: Path, tmp_path: Path, reuse_graphs: Callable[[], None]
) -> None:
    reuse_graphs()
    with pytest.raises(ParityError, match=r"exit after layer \d, \w+: .* nothing was written") as caught:
        export_bundle(checkpoint_folder, catalog_folder, tmp_path / "bundle", ExportOptions(tolerance=1e-12, golden_slates=2))
    assert caught.value.exit_code == 5
    assert _names(tmp_path) == []


def test_edited_catalog_is_refused(checkpoint_folder: Path, catalog_folder: Path, tmp_path: Path) -> None:
    catalog = Path(shutil.copytree(catalog_folder, tmp_path / "catalog"))
    table = bytearray((catalog / "pieces.safetensors").read_bytes())
    table[-4] ^= 1
    (catalog / "pieces.safetensors").write_bytes(table)
    with pytest.raises(RexitError, match=r"pieces.safetensors: SHA-256 .*edited"):
        export_bundle(checkpoint_folder, catalog, tmp_path / "bundle")
    assert _names(tmp_path) == ["catalog"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_position_embeddings": 62}, r"47 \+ 16 = 63 tokens .*, the model takes 62"),
        ({"vocab_size": 90}, "tokenizer has 95 tokens, the model's embeddings only 90"),
    ],
    ids=["prompt longer than the limit", "vocabulary too small"],
)
def test_model_that_does_not_fit_the_catalog(catalog_folder: Path, tmp_path: Path, changes: dict[str, int], said: str) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "checkpoint", labels=LABELS, **changes)
    with pytest.raises(InputError, match=said):
        export_bundle(checkpoint, catalog_folder, tmp_path / "bundle")
    assert _names(tmp_path) == ["checkpoint"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"max_tokens": 15}, "a candidate has up to 16 tokens, more than the 15"),
        ({"max_tokens": 0}, "expected at least 1"),
        ({"tolerance": 0.0}, "expected a number above 0"),
        ({"golden_slates": 0}, "expected at least 1"),
        ({"precisions": ["int3"]}, "no target 'cpu' with precision 'int3'"),
    ],
)
def test_options_out_of_range(
    checkpoint_folder: Path, catalog_folder: Path, tmp_path: Path, arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        export_bundle(checkpoint_folder, catalog_folder, tmp_path / "bundle", ExportOptions(**arguments))
    assert _names(tmp_path) == []


def test_labels_of_another_tokenizer(catalog_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="the catalog has"):
        export_bundle(tiny_checkpoint(tmp_path / "checkpoint"), catalog_folder, tmp_path / "bundle")


def test_unwritable_output(checkpoint_folder: Path, catalog_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file/bundle: cannot be written: "):
        export_bundle(checkpoint_folder, catalog_folder, tmp_path / "file" / "bundle")


def test_too_little_space_is_seen_before_the_work(
    checkpoint_folder: Path, catalog_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _path: usage._replace(free=1000))
    with pytest.raises(InputError, match=r"the bundle needs about \d+ MB, 0 MB are free"):
        export_bundle(checkpoint_folder, catalog_folder, tmp_path / "bundle")
    assert _names(tmp_path) == []


def test_disk_filling_up_in_the_middle(
    checkpoint_folder: Path, catalog_folder: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digest(bundle / "manifest.json")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(onnx_ir, "save", full)
    with pytest.raises(InputError, match="cannot be written: No space left on device"):
        export_bundle(checkpoint_folder, catalog_folder, bundle, ExportOptions(golden_slates=1))
    assert digest(bundle / "manifest.json") == before and _names(bundle.parent) == ["bundle"]


def test_write_that_the_system_cuts_short(checkpoint_folder: Path, catalog_folder: Path, tmp_path: Path) -> None:
    too_large = pytest.raises(InputError, match="cannot be written: File too large")
    with largest_file(50_000), too_large:  # the first segment's weights are larger
        export_bundle(checkpoint_folder, catalog_folder, tmp_path / "bundle", ExportOptions(golden_slates=1))
    assert _names(tmp_path) == []


def test_ctrl_c_leaves_the_old_bundle(checkpoint_folder: Path, catalog_folder: Path, bundle: Path) -> None:
    before = digest(bundle / "manifest.json")

    def interrupt(stage: str, done: int, _total: int) -> None:
        if (stage, done) == ("segments", 1):
            assert len(_names(bundle.parent)) == 2  # it was being written
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_bundle(checkpoint_folder, catalog_folder, bundle, ExportOptions(golden_slates=1), progress=interrupt)
    assert digest(bundle / "manifest.json") == before and _names(bundle.parent) == ["bundle"]


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(checkpoint_folder: Path, catalog_folder: Path) -> Iterator[Start]:
    """Starts `rexit export --out OUT …` and waits until it has graphs to write."""
    started = []

    def run(out: Path, *options: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*COMMAND, str(checkpoint_folder), "--catalog", str(catalog_folder), "--out", str(out), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
        )
        started.append(process)
        deadline = time.monotonic() + 120
        while not list(out.parent.glob(f".{out.name}.tmp/new/variants/*")) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_signals_on_the_command_line(start: Start, bundle: Path, number: signal.Signals, code: int) -> None:
    before = digest(bundle / "manifest.json")
    process = start(bundle)
    assert _names(bundle.parent) == [".bundle.tmp", "bundle"]
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert output == "" and errors == "rexit: interrupted; nothing was left half-written\n"
    assert digest(bundle / "manifest.json") == before and _names(bundle.parent) == ["bundle"]


def test_a_killed_export_is_cleaned_up_by_the_next(
    start: Start, checkpoint_folder: Path, catalog_folder: Path, bundle: Path, reuse_graphs: Callable[[], None]
) -> None:
    reuse_graphs()
    process = start(bundle)
    process.kill()
    process.wait()
    assert _names(bundle.parent) == [".bundle.tmp", "bundle"]
    export_bundle(checkpoint_folder, catalog_folder, bundle, ExportOptions(golden_slates=1))
    assert _names(bundle.parent) == ["bundle"]


@pytest.mark.parametrize("there", [False, True], ids=["new", "there already"])
def test_two_exports_into_one_bundle(
    start: Start,
    checkpoint_folder: Path,
    catalog_folder: Path,
    bundle: Path,
    there: bool,
    reuse_graphs: Callable[[], None],
) -> None:
    """The second is refused while the first one works, and adds its variant afterwards: none is lost."""
    reuse_graphs()
    if not there:
        shutil.rmtree(bundle)
    first = start(bundle, "--precision", "fp32", "--golden", "1")
    arguments: dict[str, Any] = {"precisions": ["int8"], "golden_slates": 1, "accept_loss": True}
    with pytest.raises(InputError, match="bundle: another process is writing to it; try again when it has finished"):
        export_bundle(checkpoint_folder, catalog_folder, bundle, ExportOptions(**arguments))
    assert first.wait(timeout=120) == 0, first.communicate()
    export_bundle(checkpoint_folder, catalog_folder, bundle, ExportOptions(**arguments))
    assert Bundle.open(bundle).manifest.variants == ("cpu-fp32", "cpu-int8")
    assert _names(bundle.parent) == ["bundle"]


def test_nothing_is_exported_into_a_bundle_that_is_being_calibrated(
    checkpoint_folder: Path, catalog_folder: Path, bundle: Path
) -> None:
    with sole_writer(bundle), pytest.raises(InputError, match="bundle: another process is writing to it"):
        export_bundle(checkpoint_folder, catalog_folder, bundle)
    assert _names(bundle.parent) == ["bundle"]


def test_command(checkpoint_folder: Path, catalog_folder: Path, tmp_path: Path, reuse_graphs: Callable[[], None]) -> None:
    reuse_graphs()
    arguments = ["export", str(checkpoint_folder), "--catalog", str(catalog_folder), "--golden", "2"]
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "a")])
    assert result.exit_code == 0, result.output
    assert "0-1" in result.output and "2-4" in result.output and "Variant cpu-fp32" in result.output
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "b"), "--exits", "1,2,4", "--json"])
    report = json.loads(result.stdout)
    assert report["exits"] == [1, 2, 4] and [v["name"] for v in report["variants"]] == ["cpu-fp32"]
    variant = report["variants"][0]
    assert len(variant["segments"]) == len(variant["parity"]) == 3
    assert all(segment["bytes"] > 4 * segment["parameters"] * 0.9 for segment in variant["segments"])


@pytest.mark.parametrize("exits", ["2;4", "two", ""])
def test_exits_that_are_no_numbers(checkpoint_folder: Path, catalog_folder: Path, tmp_path: Path, exits: str) -> None:
    result = CliRunner().invoke(
        app, ["export", str(checkpoint_folder), "--catalog", str(catalog_folder), "--out", str(tmp_path / "a"), "--exits", exits]
    )
    assert isinstance(result.exception, InputError) and "expected depths in layers, e.g. 2,4,6" in str(result.exception)
