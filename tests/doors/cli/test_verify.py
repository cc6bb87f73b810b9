"""`rexit verify`: what it finds in a bundle that was changed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from builders.bundles.bundle_files import refresh
from builders.bundles.variants import TENSORRT_HALF, add_variant
from builders.policies import full_depth
from rexit import runtime
from rexit.errors import BackendError
from running.command import Ended, Run, assert_one_line, calibrate


def checks(ended: Ended) -> dict[str, str]:
    return {c["name"]: c["outcome"] for c in ended.json["checks"]}


def failures_of(ended: Ended, name: str) -> list[str]:
    return next(c["failures"] for c in ended.json["checks"] if c["name"] == name)


@pytest.mark.medium
def test_whole_bundle_passes(run: Run, place: Path) -> None:
    calibrate(run, place)
    ended = run("verify", place / "bundle", "--json")
    assert ended.code == 0 and ended.json["ok"]
    assert checks(ended) == dict.fromkeys(
        ("digests", "traces", "reference", "rows", "policy", "prompts", "log-odds", "exit decisions"), "ok"
    )
    assert "All checks passed." in run("verify", place / "bundle").out
    traces = place / "bundle" / "variants" / "cpu-fp32" / "traces.safetensors"
    for at in (-1, traces.read_bytes().index(b"prefix_tokens")):
        flip(traces, at)
        ended = run("verify", place / "bundle", "--json")
        assert ended.code == 8, "the next calibration --from-traces takes them for what the variant computes"
        assert "traces.safetensors" in failures_of(ended, "traces")[0] and "SHA-256" in failures_of(ended, "traces")[0]
        flip(traces, at)


@pytest.mark.medium
def test_the_policy_is_calibration_s(run: Run, place: Path) -> None:
    calibrate(run, place)
    policy = place / "bundle" / "variants" / "cpu-fp32" / "policy.json"
    policy.write_text(policy.read_text().replace('"patience": 1', '"patience": 2'))
    for state in ("SHA-256", "missing"):
        ended = run("verify", place / "bundle", "--json")
        assert ended.code == 8 and checks(ended) == {"digests": "ok", "traces": "ok", "reference": "ok", "policy": "FAILED"}
        assert f"policy.json: {state}" in failures_of(ended, "policy")[0]
        policy.unlink(missing_ok=True)


def flip(path: Path, at: int = -5) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize(
    "name", ["catalog/items.safetensors", "variants/cpu-fp32/segment-0.onnx.data", "variants/cpu-fp32/golden.safetensors"]
)
def test_edited_file(run: Run, place: Path, name: str) -> None:
    flip(place / "bundle" / name)
    ended = run("verify", place / "bundle")
    assert ended.code == 8
    failed = [line for line in ended.out.splitlines() if line.startswith("FAILED ")]
    assert len(failed) == 1 and name in failed[0] and "(edited)" in failed[0]


def test_weights_that_are_not_the_exported_ones(run: Run, place: Path) -> None:
    """Digests recorded anew over a spoilt weight: only the golden samples can tell."""
    data = place / "bundle" / "variants" / "cpu-fp32" / "segment-1.onnx.data"
    weights = np.frombuffer(data.read_bytes(), np.float32).copy()
    weights[: len(weights) // 2] *= 1.5
    data.write_bytes(weights.tobytes())
    refresh(place / "bundle")
    ended = run("verify", place / "bundle", "--json")
    assert ended.code == 8
    assert [n for n, outcome in checks(ended).items() if outcome != "ok"] == ["log-odds"]
    failures = failures_of(ended, "log-odds")
    assert len(failures) == 4 and all("log-odds" in line and "exit 0" not in line for line in failures)


def test_runtime_that_decides_otherwise(run: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library finds it (tests/cpp/session/test_decisions.cpp); here its line fails a check."""
    real = runtime.Session.check_golden

    def contradicted(self: runtime.Session, slate: int) -> Any:
        check = real(self, slate)
        values = {
            name: getattr(check, name) for name in ("slates", "tolerance", "worst", "prompt", "log_odds", "trace", "decision")
        }
        return SimpleNamespace(**values | ({"decision": f"golden slate {slate}: stopped"} if slate == 2 else {}))

    assert run("verify", place / "bundle").code == 0
    monkeypatch.setattr(runtime.Session, "check_golden", contradicted)
    ended = run("verify", place / "bundle", "--json")
    assert ended.code == 8
    assert [n for n, outcome in checks(ended).items() if outcome != "ok"] == ["exit decisions"]
    assert failures_of(ended, "exit decisions") == ["cpu-fp32: golden slate 2: stopped"]


def test_policy_of_another_variant(run: Run, place: Path) -> None:
    full_depth(3, "f" * 64).write(place / "bundle" / "variants" / "cpu-fp32" / "policy.json")
    ended = run("verify", place / "bundle", "--json")
    assert ended.code == 8 and checks(ended) == {"digests": "ok", "policy": "FAILED"}


def test_backend_that_is_not_here(run: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*words: Any, **keywords: Any) -> Any:
        error = BackendError("no TensorRT on this machine")
        error.status = "REXIT_BACKEND_MISSING"
        raise error

    monkeypatch.setattr(runtime, "open", missing)
    ended = run("verify", place / "bundle", "--json")
    assert ended.code == 0 and checks(ended)["golden samples"] == "skipped"
    assert run("verify", place / "bundle", "--variant", "cpu-fp32").code == 8


def test_device(run: Run, place: Path) -> None:
    bundle = place / "bundle"
    add_variant(bundle, TENSORRT_HALF)
    ended = run("verify", bundle, "--json")
    skipped = {c["name"]: c for c in ended.json["checks"] if c["outcome"] == "skipped"}
    assert ended.code == 0 and {c["variant"] for c in skipped.values()} == {TENSORRT_HALF}
    assert list(skipped) == ["engines", "golden samples"]
    assert skipped["golden samples"]["detail"].endswith("; --device cpu checks the graphs on the CPU")
    ended = run("verify", bundle, "--device", "cpu", "--json")
    assert ended.code == 0 and [c["name"] for c in ended.json["checks"] if c["outcome"] == "skipped"] == ["engines"]
    assert run("verify", bundle, "--variant", TENSORRT_HALF).code == 8
    assert run("verify", bundle, "--device", "cuda").code == 8
    words = ("--variant", TENSORRT_HALF, "--device", "cpu", "--json")
    assert run("bench", bundle, "--requests", 2, "--slate", 3, *words).json["device"] == "cpu"
    assert_one_line(run("bench", bundle, "--variant", "cpu-fp32", "--device", "npu"), 2, "`npu`")


def test_no_bundle_and_no_variant(run: Run, place: Path) -> None:
    assert run("verify", place / "none").code == 8
    assert_one_line(run("verify", place / "bundle", "--variant", "gpu"), 2, "no variant 'gpu'")
