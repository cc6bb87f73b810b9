"""`rexit serve` of a bundle with several objectives."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from builders.bundles.bundle import BundleOptions, write_bundle
from builders.bundles.catalog import ITEM_IDS
from rexit import runtime
from rexit.serve import Limits, Pool
from running.service import serving


def test_scores_have_objectives(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", BundleOptions(objectives=("click", "like")))
    items = [int(item) for item in ITEM_IDS[:6]]
    with serving(Pool(partial(runtime.open, bundle), 1, 4), Limits(max_items=50, max_body=4096)) as service:
        plain = service.score(user=100, items=items)
    with runtime.open(bundle) as session:
        expected = session.score(100, items)
    assert plain.json["scores"] == expected.to_dict()["scores"]
    assert plain.json["scores"][0]["objectives"].keys() == {"click", "like"}
