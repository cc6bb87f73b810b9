"""`rexit refresh`: what changes, what does not, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.bundles.bundle_files import contents, edit_golden, entry, golden_arrays
from builders.bundles.catalog import ITEM_IDS, USER_IDS, CatalogContents, in_lists
from builders.bundles.engines import KEY, add_engines
from builders.bundles.grown_catalog import LATEST, NEW, Info, Tables, write_grown
from builders.bundles.variants import TENSORRT_HALF, add_variant
from builders.bundles.watched import write_watched
from builders.policies import full_depth
from rexit import Request, runtime
from rexit.exporter.prompt.builder import PromptBuilder
from rexit.format import roles
from rexit.format.bundle import Bundle, Catalog, Engine, Manifest
from rexit.upkeep.refresh import RefreshOptions
from rexit.upkeep.refresh import refresh as refresh_bundle
from running.command import Run, assert_one_line


def refresh(run: Run, place: Path, *more: object) -> Any:
    return run("refresh", place / "bundle", "--catalog", place / "newer", *more)


def test_a_new_item_can_be_scored(run: Run, place: Path) -> None:
    variants = contents(place / "bundle" / "variants")
    ended = run("score", place / "bundle", "--user", USER_IDS[0], "--items", NEW[0])
    assert_one_line(ended, 2, str(NEW[0]))
    done = refresh(run, place, "--json")
    assert done.code == 0, done.err
    assert done.json["items"] == [len(ITEM_IDS) + 2, 2] and done.json["variants"][0]["new_candidates"] > 0
    assert run("score", place / "bundle", "--user", USER_IDS[0], "--items", NEW[0]).code == 0
    assert contents(place / "bundle" / "variants") == variants
    verified = run("verify", place / "bundle", "--json")
    assert verified.code == 0 and verified.json["ok"], verified.out
    assert {check["outcome"] for check in verified.json["checks"]} == {"ok"}


def test_a_catalog_that_has_grown_lists_of_users(run: Run, place: Path) -> None:
    def edit(info: Info, tables: Tables) -> None:
        listed = in_lists(CatalogContents(info, tables), lists=3, probes=1)
        info |= listed.info
        tables |= listed.tables

    write_grown(place / "catalog", place / "listed", edit)
    refreshed = run("refresh", place / "bundle", "--catalog", place / "listed")
    assert refreshed.code == 0 and re.search(r"cpu-fp32: \d+ golden slates, 12 of their candidates new", refreshed.out)
    assert run("verify", place / "bundle").code == 0
    prompts = PromptBuilder(Catalog.open(place / "listed"))
    with runtime.open(place / "bundle") as session:
        for user in USER_IDS:
            prefix, _ = session.prompt(user, ITEM_IDS[:1], as_of=1 << 40)
            np.testing.assert_array_equal(prefix, prompts.prompt(user, [], 1 << 40).prefix)


def test_the_tokenizer_stays(run: Run, place: Path) -> None:
    (place / "bundle" / "tokenizer.json").write_text("{}")
    manifest = json.loads((place / "bundle" / "manifest.json").read_text())
    manifest["files"]["tokenizer.json"] = entry(place / "bundle" / "tokenizer.json")
    (place / "bundle" / "manifest.json").write_text(json.dumps(manifest))
    assert refresh(run, place).code == 0
    assert "tokenizer.json" in Bundle.open(place / "bundle").manifest.files
    assert run("verify", place / "bundle").code == 0


def test_compiled_engines_stay_if_they_take_the_new_prompts(run: Run, place: Path) -> None:
    bundle = place / "bundle"
    add_variant(bundle, TENSORRT_HALF)
    engines = add_engines(bundle)
    before = contents(engines)
    write_grown(place / "catalog", place / "longer", of("prompt", "max_prefix_tokens", 61))
    ended = run("refresh", bundle, "--catalog", place / "longer")
    assert_one_line(ended, 2, f"prefixes of up to 61 tokens, engine {TENSORRT_HALF}/{KEY} takes 60: nothing was swapped")
    done = refresh(run, place, "--json")
    assert done.code == 0, done.err
    assert [variant["variant"] for variant in done.json["variants"]] == ["cpu-fp32", TENSORRT_HALF]
    assert contents(engines) == before
    Engine.read(engines).check(engines, Bundle.open(bundle, TENSORRT_HALF).variant)


def test_the_chain_of_digests(run: Run, place: Path) -> None:
    before, newer = Bundle.open(place / "bundle"), Catalog.open(place / "newer")
    assert refresh(run, place).code == 0
    after = Bundle.open(place / "bundle")
    assert after.catalog.sha256 == newer.sha256 == after.manifest.catalog_sha256
    assert after.manifest.exported_sha256 == before.manifest.catalog_sha256 == after.variant.catalog_sha256
    assert after.variant_sha256 == before.variant_sha256 and after.edited() == []
    manifest = json.loads((place / "bundle/manifest.json").read_text())
    assert manifest["catalog"]["folder"] == f"catalog-{newer.sha256[:16]}"
    assert not list((place / "bundle").rglob(".*"))


@pytest.mark.medium
def test_the_replaced_catalog_stays_until_the_next(run: Run, place: Path) -> None:
    first = refresh(run, place)
    assert first.code == 0 and (place / "bundle/catalog/catalog.json").is_file()
    write_grown(place / "catalog", place / "third", seed=4)
    assert run("refresh", place / "bundle", "--catalog", place / "third").code == 0
    kept = {path.name for path in (place / "bundle").glob("catalog*")}
    assert kept == {f"catalog-{Catalog.open(place / name).sha256[:16]}" for name in ("newer", "third")}
    assert run("refresh", place / "bundle", "--catalog", place / "catalog").code == 0, "and back to the exported one"
    assert run("verify", place / "bundle").code == 0


def test_twice_is_once(run: Run, place: Path) -> None:
    assert refresh(run, place).code == 0
    before = contents(place / "bundle")
    again = refresh(run, place)
    assert again.code == 0 and "holds this catalog already" in again.out
    assert contents(place / "bundle") == before


@pytest.mark.medium
def test_calibration_takes_the_catalog_in_force(run: Run, place: Path) -> None:
    assert refresh(run, place).code == 0
    words = ("--max-drop", 0.45, "--confidence", 0.6, "--metric", "ndcg@5", "--slate", 10)
    assert_one_line(
        run("calibrate", place / "bundle", "--catalog", place / "catalog", *words),
        4,
        "is not the catalog that",
        "put this one in place by `rexit refresh",
    )
    assert run("calibrate", place / "bundle", "--catalog", place / "newer", *words).code == 0
    assert run("verify", place / "bundle").code == 0


def of(key: str, *path: Any) -> Any:
    def edit(info: Info, tables: Tables) -> None:
        *most, last, value = path
        section = info[key]
        for step in most:
            section = section[step]
        section[last] = value

    return edit


def longer(info: Info, tables: Tables) -> None:
    info["prompt"]["max_candidate_tokens"] = 25


def spelled_otherwise(info: Info, tables: Tables) -> None:
    tables["pieces.safetensors"]["tokens"][0] ^= 1


REFUSED = {
    "another tokenizer": (of("tokenizer", "sha256", "1" * 64), "tokenizer is 111111111111…"),
    "another unit": (of("order", "unit", "milliseconds"), "times are milliseconds, that of"),
    "other labels": (of("labels", "yes", 3), "labels are"),
    "another op": (of("prompt", "prefix", 3, "limit", 5), "another prompt program than that of"),
    "another literal": (spelled_otherwise, "prefix op 0 is piece"),
    "one op less": (lambda info, tables: info["prompt"]["candidate"].pop(), "candidate op 6 is missing"),
    "longer candidates": (longer, "candidates of up to 25 tokens, a pass of cpu-fp32 takes 24"),
    "longer prompts": (of("prompt", "max_prefix_tokens", 4000), "the model takes"),
}


@pytest.mark.parametrize(("edit", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused(run: Run, place: Path, edit: Any, message: str) -> None:
    shutil.rmtree(place / "newer")
    write_grown(place / "catalog", place / "newer", edit)
    before = contents(place / "bundle")
    assert_one_line(refresh(run, place), 2, message, "nothing was swapped")
    assert contents(place / "bundle") == before


@pytest.mark.medium
def test_string_ids_in_the_place_of_integers(run: Run, place: Path) -> None:
    from builders.bundles.held_out import write_ranked

    write_ranked(place / "strings", strings=True)
    ended = run("refresh", place / "bundle", "--catalog", place / "strings" / "catalog")
    assert_one_line(ended, 2, "kind of user ids is string", "is int64")


def test_damage_is_refused(run: Run, place: Path) -> None:
    before = contents(place / "bundle")
    path = place / "newer/items.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    assert_one_line(refresh(run, place), 4, "items.safetensors", "edited")
    assert_one_line(run("refresh", place / "newer", "--catalog", place / "catalog"), 4, "is a catalog, expected a bundle")
    assert_one_line(run("refresh", place / "bundle", "--catalog", place / "nowhere"), 4, "no such catalog folder")
    assert contents(place / "bundle") == before


def test_a_machine_that_computes_otherwise_makes_no_golden_samples(run: Run, place: Path) -> None:
    edit_golden(place / "bundle", log_odds=golden_arrays(place / "bundle")["log_odds"] + np.float32(0.5))
    before = contents(place / "bundle")
    assert_one_line(refresh(run, place), 4, "golden slate 0", "log-odds", "nothing was swapped")
    assert contents(place / "bundle") == before


def test_a_policy_that_keeps_its_limit_stays(run: Run, place: Path) -> None:
    write_watched(place / "bundle", 0.6)
    done = refresh(run, place, "--json")
    assert done.code == 0, done.err
    trial = done.json["variants"][0]["policy"]
    test = trial["audit"]
    assert test["users"] == test["slates"] > 0 and 0 < test["mean"] < test["limit"] == 0.6 and not test["alarm"]
    assert f"{test['users']} users, one slate each, lose {test['mean']:.4g} of rank correlation on average" in trial["conclusion"]
    assert trial["conclusion"].endswith("at most 0.6 is allowed: too few users to tell, no sign of more")
    assert Bundle.open(place / "bundle").policy() is not None and run("verify", place / "bundle").code == 0


def test_a_policy_that_loses_more_refuses(run: Run, place: Path) -> None:
    """Every user's loss is above 0.01, and the test is that of the audits."""
    write_watched(place / "bundle", 0.01)
    before = contents(place / "bundle")
    refused = refresh(run, place)
    assert_one_line(refused, 9, "the policy of cpu-fp32", "of rank correlation on average", "at most 0.01", "nothing was swapped")
    assert contents(place / "bundle") == before
    kept = refresh(run, place, "--keep-policy", "--json")
    assert kept.code == 0 and kept.json["variants"][0]["policy"] is None
    assert Bundle.open(place / "bundle").policy() is not None


