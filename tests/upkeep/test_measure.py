"""A profile finds the costs that made the times, survives its file, and serves its own variant only."""

import os
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from builders.bundles.bundle import write_bundle
from doubles.session import CANDIDATE_TOKENS, PREFIX_TOKENS, FakeSession
from rexit.data.slates import Slate
from rexit.errors import BundleError
from rexit.format.bundle import Bundle
from rexit.format.request import Request
from rexit.upkeep.measure import Conditions, CostProfile, Costs, SegmentCost, measure_costs

HERE = Conditions("a" * 64, "cpu", 2, {"cpu": "one", "cores": 2, "onnxruntime": "1.24.0", "rexit": "0.1.0"})
PROFILE = CostProfile(HERE, 7.5, (SegmentCost(1.0, 0.5, 20.0, 3.25), SegmentCost(0.0, 0.75, 0.0, 4.5)), 0.01)
WITH_ZERO = replace(
    PROFILE, segments=(SegmentCost(0.0, 0.0, 0.0, 0.0, 1.5), SegmentCost(6.0, 0.5, 20.0, 3.25, 2.5), PROFILE.segments[1])
)


def build(library: Path, source: Path) -> None:
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)


def slate(user: int, n: int) -> Slate:
    return Slate(user, tuple(range(n)), 0, np.zeros(n, bool))


class Line:
    """Answers in times that are linear in tokens and passes, with prefixes of user-dependent length and candidates of unlike
    lengths."""

    def __init__(self, profile: CostProfile, max_tokens: int = 10**6) -> None:
        self.profile, self.max_tokens = profile, max_tokens

    def prompt(self, request: Request) -> tuple[list[int], list[list[int]]]:
        return [0] * (10 * int(request.user)), [[0] * (6 + 4 * (int(item) % 4)) for item in request.items]

    def score(self, request: Request, *, force_exit: int) -> SimpleNamespace:
        sizes = [len(tokens) for tokens in self.prompt(request)[1]]
        prefix, tokens, count, full = 10 * int(request.user), sum(sizes), 0, self.max_tokens
        for size in sizes:  # the runtime's rule, a second time
            if full + size > self.max_tokens:
                count, full = count + 1, 0
            full += size
        run = self.profile.segments[: force_exit + 1]
        stats = SimpleNamespace(
            retrieval_us=self.profile.base_us + sum(s.candidate_us for s in run) * len(sizes),
            prefix_us=sum(s.prefix_us + s.prefix_token_us * prefix for s in run),
            slate_us=sum(s.pass_us * count + s.candidate_token_us * tokens for s in run),
            prefix_tokens=prefix,
            candidate_tokens=tokens,
        )
        return SimpleNamespace(stats=stats)

    def warm_up(self) -> None: ...

    def clear_cache(self) -> None: ...


@pytest.mark.parametrize(("profile", "depths"), [(PROFILE, (1, 2)), (WITH_ZERO, (0, 1, 2))], ids=["layers", "exit zero"])
@pytest.mark.parametrize("max_tokens", [10**6, 50, 30])
def test_measure_recovers_every_coefficient(max_tokens: int, profile: CostProfile, depths: tuple[int, ...]) -> None:
    """Also where slates take several passes, each of which costs `pass_us`."""
    found = measure_costs(Line(profile, max_tokens), [slate(1, 20), slate(5, 8), slate(9, 1)], depths, max_tokens, HERE)
    assert found.base_us == pytest.approx(7.5) and found.conditions == HERE
    assert found.fit_error == pytest.approx(0, abs=1e-9)
    for seen, true in zip(found.segments, profile.segments, strict=True):
        assert list(vars(seen).values()) == pytest.approx(list(vars(true).values()), abs=1e-6)


def test_cost_is_never_negative_when_a_deeper_exit_was_timed_faster() -> None:
    odd = Costs(1.0, np.array([100.0, -30.0]), np.zeros(2), np.array([3.0, -1.0]), 100)
    session = FakeSession(2, odd, lambda u, i: 0.0, [1, 1])
    found = measure_costs(session, [slate(1, 20)], (1, 2), 10**6, HERE).costs(PREFIX_TOKENS, CANDIDATE_TOKENS, 10**6)
    assert all((values >= 0).all() for values in (found.prefix_us, found.pass_us, found.candidate_us))


