"""One slate, scored by rexit and its peers with the same weights and tokens, in turn: times, their ratios, and agreement.

    make bench-peers                              once: benchmarks/speed/peers.sh, over an hour
    python benchmarks/speed/slate.py [--rounds 9] [--json]
    python benchmarks/speed/slate.py --tables RESULT.json

SmolLM2-135M-Instruct; 20 candidates of 12 tokens behind a prefix of 200, cold, full depth and a third of it; then 1 and 100
candidates, a prefix of 400, and the same user's second slate. Every contender is a process of its own with its model loaded, and
waits while another works. A round asks each of them once, every second round in reverse order; ratios are taken within a round.
A ratio says how many times faster rexit is. A contender whose log-odds do not agree with rexit's float32 chain fails the run.
A peer that is not built, or does not load, is left out and named. A user is asked once: no peer has met a cold prefix before.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from question import COLD, MOMENTS, Questions
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table
from workload import CANDIDATE, SIX_EXITS, Lengths, catalog_of_fixed_lengths

from rexit.bundle import Catalog
from rexit.measure.machine import machine
from rexit.scripts import script

HERE = Path(__file__).parent
LENGTHS = Lengths(users=800, items=600, prefixes=(200, 400))
FULL, THIRD = len(SIX_EXITS) - 1, SIX_EXITS.index(10)


@dataclass(frozen=True)
class Case:
    """What is asked: tokens of the prefix, number of candidates, and whether the user's prefix is cached from another slate."""

    prefix: int
    candidates: int
    cached: bool = False

    @property
    def name(self) -> str:
        return f"prefix {self.prefix}, {self.candidates} candidates, {'cached' if self.cached else 'cold'}"


MAIN = Case(200, 20)
CASES = (MAIN, Case(200, 20, cached=True), Case(200, 1), Case(200, 100), Case(400, 20))


@dataclass(frozen=True)
class Contender:
    """One way of one peer; the fastest if `way` is empty. weights: their precision. reuses: it can keep a user's prefix. slow:
    asked only in the main case. tolerance, correlation: how far its log-odds may be from rexit's float32 ones and how well they
    must correlate; tolerance None: it computes something else."""

    name: str
    peer: str
    way: str
    weights: str = "fp32"
    reuses: bool = True
    slow: bool = False
    tolerance: float | None = 0.01
    correlation: float = 0.9999

    def takes_part(self, case: Case) -> bool:
        return case == MAIN or not (self.slow or (case.cached and not self.reuses))


