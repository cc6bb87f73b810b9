"""`rexit compile` on the tiny bundle: TensorRT-RTX really compiles it (compiled, not run); TensorRT and the GPU are doubles."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import helper

import tiny_bundle
from limits import largest_file
from rexit.bundle import Bundle, Engine, FileEntry, OptimizationProfile, digest, sole_writer
from rexit.errors import BackendError, BundleError, InputError
from rexit.exporter.compile import CompileReport, VariantBuild, compile_engines, optimization_profiles
from tensorrt_bundle import VARIANT, add_tensorrt_variant, write_tensorrt_bundle
from tensorrt_doubles import Doubles
from tiny_bundle import MAX_TOKENS, PROGRAM, refresh

MOST_PREFIX = PROGRAM["max_prefix_tokens"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tensorrt_bundle(tmp_path_factory.mktemp("tensorrt"))


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "bundle"))


@pytest.fixture(scope="module")
def compiled_bundle(made: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CompileReport]:
    path = Path(shutil.copytree(made, tmp_path_factory.mktemp("compiled") / "bundle"))
    return path, compile_engines(path, compute_capability="8.6")


@pytest.fixture
def compiled(compiled_bundle: tuple[Path, CompileReport], tmp_path: Path) -> Path:
    return Path(shutil.copytree(compiled_bundle[0], tmp_path / "bundle"))


def engines(bundle: Path, variant: str = VARIANT) -> Path:
    return bundle / "variants" / variant / "engines"


def files(folder: Path) -> dict[str, str]:
    """Everything under a folder, hidden files too."""
    return {str(p.relative_to(folder)): digest(p) for p in folder.rglob("*") if p.is_file()}


def build(bundle: Path, **options: object) -> VariantBuild:
    (built,) = compile_engines(bundle, **{"compute_capability": "8.6", **options}).variants  # type: ignore[arg-type]
    return built


class TestRtx:
    def test_engines_are_what_engine_json_says(self, compiled_bundle: tuple[Path, CompileReport]) -> None:
        path, report = compiled_bundle
        bundle = Bundle.open(path, VARIANT)
        (built,) = report.variants
        engine = Engine.read(Path(built.folder))
        assert (report.builder, report.gpu, report.compute_capability) == ("tensorrt_rtx", None, "8.6")
        assert built.key == engine.key == f"sm86-rtx{report.version}" and not built.up_to_date
        assert engine.stale(bundle.variant) is None and engine.edited(Path(built.folder)) == []
        assert set(engine.files) == {"segment-0.plan", "segment-1.plan", "segment-2.plan"}
        assert sorted(p.name for p in Path(built.folder).iterdir()) == ["engine.json", *sorted(engine.files)]
        for k, (segment, told) in enumerate(zip(engine.segments, built.segments, strict=True)):
            assert segment.context is None and segment.profiles == optimization_profiles(bundle)
            assert segment.layers == told.engine_layers > 10 and told.seconds > 0
            assert segment.summary == told.summary
            assert told.bytes == engine.files[f"segment-{k}.plan"].bytes > 1000
            assert told.peak_bytes is not None and 50e6 < told.peak_bytes < 2e9
        # queries, keys and values become one product; attention, in float32, two; then out, up, down; the head: in each profile
        assert [s.summary for s in engine.segments] == [{"fp32 gemm": 2 * n} for n in (7, 7, 13)]

    def test_profiles(self, made: Path) -> None:
        """The limits and the catalog give the most, golden slates what is usual. No profile runs from no prefix to some."""
        bundle = Bundle.open(made, VARIANT)
        empty, behind = optimization_profiles(bundle)
        most = max(MAX_TOKENS, MOST_PREFIX)
        prefixes = sorted(len(slate.prefix) for slate in bundle.golden().slates)
        assert empty == OptimizationProfile((1, prefixes[len(prefixes) // 2], most), (0, 0, 0), (1, 1, MAX_TOKENS))
        assert behind.prefix == (1, prefixes[len(prefixes) // 2], MOST_PREFIX)
        assert behind.tokens[::2] == (1, most) and behind.rows[::2] == (1, MAX_TOKENS)
        lengths = sorted(len(tokens) for slate in bundle.golden().slates for tokens in slate.candidates)
        assert behind.rows[1] == MAX_TOKENS // lengths[len(lengths) // 2] >= 1
        assert behind.tokens[1] == behind.rows[1] * lengths[len(lengths) // 2] <= MAX_TOKENS
        roomy = dataclasses.replace(bundle, variant=dataclasses.replace(bundle.variant, max_tokens=4096))
        assert optimization_profiles(roomy)[1].rows == (1, 20, 4096)
        (one,) = optimization_profiles(bundle, onnxruntime=True)
        assert (one.tokens, one.prefix[::2], one.rows) == (behind.tokens, (0, MOST_PREFIX), behind.rows)

    def test_without_prefixes_there_are_slates_alone(self, made: Path) -> None:
        bundle = Bundle.open(made, VARIANT)
        slate = optimization_profiles(bundle)[1]
        bundle.catalog.info["prompt"]["max_prefix_tokens"] = 0
        (only,) = optimization_profiles(bundle)
        assert only.prefix == (0, 0, 0) and only.rows == slate.rows

    def test_up_to_date_until_something_changes(self, compiled: Path) -> None:
        before = files(engines(compiled))
        assert build(compiled).up_to_date and files(engines(compiled)) == before
        again = build(compiled, force=True)
        assert not again.up_to_date and len(again.segments) == 3

    @pytest.mark.parametrize("damage", ["weights", "limits", "plan", "engine.json"])
    def test_built_anew_when_it_is_not_what_it_was(self, compiled: Path, damage: str) -> None:
        part = compiled / "variants" / VARIANT
        (folder,) = (path for path in engines(compiled).iterdir())
        if damage == "weights":
            data = part / "segment-1.onnx.data"
            data.write_bytes(data.read_bytes()[:-4] + b"\0\0\0\1")
        elif damage == "limits":
            variant = json.loads((part / "variant.json").read_text())
            variant["limits"]["max_tokens"] = MAX_TOKENS + 1
            tiny_bundle.write_json(part / "variant.json", variant)
        elif damage == "plan":
            plan = folder / "segment-0.plan"
            plan.write_bytes(b"X" + plan.read_bytes()[1:])
        else:
            (folder / "engine.json").write_text("{")
        refresh(compiled, VARIANT)
        assert not build(compiled).up_to_date
        assert build(compiled).up_to_date

    def test_engines_for_several_gpus_side_by_side(self, compiled: Path) -> None:
        before = files(engines(compiled))
        build(compiled, compute_capability="12.0")
        after = files(engines(compiled))
        assert {path.parent.name[:4] for path in engines(compiled).glob("*/engine.json")} == {"sm86", "sm12"}
        assert before.items() <= after.items()

    def test_several_variants(self, bundle: Path) -> None:
        add_tensorrt_variant(bundle, "tensorrt-other")
        report = compile_engines(bundle, compute_capability="8.6")
        assert [v.variant for v in report.variants] == [VARIANT, "tensorrt-other"]
        shutil.rmtree(engines(bundle))
        report = compile_engines(bundle, [VARIANT, "tensorrt-other", VARIANT], compute_capability="8.6")
        assert [(v.variant, v.up_to_date) for v in report.variants] == [(VARIANT, False), ("tensorrt-other", True)]

    def test_progress_tells_of_each_segment(self, bundle: Path) -> None:
        told: list[tuple[str, int, int]] = []
        compile_engines(bundle, compute_capability="8.6", progress=lambda *words: told.append(words))
        assert [t for t in told if t[0].endswith("compiling")] == [(f"{VARIANT}, segment {k}: compiling", k, 3) for k in range(3)]


class TestTensorrtDouble:
    """How TensorRT is called, and what is made of what it gives. Nothing is compiled here."""

    @pytest.fixture
    def doubles(self, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Doubles:
        (tmp_path / "doubles").mkdir()
        doubles = Doubles(tmp_path / "doubles", monkeypatch)
        doubles.add_gpu()
        doubles.expect(bundle / "variants" / VARIANT)
        return doubles

    def test_calls_and_engine(self, bundle: Path, doubles: Doubles) -> None:
        report = compile_engines(bundle, workspace_bytes=1 << 30)
        (built,) = report.variants
        assert (report.builder, report.version, report.gpu, built.key) == ("tensorrt", "10.3.0", "Orin", "sm87-trt10.3.0")
        assert doubles.calls("create_network") == [[2]] * 3  # strongly typed
        assert doubles.calls("parse_from_file") == [[f"segment-{k}.onnx"] for k in range(3)]
        assert doubles.calls("build_serialized_network") == [[2]] * 3  # detailed
        assert doubles.calls("set_memory_pool_limit") == [["workspace", 1 << 30]] * 3
        for (shapes,), profile in zip(  # of the first segment
            doubles.calls("add_optimization_profile")[:2], optimization_profiles(Bundle.open(bundle, VARIANT)), strict=True
        ):
            assert shapes == {
                **{name: [[size] for size in profile.tokens] for name in ("ids", "place", "owner")},
                "read": [[size] for size in profile.rows],
                **{name: [[2, size, 8] for size in profile.prefix] for name in ("pk0", "pv0")},
            }
        assert len(doubles.calls("add_optimization_profile")) == 6
        engine = Engine.read(Path(built.folder))
        assert (engine.gpu, engine.compute_capability) == ("Orin", "8.7")
        assert [(s.layers, s.summary) for s in engine.segments] == [(3, {"fp16 gemm": 1, "gemm_mha_v2": 1})] * 3
        assert engine.command == f"rexit compile BUNDLE --variant {VARIANT}"
        for k, segment in enumerate(engine.segments):
            assert (segment.plan, segment.context) == (f"segment-{k}.plan", None)
            assert (Path(built.folder) / segment.plan).read_bytes() == b"plan"
        assert compile_engines(bundle).variants[0].up_to_date

    def test_for_onnxruntime_there_is_one_profile_and_a_graph(self, bundle: Path, doubles: Doubles) -> None:
        """Its TensorRT provider stays in an engine's first profile."""
        compile_engines(bundle)
        (built,) = compile_engines(bundle, onnxruntime=True).variants
        assert not built.up_to_date and len(doubles.calls("add_optimization_profile")) == 6 + 3
        engine = Engine.read(Path(built.folder))
        for k, segment in enumerate(engine.segments):
            assert segment.context == f"segment-{k}.context.onnx" and segment.profiles[0].prefix[::2] == (0, MOST_PREFIX)
            (node,) = onnx.load(Path(built.folder) / f"segment-{k}.context.onnx").graph.node
            assert helper.get_node_attr_value(node, "ep_cache_context") == b"segment-%d.plan" % k
        assert compile_engines(bundle, onnxruntime=True).variants[0].up_to_date
        assert not compile_engines(bundle).variants[0].up_to_date

    def test_timing_cache_goes_from_segment_to_segment_and_build_to_build(self, bundle: Path, doubles: Doubles) -> None:
        compile_engines(bundle)
        assert doubles.calls("set_timing_cache") == [["", False], ["+", False], ["++", False]]
        assert not compile_engines(bundle, force=True).variants[0].warnings
        assert doubles.calls("set_timing_cache")[3:] == [["+++", False], ["++++", False], ["+++++", False]]
        names = sorted(path.name for path in engines(bundle).iterdir())
        assert names == ["sm87-trt10.3.0", "timing-sm87-trt10.3.0.cache"]

    @pytest.mark.parametrize("damage", [b"short", b"long enough to hold a digest, which it does not"])
    def test_damaged_timing_cache_is_ignored(self, bundle: Path, doubles: Doubles, damage: bytes) -> None:
        compile_engines(bundle)
        (engines(bundle) / "timing-sm87-trt10.3.0.cache").write_bytes(damage)
        (built,) = compile_engines(bundle, force=True).variants
        assert [line.split("/")[-1] for line in built.warnings] == ["timing-sm87-trt10.3.0.cache: damaged timing cache, ignored"]
        assert doubles.calls("set_timing_cache")[3:] == [["", False], ["+", False], ["++", False]]

    def test_timing_cache_of_another_tensorrt_is_ignored(self, bundle: Path, doubles: Doubles) -> None:
        import hashlib

        engines(bundle).mkdir()
        data = b"foreign"
        (engines(bundle) / "timing-sm87-trt10.3.0.cache").write_bytes(hashlib.sha256(data).digest() + data)
        (built,) = compile_engines(bundle).variants
        assert len(built.warnings) == 1 and built.warnings[0].endswith("timing cache of another TensorRT or GPU, ignored")
        assert doubles.calls("set_timing_cache") == [["foreign", False], ["", False], ["+", False], ["++", False]]

    def test_another_gpu_of_the_same_capability(self, bundle: Path, doubles: Doubles) -> None:
        """A plan for one Orin is not one for another Orin."""
        (built,) = compile_engines(bundle).variants
        path = Path(built.folder) / "engine.json"
        path.write_text(path.read_text().replace('"Orin"', '"Orin Nano"'))
        assert not compile_engines(bundle).variants[0].up_to_date

    @pytest.mark.parametrize(
        ("at", "message"),
        [
            ("parse", "TensorRT 10.3.0 cannot build it: In node 3 (importX): UNSUPPORTED_NODE"),
            ("build", "cannot build it: Error Code 10: Internal Error (Could not find any implementation for node X.)"),
            ("kill", "the builder ended by SIGKILL at "),
        ],
    )
    def test_failure_is_one_line_and_old_engines_stay(self, bundle: Path, doubles: Doubles, at: str, message: str) -> None:
        compile_engines(bundle)
        before = files(engines(bundle))
        doubles.fail(at)
        with pytest.raises(BackendError) as caught:
            compile_engines(bundle, force=True)
        text = str(caught.value)
        assert text.startswith(f"{VARIANT}, segment 0 (segment-0.onnx): ") and message in text and "\n" not in text
        assert ("probably out of memory" in text) == (at == "kill")
        assert files(engines(bundle)) == before

    def test_onnx_is_missed_before_anything_is_built(
        self, bundle: Path, doubles: Doubles, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import importlib.util

        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(BackendError, match=r"`onnx`, which .*, is missing: pip install 'rexit\[tensorrt\]'"):
            compile_engines(bundle, onnxruntime=True)
        assert doubles.calls("create_network") == []


class TestBadInput:
    def test_variant_that_is_not_tensorrts(self, bundle: Path) -> None:
        with pytest.raises(InputError, match=r"variant 'cpu-fp32' is for 'cpu', engines are for `tensorrt` variants"):
            compile_engines(bundle, [VARIANT, "cpu-fp32"], compute_capability="8.6")

    def test_unknown_variant(self, bundle: Path) -> None:
        with pytest.raises(InputError, match=r"no variant 'tensorrt-fp8', there are: cpu-fp32, tensorrt-fp32"):
            compile_engines(bundle, ["tensorrt-fp8"], compute_capability="8.6")

    def test_bundle_without_tensorrt_variants(self, tmp_path: Path) -> None:
        from served_bundle import write_served_bundle

        folder, _ = write_served_bundle(tmp_path)
        with pytest.raises(InputError, match=r"no variant for TensorRT, there are: cpu-fp32; `rexit export --target tensorrt`"):
            compile_engines(folder, compute_capability="8.6")

    def test_edited_graph_is_not_compiled(self, bundle: Path) -> None:
        path = bundle / "variants" / VARIANT / "segment-2.onnx.data"
        path.write_bytes(path.read_bytes()[:-1] + b"\7")
        with pytest.raises(BundleError, match=r"segment-2\.onnx\.data: SHA-256 .* \(edited\)"):
            compile_engines(bundle, compute_capability="8.6")

    def test_fp8_for_a_gpu_that_has_none(self, bundle: Path) -> None:
        add_tensorrt_variant(bundle, "tensorrt-fp8")
        part = bundle / "variants" / "tensorrt-fp8" / "variant.json"
        part.write_text(part.read_text().replace('"precision": "fp32"', '"precision": "fp8"'))
        refresh(bundle, "tensorrt-fp8")
        with pytest.raises(InputError, match=r"tensorrt-fp8 needs compute capability 8\.9 or higher, engines would be for 8\.6"):
            compile_engines(bundle, compute_capability="8.6")
        assert not engines(bundle).exists()

    def test_onnxruntime_runs_no_engines_of_rtx(self, bundle: Path) -> None:
        with pytest.raises(InputError, match=r"ONNX Runtime's TensorRT provider cannot run engines of TensorRT-RTX"):
            compile_engines(bundle, compute_capability="8.6", onnxruntime=True)

    def test_workspace_of_nothing(self, bundle: Path) -> None:
        with pytest.raises(InputError, match="workspace is 0 bytes"):
            compile_engines(bundle, compute_capability="8.6", workspace_bytes=0)


def spoil(bundle: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    """Another second segment, with its digests: what an exporter's fault would be."""
    path = bundle / "variants" / VARIANT / "segment-1.onnx"
    model = onnx.load(path, load_external_data=False)
    change(model)
    onnx.save(model, path)
    refresh(bundle, VARIANT)


class TestFailure:
    """TensorRT-RTX and the machine fail; the engines that were there before stay as they were."""

    def refused(self, bundle: Path, error: type[Exception], python: str | None = None) -> str:
        before = files(engines(bundle))
        assert before
        with pytest.raises(error) as caught:
            compile_engines(bundle, compute_capability="8.6", python=python, force=True)
        assert files(engines(bundle)) == before
        assert sorted(p.name for p in engines(bundle).iterdir()) == sorted({Path(name).parts[0] for name in before})
        text = str(caught.value)
        assert "\n" not in text
        return text

    def test_node_it_does_not_know(self, compiled: Path) -> None:
        def rename(model: onnx.ModelProto) -> None:
            next(node for node in model.graph.node if node.op_type == "Softmax").op_type = "Softmaxx"

        spoil(compiled, rename)
        text = self.refused(compiled, BackendError)
        assert text.startswith(f"{VARIANT}, segment 1 (segment-1.onnx): TensorRT-RTX ")
        assert "cannot build it: " in text and "Softmaxx" in text

    def test_types_that_do_not_fit(self, compiled: Path) -> None:
        def halve(model: onnx.ModelProto) -> None:
            model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16

        spoil(compiled, halve)
        text = self.refused(compiled, BackendError)
        assert "segment 1" in text and "must have same input types" in text and "Half" in text

    def test_input_that_the_graph_has_not(self, compiled: Path) -> None:
        part = compiled / "variants" / VARIANT / "variant.json"
        part.write_text(part.read_text().replace('"owner"', '"proprietor"'))
        refresh(compiled, VARIANT)
        assert "the graph's inputs are ['ids', 'owner'" in self.refused(compiled, BackendError)

    def test_out_of_memory(self, compiled: Path, tmp_path: Path) -> None:
        """For real: an address space in which the compiler starts and does not get through."""
        python = tmp_path / "python"
        python.write_text(f'#!/bin/sh\nulimit -v 450000\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
        text = self.refused(compiled, BackendError, str(python))
        assert "segment 0" in text and "probably out of memory: stop other programs, add swap, or export with more exits" in text

    @pytest.mark.parametrize(("name", "memory"), [("KILL", True), ("SEGV", False)])
    def test_builder_that_dies(self, compiled: Path, tmp_path: Path, name: str, memory: bool) -> None:
        """The kernel's out-of-memory killer sends SIGKILL."""
        python = tmp_path / "python"
        python.write_text(
            f'#!/bin/sh\nrequest=$(cat)\ncase "$request" in *\'"do": "build"\'*segment-1.plan*) kill -{name} $$;; esac\n'
            f'printf %s "$request" | exec {sys.executable} "$@"\n'
        )
        python.chmod(0o755)
        text = self.refused(compiled, BackendError, str(python))
        assert f"segment 1 (segment-1.onnx): the builder ended by SIG{name} at " in text and " MB" in text
        assert ("probably out of memory" in text) == memory

    def test_full_disk(self, compiled: Path) -> None:
        with largest_file(100_000):
            text = self.refused(compiled, InputError)
        assert "segment 0 (segment-0.onnx): the plan cannot be written: " in text and "File too large" in text

    def test_nothing_is_compiled_into_a_bundle_that_is_being_written(self, compiled: Path) -> None:
        before = files(engines(compiled))
        with sole_writer(compiled):
            text = self.refused(compiled, InputError)
        assert text.endswith("another process is writing to it; try again when it has finished")
        assert files(engines(compiled)) == before

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_signals(self, compiled: Path, number: signal.Signals, code: int) -> None:
        """A real one, on the command line, while a segment is being built; the builder ends too."""
        before = files(engines(compiled))
        command = [sys.executable, "-c", "from rexit.cli import main; main()", "compile", str(compiled)]
        process = subprocess.Popen(
            [*command, "--compute-capability", "8.6", "--force"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
        )
        deadline = time.monotonic() + 60
        while not list(engines(compiled).glob(".*/new/segment-0.plan")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        builders = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
        assert process.returncode == code and output == ""
        assert errors == "rexit: interrupted; nothing was left half-written\n"
        assert files(engines(compiled)) == before
        assert builders
        while any(map(running, builders)):  # one started in that very moment dies with its parent, which nobody waits for
            assert time.monotonic() < deadline
            time.sleep(0.005)


def running(pid: str) -> bool:
    """Not so a process that has ended and whose parent, perhaps init, has not asked for it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_engine_json_lists_the_bytes_on_disk(compiled: Path) -> None:
    (folder,) = engines(compiled).iterdir()
    value = json.loads((folder / "engine.json").read_text())
    assert value["files"] == {p.name: FileEntry.of(p).to_json() for p in folder.glob("*.plan")}
    assert value["gpu"] == {"name": None, "compute_capability": "8.6"} and value["variant"] == VARIANT
