"""examples/serving in a real Triton server: its answers are the runtime's, its errors say what was wrong.

    make test-triton

Triton as PyTriton packs it; its Python backend takes the environment whose `python3` comes first in PATH.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import rexit
from builders.bundles.bundle import BundleOptions, write_bundle
from builders.bundles.bundle_files import add_tokenizer
from builders.bundles.catalog import ITEM_IDS, USER_IDS, make_catalog, with_inputs
from builders.bundles.held_out import write_ranked
from builders.bundles.reranker import words_tokenizer
from rexit.bundle import Bundle

EXAMPLE = Path(__file__).parents[2] / "examples" / "serving" / "model_repository"
START = 120
"""Seconds that the server may take to be ready."""


def ask(url: str, **inputs: Any) -> dict[str, Any]:
    """Asks for `user`, `items`, `deadline_ms` and `inputs`; returns the answer's tensors, or its `error`."""
    kinds = {"user": "INT64", "items": "INT64", "deadline_ms": "FP32", "inputs": "BYTES"}
    body = {
        "inputs": [
            {"name": name, "shape": [len(values)], "datatype": kinds[name], "data": values} for name, values in inputs.items()
        ]
    }
    try:
        with urllib.request.urlopen(f"{url}/v2/models/rexit/infer", json.dumps(body).encode()) as answer:
            return {output["name"]: output["data"] for output in json.load(answer)["outputs"]}
    except urllib.error.HTTPError as exc:
        return dict(json.load(exc))


def free_ports(*names: str) -> dict[str, int]:
    with contextlib.ExitStack() as stack:
        sockets = {name: stack.enter_context(socket.create_server(("127.0.0.1", 0))) for name in names}
        return {name: int(listening.getsockname()[1]) for name, listening in sockets.items()}


def wait_for(server: subprocess.Popen[bytes], url: str) -> None:
    end = time.monotonic() + START
    while True:
        try:
            with urllib.request.urlopen(f"{url}/v2/models/rexit/ready"):
                return
        except urllib.error.URLError:
            if server.poll() is not None or time.monotonic() > end:
                sys.exit("triton: the server is not ready, see above")
            time.sleep(0.2)


def check(url: str, bundle: Path) -> None:
    catalog = Bundle.open(bundle).catalog
    users, items = (ids.take(np.arange(len(ids))) for ids in (catalog.users, catalog.items))
    slates = [(users[n % len(users)], items[n % 5 : n % 5 + 1 + n % 3]) for n in range(48)]
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda slate: ask(url, user=[slate[0]], items=slate[1]), slates))
    with rexit.open(bundle) as session:
        for (user, slate), answer in zip(slates, answers, strict=True):
            scores = session.score(user, slate)
            assert answer["probability"] == scores.probability.tolist(), (answer, scores)
            assert answer["exit"] == scores.exit.tolist() and answer["cut_short"] == [False] * len(slate)
    assert "item 4 is not in the catalog" in ask(url, user=users[:1], items=[4])["error"]
    assert "the deadline passed" in ask(url, user=[users[-1]], items=items[:1], deadline_ms=[0.001])["error"]
    print(f"{len(slates)} slates by four clients: answers equal to the runtime's; two errors as they should be")


def check_inputs(url: str, bundle: Path) -> None:
    """Inputs, as JSON."""
    user, items = USER_IDS[0], ITEM_IDS[:5]
    with rexit.open(bundle) as session:
        for inputs in ({"device": "tv", "hour": 21, "query": "wing drag"}, {"device": "7", "query": [7, 8], "note": "A"}):
            answer = ask(url, user=[user], items=items, inputs=[json.dumps(inputs)])
            session.clear_cache()
            assert answer["probability"] == session.score(user, items, inputs=inputs).probability.tolist()
    assert "inputs.query is missing" in ask(url, user=[user], items=items, inputs=['{"device": "tv"}'])["error"]
    assert "inputs: not valid JSON" in ask(url, user=[user], items=items, inputs=["wing"])["error"]
    print("inputs: answers equal to the runtime's; two errors as they should be")


def write_with_inputs(place: Path) -> Path:
    """A bundle whose prompts have inputs."""
    folder = write_bundle(place / "inputs", BundleOptions(with_inputs(make_catalog())))
    add_tokenizer(folder, words_tokenizer().to_str())
    return folder


def main(installed: Path) -> None:
    root = installed / "server" / "pytriton" / "tritonserver"
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for bundle, checks in ((write_ranked(place).bundle, check), (write_with_inputs(place), check_inputs)):
            models = Path(shutil.copytree(EXAMPLE, place / f"models-{bundle.name}"))
            config = models / "rexit" / "config.pbtxt"
            config.write_text(config.read_text().replace('"/bundle"', f'"{bundle}"'))
            ports = free_ports("http", "grpc", "metrics")
            url = f"http://127.0.0.1:{ports['http']}"
            words = [root / "bin" / "tritonserver", "--model-repository", models, "--backend-directory", root / "backends"]
            words += [word for name, port in ports.items() for word in (f"--{name}-port", str(port))]
            environment = os.environ | {"PATH": f"{installed / 'venv' / 'bin'}:{os.environ['PATH']}"}
            with subprocess.Popen([*map(str, words), "--log-info", "false"], env=environment) as server:
                try:
                    wait_for(server, url)
                    checks(url, bundle)
                finally:
                    server.terminate()
            assert server.returncode == 0, server.returncode


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