# 8-bit weights do not give the same log-odds as 32-bit ones, least of all in a model that was never trained to say yes or no:
# these bounds only tell a wrong computation from a rounded one. How well each precision agrees is in the table.
ROUNDED: Any = {"tolerance": 6.0, "correlation": 0.8}
INT8: Any = {"weights": "int8", **ROUNDED}
INT4: Any = {"weights": "int4", "tolerance": 6.0, "correlation": 0.2}
BF16: Any = {"weights": "bf16", **ROUNDED}
SLOW: Any = {"reuses": False, "slow": True}
OURS = (
    Contender("int8_full", "ours-int8", f"exit_{FULL}", **INT8),
    Contender("int8_third", "ours-int8", f"exit_{THIRD}", weights="int8", tolerance=None),
    Contender("int8_policy", "ours-int8", "policy", weights="int8", tolerance=None),
    Contender("bf16_full", "ours-bf16", f"exit_{FULL}", **BF16),
    Contender("bf16_third", "ours-bf16", f"exit_{THIRD}", weights="bf16", tolerance=None),
    Contender("fp32_full", "ours-fp32", f"exit_{FULL}", tolerance=0.0, correlation=0.0),
    Contender("fp32_third", "ours-fp32", f"exit_{THIRD}", tolerance=None),
)
PEERS = (
    Contender("openvino", "openvino-int8", "", **INT8),
    Contender("openvino_bf16", "openvino-bf16", "", **BF16),
    Contender("llama_cpp", "llama-q8_0", "", **INT8),
    Contender("llama_cpp_bf16", "llama-bf16", "", **BF16),
    Contender("llama_cpp_q4_0", "llama-q4_0", "", **INT4),
    Contender("llama_cpp_q4_k", "llama-q4_k", "", **INT4),
    Contender("ik_llama_cpp", "ik-llama-q8_0", "", **INT8),
    Contender("ik_llama_cpp_q4_0", "ik-llama-q4_0", "", **INT4),
    Contender("ctranslate2", "ctranslate2", "static_prompt", **INT8),
    Contender("genai_int4", "genai-int4", "rewound", **INT4),
    Contender("ort_one_by_one", "ort", "one_by_one", **SLOW),
    Contender("ort_padded_batch", "ort", "padded_batch", **SLOW),
    Contender("ort_shared_prefix", "ort", "shared_prefix"),
    Contender("genai_one_by_one", "genai", "one_by_one", **SLOW),
    Contender("genai_rewound", "genai", "rewound"),
    Contender("torch_one_by_one", "torch", "one_by_one", **SLOW),
    Contender("torch_padded_batch", "torch", "padded_batch", **SLOW),
    Contender("torch_shared_prefix", "torch", "shared_prefix"),
    Contender("torch_compiled_one_by_one", "torch", "compiled_one_by_one", **SLOW),
    Contender("torch_compiled_padded_batch", "torch", "compiled_padded_batch", **SLOW),
)
REFERENCE = "fp32_full"
REQUIRED = frozenset(contender.peer for contender in OURS)
"""Without these nothing is compared; every other peer may be missing."""
OPENVINO = {"KV_CACHE_PRECISION": "f32"}
OPENVINO_INT8 = {
    f"groups of {group}{note}": {**OPENVINO, "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(group), **properties}
    for group in (32, 64, 128)
    for note, properties in (("", {"INFERENCE_PRECISION_HINT": "f32"}), (", bfloat16", {"INFERENCE_PRECISION_HINT": "bf16"}))
} | {"defaults": {}}
OPENVINO_BF16 = {
    "keys and values in float32": {**OPENVINO, "INFERENCE_PRECISION_HINT": "bf16"},
    "keys and values in bfloat16": {"KV_CACHE_PRECISION": "bf16", "INFERENCE_PRECISION_HINT": "bf16"},
}
"""Configurations of OpenVINO: activations in groups that share a scale, the precision of all else, of keys and values."""
WIDTH = 190
"""Of the tables, in columns: as wide as they need, whatever the terminal."""


class PeerEnded(SystemExit):
    """A peer's process ended. The message names the script and its last words."""


class Peer:
    """A child process that scores (peers/protocol.py)."""

    def __init__(self, python: Path, script: str, setup: Mapping[str, Any], log: Path) -> None:
        self.script = script
        with open(log, "w") as errors:
            command = [str(python), str(HERE / "peers" / script)]
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)
        self.log = log
        ready = self.tell(setup)
        self.ways: list[str] = ready["ways"]
        self.about: dict[str, Any] = ready["about"]

    def tell(self, what: Mapping[str, Any]) -> dict[str, Any]:
        assert self.process.stdin and self.process.stdout
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(what), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            last = (self.log.read_text().strip().splitlines() or ["no message"])[-1]
            raise PeerEnded(f"slate.py: {self.script} ended: {last} (see {self.log})")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, way: str, request: Mapping[str, Any], cached: bool) -> tuple[float, list[float]]:
        """Milliseconds and log-odds."""
        answer = self.tell({"way": way, "requests": [request], "cached": cached})
        return answer["milliseconds"][0], answer["log_odds"][0]

    def close(self) -> None:
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()


Plan = tuple[Path, str, dict[str, Any]]
"""A peer's Python, its script and what it needs to load its model."""


def bundle_of(model: Path, work: Path) -> Path:
    """The bundle with cpu-fp32, cpu-bf16 and cpu-int8, exported again if the exporter has changed since."""
    work = work / f"{LENGTHS.users}-users"
    out = work / "bundle"
    sources = (HERE.parents[1] / "exporter").rglob("*.py")
    manifest = out / "manifest.json"
    if not manifest.exists() or manifest.stat().st_mtime < max(path.stat().st_mtime for path in sources):
        from rexit.exporter.export import export_bundle
        from rexit.exporter.options import ExportOptions

        work.mkdir(parents=True, exist_ok=True)
        print(f"exporting {out}", file=sys.stderr)
        export_bundle(
            model / "checkpoint",
            catalog_of_fixed_lengths(work, model / "checkpoint", LENGTHS),
            out,
            ExportOptions(
                exits=SIX_EXITS,
                head="shared",
                precisions=("fp32", "bf16", "int8"),
                golden_slates=2,
                quality_slates=15,
                accept_loss=True,
            ),
        )
    return out


