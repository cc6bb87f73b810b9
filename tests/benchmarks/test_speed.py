"""The arithmetic of benchmarks/speed/slate.py on made-up timings; no model is involved."""

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
