"""rexit.open(device=...): any variant on the CPU, float16 ones too; what is said of devices that are not there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import rexit
from builders.bundles.catalog import ITEM_IDS, USER_IDS
from builders.bundles.engines import add_engines
from builders.bundles.held_out import AS_OF, write_ranked
from builders.bundles.variants import TENSORRT_HALF
from rexit.errors import BackendError, InputError


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ranked(tmp_path_factory.mktemp("device"), variants=(TENSORRT_HALF,)).bundle


def test_float16_segments_run_on_the_cpu(bundle: Path) -> None:
    with rexit.open(bundle, TENSORRT_HALF, device="cpu") as half, rexit.open(bundle, "cpu-fp32") as full:
        for user in USER_IDS[:4]:
            trace = half.trace(user, ITEM_IDS, as_of=AS_OF)
            expected = full.trace(user, ITEM_IDS, as_of=AS_OF)
            assert np.abs(trace - expected).max() < 2  # log-odds up to 40, half precision between segments
            assert np.corrcoef(trace.ravel(), expected.ravel())[0, 1] > 0.999
            scores = half.score(user, ITEM_IDS, as_of=AS_OF, force_exit=1)
            assert np.abs(scores.log_odds - trace[:, 1]).max() < 0.1


def test_the_cpu_needs_no_engine_and_no_device_is_the_variants_own(bundle: Path) -> None:
    rexit.open(bundle, "cpu-fp32", device="cpu").close()
    with pytest.raises(BackendError, match="needs a rexit built with -DREXIT_TENSORRT=ON") as caught:
        rexit.open(bundle, TENSORRT_HALF)
    assert caught.value.status == "REXIT_BACKEND_MISSING"


@pytest.mark.parametrize(
    ("device", "device_id", "message"),
    [
        ("npu", 0, "device is `npu`, expected cpu, cuda or tensorrt"),
        ("", 0, "device is an empty string"),
        ("cpu", -1, "device_id is -1"),
        ("tensorrt", 0, "variant `cpu-fp32` targets cpu"),
    ],
)
def test_devices_it_cannot_run_on(bundle: Path, device: str, device_id: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        rexit.open(bundle, "cpu-fp32", device=device, device_id=device_id)


def test_absent_provider_names_the_library_that_has_it(bundle: Path) -> None:
    with pytest.raises(BackendError, match=r"CUDAExecutionProvider, but this ONNX Runtime has only .*onnxruntime-gpu") as caught:
        rexit.open(bundle, "cpu-fp32", device="cuda")
    assert caught.value.status == "REXIT_BACKEND_MISSING"


def test_engines_do_not_change_what_the_cpu_computes(bundle: Path) -> None:
    with rexit.open(bundle, TENSORRT_HALF, device="cpu") as session:
        before = session.trace(USER_IDS[0], ITEM_IDS[:3])
    add_engines(bundle)
    with rexit.open(bundle, TENSORRT_HALF, device="cpu") as session:
        np.testing.assert_array_equal(session.trace(USER_IDS[0], ITEM_IDS[:3]), before)


def test_a_provider_by_name(bundle: Path) -> None:
    """The tests' ONNX Runtime has AZURE beside the CPU's: it takes no operator of these graphs."""
    with rexit.open(bundle, "cpu-fp32") as plain:
        expected = plain.trace(USER_IDS[0], ITEM_IDS, as_of=AS_OF)
    with rexit.open(bundle, "cpu-fp32", device=rexit.Provider("AZURE")) as session:
        assert np.abs(session.trace(USER_IDS[0], ITEM_IDS, as_of=AS_OF) - expected).max() < 1e-4
    with pytest.raises(BackendError, match=r"provider `QNN`: .*; this ONNX Runtime has .*CPUExecutionProvider"):
        rexit.open(bundle, "cpu-fp32", device=rexit.Provider("QNN"))
    with pytest.raises(InputError, match=r"provider.options\['a'\] is 1, expected a string"):
        rexit.open(bundle, "cpu-fp32", device=rexit.Provider("AZURE", {"a": 1}))  # type: ignore[dict-item]
