"""Golden samples against what is computed here: the check that `rexit verify`, `rexit-run verify` and refreshes call."""

from __future__ import annotations

import locale
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from builders.bundles.bundle import BundleOptions, write_bundle
from builders.bundles.bundle_files import drop_catalog, edit_golden, golden_arrays, pad_vocabulary
from builders.bundles.catalog import ITEM_IDS, USER_IDS, make_catalog, with_inputs
from builders.bundles.held_out import AS_OF, write_ranked
from builders.bundles.model import VOCABULARY
from builders.bundles.variants import TENSORRT_HALF, add_variant
from builders.bundles.zero import add_score_exit
from rexit import runtime
from rexit.errors import BundleError, InputError
from rexit.format.bundle import Bundle, Golden, GoldenSlate
from rexit.format.request import Request

ITEMS = [int(item) for item in ITEM_IDS]
USERS = [int(user) for user in USER_IDS]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ranked(tmp_path_factory.mktemp("golden")).bundle


@pytest.fixture
def bundle(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(whole, tmp_path / "bundle"))


def check(bundle: Path, slate: int = 0) -> runtime.GoldenCheck:
    with runtime.open(bundle) as session:
        return session.check_golden(slate)


def test_samples_as_recorded(whole: Path) -> None:
    recorded = golden_arrays(whole)["log_odds"].reshape(4, len(ITEMS), -1)
    with runtime.open(whole) as session:
        for slate in range(4):
            found = session.check_golden(slate)
            assert (found.slates, found.prompt, found.log_odds, found.decision) == (
                4,
                "",
                "",
                "",
            ) and found.tolerance == np.float32(1e-3)
            assert found.worst == np.abs(found.trace - recorded[slate]).max() <= found.tolerance
            session.clear_cache()
            np.testing.assert_array_equal(found.trace, session.trace(USERS[slate], ITEMS, as_of=AS_OF))
        with pytest.raises(InputError, match=r"slate is 4, the variant has golden slates 0 to 3"):
            session.check_golden(4)


def test_scores_of_lower_precision_may_round_further(bundle: Path) -> None:
    """As far as the recorded tolerance: another last bit may select another of few numbers."""
    add_variant(bundle, TENSORRT_HALF)
    for name, rounding in (("cpu-fp32", 1e-4), (TENSORRT_HALF, Bundle.open(bundle, TENSORRT_HALF).variant.parity["tolerance"])):
        with runtime.open(bundle, name, device="cpu") as session:
            assert session.info.rounding == np.float32(rounding)


@pytest.mark.parametrize(("value", "expected"), [(100.0, r"100\.00000"), (np.nan, "nan"), (-np.inf, "-inf")])
def test_other_log_odds(bundle: Path, value: float, expected: str) -> None:
    golden = golden_arrays(bundle)
    golden["log_odds"][2, 1] = value
    edit_golden(bundle, **golden)
    found = check(bundle)
    assert found.worst == abs(found.trace[2, 1] - np.float32(value)) if value == 100 else np.isinf(found.worst)
    line = rf"golden slate 0, user {USERS[0]}, item {ITEMS[2]}, exit 1: log-odds {found.trace[2, 1]:.5f}, expected {value:.5f} "
    assert found.log_odds == line + "+- 0.001" and found.prompt == ""
    assert check(bundle, 1).log_odds == ""


@pytest.mark.parametrize(
    ("array", "index", "place"), [("prefix_tokens", 2, "the prefix"), ("candidate_tokens", 0, f"item {ITEMS[0]}")]
)
def test_other_prompts(bundle: Path, array: str, index: int, place: str) -> None:
    golden = golden_arrays(bundle)
    golden[array][index] += 1
    token = golden[array][index]
    edit_golden(bundle, **golden)
    where = f"golden slate 0, user {USERS[0]}: the prompt of {place} differs from the exporter's: "
    assert check(bundle).prompt == f"{where}token {index} is {token - 1}, expected {token}"
    assert check(bundle).log_odds == "" and check(bundle, 1).prompt == ""


def test_prompts_of_other_lengths(bundle: Path) -> None:
    golden = golden_arrays(bundle)
    golden["prefix_offsets"][1] += 1
    edit_golden(bundle, **golden)
    length = golden["prefix_offsets"][1]
    assert check(bundle).prompt.endswith(f"the prefix differs from the exporter's: {length - 1} tokens, expected {length}")
    assert "the prefix differs" in check(bundle, 1).prompt


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"slate_offsets": np.array([0, 5, 3, 9, 80])}, r"`slate_offsets`\[2\] is 3, expected at least 5"),
        ({"slate_offsets": np.array([0])}, "`slate_offsets` has 1 numbers"),
        ({"prefix_offsets": np.array([0, 1])}, "prefix_offsets"),
        ({"candidate_offsets": np.array([0, 1])}, "candidate_offsets"),
        ({"log_odds": np.zeros((3, 3), np.float32)}, "slate_offsets` ends at 80, expected 3"),
        ({"log_odds": np.zeros((80, 2), np.float32)}, "log_odds"),
        ({"as_of": np.zeros(1, np.int64)}, "as_of"),
        ({"user": np.zeros(4, np.int64)}, "user"),
        ({"user": None}, "user"),
        ({"user": np.array([-1, 0, 1, 2], np.int32)}, r"`user`\[0\] is -1, expected 0 to"),
        ({"item": np.full(80, 1 << 20, np.int32)}, r"`item`\[0\] is 1048576, expected 0 to"),
    ],
)
def test_damaged_samples(bundle: Path, arrays: dict[str, Any], message: str) -> None:
    edit_golden(bundle, **arrays)
    with pytest.raises(BundleError, match=message) as refusal:
        check(bundle)
    assert refusal.value.status == "REXIT_CORRUPT"


