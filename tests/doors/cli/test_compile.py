"""`rexit compile` on the command line, and what `inspect` and `verify` say of engines. TensorRT-RTX compiles; nothing is run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from builders.bundles.bundle_files import refresh
from builders.bundles.held_out import write_ranked
from builders.bundles.variants import TENSORRT
from rexit.doors.cli import app
from rexit.errors import RexitError
from rexit.format.bundle import Bundle


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    bundle = write_ranked(tmp_path_factory.mktemp("tensorrt"), variants=(TENSORRT,)).bundle
    return bundle, run("compile", bundle, "--compute-capability", "8.6")


@pytest.fixture
def bundle(compiled: tuple[Path, Result], tmp_path: Path) -> Path:
    return Path(shutil.copytree(compiled[0], tmp_path / "bundle"))


def engine(bundle: Path) -> Path:
    (folder,) = (bundle / "variants" / TENSORRT / "engines").iterdir()
    return folder


def make_stale(bundle: Path) -> None:
    data = bundle / "variants" / TENSORRT / "segment-1.onnx.data"
    data.write_bytes(data.read_bytes()[:-1] + b"\7")
    refresh(bundle, TENSORRT)


@pytest.mark.medium
def test_table_says_compiled_and_not_run(compiled: tuple[Path, Result]) -> None:
    bundle, result = compiled
    assert result.exit_code == 0, result.output
    assert f"Variant {TENSORRT}: engines/{engine(bundle).name}" in result.output
    assert all(layers in result.output for layers in ("0-1", "1-2", "2-4"))
    assert "for compute capability 8.6, without a GPU: compiled, not run" in result.output


@pytest.mark.medium
def test_up_to_date_and_json(bundle: Path) -> None:
    result = run("compile", bundle, "--compute-capability", "8.6")
    assert result.exit_code == 0 and f"{engine(bundle)}: up to date, " in result.output
    before = Bundle.open(bundle, TENSORRT).variant_sha256
    report = json.loads(run("compile", bundle, "--compute-capability", "8.6", "--variant", TENSORRT, "--force", "--json").stdout)
    assert report["compute_capability"] == "8.6" and report["gpu"] is None
    (variant,) = report["variants"]
    assert variant["variant"] == TENSORRT and not variant["up_to_date"]
    assert [segment["layers"] for segment in variant["segments"]] == [[0, 1], [1, 2], [2, 4]]
    assert all(s["peak_bytes"] > 50e6 and s["summary"]["fp32 gemm"] for s in variant["segments"])
    after = Bundle.open(bundle, TENSORRT)
    assert after.variant_sha256 == before and after.edited() == [], "nothing that a policy is bound to changes"


@pytest.mark.medium
@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 6, "needs --compute-capability, one of 7.5"),
        (("--compute-capability", "8.7"), 6, "does not compile for 8.7"),
        (("--compute-capability", "8.6", "--variant", "cpu-fp32"), 2, "engines are for `tensorrt` variants"),
        (("--compute-capability", "8.6", "--variant", "gpu"), 2, "no variant 'gpu'"),
        (("--compute-capability", "8.6", "--python", "/none"), 2, "/none: cannot be run"),
    ],
)
def test_errors_are_one_line(bundle: Path, words: tuple[str, ...], code: int, message: str) -> None:
    result = run("compile", bundle, *words)
    assert isinstance(result.exception, RexitError) and result.exception.exit_code == code
    assert message in str(result.exception) and "\n" not in str(result.exception)


@pytest.mark.medium
def test_inspect_says_the_state(bundle: Path) -> None:
    def state() -> object:
        cpu, variant = json.loads(run("inspect", bundle, "--json").stdout)["variants"]
        assert cpu["engines"] == [] and [shown["key"] for shown in variant["engines"]] == [engine(bundle).name]
        return variant["engines"][0]["state"]

    assert state() == "current" and engine(bundle).name in run("inspect", bundle).output
    make_stale(bundle)
    assert state() == "stale"
    assert "it differs from the variant in segment 1's weights; rebuild it: rexit compile" in run("inspect", bundle).output
    (engine(bundle) / "engine.json").write_text("{")
    assert state() == "unreadable" and "not valid JSON" in run("inspect", bundle).output


class TestVerify:
    def check(self, bundle: Path, code: int) -> dict[str, object]:
        result = run("verify", bundle, "--json")
        assert result.exit_code == code, result.output
        (check,) = (c for c in json.loads(result.stdout)["checks"] if c["name"] == "engines")
        assert check["variant"] == TENSORRT
        return check

    @pytest.mark.medium
    def test_current_engines_pass_and_what_needs_tensorrt_is_skipped(self, bundle: Path) -> None:
        check = self.check(bundle, 0)
        assert (check["outcome"], check["detail"]) == ("ok", engine(bundle).name)
        checks = json.loads(run("verify", bundle, "--json").stdout)["checks"]
        golden = [c for c in checks if c["variant"] == TENSORRT and c["name"] == "golden samples"]
        assert [c["outcome"] for c in golden] == ["skipped"]
        assert str(golden[0]["detail"]).endswith("; --device cpu checks the graphs on the CPU")

    @pytest.mark.medium
    def test_stale(self, bundle: Path) -> None:
        make_stale(bundle)
        check = self.check(bundle, 8)
        assert check["outcome"] == "FAILED"
        (line,) = check["failures"]  # type: ignore[misc]
        command = f"rexit compile BUNDLE --variant {TENSORRT} --compute-capability 8.6"
        assert line.endswith(f"stale, it differs from the variant in segment 1's weights; rebuild it: {command}")

    @pytest.mark.medium
    def test_edited_and_truncated(self, bundle: Path) -> None:
        plan = engine(bundle) / "segment-2.plan"
        raw = plan.read_bytes()
        plan.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
        assert "(edited)" in str(self.check(bundle, 8)["failures"])
        plan.write_bytes(raw[:-1])
        assert "(truncated or edited)" in str(self.check(bundle, 8)["failures"])