def fresh_users(prefix: int, random: np.random.Generator) -> Iterator[int]:
    """Users whose prefix has that many tokens, in random order, each once."""
    users = range(LENGTHS.prefixes.index(prefix), LENGTHS.users, len(LENGTHS.prefixes))
    yield from random.permutation(users).tolist()
    sys.exit(f"slate.py: {len(users)} users with a prefix of {prefix} tokens have all been asked; expected fewer --rounds")


class Requests:
    """Random slates, the same in every run. No user comes twice."""

    def __init__(self, bundle: Path) -> None:
        import rexit

        self.catalog = Catalog.open(bundle / "catalog")
        self.labels = self.catalog.labels
        self.session = rexit.open(bundle, "cpu-int8")
        self.random = np.random.default_rng(1)
        self.users = {prefix: fresh_users(prefix, self.random) for prefix in LENGTHS.prefixes}

    def draw(self, case: Case) -> dict[str, Any]:
        user = next(self.users[case.prefix])
        slate, before = (self.random.choice(LENGTHS.items, case.candidates, replace=False).tolist() for _ in range(2))
        request: dict[str, Any] = {
            "user": user,
            "no": self.labels["no"],
            "yes": self.labels["yes"],
            "before": self._asked(user, before),
        }
        request |= self._asked(user, slate)
        lengths = (len(request["prefix"]), {len(candidate) for candidate in request["candidates"]})
        assert lengths == (case.prefix, {CANDIDATE}), lengths
        return request

    def _asked(self, user: int, items: Sequence[int]) -> dict[str, Any]:
        prefix, candidates = self.session.prompt(user, items)
        return {"items": items, "prefix": prefix.tolist(), "candidates": [candidate.tolist() for candidate in candidates]}


def plans_of(peers: Path, bundle: Path, check: Sequence[Mapping[str, Any]]) -> dict[str, Plan]:
    """How rexit and every peer is started. peers: the folder of peers.sh."""
    ours = {"bundle": str(bundle), "check": check, "policy": "halving"}
    own = {
        f"ours-{precision}": (Path(sys.executable), "ours.py", {**ours, "variant": f"cpu-{precision}"})
        for precision in ("fp32", "bf16", "int8")
    }
    most = max(case.candidates for case in CASES)
    return own | peer_plans(peers, peers / "model", most, max(case.prefix + case.candidates * CANDIDATE for case in CASES))


