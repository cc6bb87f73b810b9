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
    manifest = tmp_path / "work" / f"{slate.LENGTHS.users}-users" / "bundle" / "manifest.json"
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
    case = {"ratios": slate.ratios(TIMES, ["int8_full"], ["llama_cpp"]), "fastest": {"best_int8_peer": "llama_cpp"}}
    other = {"ratios": {}, "fastest": {"best_int8_peer": "openvino"}}
    cases = {slate.MAIN.name: case, slate.CASES[1].name: other}
    result = slate.report(cases, {"ours-int8": {"rexit": "0"}}, 2, {"genai": "not built"})
    assert result["ratios"] == {"int8_full_vs_llama_cpp": 3.5} and result["best_int8_peer"] == "llama_cpp"
    assert json.loads(json.dumps(result))["cases"]["prefix 200, 20 candidates, cold"] == case
    assert set(result) == {"best_int8_peer", "ratios", "left_out", "cases", "threads", "machine", "about"}


def test_tables_of_an_earlier_run(slate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    case = {
        "rounds": 4,
        "milliseconds": {"int8_full": 10.0, "openvino": 35.0},
        "ratios": slate.ratios({"int8_full": TIMES["int8_full"], "openvino": TIMES["llama_cpp"]}, ["int8_full"], ["openvino"]),
        "agreement": {"openvino": {"correlation": 0.988, "max_difference": 0.7}},
        "fastest": {"best_int8_peer": "openvino", "best_peer": "openvino"},
    }
    result = slate.report({slate.MAIN.name: case}, {}, 2, {"genai": "genai is not built"})
    (tmp_path / "result.json").write_text(json.dumps(result))
    monkeypatch.setattr(sys, "argv", ["slate.py", "--tables", str(tmp_path / "result.json")])
    slate.main()
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "| openvino | 35.0 | 3.50 (2.50-4.25) | 0.98800 | 0.7 |" in lines
    assert "Fastest peers: int8_peer openvino, peer openvino" in lines
    assert "genai is left out: genai is not built" in lines


def test_the_fastest_peer_of_each_precision(slate) -> None:
    milliseconds = {"int8_full": 1.0, "openvino": 30.0, "llama_cpp": 50.0, "llama_cpp_bf16": 40.0, "ort_shared_prefix": 20.0}
    assert slate.fastest_peers(milliseconds) == {
        "best_int8_peer": "openvino",
        "best_bf16_peer": "llama_cpp_bf16",
        "best_fp32_peer": "ort_shared_prefix",
        "best_peer": "ort_shared_prefix",
    }
    assert slate.fastest_peers({"int8_full": 1.0}) == {}


class StubPeer:
    """Answers each way in its own time."""

    def __init__(self, **ways: float) -> None:
        self.ways, self.times, self.asked = list(ways), ways, []

    def ask(self, way: str, request: dict, cached: bool) -> tuple[float, list[float]]:
        self.asked.append((way, request["user"]))
        return self.times[way], [0.1 * request["user"], 0.3]


def test_of_a_peer_without_a_named_way_the_fastest_is_the_contender(slate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slate.time, "sleep", lambda _: None)
    running = {"ours-fp32": StubPeer(full=20.0), "openvino-int8": StubPeer(slow=90.0, fast=60.0)}
    contenders = [
        slate.Contender("fp32_full", "ours-fp32", "full"),
        slate.Contender("openvino", "openvino-int8", "", **slate.INT8),
    ]
    users = iter(range(100))
    sides = (["fp32_full"], ["openvino"])
    result = slate.asked_in_turn(running, contenders, sides, lambda: {"user": next(users)}, "a case", False, 2)
    assert result["milliseconds"] == {"fp32_full": 20.0, "openvino": 60.0}
    assert result["configurations"] == {"openvino-int8": {"slow": 90.0, "fast": 60.0}}
    assert result["ratios"]["fp32_full_vs_openvino"]["median"] == 3.0 and result["disagreements"] == []
    asked = [user for way, user in running["openvino-int8"].asked if way == "fast"]
    assert asked == sorted(set(asked)) == list(range(7)), "no prefix comes twice"


def test_no_user_comes_twice(slate) -> None:
    users = slate.fresh_users(400, np.random.default_rng(1))
    drawn = [next(users) for _ in range(slate.LENGTHS.users // 2)]
    assert len(set(drawn)) == len(drawn) and all(user % 2 for user in drawn)
    with pytest.raises(SystemExit, match="have all been asked; expected fewer --rounds"):
        next(users)


def test_a_peer_that_is_not_built_or_does_not_load_is_left_out(slate, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken, works = tmp_path / "broken.py", tmp_path / "works.py"
    broken.write_text("raise SystemExit('no such model')")
    works.write_text(PEER.replace("sys.argv[1]", repr(str(PEERS))))
    python = Path(sys.executable)
    plans = {
        "absent": (tmp_path / "bin/python", "x.py", {}),
        "broken": (python, str(broken), {}),
        "works": (python, str(works), {}),
    }
    with slate.loaded(plans, 1, tmp_path, {"works"}) as (running, left_out):
        assert list(running) == ["works"] and list(left_out) == ["absent", "broken"]
    assert left_out["absent"].endswith("make bench-peers builds it") and "ended: no such model" in left_out["broken"]
    assert "broken is left out" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="no such model"), slate.loaded(plans, 1, tmp_path, {"broken"}):
        pass


def test_every_contender_has_a_plan(slate, tmp_path: Path) -> None:
    plans = slate.plans_of(tmp_path, tmp_path, [])
    assert {contender.peer for contender in (*slate.OURS, *slate.PEERS)} == set(plans)
    assert all((PEERS / script).exists() for _, script, _ in plans.values())
    json.dumps([setup for _, _, setup in plans.values()])


def test_every_target_has_its_two_contenders(slate) -> None:
    ours, peers = {one.name for one in slate.OURS}, {one.name for one in slate.PEERS}
    assert {"int8_full", "int8_third", "bf16_full", "fp32_full"} <= ours and {
        "llama_cpp",
        "openvino",
        "ctranslate2",
        "genai_int4",
        "ort_one_by_one",
    } <= peers