def test_a_policy_is_tried_on_each_users_latest_slate_of_the_calibrated_size(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A policy for slates of 5 must not be judged on slates of 20, nor on what was before a change. Half of the slates are of
    `LATEST`."""
    write_watched(place / "bundle", 0.6, slate=5)
    traced: list[tuple[Any, int, int | None]] = []
    real = runtime.Session.trace

    def trace(self: runtime.Session, request: Request) -> Any:
        traced.append((request.user, len(request.items), request.as_of))
        return real(self, request)

    monkeypatch.setattr(runtime.Session, "trace", trace)
    monkeypatch.setattr("rexit.upkeep.refresh.POLICY_USERS", 3)
    refresh_bundle(place / "bundle", place / "newer", RefreshOptions(golden_slates=1))
    tried = traced[1:]  # the first is the golden sample
    assert [moment for _, _, moment in tried] == [LATEST] * 3
    assert not any(roles.chooses(user) for user, _, _ in tried), "who chose the policy loses too little by it"
    assert len({user for user, _, _ in tried}) == 3 and {size for _, size, _ in tried} <= {1, 2, 3, 4, 5}


def test_a_policy_that_stops_nothing_early_loses_nothing(run: Run, place: Path) -> None:
    bundle = Bundle.open(place / "bundle")
    full_depth(3, bundle.variant_sha256).write(bundle.folder / "policy.json")
    done = refresh(run, place, "--json")
    assert done.code == 0 and done.json["variants"][0]["policy"] is None


def test_a_policy_without_a_limit_refuses(run: Run, place: Path) -> None:
    (write_watched(place / "bundle").folder / "report.json").unlink()
    assert_one_line(refresh(run, place), 9, "report.json: cannot be read", "nothing was swapped, --keep-policy swaps")
    assert refresh(run, place, "--keep-policy").code == 0


def test_an_export_into_a_refreshed_bundle_is_refused(run: Run, place: Path) -> None:
    from rexit.errors import InputError
    from rexit.exporter.preflight import check_same_origin

    assert refresh(run, place).code == 0
    manifest = Manifest.read(place / "bundle")
    with pytest.raises(InputError, match="its catalog was refreshed"):
        check_same_origin(place / "bundle", manifest, manifest.model, manifest.exits, manifest.catalog_sha256, None)


def test_a_second_writer_is_refused(run: Run, place: Path) -> None:
    from rexit.format.bundle import sole_writer

    with sole_writer(place / "bundle"):
        assert_one_line(refresh(run, place), 2, "another process is writing to it")