def peer_plans(peers: Path, model: Path, most: int, tokens: int, batches: Sequence[int] = (1,)) -> dict[str, Plan]:
    """How every peer is started.

    Args:
        peers: the folder of peers.sh.
        model: the folder of its models.
        most: the most candidates of a slate.
        tokens: the most tokens of a slate.
        batches: into how many parts a peer that fills candidates up to one length may cut a slate.
    """
    python = {name: peers / name / "bin/python" for name in ("optimum", "openvino", "llama", "ik_llama", "ctranslate2", "genai")}
    in_llama = {"max_candidates": most, "max_tokens": -(-tokens // 256) * 256, "ubatch": [256, 512]}
    genai = {"max_length": 512}
    plans: dict[str, Plan] = {
        "openvino-int8": (
            python["openvino"],
            "ov.py",
            {"model": str(model / "openvino-int8"), "ways": OPENVINO_INT8, "batches": batches},
        ),
        "openvino-bf16": (
            python["openvino"],
            "ov.py",
            {"model": str(model / "openvino-fp32"), "ways": OPENVINO_BF16, "batches": batches},
        ),
    }
    for kind in ("q8_0", "bf16", "q4_0", "q4_k"):
        plans[f"llama-{kind}"] = (python["llama"], "llama.py", {"gguf": str(model / f"{kind}.gguf"), **in_llama})
    for kind in ("q8_0", "q4_0"):
        plans[f"ik-llama-{kind}"] = (python["ik_llama"], "ik_llama.py", {"gguf": str(model / f"{kind}.gguf"), **in_llama})
    return plans | {
        "ctranslate2": (python["ctranslate2"], "ct2.py", {"model": str(model / "ctranslate2-int8")}),
        "genai-int4": (
            python["genai"],
            "genai.py",
            {"genai": str(model / "genai-int4"), "ways": ["rewound"], **genai},
        ),
        "ort": (python["optimum"], "ort.py", {"onnx": str(model / "onnx"), "onnx_past": str(model / "onnx-past"), "batch": 20}),
        "genai": (python["genai"], "genai.py", {"genai": str(model / "genai"), "ways": ["one_by_one", "rewound"], **genai}),
        "torch": (Path(sys.executable), "pytorch.py", {"checkpoint": str(model / "checkpoint"), "batch": 20}),
    }


@contextlib.contextmanager
def loaded(
    plans: Mapping[str, Plan], threads: int, work: Path, required: Set[str]
) -> Iterator[tuple[dict[str, Peer], dict[str, str]]]:
    """The peers that run, and why each of the others does not. A required one that does not load ends the program."""
    running: dict[str, Peer] = {}
    left_out: dict[str, str] = {}
    try:
        for name, (python, script, setup) in plans.items():
            print(f"loading {name}", file=sys.stderr)
            try:
                running[name] = started(name, python, script, {"threads": threads, **setup}, work)
            except PeerEnded as problem:
                if name in required:
                    raise
                left_out[name] = str(problem)
                print(f"{name} is left out: {problem}", file=sys.stderr)
        yield running, left_out
    finally:
        for peer in running.values():
            peer.close()


@contextlib.contextmanager
def left_out_if_it_ends(left_out: dict[str, str]) -> Iterator[None]:
    """A peer that ends meanwhile, for want of memory say, ends this part and not what was measured before."""
    try:
        yield
    except PeerEnded as problem:
        left_out["the rest"] = str(problem)
        print(f"the rest is left out: {problem}", file=sys.stderr)


def started(name: str, python: Path, script: str, setup: Mapping[str, Any], work: Path) -> Peer:
    if not python.exists():
        raise PeerEnded(f"slate.py: {name} is not built: no {python}; make bench-peers builds it")
    return Peer(python, script, setup, work / f"{name}.log")


def fastest(peer: Peer, requests: Sequence[Mapping[str, Any]], cached: bool) -> tuple[str, dict[str, float]]:
    """The way of a peer with the lowest median, after a warm-up request, and the medians of all its ways."""
    elapsed = {way: [peer.ask(way, request, cached)[0] for request in requests][1:] for way in peer.ways}
    medians = {way: float(np.median(times)) for way, times in elapsed.items()}
    return min(medians, key=lambda way: medians[way]), medians


def ratios(times: Mapping[str, NDArray[np.float64]], ours: Sequence[str], peers: Sequence[str]) -> dict[str, dict[str, Any]]:
    """How many times faster ours are: `{a}_vs_{b}` -> median and quartiles over rounds of b's time divided by a's.

    times: milliseconds [rounds] of each contender.
    """
    results = {}
    for name in ours:
        for other in peers:
            if name in times and other in times:
                ratio = times[other] / times[name]
                low, middle, high = np.percentile(ratio, [25, 50, 75]).tolist()
                results[f"{name}_vs_{other}"] = {"median": middle, "quartiles": [low, high]}
    return results


def agreement(actual: NDArray[np.float64], expected: NDArray[np.float64]) -> dict[str, float]:
    """Of one contender's log-odds with the reference's, over all rounds and candidates."""
    return {
        "correlation": float(np.corrcoef(actual, expected)[0, 1]),
        "max_difference": float(np.abs(actual - expected).max()),
    }


def disagreements(
    results: Mapping[str, Mapping[str, float]], contenders: Sequence[Contender], reference: str = REFERENCE
) -> list[str]:
    """One line for each contender that does not compute what it should. NaN does not pass."""
    lines = []
    for contender in contenders:
        if contender.tolerance is None or contender.name not in results:
            continue
        row = results[contender.name]
        if not (row["max_difference"] <= contender.tolerance and row["correlation"] >= contender.correlation):
            lines.append(
                f"{contender.name}: log-odds differ from {reference} by up to {row['max_difference']:.3g}, correlation "
                f"{row['correlation']:.5f}; expected at most {contender.tolerance:g} and at least {contender.correlation:g}"
            )
    return lines


def measure(running: Mapping[str, Peer], requests: Requests, case: Case, rounds: int) -> dict[str, Any]:
    """One case: every round asks every contender once. Says which peer of each precision was fastest."""
    contenders = [contender for contender in (*OURS, *PEERS) if contender.peer in running and contender.takes_part(case)]
    about = {"prefix": case.prefix, "candidates": case.candidates, "candidate_tokens": CANDIDATE, "cached": case.cached}
    names = [contender.name for contender in contenders]
    ours, peers = ([contender.name for contender in side if contender.name in names] for side in (OURS, PEERS))
    results = asked_in_turn(running, contenders, (ours, peers), lambda: requests.draw(case), case.name, case.cached, rounds)
    return about | results | {"fastest": fastest_peers(results["milliseconds"])}


def asked_in_turn(
    running: Mapping[str, Peer],
    contenders: Sequence[Contender],
    sides: tuple[Sequence[str], Sequence[str]],
    draw: Callable[[], Mapping[str, Any]],
    name: str,
    cached: bool,
    rounds: int,
    reference: str = REFERENCE,
) -> dict[str, Any]:
    """Every round draws a request and asks every contender once. sides: whose times divide, and whose are divided."""
    best: dict[str, str] = {}
    tried: dict[str, dict[str, float]] = {}
    trials = [draw() for _ in range(4)]
    for peer in dict.fromkeys(contender.peer for contender in contenders if not contender.way):
        best[peer], tried[peer] = fastest(running[peer], trials, cached)
    times = {contender.name: np.zeros(rounds) for contender in contenders}
    answers: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for n in range(-1, rounds):  # round -1 warms up
        request = draw()
        for contender in contenders if n % 2 else contenders[::-1]:
            time.sleep(0.02)  # the previous contender's thread pools may still spin
            elapsed, log_odds = running[contender.peer].ask(contender.way or best[contender.peer], request, cached)
            if n >= 0:
                times[contender.name][n] = elapsed
                answers[contender.name] += log_odds
        print(f"{name}: round {n + 1} of {rounds}", file=sys.stderr)
    expected = np.array(answers[reference])
    compared = {
        contender.name: agreement(np.array(answers[contender.name]), expected)
        for contender in contenders
        if contender.tolerance is not None
    }
    return {
        "rounds": rounds,
        "milliseconds": {name: float(np.median(values)) for name, values in times.items()},
        "ratios": ratios(times, *sides),
        "agreement": compared,
        "disagreements": disagreements(compared, contenders, reference),
        "configurations": tried,
    }


def fastest_peers(milliseconds: Mapping[str, float]) -> dict[str, str]:
    """`best_{precision}_peer` -> the peer with the lowest median among those with such weights; `best_peer` among all."""
    peers = sorted((contender for contender in PEERS if contender.name in milliseconds), key=lambda c: milliseconds[c.name])
    best = {f"best_{contender.weights}_peer": contender.name for contender in reversed(peers)}
    return best | {"best_peer": peers[0].name} if peers else {}


def contenders_of(prompt: str, precision: str) -> list[Contender]:
    """What is asked of one bundle of --question in one precision: full depth and its policy. float32 is what others agree with;
    peers read the words, so a model in vectors agrees with nobody."""
    name, peer = f"{precision}_{prompt}", f"{prompt}-{precision}"
    if precision == "fp32":
        return [Contender(f"{name}_full", peer, "full", tolerance=0.0, correlation=0.0)]
    bounds: Any = ROUNDED if prompt == "text" else {"tolerance": None}
    return [Contender(f"{name}_full", peer, "full", **bounds), Contender(f"{name}_policy", peer, "policy", tolerance=None)]


def questions(
    folder: Path, peers: Path, work: Path, threads: int, rounds: int, only: Set[str]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """One question put in words and in vectors: the cases, what is to be known of both, and the peers left out, with reasons."""
    questions = Questions(folder)
    own = Path(sys.executable)
    plans: dict[str, Plan] = {}
    ours: list[Contender] = []
    for prompt, path in questions.bundles.items():
        setup = {"bundle": str(path), "policy": "own", "check": questions.checks(prompt)}
        for precision in (*questions.precisions[prompt], *(("fp32",) if prompt == "text" else ())):
            peer = f"{prompt}-{precision}"
            plans[peer] = (own, "ours.py", setup | {"variant": f"cpu-{precision}"})
            ours += contenders_of(prompt, precision)
    if "text" in questions.bundles:
        theirs = peer_plans(peers, folder / "text", questions.size, questions.most(), batches=(1, 2, 4))
        del theirs["ctranslate2"]  # keeps every prefix, and users may be drawn twice
        plans |= {name: plan for name, plan in theirs.items() if not only or name in only}
    reference = "fp32_text_full" if "text" in questions.bundles else ours[0].name
    about = questions.about()
    with loaded(plans, threads, work, {contender.peer for contender in ours}) as (running, left_out):
        others = [contender for contender in PEERS if contender.peer in running and not contender.slow]
        names = [[contender.name for contender in side] for side in (ours, others)]
        cases = {}
        for moment in MOMENTS:
            asked = [contender for contender in (*ours, *others) if moment == COLD or contender.reuses]
            draw = functools.partial(questions.draw, moment)
            results = asked_in_turn(running, asked, (names[0], names[1]), draw, moment, moment != COLD, rounds, reference)
            cases[moment] = results | {"fastest": fastest_peers(results["milliseconds"])}
        about["peers"] = {name: peer.about for name, peer in running.items()}
    return cases, about, left_out


def report(
    cases: Mapping[str, Mapping[str, Any]], about: Mapping[str, Any], threads: int, left_out: Mapping[str, str]
) -> dict[str, Any]:
    """What --json prints. `ratios` are medians: the main case's, and of a question those of its cold case. So are the fastest
    peers, `best_int8_peer` and so on."""
    main = [cases[name] for name in (MAIN.name, COLD) if name in cases]
    return {
        **{key: name for case in main for key, name in case.get("fastest", {}).items()},
        "ratios": {name: value["median"] for case in main for name, value in case["ratios"].items()},
        "left_out": left_out,
        "cases": cases,
        "threads": threads,
        "machine": machine(),
        "about": about,
    }


def show(result: Mapping[str, Any], console: Console) -> None:
    for name, case in result["cases"].items():
        ours = list(dict.fromkeys(pair.partition("_vs_")[0] for pair in case["ratios"]))
        table = Table(box=MARKDOWN, title=f"{name}; {result['threads']} threads, {case['rounds']} rounds", title_justify="left")
        for column in ("", "ms", *ours, "correlation", "max diff"):
            table.add_column(column, justify="right" if column else "left", no_wrap=True)
        for contender, milliseconds in case["milliseconds"].items():
            results = [case["ratios"].get(f"{name}_vs_{contender}") for name in ours]
            faster = ["{:.2f} ({:.2f}-{:.2f})".format(r["median"], *r["quartiles"]) if r else "" for r in results]
            same = case["agreement"].get(contender)
            figures = (f"{same['correlation']:.5f}", f"{same['max_difference']:.2g}") if same else ("", "")
            table.add_row(contender, f"{milliseconds:.1f}", *faster, *figures)
        console.print(table)
        if best := case.get("fastest"):
            console.print("Fastest peers:", ", ".join(f"{key.removeprefix('best_')} {name}" for key, name in best.items()))
    for name, problem in result["left_out"].items():
        console.print(f"{name} is left out: {problem}")
    console.print("Columns of rexit's variants: how many times faster each is than the row; median and quartiles over rounds.")


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, default=Path("build/peers"))
    parser.add_argument("--work", type=Path, default=Path("build/bench/slate"))
    parser.add_argument("--rounds", type=int, default=9, help="of the main case; the others have half as many")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="peers to start, separated by commas; all if not given")
    parser.add_argument("--main", action="store_true", help="the main case alone")
    parser.add_argument("--question", type=Path, help="folder of fine-tuned, calibrated models (question.py): that case alone")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--tables", type=Path, help="what --json printed: its tables, and nothing is measured")
    args = parser.parse_args()
    console = Console(highlight=False, width=WIDTH)
    if args.tables:
        show(json.loads(args.tables.read_text()), console)
        return
    args.work.mkdir(parents=True, exist_ok=True)
    left_out: dict[str, str] = {}
    if args.question:
        only = set(filter(None, args.only.split(",")))
        cases, about, left_out = questions(args.question, args.peers, args.work, args.threads, args.rounds, only)
    else:
        bundle = bundle_of(args.peers / "model", args.work)
        requests = Requests(bundle)
        plans = plans_of(args.peers, bundle, [requests.draw(MAIN) for _ in range(5)])
        if chosen := set(filter(None, args.only.split(","))):
            if unknown := chosen - set(plans):
                sys.exit(f"slate.py: --only {','.join(sorted(unknown))}: no such peer; expected some of {', '.join(plans)}")
            plans = {name: plan for name, plan in plans.items() if name in chosen | REQUIRED}
        with loaded(plans, args.threads, args.work, REQUIRED) as (running, left_out):
            fewer = max(3, args.rounds // 2)
            cases = {MAIN.name: measure(running, requests, MAIN, args.rounds)}
            with left_out_if_it_ends(left_out):
                for case in () if args.main else CASES[1:]:
                    cases[case.name] = measure(running, requests, case, fewer)
            about = {name: peer.about for name, peer in running.items()}
    result = report(cases, about, args.threads, left_out)
    if args.json:
        print(json.dumps(result, indent=1))
    else:
        show(result, console)
    if results := [f"{name}: {line}" for name, case in cases.items() for line in case["disagreements"]]:
        sys.exit("\n".join(["slate.py: not the same computation", *results]))


if __name__ == "__main__":
    main()
