"""Services of the same cross-encoder under load: answers per second, latency, memory, start-up.

    make bench-peers                                                              once
    python benchmarks/speed/encoders.py CROSS_ENCODER --slates SLATES --prepare   once
    python benchmarks/speed/serving.py CROSS_ENCODER --slates SLATES [--bundle BUNDLE] [--clients 1,4,16] [--json]

Claims with 100 documents, as encoders.py asks them but cut to 120 words, which no service cuts further, sent by so many clients,
each of which waits for its answer and asks again. `rexit serve` answers with int8 at full depth; the peers are a service of
CrossEncoder with OpenVINO's static int8 (peers/cross_encoder_service.py) and Infinity with ONNX Runtime's dynamic int8, the only
int8 that it runs. --bundle adds a calibrated bundle of the model, whose first variant with a policy answers and reads SLATES'
`score.bm25` first. rexit and CrossEncoder run as one process that computes with all threads, and in as many parts as there are
threads, with one thread: sessions of rexit, processes of the peer, between which clients are divided. One service runs at a time,
all in turn in every round; the table has medians over rounds. Memory is the most that its processes had resident, start-up the
time until its first answer. Clients run on the same cores.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from encoders import SENTENCE_TRANSFORMERS, requests
from rich.console import Console
from rich.table import Table

from rexit.errors import script
from rexit.upkeep.measure import machine

PEER, READY_S, WORDS = "st_openvino_static_int8", 120, 120
FIGURES = ("answers/s", "p50 ms", "p99 ms")


@dataclass(frozen=True)
class Service:
    """A service of `processes` commands, each with a port of its own in the place of PORT."""

    name: str
    command: tuple[str, ...]
    processes: int = 1
    folder: Path | None = None
    """Where it is started."""
    has_scores: bool = False
    """Whether requests bring the first stage's scores."""


@dataclass
class Running:
    """ports: of its processes. seconds: until it answered."""

    ports: list[int]
    processes: list[subprocess.Popen[bytes]]
    seconds: float

    @property
    def peak_mb(self) -> float:
        """The most memory that the processes had resident, each its own."""
        lines = [line for p in self.processes for line in Path(f"/proc/{p.pid}/status").read_text().splitlines()]
        return sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6


def infinity(model: Path, work: Path, peers: Path, batch: int) -> Service:
    """Infinity with ONNX Runtime's dynamic int8, which it takes from the top of its own folder alone."""
    folder = work / "infinity"
    if not folder.exists():
        folder.mkdir()
        for path in model.glob("*.json"):
            shutil.copy(path, folder)
        shutil.copy(model / "onnx" / str(SENTENCE_TRANSFORMERS["st_onnx_int8"][1]["file"]), folder / "model_quantized.onnx")
    options = ("--engine", "optimum", "--onnx-disable-optimize", "--device", "cpu", "--batch-size", str(batch))
    program = str((peers / "infinity/bin/infinity_emb").absolute())
    return Service("Infinity, 1 process", (program, "v2", "--model-id", ".", *options, "--port", "PORT"), folder=folder)


