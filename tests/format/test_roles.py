"""A user's role is a function of the id alone: who chooses heads or a policy anywhere certifies nowhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from builders.data.indexed_catalog import write_indexed_catalog
from builders.data.token_slates import write_slates
from rexit.calibration import traces
from rexit.data.slates import cut, spread
from rexit.data.slates_file import SlatesFile
from rexit.errors import InputError
from rexit.exporter.heads.hidden_rows import Slates
from rexit.format import roles
from rexit.format.bundle import Catalog
from rexit.format.bundle.catalog import SPLITS
from rexit.format.ids import Id
from rexit.progress import silent


def test_the_rule_never_changes() -> None:
    """Checkpoints name it: another rule needs another name."""
    assert roles.RULE == "sha256-places"
    assert [user for user in range(20) if roles.chooses(user)] == [0, 1, 2, 5, 6, 9, 14]
    assert round(roles.place(7), 6) == 0.997705 and round(roles.place("7"), 6) == 0.41474


@pytest.mark.parametrize(
    "ids",
    [
        [*range(30_000)],
        [*range(-(1 << 63), -(1 << 63) + 30_000)],
        [10 * n for n in range(30_000)],
        [str(n) for n in range(30_000)],
        [f"user-{n:08}@example.com" for n in range(30_000)],
    ],
)
def test_a_third_chooses_whatever_the_ids_look_like(ids: list[Id]) -> None:
    assert abs(np.mean([roles.chooses(user) for user in ids]) - 1 / 3) < 4 * np.sqrt(2 / 9 / len(ids))


def groups_of(path: Path, count: int, **columns: str) -> SlatesFile:
    rows = [{"group": f"q{n}", "prefix": [1], "candidates": [[1], [2]], "label": [0, 1], **columns} for n in range(count)]
    return SlatesFile.read(write_slates(path, rows))


def test_a_file_that_grows_gives_nobody_another_role(tmp_path: Path) -> None:
    """Who fitted or chose by the first file certifies by no later one, nor in a catalog's validation split."""
    small, large = (groups_of(tmp_path / f"{count}.jsonl", count) for count in (100, 600))
    for name, share in {"train": 0.2, "validation": 0.4, "test": 0.4}.items():
        users, more = ({slate.user for slate in file.cut(name)} for file in (small, large))
        assert users == more & {f"q{n}" for n in range(100)} and abs(len(more) / 600 - share) < 0.06
    assert all(roles.chooses(slate.user) for slate in small.cut("train"))
    validation = [slate.user for slate in large.cut("validation")]
    assert len(validation) / 4 < len(roles.choosing(validation)) < len(validation) / 2.4


def test_roles_of_a_column_hold_for_the_same_groups_and_splits(tmp_path: Path) -> None:
    """Heads fitted on one file, a policy certified on another where the same group has another split: refused."""
    rows = [{"group": n, "split": SPLITS[n % 3], "prefix": [1], "candidates": [[1], [2]], "label": [0, 1]} for n in range(9)]
    other = [{**row, "split": SPLITS[row["group"] % 2]} for row in rows]
    files = [SlatesFile.read(write_slates(tmp_path / f"{k}.jsonl", r)) for k, r in enumerate((rows, rows[::-1], other))]
    rules = [file.roles.rule for file in files]
    assert (
        rules[0] == rules[1] != rules[2] and rules[0] != roles.RULE and groups_of(tmp_path / "a.jsonl", 50).roles == roles.Roles()
    )
    files[1].roles.check(files[1].path, rules[0], Path("checkpoint"))
    files[1].roles.check(files[1].path, None, Path("checkpoint"))
    with pytest.raises(InputError, match=r"2.jsonl: the roles of its users are 'column-.*, checkpoint was made with 'column-"):
        files[2].roles.check(files[2].path, rules[0], Path("checkpoint"))


def test_a_limit_takes_the_first_by_place() -> None:
    users = [*range(100)]
    numbers = roles.choosing(users)
    assert sorted(numbers) == [n for n in users if roles.chooses(n)] and numbers == sorted(numbers, key=roles.place)
    with pytest.raises(InputError, match="validation: 0 of its 2 users choose by their ids and 2 certify"):
        roles.choosing([3, 4])


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return Catalog.open(write_indexed_catalog(tmp_path_factory.mktemp("catalog"), users=90, taste=True))


@pytest.mark.parametrize("heads_slates", [0, 60])
@pytest.mark.parametrize("policy_slates", [0, 50, 71])
@pytest.mark.parametrize("max_pairs", [30, 10**6])
def test_who_chose_heads_certifies_nothing(
    catalog: Catalog, heads_slates: int, policy_slates: int, max_pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`rexit heads` and `rexit calibrate` are limited to different slates and pairs."""
    monkeypatch.setattr(traces, "MAX_SEARCH_PAIRS", max_pairs)
    validation = Slates.of(catalog, "validation", heads_slates, 0, silent)
    owners = np.repeat([row.user for row in validation.data.rows], [len(row.liked) for row in validation.data.rows])
    chose_heads = set(owners[validation.chooses].tolist())
    slates = spread(cut(catalog, "validation", 4), policy_slates)
    pairs = sum(len(slate.items) for slate in slates)
    chose, certify = traces.split_users(traces.join(slates, np.zeros((pairs, 2), np.float32)))
    assert chose_heads and not chose_heads & set(certify.ids) and not set(chose.ids) & set(certify.ids)
    assert set(certify.ids) == {slate.user for slate in slates if not roles.chooses(slate.user)}
