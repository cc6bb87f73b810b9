"""The arithmetic of benchmarks/speed/slate.py on made-up timings, and its conversation with a peer; no model is involved."""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from running.scripts import scripts_of

scripts = scripts_of("benchmarks/speed")
PEERS = Path(__file__).parents[2] / "benchmarks" / "speed" / "peers"


@pytest.fixture
def slate():
    import slate

    return slate


TIMES = {
    "int8_full": np.array([10.0, 20.0, 10.0, 10.0]),
    "fp32_full": np.array([20.0, 20.0, 20.0, 20.0]),
    "llama_cpp": np.array([30.0, 20.0, 50.0, 40.0]),
}


def test_ratios_are_taken_within_a_round(slate) -> None:
    found = slate.ratios(TIMES, ["int8_full", "fp32_full"], ["llama_cpp"])
    assert set(found) == {"int8_full_vs_llama_cpp", "fp32_full_vs_llama_cpp"}
    assert found["int8_full_vs_llama_cpp"] == {"median": 3.5, "quartiles": [2.5, 4.25]}  # of 3, 1, 5, 4
    assert found["fp32_full_vs_llama_cpp"]["median"] == 1.75


def test_who_did_not_take_part_has_no_ratio(slate) -> None:
    assert slate.ratios(TIMES, ["int8_full", "int8_third"], ["ort_one_by_one"]) == {}


def test_the_bundle_is_exported_again_once_the_exporter_has_changed(
    slate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the second run fails, or times what an older exporter made."""
    exports = []
    exporter = SimpleNamespace(export_bundle=lambda *words: exports.append(words))
    monkeypatch.setitem(sys.modules, "rexit.exporter.export", exporter)  # the real one takes seconds to import
    monkeypatch.setattr(slate, "catalog_of_fixed_lengths", lambda *_: None)
    monkeypatch.setattr(slate.Words, "of_checkpoint", lambda _: None)
    manifest = tmp_path / "work" / "bundle" / "manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.touch()
    slate.bundle_of(tmp_path, tmp_path / "work")
    assert exports == [], "the exporter is older than the bundle"
    os.utime(manifest, (0, 0))
    slate.bundle_of(tmp_path, tmp_path / "work")
    assert len(exports) == 1


def test_agreement(slate) -> None:
    found = slate.agreement(np.array([1.0, 2.5, 3.0]), np.array([1.0, 2.0, 3.0]))
    assert found["max_difference"] == 0.5 and 0.9 < found["correlation"] < 1
    shifted = slate.agreement(np.array([5.0, 6.0]), np.array([1.0, 2.0]))
    assert shifted == {"correlation": pytest.approx(1), "max_difference": 4}


@pytest.mark.parametrize(
    ("row", "fails"),
    [
        ({"correlation": 0.99995, "max_difference": 0.009}, False),
        ({"correlation": 0.9998, "max_difference": 0.009}, True),
        ({"correlation": 0.99995, "max_difference": 0.02}, True),
        ({"correlation": float("nan"), "max_difference": 0.0}, True),
    ],
)
def test_another_computation_is_named(slate, row: dict[str, float], fails: bool) -> None:
    lines = slate.disagreements({"peer": row}, [slate.Contender("peer", "p", "w")])
    assert len(lines) == fails and all(line.startswith("peer: log-odds differ from fp32_full by up to") for line in lines)


def test_an_early_exit_is_not_compared(slate) -> None:
    early = slate.Contender("third", "p", "w", tolerance=None)
    assert slate.disagreements({"third": {"correlation": 0.0, "max_difference": 9.0}}, [early]) == []


def test_slow_contenders_are_asked_in_the_main_case_alone(slate) -> None:
    slow, forgetful = slate.Contender("a", "p", "w", reuses=False, slow=True), slate.Contender("b", "p", "w", reuses=False)
    assert slow.takes_part(slate.MAIN) and not slow.takes_part(slate.Case(200, 1))
    assert forgetful.takes_part(slate.Case(200, 1)) and not forgetful.takes_part(slate.Case(200, 20, cached=True))


PEER = """
import sys
sys.path.insert(0, sys.argv[1])
from protocol import serve

class Way:
    def __init__(self): self.calls = []
    def forget(self): self.calls.append(-1)
    def score(self, request):
        self.calls.append(sum(request["candidates"][0]))
        return [sum(candidate) for candidate in request["candidates"]] if request["prefix"] else self.calls

def load(setup):
    print("libraries talk")
    return {"sum": Way()}, {"threads": setup["threads"]}

serve(load)
"""


def test_a_peer_is_asked_and_what_it_prints_is_no_answer(slate, tmp_path: Path) -> None:
    script = tmp_path / "peer.py"
    script.write_text(PEER.replace("sys.argv[1]", repr(str(PEERS))))
    peer = slate.Peer(Path(sys.executable), str(script), {"threads": 3}, tmp_path / "log")
    try:
        assert peer.ways == ["sum"] and peer.about == {"threads": 3}
        request = {"prefix": [1], "candidates": [[1, 2], [4]], "before": {"candidates": [[7]]}}
        milliseconds, log_odds = peer.ask("sum", request, False)
        assert milliseconds >= 0 and log_odds == [3.0, 4.0]
        assert peer.ask("sum", {**request, "prefix": []}, True)[1] == [-1, 3, -1, 7, 3]  # cached: the other slate comes first
    finally:
        peer.close()
    assert (tmp_path / "log").read_text() == "libraries talk\n"


def test_a_peer_that_dies_says_why(slate, tmp_path: Path) -> None:
    script = tmp_path / "peer.py"
    script.write_text("raise SystemExit('no such model')")
    with pytest.raises(SystemExit, match="ended: no such model"):
        slate.Peer(Path(sys.executable), str(script), {}, tmp_path / "log")


def test_what_json_prints(slate) -> None:
    case = {"ratios": slate.ratios(TIMES, ["int8_full"], ["llama_cpp"])}
    result = slate.report({slate.MAIN.name: case}, {"ours-int8": {"rexit": "0"}}, 2)
    assert result["ratios"] == {"int8_full_vs_llama_cpp": 3.5}
    assert json.loads(json.dumps(result))["cases"]["prefix 200, 20 candidates, cold"] == case
    assert set(result) == {"ratios", "cases", "threads", "machine", "about"}


def test_every_target_has_its_two_contenders(slate) -> None:
    ours, peers = {one.name for one in slate.OURS}, {one.name for one in slate.PEERS}
    assert {"int8_full", "int8_third", "fp32_full"} <= ours and {"llama_cpp", "ort_one_by_one"} <= peers
