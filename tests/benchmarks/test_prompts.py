"""benchmarks/prompts.py: a template over the tables of another catalog, and runs that are not made twice."""

import json
import sys
from pathlib import Path

import pytest

from builders import ratings
from rexit.bundle import Catalog
from rexit.exporter.index import build_catalog
from rexit.exporter.options import IndexOptions, LightGCNOptions
from rexit.exporter.prompt.language import Language

ROOT = Path(__file__).parents[2]
OTHER = ratings.TEMPLATE.replace("{user.job}|", "{user.job} has").replace("like_rate = 10", "like_rate = 4")
SMALL = ("--layers", 1, "--exits", 1, "--hidden", 64, "--epochs", 0.5)


@pytest.fixture(autouse=True)
def folders(monkeypatch: pytest.MonkeyPatch):
    for folder in ("examples/movielens", "benchmarks"):
        monkeypatch.syspath_prepend(str(ROOT / folder))
    yield
    for name in ("prompts", "train", "baselines", "as_of", "boosting", "factorization", "judgement"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tables, and a catalog for each of two templates."""
    folder = ratings.write(tmp_path_factory.mktemp("prompts"))
    (folder / "other.toml").write_text(OTHER)
    for template in ("prompt", "other"):
        build_catalog(
            folder / "ratings.csv",
            folder / "items.csv",
            str(folder / "tok"),
            folder / f"{template}.toml",
            folder / template,
            users=folder / "users.csv",
            options=IndexOptions(neighbours=6, lightgcn=LightGCNOptions(dim=8, layers=2, epochs=4)),
        )
    return folder


def test_reworded_catalog_is_the_one_that_index_makes_of_the_template(data: Path, tmp_path: Path) -> None:
    import prompts

    language = Language.load(str(data / "tok"), data / "other.toml")
    prompts.reworded(Catalog.open(data / "prompt"), language, data / "users.csv", data / "items.csv", tmp_path / "made")
    for file in (data / "other").rglob("*"):
        if file.is_file():
            assert (tmp_path / "made" / file.relative_to(data / "other")).read_bytes() == file.read_bytes(), file


def run(data: Path, work: Path, monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    import prompts

    tables = ("--items", data / "items.csv", "--users", data / "users.csv", "--tokenizer", data / "tok")
    monkeypatch.setattr(sys, "argv", ["prompts.py", *map(str, (data / "prompt", *words, *tables, "--work", work, *SMALL))])
    prompts.main()


def test_a_run_is_kept_and_test_is_read_when_asked(data: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    import prompts

    run(data, tmp_path, monkeypatch, data / "prompt.toml", data / "other.toml")
    (one, other) = sorted(tmp_path.glob("*/run.json"))
    assert [json.loads(path.read_text())["name"] for path in (one, other)] == ["other", "prompt"]
    assert all("test" not in json.loads(path.read_text()) for path in (one, other))
    monkeypatch.setattr(prompts, "train", None)  # not again
    run(data, tmp_path, monkeypatch, data / "prompt.toml", "--test")
    made = json.loads(other.read_text())
    assert [len(made[split]) for split in ("validation", "test")] == [1, 1]
    assert f"{made['test'][0]['auc']:.4f} / {made['test'][0]['user_auc']:.4f}" in capsys.readouterr().out
    import baselines

    catalog = Catalog.open(data / "prompt")
    assert len(baselines.scored(catalog, "x", other.with_name("test.parquet")).score) == len(catalog.split("test"))