def services(
    model: Path, bundle: Path, policy: Path | None, python: Path, pairs: Path, threads: int, batch: int
) -> list[Service]:
    """Returns rexit and CrossEncoder with all threads for a request, and with one. policy: a calibrated bundle."""
    offered = []
    rexit = str(Path(sys.executable).with_name("rexit"))
    for sessions in (1, threads):
        options = ("--sessions", str(sessions), "--threads", str(threads // sessions), "--port", "PORT")
        parts = f"{sessions} x {threads // sessions} threads"
        for way, folder, variant in (("full depth", bundle, ("--variant", "cpu-int8")), ("policy", policy, ())):
            if folder is not None:
                command = (rexit, "serve", str(folder), *variant, *options)
                offered.append(Service(f"rexit, {way}, {parts}", command, has_scores=way == "policy"))
        setup = {**SENTENCE_TRANSFORMERS[PEER][1], "model": str(model), "pairs": str(pairs), "batch": batch}
        setup["threads"] = threads // sessions
        program = str(Path(__file__).parent / "peers" / "cross_encoder_service.py")
        offered.append(Service(f"CrossEncoder, {parts}", (str(python), program, json.dumps(setup), "PORT"), sessions))
    return offered


def post(port: int, body: bytes) -> None:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/rerank", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=READY_S) as answer:
            answer.read()
    except urllib.error.HTTPError as exc:
        sys.exit(f"serving.py: answered {exc.code}: {exc.read().decode(errors='replace')[:300]}")


@contextlib.contextmanager
def started(service: Service, body: bytes, log: Path) -> Iterator[Running]:
    """Yields the service once each process has answered."""
    ports = []
    for _ in range(service.processes):
        with socket.create_server(("127.0.0.1", 0)) as free:
            ports.append(free.getsockname()[1])
    begun = time.monotonic()
    with log.open("wb") as errors:
        processes = [
            subprocess.Popen(
                [word.replace("PORT", str(port)) for word in service.command], stdout=errors, stderr=errors, cwd=service.folder
            )
            for port in ports
        ]
    try:
        for port, process in zip(ports, processes, strict=True):
            while True:
                with contextlib.suppress(urllib.error.URLError, ConnectionError):
                    post(port, body)
                    break
                if process.poll() is not None or time.monotonic() - begun > READY_S:
                    sys.exit(f"serving.py: {service.name} did not start (see {log})")
                time.sleep(0.02)
        yield Running(ports, processes, time.monotonic() - begun)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


def loaded(running: Running, bodies: Sequence[bytes], clients: int, seconds: float) -> dict[str, float]:
    """Returns what so many clients see for so many seconds, after an answer each that warms up."""
    begin = threading.Barrier(clients + 1, timeout=READY_S)

    def ask(client: int) -> list[float]:
        port, n, took = running.ports[client % len(running.ports)], client, list[float]()
        post(port, bodies[n % len(bodies)])
        begin.wait()
        until = time.monotonic() + seconds
        while (sent := time.monotonic()) < until:
            n += clients
            post(port, bodies[n % len(bodies)])
            took.append(time.monotonic() - sent)
        return took

    with ThreadPoolExecutor(clients) as pool:
        asking = [pool.submit(ask, client) for client in range(clients)]
        begin.wait()
        begun = time.monotonic()
        took = [second for future in asking for second in future.result()]
    p50, p99 = np.percentile(took, [50, 99]) * 1000
    return dict(zip(FIGURES, (len(took) / (time.monotonic() - begun), float(p50), float(p99)), strict=True))


def cut(text: str) -> str:
    return " ".join(text.split()[:WORDS])


@script
def main(args: argparse.Namespace) -> None:
    work = args.work / args.cross_encoder.name
    if not (work / "bundle").is_dir():
        sys.exit(f"serving.py: {work}: run encoders.py {args.cross_encoder} --slates {args.slates} --prepare first")
    draw = requests(args.slates)
    claims = [next(draw) for _ in range(args.claims)]
    plain = [{"query": claim["query"], "documents": list(map(cut, claim["candidates"]))} for claim in claims]
    scored = [{**request, "scores": claim["scores"]} for request, claim in zip(plain, claims, strict=True)]
    bodies = {False: [json.dumps(row).encode() for row in plain], True: [json.dumps(row).encode() for row in scored]}
    python, work = args.peers.absolute() / SENTENCE_TRANSFORMERS[PEER][0] / "bin/python", work.absolute()
    offered = services(work / "model", work / "bundle", args.bundle, python, work / "pairs", args.threads, args.batch)
    if (args.peers / "infinity").is_dir():
        offered.append(infinity(work / "model", work, args.peers, args.batch))
    rounds: dict[str, list[dict[str, float]]] = {service.name: [] for service in offered}
    for n in range(args.rounds):
        for service in offered if n % 2 == 0 else offered[::-1]:
            sent = bodies[service.has_scores]
            with started(service, sent[0], work / "serving.log") as running:
                row = {"start-up s": running.seconds}
                for clients in args.clients:
                    figures = loaded(running, sent, clients, args.seconds)
                    row |= {f"{clients}: {name}": value for name, value in figures.items()}
                row["MB"] = running.peak_mb
            rounds[service.name].append(row)
            print(f"round {n + 1}: {service.name}: " + ", ".join(f"{k} {v:.4g}" for k, v in row.items()), file=sys.stderr)
    medians = {name: {key: float(np.median([row[key] for row in rows])) for key in rows[0]} for name, rows in rounds.items()}
    if args.json:
        print(json.dumps({"machine": machine(), "rounds": rounds, "medians": medians}, indent=1))
        return
    table = Table(title=f"100 documents a request, {args.threads} threads", title_justify="left")
    table.add_column("")
    for key in next(iter(medians.values())):
        table.add_column(key, justify="right")
    for name, row in medians.items():
        table.add_row(name, *(f"{value:.3g}" if value < 100 else f"{value:.0f}" for value in row.values()))
    Console(highlight=False, width=200).print(table)


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cross_encoder", type=Path)
    parser.add_argument("--slates", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, help="a calibrated bundle of the model")
    parser.add_argument("--peers", type=Path, default=Path("build/peers"))
    parser.add_argument("--work", type=Path, default=Path("build/bench/encoders"))
    parser.add_argument("--clients", type=_numbers, default=[1, 4, 16])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--claims", type=int, default=64, help="different requests (64)")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32, help="pairs that a peer takes at a time (32)")
    parser.add_argument("--json", action="store_true")
    main(parser.parse_args())
