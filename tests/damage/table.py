"""A row of damage: what is changed in which file of a bundle, and how opening it or scoring a slate must end.

1. In JSON a place is a pointer: `/model/hidden_size`, `/exits/1/a`; `/prompt/prefix/-` appends, and `~1` is a slash. In a table
   it is a tensor's name. Plans of engines are JSON, for the double that reads them.
2. The value replaces what is there. DELETE removes it. In a table it is a function of the array, such as `put(index, value)`.
3. policy.json is written anew, with three plain exits, before its places are changed.
4. Sizes and digests are made to fit afterwards, so that checks reach the damage itself; not for `files` of the manifest.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file, save_file

from builders.bundles.bundle_files import entry, refresh, write_json, write_policy

MANIFEST, CATALOG, VARIANT = "manifest.json", "catalog/catalog.json", "variants/cpu-fp32/variant.json"
POLICY = "variants/cpu-fp32/policy.json"
ENGINES = "variants/tensorrt-fp16/engines/sm87-trt10.3.0"
ENGINE = f"{ENGINES}/engine.json"
USERS, ITEMS, PIECES = (f"catalog/{name}.safetensors" for name in ("users", "items", "pieces"))
SEGMENT = "variants/cpu-fp32/segment-1.onnx"
NOISE = bytes(range(256)) * 8

RUNNING_USER, RUNNING_ITEMS = 2, (0, 5)
"""Rows of the slate that is run when damage is found `running`; tests/cpp/api/test_damage.cpp has their ids."""
LATE = 1 << 40
"""The `as_of` it is run with when damage is found `searching`: everything is visible, but similar users are searched for."""

Damage = Callable[[Path], None]


class Delete:
    """The value of a place that is removed."""


DELETE = Delete()


@dataclass(frozen=True)
class Case:
    """Damage to a bundle.

    Attributes:
        name: Says the damage.
        status: Which it ends in; OK: it must do no harm.
        names: What the message names.
        damage: What is done to the bundle's folder.
        found: When: `opening`, `running`, `searching`, or `verifying`: opening succeeds, and a slate is scored or refused with a
            status. Does not matter for engines.
    """

    name: str
    status: str
    names: str
    damage: Damage
    found: str = "opening"


@dataclass(frozen=True)
class Row:
    """A `Case` as a row of a table. file: what is changed. at: values by place. first: what is done to the folder before."""

    name: str
    status: str
    names: str
    file: str
    at: Mapping[str, Any] = field(default_factory=dict)
    found: str = "opening"
    first: Damage = lambda folder: None

    def damage(self, folder: Path) -> None:
        """Damages a bundle."""
        self.first(folder)
        if self.file == POLICY:
            change_policy(folder, self.at)
        elif self.file == ENGINE:
            change_json(folder, ENGINE, self.at)
        elif self.file.endswith(".plan"):
            change_plan(folder, self.file, self.at)
        elif self.file.endswith(".json"):
            change_json(folder, self.file, self.at)
            if self.file != MANIFEST or not any(place.startswith("/files/") for place in self.at):
                refresh(folder)
        else:
            change_table(folder, self.file, self.at)
            refresh(folder)


Cases = dict[str, Row | Case]


def table(*rows: Row | Case) -> Cases:
    """By name."""
    cases = {row.name: row for row in rows}
    assert len(cases) == len(rows), "a name twice"
    return cases


def case(status: str, names: str = "", found: str = "opening") -> Callable[[Damage], Case]:
    """Makes a case of a function, for damage that no row can express."""
    return lambda damage: Case(damage.__name__, status, names, damage, found)


def removed(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def replaced(name: str, contents: bytes) -> Damage:
    """Damage by another file in the place of one, with its size and digest."""

    def damage(folder: Path) -> None:
        (folder / name).write_bytes(contents)
        if name != MANIFEST:
            refresh(folder)

    return damage


def grown(name: str) -> Damage:
    """Damage by a byte at the end of a file."""

    def damage(folder: Path) -> None:
        with open(folder / name, "ab") as file:
            file.write(b"\0")

    return damage


def linked(name: str) -> Damage:
    """Damage by a symbolic link in the place of a file or folder, to where it is now."""

    def damage(folder: Path) -> None:
        (folder / name).rename(folder / "elsewhere")
        (folder / name).symlink_to(folder / "elsewhere")

    return damage


def change(value: Any, at: Mapping[str, Any]) -> Any:
    """Changes places of a JSON value, and returns it."""
    for pointer, new in at.items():
        steps = [step.replace("~1", "/") for step in pointer.removeprefix("/").split("/")]
        *path, last = (int(step) if step.isdigit() else step for step in steps)
        node = value
        for step in path:
            node = node[step]
        if new is DELETE:
            del node[last]
        elif last == "-":
            node.append(new)
        else:
            node[last] = new
    return value


def change_json(folder: Path, name: str, at: Mapping[str, Any]) -> None:
    """Changes places of a JSON file, and nothing else."""
    if at:
        write_json(folder / name, change(json.loads((folder / name).read_text()), at))


def change_policy(folder: Path, at: Mapping[str, Any]) -> None:
    """Writes a policy of three plain exits, but for some places."""
    exits = [{"a": 1.0, "b": 0.0, "upper": 1.0, "lower": 1.0} for _ in range(3)]
    write_policy(folder, **change({"exits": exits}, at))


def change_plan(folder: Path, name: str, at: Mapping[str, Any]) -> None:
    """Changes places of an engine's plan, and records its size anew."""
    change_json(folder, name, at)
    path = folder / name
    change_json(folder, ENGINE, {f"/files/{path.name}": entry(path)})


def change_table(folder: Path, name: str, at: Mapping[str, Any]) -> None:
    """Changes tensors of a table, and nothing else."""
    tensors = load_file(folder / name)
    for tensor, new in at.items():
        array = tensors.pop(tensor)
        if new is not DELETE:
            tensors[tensor] = new(array.copy())
    save_file(tensors, folder / name)


def put(index: Any, value: Any) -> Callable[[Any], Any]:
    """Returns a function that sets a part of an array; index: of the flat one, unless it is a tuple."""

    def edit(array: Any) -> Any:
        (array if isinstance(index, tuple) or array.ndim == 1 else array.reshape(-1))[index] = value
        return array

    return edit


def write_cases(cases: Cases, sound: Path, place: Path) -> None:
    """For the C++ tests: place/NAME/bundle, a damaged copy of `sound`, and place/NAME/expected: status, text and when."""
    for row in cases.values():
        shutil.copytree(sound, place / row.name / "bundle")
        row.damage(place / row.name / "bundle")
        (place / row.name / "expected").write_text(f"REXIT_{row.status}\n{row.names}\n{row.found}\n")
