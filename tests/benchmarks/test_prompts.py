"""benchmarks/ranking/prompts.py: a template over the tables of another catalog, and runs that are not made twice."""

import json
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from builders.data import ratings
from rexit.bundle import Catalog
from rexit.exporter.index import build_catalog
from rexit.exporter.model.checkpoint import load_checkpoint, save_checkpoint
from rexit.exporter.options import IndexOptions, LightGCNOptions
from rexit.exporter.prompt.language import Language
from rexit.exporter.prompt.template import read_template
from rexit.ranking import auc, user_auc
from running.scripts import scripts_of

scripts = scripts_of("benchmarks/ranking", "examples/movielens")
OTHER = ratings.TEMPLATE.replace("{user.job}|", "{user.job} has").replace("like_rate = 10", "like_rate = 4")
VECTORS = ratings.TEMPLATE.replace("{user.job}|", "{user.gcn}|").replace(" {item.title}", " {item.gcn}{item.title:2}")
ENCODED = VECTORS.replace("{item.gcn}", "{item.look}")
FEW = 5
"""Ratings of an item in training."""
SMALL = ("--layers", 1, "--exits", 1, "--hidden", 64, "--epochs", 0.5)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tables, and a catalog for each template."""
    folder = ratings.write(tmp_path_factory.mktemp("prompts"))
    (folder / "other.toml").write_text(OTHER)
    (folder / "vectors.toml").write_text(VECTORS)
    (folder / "encoded.toml").write_text(ENCODED)
    looks = [f"{n % 5} {n % 3} 1" for n in range(ratings.ITEMS)]
    ratings.items().with_columns(pl.Series("look:float_seq", looks)).write_csv(folder / "items.csv")
    for template in ("prompt", "other", "vectors", "encoded"):
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


@pytest.mark.parametrize("template", ["other", "vectors", "encoded"])
def test_reworded_catalog_is_the_one_that_index_makes_of_the_template(data: Path, tmp_path: Path, template: str) -> None:
    import prompts

    language = Language.load(str(data / "tok"), read_template(data / f"{template}.toml"))
    prompts.reworded(Catalog.open(data / "prompt"), language, data / "users.csv", data / "items.csv", tmp_path / "made")
    for file in (data / template).rglob("*"):
        if file.is_file():
            assert (tmp_path / "made" / file.relative_to(data / template)).read_bytes() == file.read_bytes(), file


def run(data: Path, work: Path, monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    import prompts

    tables = ("--items", data / "items.csv", "--users", data / "users.csv", "--tokenizer", data / "tok")
    monkeypatch.setattr(sys, "argv", ["prompts.py", *map(str, (data / "prompt", *words, *tables, "--work", work, *SMALL))])
    prompts.main()


def test_a_run_is_kept_and_test_is_read_when_asked(data: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    import prompts

    run(data, tmp_path, monkeypatch, data / "prompt.toml", data / "other.toml")
    (one, other) = (path.parent for path in sorted(tmp_path.glob("*/run.json")))
    assert [json.loads((place / "run.json").read_text())["name"] for place in (one, other)] == ["other", "prompt"]
    assert not list(tmp_path.glob("*/test.*"))
    monkeypatch.setattr(prompts, "train", None)  # not again
    capsys.readouterr()
    run(data, tmp_path, monkeypatch, data / "prompt.toml", "--test", "--reference", "other", "--few", FEW)
    catalog, told = Catalog.open(data / "prompt"), capsys.readouterr().out
    rows = catalog.split("test")
    (z,) = np.load(other / "test.npy").T
    assert f"1: {auc(z, rows.liked):.4f} / {user_auc(z, rows.users, rows.liked):.4f} / " in told
    assert load_checkpoint(other / "checkpoint").catalog == Catalog.open(other / "catalog").traits, "fit for an export"

    # Compared on validation, which both have; pairs apart by how often their items were rated in training.
    rows, (z,), (reference,) = catalog.split("validation"), *(np.load(place / "validation.npy").T for place in (other, one))
    few = np.bincount(catalog.split("train").items, minlength=len(catalog.items))[rows.items] <= FEW
    assert 0 < few.sum() < len(few) and f"{few.sum()} pairs" in told
    differences = [auc(z[of], rows.liked[of]) - auc(reference[of], rows.liked[of]) for of in (few >= 0, few, ~few)]
    assert all(f"{difference:+.4f} (" in told for difference in differences)
    import baselines

    assert len(baselines.scored(catalog, "x", other / "test.parquet").score) == len(catalog.split("test"))


def test_means_over_seeds_are_of_those_that_differ_in_nothing_else(data: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    for seed in (0, 1):
        run(data, tmp_path, monkeypatch, data / "prompt.toml", data / "other.toml", "--seed", seed)
    run(data, tmp_path, monkeypatch, data / "other.toml", "--rate", 0.01)
    capsys.readouterr()
    run(data, tmp_path, monkeypatch, "--reference", "prompt", "--few", FEW)
    catalog, told = Catalog.open(data / "prompt"), capsys.readouterr().out
    rows, made = catalog.split("validation"), {}
    for path in tmp_path.glob("*/run.json"):
        words = json.loads(path.read_text())
        (z,) = np.load(path.parent / "validation.npy").T
        made[words["name"], words["settings"]["seed"], words["settings"]["rate"]] = auc(z, rows.liked)
    means = [np.mean([made[name, seed, 7e-4] for seed in (0, 1)]) for name in ("prompt", "other")]
    (line,) = [line for line in told.splitlines() if "0, 1" in line and "other" in line]
    assert f"{means[1]:.4f} (" in line and f"{means[1] - means[0]:+.4f} (" in told
    assert len(made) == 5 and f"{made['other', 0, 0.01] - made['prompt', 0, 7e-4]:+.4f} (" in told, "of other settings, by seed"


@pytest.mark.parametrize("template", ["vectors", "encoded"])
def test_projectors_train_with_the_model(data: Path, tmp_path: Path, monkeypatch, template: str) -> None:
    """Those of every kind, and the run's checkpoint scores as the trained model did."""
    import prompts
    from train import Settings, fresh_projectors, make_model, train

    from rexit.exporter.model.multi_exit import MultiExitModel

    catalog, chosen = Catalog.open(data / template), Settings(layers=1, exits="1", hidden=64, epochs=3.0)
    model = train(catalog, chosen)
    assert model.projectors is not None
    torch.manual_seed(chosen.seed)
    fresh = make_model(catalog, chosen).projectors
    first = {"gcn": {"dim": 8}} if template == "vectors" else {"look": {"dim": 3}}
    assert fresh is not None and fresh.kinds == first | {"title:2": {"count": 2}, "user": {"dim": 8}}
    before, after = fresh.tensors(), model.projectors.tensors()
    assert all((before[name] - after[name]).abs().max() > 1e-3 for name in before), "each has learned"
    words = (catalog.labels, catalog.traits)
    save_checkpoint(tmp_path, model.model, model.exits, model.heads, *words, projectors=model.projectors)
    kept = load_checkpoint(tmp_path)
    again = MultiExitModel(kept.decoder, kept.heads, kept.exits, kept.projectors)
    np.testing.assert_allclose(prompts.scored(again, catalog, "test"), prompts.scored(model, catalog, "test"), atol=1e-6)
    assert fresh_projectors(Catalog.open(data / "other"), kept.decoder) is None
