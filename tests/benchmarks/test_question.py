"""benchmarks/speed/question.py and prompt_costs.py on a small bundle: what is asked when, and that times are told apart."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from builders.bundles.bundle_files import write_policy
from builders.models.learned import write_learned
from rexit.bundle import Catalog
from rexit.exporter.export import export_bundle
from rexit.exporter.options import ExportOptions
from running.scripts import scripts_of

scripts = scripts_of("benchmarks/speed", "benchmarks/speed/peers")
SIZE = 2
RULES = [{"a": 1.0, "b": 0.0, "upper": None, "lower": None}] * 3


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("question")
    checkpoint, catalog = write_learned(folder)
    export_bundle(checkpoint, catalog, folder / "text" / "bundle", ExportOptions(golden_slates=1))
    shutil.copytree(catalog, folder / "text" / "catalog")
    shutil.copytree(folder / "text", folder / "vectors")
    return folder


@pytest.mark.slow
def test_what_is_asked_at_each_moment(asked: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import ours
    import question

    with pytest.raises(SystemExit, match="has no policy, expected one in cpu-int8 or cpu-bf16"):
        question.Questions(asked)
    monkeypatch.setattr(question, "PRECISIONS", ("fp32",))
    folder = tmp_path / "calibrated"
    shutil.copytree(asked, folder)
    made_on = {"device": "cpu", "threads": 1, "machine": {}, "slate": SIZE}
    write_policy(folder / "text/bundle", RULES, made_on=made_on)
    write_policy(folder / "vectors/bundle", RULES, made_on=made_on | {"slate": SIZE + 1})
    with pytest.raises(SystemExit, match="expected one size"):
        question.Questions(folder)
    write_policy(folder / "vectors/bundle", RULES, made_on=made_on)
    questions = question.Questions(folder)
    assert questions.size == SIZE
    slates = {(slate.user, slate.as_of): slate for slate in questions.slates}
    for moment in question.MOMENTS:
        for _ in range(8):
            request = questions.draw(moment)
            slate, before = slates[request["user"], request["as_of"]], request.get("before")
            assert len(request["candidates"]) == len(request["items"]) and request["prefix"]
            if moment == question.COLD:
                assert request["items"] == list(slate.items) and before is None
            elif moment == "second slate":
                assert sorted(request["items"] + before["items"]) == sorted(slate.items), "two halves"
                assert request["prefix"] == before["prefix"], "of the same user, to whom nothing happened"
            else:
                assert request["recent"] == [(slate.items[0], bool(slate.liked[0]))] and slate.items[0] not in request["items"]
                assert request["prefix"] != before["prefix"]
            sent = json.loads(json.dumps(request))  # as a peer is told
            prefix, candidates = questions.sessions["text"].prompt(sent["user"], sent["items"], **ours.history(sent))
            assert [prefix.tolist(), [c.tolist() for c in candidates]] == [request["prefix"], request["candidates"]]
    assert questions.most() >= max(len(q["prefix"]) + sum(map(len, q["candidates"])) for q in questions.checks("text"))


@pytest.mark.slow
def test_bundles_are_asked_for_the_same_slates_in_turn(asked: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    import prompt_costs

    monkeypatch.setattr(prompt_costs, "SIZE", SIZE)
    words = ("--variant", "cpu-fp32", "--rounds", "3", "--threads", "0", "--json")
    bundles = [f"{name}={asked / name / 'bundle'}" for name in ("text", "vectors")]
    monkeypatch.setattr(sys, "argv", ["prompt_costs.py", str(asked / "text" / "catalog"), *bundles, *words])
    prompt_costs.main()
    found = json.loads(capsys.readouterr().out)["bundles"]
    assert found["text"]["ratio"]["full"] == [1, 1, 1], "itself"
    assert found["text"]["tokens"] == found["vectors"]["tokens"] > 0 and found["vectors"]["milliseconds"]["full"] > 0
    assert found["text"]["policy_layers"] == max(json.loads((asked / "text/bundle/manifest.json").read_text())["exits"])
    assert len(prompt_costs.slates(asked / "text" / "catalog", 3)) == 3 <= len(Catalog.open(asked / "text" / "catalog").users)
