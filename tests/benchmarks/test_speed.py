"""The arithmetic of benchmarks/speed/slate.py on made-up timings; no model is involved."""

import json
from pathlib import Path

import numpy as np
import pytest

from running.scripts import scripts_of

scripts = scripts_of("benchmarks/speed")
TIMES = {
    "int8_full": np.array([10.0, 20.0, 10.0, 10.0]),
    "fp32_full": np.array([20.0, 20.0, 20.0, 20.0]),
    "llama_cpp": np.array([30.0, 20.0, 50.0, 40.0]),
}


def test_ratios_are_taken_within_a_round() -> None:
    from rounds import ratios

    by_pair = ratios(TIMES, ["int8_full", "fp32_full"], ["llama_cpp"])
    assert set(by_pair) == {"int8_full_vs_llama_cpp", "fp32_full_vs_llama_cpp"}
    assert by_pair["int8_full_vs_llama_cpp"] == {"median": 3.5, "quartiles": [2.5, 4.25]}  # of 3, 1, 5, 4
    assert by_pair["fp32_full_vs_llama_cpp"]["median"] == 1.75
    assert ratios(TIMES, ["int8_full", "int8_third"], ["ort_one_by_one"]) == {}


def test_agreement() -> None:
    from rounds import agreement

    close = agreement(np.array([1.0, 2.5, 3.0]), np.array([1.0, 2.0, 3.0]))
    assert close["max_difference"] == 0.5 and 0.9 < close["correlation"] < 1
    shifted = agreement(np.array([5.0, 6.0]), np.array([1.0, 2.0]))
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
def test_another_computation_is_named(row: dict[str, float], fails: bool) -> None:
    from contenders import Contender
    from rounds import disagreements

    lines = disagreements({"peer": row}, [Contender("peer", "p", "w")])
    assert len(lines) == fails and all(line.startswith("peer: log-odds differ from fp32_full by up to") for line in lines)


def test_a_peer_behind_the_same_cut_reads_what_exit_zero_lets_in() -> None:
    from contenders import Contender
    from rounds import asked_in_turn

    class Peer:
        ways = ("w",)

        def ask(self, way, request, cached):
            return 1.0, [0.1 * n for n in range(len(request["candidates"]))]

    slates = iter([{"candidates": [[1], [2]], "entering": entering} for entering in [[]] * 5 + [[[2]], [], [[2]]]])
    contenders = [Contender("ours", "p", "w"), Contender("peer_cut", "p", "w", tolerance=None, cut=True)]
    results = asked_in_turn({"p": Peer()}, contenders, (["ours"], ["peer_cut"]), lambda: next(slates), "case", False, 3, "ours")
    assert results["ratios"]["ours_vs_peer_cut"] == {"median": 1.0, "quartiles": [0.5, 1.0]}  # of 1, 0 and 1
    assert list(results["agreement"]) == ["ours"]


def test_the_fastest_peer_of_each_precision() -> None:
    from contenders import fastest_peers

    milliseconds = {"int8_full": 1.0, "openvino": 30.0, "llama_cpp": 50.0, "llama_cpp_bf16": 40.0, "ort_shared_prefix": 20.0}
    assert fastest_peers(milliseconds) == {
        "best_int8_peer": "openvino",
        "best_bf16_peer": "llama_cpp_bf16",
        "best_fp32_peer": "ort_shared_prefix",
        "best_peer": "ort_shared_prefix",
    }
    assert fastest_peers({"int8_full": 1.0}) == {}


def test_scripts_load() -> None:
    import slate

    assert {contender.peer for contender in slate.PEERS} == set(slate.peer_plans(Path(), Path(), 20, 400))


def test_pairs_of_an_encoder_are_a_claims_own_documents_and_others(tmp_path: Path) -> None:
    slates = tmp_path / "slates.jsonl"
    rows = [
        {"split": split, "query": f"q{n}", "candidates": [f"d{n}.{i}" for i in range(60)], "score": [60.0 - i for i in range(60)]}
        for n, split in enumerate(("train", "test", "test", "test"))
    ]
    slates.write_text("".join(json.dumps(row) + "\n" for row in rows))
    from encoders import PAIRS, requests

    drawn = requests(slates)
    for request in (next(drawn) for _ in range(3)):
        name = request["query"][1:]
        assert [document.split(".")[0] for document in request["candidates"][:60]] == [f"d{name}"] * 60
        assert len(set(request["candidates"])) == len(request["scores"]) == PAIRS
        assert request["scores"][60:] == [1.0] * 40
    with pytest.raises(SystemExit, match="all 3 claims have been asked"):
        next(drawn)
