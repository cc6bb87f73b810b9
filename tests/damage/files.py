"""Files that are missing, cut short, elsewhere or no files."""

from __future__ import annotations

import os
from pathlib import Path

from damage.cases import Cases
from damage.edits import ITEMS, MANIFEST, PIECES, SEGMENT, USERS, VARIANT, edit_json

CASES = Cases("opening")
ends_in = CASES.ends_in


@ends_in("NOT_FOUND", "manifest.json")
def missing_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


@ends_in("NOT_FOUND", "segment-1.onnx")
def missing_segment(folder: Path) -> None:
    (folder / SEGMENT).unlink()


@ends_in("NOT_FOUND", "users.safetensors")
def missing_table(folder: Path) -> None:
    (folder / USERS).unlink()


@ends_in("CORRUPT", "items.safetensors")
def truncated_table(folder: Path) -> None:
    os.truncate(folder / ITEMS, (folder / ITEMS).stat().st_size - 1)


@ends_in("CORRUPT", "segment-1.onnx.data")
def grown_weights(folder: Path) -> None:
    with open(folder / f"{SEGMENT}.data", "ab") as file:
        file.write(b"\0")


@ends_in("CORRUPT", "users.safetensors")
def edited_size_in_manifest(folder: Path) -> None:
    edit_json(folder, MANIFEST, "files", USERS, "bytes", to=7, sealed=False)


@ends_in("CORRUPT", "bytes")
def negative_size(folder: Path) -> None:
    edit_json(folder, MANIFEST, "files", USERS, "bytes", to=-1, sealed=False)


@ends_in("CORRUPT", "sha256")
def digest_that_is_none(folder: Path) -> None:
    edit_json(folder, MANIFEST, "files", USERS, "sha256", to="../../etc", sealed=False)


@ends_in("CORRUPT", "../outside")
def path_that_leaves_the_folder(folder: Path) -> None:
    edit_json(folder, MANIFEST, "files", "../outside", to={"bytes": 1, "sha256": "0" * 64}, sealed=False)


@ends_in("CORRUPT", "/etc/passwd")
def absolute_path(folder: Path) -> None:
    edit_json(folder, MANIFEST, "files", "/etc/passwd", to={"bytes": 1, "sha256": "0" * 64}, sealed=False)


@ends_in("CORRUPT", "catalog//users")
def path_with_an_empty_part(folder: Path) -> None:
    edit_json(folder, MANIFEST, "files", "catalog//users.safetensors", to={"bytes": 1, "sha256": "0" * 64}, sealed=False)


@ends_in("CORRUPT", "a/../../b")
def graph_path_that_leaves_the_folder(folder: Path) -> None:
    edit_json(folder, VARIANT, "segments", 1, "graph", to="a/../../b")


@ends_in("CORRUPT", "../cpu-fp32")
def variant_name_that_leaves_the_folder(folder: Path) -> None:
    edit_json(folder, MANIFEST, "variants", to=["../cpu-fp32"])


@ends_in("CORRUPT", "other.onnx")
def graph_that_is_not_listed(folder: Path) -> None:
    edit_json(folder, VARIANT, "segments", 1, "graph", to="other.onnx")


@ends_in("CORRUPT", "link")
def symbolic_link_to_a_table(folder: Path) -> None:
    (folder / PIECES).rename(folder / "elsewhere")
    (folder / PIECES).symlink_to(folder / "elsewhere")


@ends_in("CORRUPT", "link")
def symbolic_link_to_a_folder(folder: Path) -> None:
    (folder / "catalog").rename(folder / "elsewhere")
    (folder / "catalog").symlink_to("elsewhere", target_is_directory=True)


@ends_in("CORRUPT", "link")
def symbolic_link_to_the_manifest(folder: Path) -> None:
    (folder / MANIFEST).rename(folder / "elsewhere")
    (folder / MANIFEST).symlink_to("elsewhere")


@ends_in("CORRUPT", "plain file")
def folder_in_place_of_a_table(folder: Path) -> None:
    (folder / PIECES).unlink()
    (folder / PIECES).mkdir()


@ends_in("CORRUPT", "plain file")
def fifo_in_place_of_the_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    os.mkfifo(folder / MANIFEST)
