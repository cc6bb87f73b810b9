"""One slate, scored in turn by rexit and its peers with the same weights and tokens: times, their ratios, and agreement.

    make bench-peers                              once: benchmarks/speed/peers.sh, over an hour
    python benchmarks/speed/slate.py [--rounds 9] [--json]
    python benchmarks/speed/slate.py --tables RESULT.json

SmolLM2-135M-Instruct; 20 candidates of 12 tokens behind a prefix of 200, cold, full depth and a third of it; then 1 and 100
candidates, a prefix of 400, and the same user's second slate. Every contender is a process of its own with its model loaded, and
waits while another works. A round asks each of them once, every second round in reverse order. Ratios are taken within a round:
they say how many times faster rexit is. A contender whose log-odds do not agree with rexit's float32 ones fails the run. A peer
that is not built, or does not load, is left out and named. Each user is asked once, so that no peer has met a cold prefix before.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from contenders import CASES, MAIN, OURS, PEERS, REQUIRED, ROUNDED, Case, Contender, fastest_peers
from processes import HERE, Peer, Plan, left_out_if_it_ends, loaded, peer_plans
from question import COLD, MOMENTS, Questions
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table
from rounds import asked_in_turn
from workload import CANDIDATE, SIX_EXITS, Lengths, catalog_of_fixed_lengths

from rexit.errors import script
from rexit.format.bundle import Catalog
from rexit.upkeep.measure import machine

LENGTHS = Lengths(users=800, items=600, prefixes=(200, 400))
WIDTH = 190
"""Columns of the printed tables, whatever the terminal's width."""


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
    """Yields users whose prefix has that many tokens, each once, in random order. Ends the program after the last."""
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
    max_candidates = max(case.candidates for case in CASES)
    max_tokens = max(case.prefix + case.candidates * CANDIDATE for case in CASES)
    return own | peer_plans(peers, peers / "model", max_candidates, max_tokens)


def measure(running: Mapping[str, Peer], requests: Requests, case: Case, rounds: int) -> dict[str, Any]:
    """Measures one case. Says which peer of each precision was fastest."""
    contenders = [contender for contender in (*OURS, *PEERS) if contender.peer in running and contender.takes_part(case)]
    about = {"prefix": case.prefix, "candidates": case.candidates, "candidate_tokens": CANDIDATE, "cached": case.cached}
    names = [contender.name for contender in contenders]
    ours, peers = ([contender.name for contender in side if contender.name in names] for side in (OURS, PEERS))
    results = asked_in_turn(running, contenders, (ours, peers), lambda: requests.draw(case), case.name, case.cached, rounds)
    return about | results | {"fastest": fastest_peers(results["milliseconds"])}


def contenders_of(prompt: str, precision: str) -> list[Contender]:
    """The contenders of one bundle of --question in one precision: full depth and its policy. All are compared with float32 in
    words, which is what peers read, so a model in vectors is compared with nothing."""
    name, peer = f"{precision}_{prompt}", f"{prompt}-{precision}"
    if precision == "fp32":
        return [Contender(f"{name}_full", peer, "full", tolerance=0.0, correlation=0.0)]
    bounds: Any = ROUNDED if prompt == "text" else {"tolerance": None}
    return [Contender(f"{name}_full", peer, "full", **bounds), Contender(f"{name}_policy", peer, "policy", tolerance=None)]


def questions(
    folder: Path, peers: Path, work: Path, threads: int, rounds: int, only: Set[str]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """Measures one question in words and in vectors. Returns the cases, facts about both, and the peers left out, with
    reasons."""
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
        theirs = peer_plans(peers, folder / "text", questions.size, questions.max_tokens(), batches=(1, 2, 4))
        del theirs["ctranslate2"]  # keeps every prefix, and users may be drawn twice
        plans |= {name: plan for name, plan in theirs.items() if not only or name in only}
    reference = "fp32_text_full" if "text" in questions.bundles else ours[0].name
    about = questions.about()
    with loaded(plans, threads, work, {contender.peer for contender in ours}) as (running, left_out):
        others = [contender for contender in PEERS if contender.peer in running and not contender.slow]
        if questions.has_zero:  # the same cut made by hand, by a look-up that the peer's time does not have
            int8 = [contender for contender in others if contender.weights == "int8"]
            others += [replace(contender, name=f"{contender.name}_cut", tolerance=None, cut=True) for contender in int8]
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
    """What --json prints. `ratios` are medians of the main case, or of a question's cold case, and so are the fastest peers,
    `best_int8_peer` and so on."""
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