def test_fit_error_of_costs_that_are_not_linear() -> None:
    class Curved(Line):
        def score(self, request: Request, *, force_exit: int) -> SimpleNamespace:
            scores = super().score(request, force_exit=force_exit)
            scores.stats.slate_us = scores.stats.candidate_tokens**2
            return scores

    assert measure_costs(Curved(PROFILE), [slate(1, 20)], (1,), 10**6, HERE).fit_error > 0.1


@pytest.mark.parametrize(("load", "steps"), [(2.4, set()), (3.0, {"costs · the machine is busy: 3 threads want its 2 cores"})])
def test_progress_says_that_the_machine_is_busy(load: float, steps: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    names = set[str]()
    measure_costs(Line(PROFILE), [slate(1, 20)], (1,), 10**6, HERE, progress=lambda what, *_: names.add(what))
    assert names - {"costs"} == steps


def test_costs_grow_with_tokens() -> None:
    costs = PROFILE.costs(100, 10, 45)
    assert costs.prefix_us.tolist() == [1 + 50, 75] and costs.pass_us.tolist() == [20, 0]
    assert costs.candidate_us.tolist() == [32.5, 45] and costs.pass_candidates == 4
    assert PROFILE.costs(100, 10, 3).pass_candidates == 1


def test_conditions_are_those_of_a_session(tmp_path: Path) -> None:
    bundle = Bundle.open(write_bundle(tmp_path / "bundle"))
    found = Conditions.here(bundle, None, 0)
    assert (found.variant_sha256, found.device, found.threads) == (bundle.variant_sha256, "cpu", found.machine["cores"])
    assert Conditions.here(bundle, "cpu", found.threads) == found != Conditions.here(bundle, None, found.threads + 1)
    assert found.machine["onnxruntime"] == version("onnxruntime") and found.machine["rexit"] and "gpu" not in found.machine
    assert "gpu" in Conditions.here(bundle, "cuda", 0).machine


def test_conditions_name_the_gpu(tmp_path: Path) -> None:
    build(tmp_path / "libcuda.so.1", Path(__file__).parents[1] / "doubles" / "cuda.c")
    program = "from rexit.upkeep.measure import machine; print(machine('tensorrt')['gpu'])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ | {"LD_LIBRARY_PATH": str(tmp_path)}
    )
    assert done.stdout == "Orin\n", done.stderr


def test_version_is_the_libraries_own(tmp_path: Path) -> None:
    """That of the library which is loaded, whatever package is installed."""
    (tmp_path / "ort.c").write_text(
        'static const char* version(void) { return "1.99.0"; }\n'
        "static struct { void* api; const char* (*version)(void); } base = {0, version};\n"
        "void* OrtGetApiBase(void) { return &base; }\n"
    )
    build(tmp_path / "libort.so", tmp_path / "ort.c")
    for library, expected in ((tmp_path / "libort.so", "1.99.0"), (tmp_path / "none.so", "None"), ("libc.so.6", "None")):
        program = "from rexit import runtime; print(runtime.onnxruntime_version())"
        environment = os.environ | {"REXIT_ONNXRUNTIME_LIBRARY": str(library)}
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
        assert done.stdout == f"{expected}\n", done.stderr


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda v: v.pop("base_us"), "`base_us` is missing"),
        (lambda v: v.update(segments=3), "segments: is 3, expected an array"),
        (lambda v: v["segments"].pop(), "segments: has 1, expected 2"),
        (lambda v: v["segments"][1].update(pass_us=-1), "expected a number >= 0"),
    ],
)
def test_damaged_profile(damage, line: str) -> None:
    value = PROFILE.to_json()
    assert CostProfile.of_json(value, Path("here"), 2) == PROFILE
    damage(value)
    with pytest.raises(BundleError, match=line):
        CostProfile.of_json(value, Path("here"), 2)
