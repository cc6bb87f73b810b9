"""`rexit-run verify`: what it finds in a bundle that was changed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from builders.bundles.bundle_files import drop_catalog, edit_golden, golden_arrays
from builders.bundles.variants import TENSORRT_HALF, add_variant
from rexit.upkeep.checks import check_bundle
from running.command import Ended
from running.program import assert_one_error, run_program


def outcomes(ended: Ended) -> dict[str, str]:
    return {check["name"]: check["outcome"] for check in json.loads(ended.out)["checks"]}


def test_whole_bundle_passes(bundle: Path, string_bundle: Path) -> None:
    for folder in (bundle, string_bundle):
        ended = run_program("verify", folder, "--json")
        assert ended.code == 0 and json.loads(ended.out)["ok"], ended.out
        assert outcomes(ended) == dict.fromkeys(("digests", "prompts", "log-odds", "exit decisions"), "ok")
    assert "All checks passed." in run_program("verify", bundle).out


def test_with_a_provider(bundle: Path) -> None:
    """The tests' ONNX Runtime has AZURE beside the CPU's: it takes no operator of these graphs."""
    ended = run_program("verify", bundle, "--json", "--provider", "AZURE", "--threads", 1)
    assert ended.code == 0 and set(outcomes(ended).values()) == {"ok"}, ended.out
    ended = run_program("verify", bundle, "--provider", "QNN", "--json")
    assert ended.code == 8
    assert "provider `QNN`: " in ended.out
    for setting in ("device_type", "=CPU"):
        ended = run_program("verify", bundle, "--provider", "AZURE", f"--provider-option={setting}")
        assert_one_error(ended, 2, f"`{setting}`, expected KEY=VALUE")


def test_edited_file(spoilt: Path) -> None:
    path = spoilt / "catalog" / "items.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    ended = run_program("verify", spoilt)
    failed = [line for line in ended.out.splitlines() if line.startswith("FAILED ")]
    assert ended.code == 8 and len(failed) == 1 and "catalog/items.safetensors" in failed[0]


def test_no_bundle(tmp_path: Path) -> None:
    ended = run_program("verify", tmp_path / "none", "--json")
    assert ended.code == 8 and outcomes(ended) == {"structure": "FAILED"}


def test_other_prompts_and_other_log_odds(spoilt: Path) -> None:
    golden = golden_arrays(spoilt)
    golden["candidate_tokens"][-1] += 1
    golden["log_odds"][2, 1] = np.nan
    edit_golden(spoilt, **golden)
    ended = run_program("verify", spoilt, "--json")
    assert ended.code == 8 and outcomes(ended) == {
        "digests": "ok",
        "prompts": "FAILED",
        "log-odds": "FAILED",
        "exit decisions": "ok",
    }
    lines = [line for check in json.loads(ended.out)["checks"] for line in check["failures"]]
    assert len(lines) == 2 and lines[0].startswith("cpu-fp32: golden slate 3") and "exit 1: log-odds" in lines[1]


def test_bundle_without_a_catalog(spoilt: Path) -> None:
    """Its golden samples are prompts alone."""
    drop_catalog(spoilt)
    edit_golden(spoilt, user=None, item=None, as_of=None)
    ended = run_program("verify", spoilt, "--json")
    assert ended.code == 0 and outcomes(ended) == dict.fromkeys(("digests", "log-odds", "exit decisions"), "ok"), ended.out
    assert [check.outcome for check in check_bundle(spoilt)] == ["ok"] * len(check_bundle(spoilt))


def test_a_backend_that_is_missing_is_skipped_unless_asked_for(spoilt: Path) -> None:
    name = TENSORRT_HALF
    (spoilt / "variants" / "cpu-fp32" / "policy.json").unlink()
    add_variant(spoilt, name)
    ended = run_program("verify", spoilt, "--json")
    checks = [(c["variant"], c["name"], c["outcome"]) for c in json.loads(ended.out)["checks"]]
    assert ended.code == 0 and (name, "golden samples", "skipped") in checks, checks
    assert run_program("verify", spoilt, "--variant", name).code == 8


def test_no_such_variant(bundle: Path) -> None:
    assert_one_error(run_program("verify", bundle, "--variant", "gpu"), 2, "gpu")
