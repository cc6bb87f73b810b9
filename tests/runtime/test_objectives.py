"""Several objectives from the runtime: log-odds of each at every exit, ranking and exits by the utility."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from builders.bundles.bundle import BundleOptions, write_bundle
from builders.bundles.catalog import ITEM_IDS, USER_IDS
from builders.bundles.model import EXITS, make_weights, reference
from rexit import runtime
from rexit.bundle import Bundle, ExitPolicy, Policy
from rexit.request import TokenRequest

USER, AS_OF = USER_IDS[2], 40
NAMES = ("click", "like")
# Numbers that are the same in float32.
MAPS = ((0.125, 0.5), (0.0625, -0.5))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("objectives") / "bundle", BundleOptions(objectives=NAMES))


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_bundle(tmp_path_factory.mktemp("calibrated") / "bundle", BundleOptions(objectives=NAMES))
    policy_of(folder).write(folder / "variants" / "cpu-fp32" / "policy.json")
    return folder


def policy_of(folder: Path) -> Policy:
    exits = tuple(ExitPolicy(1.0, 0.0, 0.375, 0.375, objectives=MAPS) for _ in EXITS)
    return Policy(exits, 1, Bundle.open(folder).variant_sha256, utility={"click": 1.0, "like": 2.0})


@pytest.fixture(scope="module")
def trace(folder: Path) -> NDArray[np.float32]:
    with runtime.open(folder) as session:
        return session.trace(USER, ITEM_IDS, as_of=AS_OF)


def test_the_trace_is_the_reference(folder: Path, trace: NDArray[np.float32]) -> None:
    with runtime.open(folder) as session:
        prefix, candidates = session.prompt(USER, ITEM_IDS, as_of=AS_OF)
        np.testing.assert_allclose(session.trace(TokenRequest(prefix, candidates)), trace, rtol=1e-4, atol=1e-3)
    weights = make_weights(objectives=2)
    expected = np.array([reference(weights, prefix, candidate) for candidate in candidates])
    assert trace.dtype == np.float32 and trace.shape == (len(ITEM_IDS), len(EXITS), 2) == expected.shape
    np.testing.assert_allclose(trace, expected, rtol=1e-4, atol=1e-3)
    assert np.corrcoef(trace[:, -1].T)[0, 1] < 0.95, "two objectives, not one twice"


def test_without_a_policy_all_weigh_the_same(folder: Path, trace: NDArray[np.float32]) -> None:
    with runtime.open(folder) as session:
        scores = session.score(USER, ITEM_IDS, as_of=AS_OF)
        assert session.info.utility == {"click": 1.0, "like": 1.0}
    p = 1 / (1 + np.exp(-trace[:, -1].astype(np.float64)))
    np.testing.assert_allclose(scores.probabilities, p, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(scores.probability, p.mean(1), rtol=1e-3, atol=1e-6)
    assert (scores.exit == len(EXITS) - 1).all() and scores.objectives == NAMES
    first = scores[0]
    assert first.objectives == dict(zip(NAMES, scores.probabilities[0].tolist(), strict=True))
    assert scores.to_dict()["scores"][0]["objectives"] == first.objectives


def test_the_policy_decides_as_in_python(calibrated: Path) -> None:
    bundle, policy = Bundle.open(calibrated), policy_of(calibrated)
    assert bundle.policy() == policy
    with runtime.open(calibrated) as session:
        trace = session.trace(USER, ITEM_IDS, as_of=AS_OF)
        scores = session.score(USER, ITEM_IDS, as_of=AS_OF)
        best = session.score(USER, ITEM_IDS, as_of=AS_OF, top_k=3)
        assert session.info.utility == policy.utility and session.exits[1].objectives == MAPS
    stops = policy.stops(trace, np.array([0, len(trace)]))
    c = policy.calibrated(trace)[np.arange(len(trace)), stops]
    assert len(set(stops.tolist())) > 1 and scores.exit.tolist() == stops.tolist()
    np.testing.assert_allclose(scores.log_odds, c, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(scores.probability, policy.probability(c), rtol=1e-4)
    assert best.index.tolist() == np.argsort(-scores.log_odds, kind="stable")[:3].tolist()
    np.testing.assert_array_equal(best.probabilities, scores.probabilities[best.index])
    np.testing.assert_array_equal(scores[2:5].probabilities, scores.probabilities[2:5])
