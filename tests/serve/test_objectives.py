"""`rexit serve` of a bundle with several objectives."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from builders.bundles.bundle import BundleOptions, write_bundle
from builders.bundles.catalog import ITEM_IDS
from rexit import runtime
from rexit.serve import Limits, Pool
from running.service import serving


def test_objectives_and_weights(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", BundleOptions(objectives=("click", "like")))
    items = [int(item) for item in ITEM_IDS[:6]]
    with serving(Pool(partial(runtime.open, bundle), 1, 4), Limits(max_items=50, max_body=4096)) as service:
        plain = service.score(user=100, items=items)
        own = service.score(user=100, items=items, weights={"click": -1, "like": 2.5}, top_k=2)
        refused = [service.score(user=100, items=items, weights=weights) for weights in ({"click": 1}, {"click": 0, "like": 0})]
    with runtime.open(bundle) as session:
        expected = session.score(100, items)
        weighed = session.score(100, items, weights={"click": -1.0, "like": 2.5}, top_k=2)
    assert plain.json["scores"] == expected.to_dict()["scores"] and own.json["scores"] == weighed.to_dict()["scores"]
    assert plain.json["scores"][0]["objectives"].keys() == {"click", "like"}
    assert [reply.status for reply in refused] == [422, 422]
    assert refused[0].json["error"] == "weights has click, expected click, like"
    assert "all are 0" in refused[1].json["error"]


@pytest.mark.parametrize("weights", [{"click": "1", "like": 1}, [1, 2]])
def test_weights_of_another_type(weights: object, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", BundleOptions(objectives=("click", "like")))
    with serving(Pool(partial(runtime.open, bundle), 1, 4), Limits(max_items=50, max_body=4096)) as service:
        reply = service.score(user=100, items=[int(ITEM_IDS[0])], weights=weights)
    assert reply.status == 422 and reply.json["error"].startswith("weights")