def test_without_samples(bundle: Path) -> None:
    (bundle / "variants" / "cpu-fp32" / "golden.safetensors").unlink()
    with pytest.raises(BundleError, match=r"golden\.safetensors"):
        check(bundle)


def test_without_a_catalog(bundle: Path) -> None:
    drop_catalog(bundle)
    edit_golden(bundle, user=None, item=None, as_of=None)
    assert (check(bundle).prompt, check(bundle).log_odds) == ("", "")
    golden = golden_arrays(bundle)
    golden["log_odds"][1, 0] = 100
    edit_golden(bundle, **golden)
    assert check(bundle).log_odds.startswith("golden slate 0, item 1, exit 0: log-odds ")


def test_with_inputs(tmp_path: Path) -> None:
    """The samples' values reach the prompt: those of the runtime's own pass, others do not."""
    bundle = write_bundle(tmp_path / "bundle", BundleOptions(with_inputs(make_catalog())))
    pad_vocabulary(bundle)
    inputs = {"device": "phone", "query": [5, 6, 7], "note": [8]}
    codes = [np.array(part, np.int32) for part in ([1], [5, 6, 7], [8], [])]  # no hour
    with runtime.open(bundle) as session:
        request = Request(USERS[0], ITEMS, as_of=AS_OF, inputs=inputs)
        trace, (prefix, candidates) = session.trace(request), session.prompt(request)
    rows = np.arange(len(ITEMS), dtype=np.int32)
    path = bundle / "variants" / "cpu-fp32" / "golden.safetensors"
    Golden([GoldenSlate(0, rows, AS_OF, prefix, candidates, trace, codes)]).write(path)
    golden = golden_arrays(bundle)
    assert (check(bundle).prompt, check(bundle).log_odds) == ("", "")
    save_file(golden | {"input_codes": golden["input_codes"] + 1}, path)
    assert "differs from the exporter's" in check(bundle).prompt and "log-odds" in check(bundle).log_odds
    for arrays, message in (
        ({"input_codes": np.array([1, 5, VOCABULARY, 7, 8], np.int32)}, rf"`input_codes`\[2\] is {VOCABULARY}"),
        ({"input_codes": np.array([3, 5, 6, 7, 8], np.int32)}, "3"),
        ({"input_codes": None}, "input_codes"),
        ({"input_offsets": np.array([0, 1, 4, 5, 6])}, "input_offsets"),
        ({"input_offsets": np.array([0, 9, 4])}, "input_offsets"),
    ):
        save_file({name: array for name, array in (golden | arrays).items() if array is not None}, path)
        with pytest.raises(BundleError, match=message):
            check(bundle)


@pytest.mark.medium
def test_lines_have_a_point_in_any_locale(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = subprocess.run(["localedef", "-c", "-i", "de_DE", "-f", "UTF-8", tmp_path / "de_DE.UTF-8"], capture_output=True)
    if made.returncode:
        pytest.skip("localedef cannot make de_DE")
    golden = golden_arrays(bundle)
    golden["log_odds"][1, 0] += 1.5
    edit_golden(bundle, **golden)
    expected = check(bundle).log_odds
    monkeypatch.setenv("LOCPATH", str(tmp_path))
    before = locale.setlocale(locale.LC_ALL)
    locale.setlocale(locale.LC_ALL, "de_DE.UTF-8")
    try:
        assert locale.localeconv()["decimal_point"] == "," and check(bundle).log_odds == expected != ""
    finally:
        locale.setlocale(locale.LC_ALL, before)


def test_without_a_catalog_exit_zero_answers_as_recorded(bundle: Path) -> None:
    recorded = golden_arrays(bundle)["log_odds"]
    zero = np.linspace(-2, 2, len(recorded), dtype=np.float32)
    drop_catalog(bundle)
    add_score_exit(bundle)
    edit_golden(bundle, **{"log_odds": np.column_stack([zero, recorded]), "score.bm25": zero})
    found = check(bundle, 1)
    assert found.log_odds == "" and found.trace[:, 0].tolist() == zero[len(ITEMS) : 2 * len(ITEMS)].tolist()
    zero[-1] = np.inf
    edit_golden(bundle, **{"score.bm25": zero})
    with pytest.raises(BundleError, match=r"`score\.bm25` of slate 3 is inf, expected a finite number or NaN"):
        check(bundle, 3)
