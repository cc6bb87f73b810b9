"""Projectors: what is saved comes back, damage gets its one line, and vectors are made of what was known at the moment."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from builders.bundles.bundle_files import edit_json
from builders.data.indexed_catalog import WITH_ENCODED, WITH_VECTORS, write_indexed_catalog
from builders.models.checkpoints import tiny_checkpoint, tiny_model
from rexit.data.slates import cut
from rexit.errors import CheckpointError, InputError
from rexit.exporter.checkpoints.checkpoint import EXITS, PROJECTORS, load_checkpoint
from rexit.exporter.model.decoder import Decoder
from rexit.exporter.model.multi_exit import MultiExitModel
from rexit.exporter.model.packed import batch, pack
from rexit.exporter.model.prompt_vectors import OfText, PassVectors, Projectors, Sources
from rexit.exporter.prompt.builder import PromptBuilder
from rexit.format.bundle import Catalog


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return Catalog.open(write_indexed_catalog(tmp_path_factory.mktemp("data"), template=WITH_VECTORS))


@pytest.fixture(scope="module")
def saved(catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "vectors", catalog=catalog)


@pytest.fixture(scope="module", params=[WITH_VECTORS, WITH_ENCODED], ids=["gcn", "encoded"])
def learned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Catalog, Path]:
    """A catalog of either kind and its checkpoint."""
    place = tmp_path_factory.mktemp("learned")
    catalog = Catalog.open(write_indexed_catalog(place, template=request.param))
    return catalog, tiny_checkpoint(place / "checkpoint", catalog=catalog)


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def edit(folder: Path, name: str, change: Callable[[torch.Tensor], Any]) -> None:
    tensors = load_file(folder / PROJECTORS)
    tensors[name] = change(tensors[name])
    save_file({key: value for key, value in tensors.items() if value is not None}, folder / PROJECTORS)


def test_saved_comes_back(saved: Path) -> None:
    checkpoint = load_checkpoint(saved)
    assert checkpoint.projectors is not None
    assert checkpoint.projectors.kinds == {"gcn": {"dim": 8}, "title:2": {"count": 2}, "user": {"dim": 8}}
    there = load_file(saved / PROJECTORS)
    assert {name: t.tolist() for name, t in checkpoint.projectors.tensors().items()} == {n: t.tolist() for n, t in there.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / PROJECTORS).unlink(), "projectors.safetensors: is missing, though exits.json has `projectors`"),
        (lambda f: edit_json(f / EXITS, projectors={}), "projectors.safetensors: exists, but exits.json has no `projectors`"),
        (lambda f: edit_json(f / EXITS, projectors=[1]), "exits.json: projectors: is [1], expected an object"),
        (lambda f: edit_json(f / EXITS, projectors={"gcn": {"count": 2}}), "projectors gcn: is {'count': 2}, expected a `dim`"),
        (lambda f: edit_json(f / EXITS, projectors={"title:2": {"count": 17}}), "expected a `count` of 1 to 16"),
        (lambda f: edit(f, "gcn.inner.weight", lambda t: None), "projectors.safetensors: tensor 'gcn.inner.weight' is missing"),
        (lambda f: edit(f, "gcn.inner.weight", lambda t: t[:, :5].clone()), "has shape [64, 5], the model needs [64, 8]"),
        (lambda f: edit(f, "user.none", lambda t: t / 0), "'user.none' holds a number that is not finite"),
        (
            lambda f: edit_json(f / EXITS, projectors={"gcn": {"dim": 8}, "user": {"dim": 8}}),
            "belongs to no projector of gcn, user",
        ),
        (lambda f: (f / PROJECTORS).write_bytes(b"x" * 40), "projectors.safetensors: truncated or not safetensors"),
    ],
)
def test_damage_is_named(folder: Path, change: Callable[[Path], None], message: str) -> None:
    change(folder)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_decoder_whose_embeddings_are_narrower_is_refused(catalog: Catalog) -> None:
    decoder = Decoder.of(tiny_model("opt", word_embed_proj_dim=32))
    with pytest.raises(CheckpointError, match="opt: token embeddings have 32 numbers, hidden states 64"):
        Projectors.like(decoder, catalog.vector_ids, 8)  # type: ignore[arg-type]


def test_fresh_vectors_are_as_large_as_token_embeddings(catalog: Catalog) -> None:
    torch.manual_seed(0)
    decoder = Decoder.of(tiny_model())
    assert catalog.vector_ids is not None
    projectors = Projectors.like(decoder, catalog.vector_ids, 8)
    embeddings = decoder.model.get_input_embeddings().weight
    stored = Sources(catalog).vectors(projectors, decoder.model.get_input_embeddings())
    for table in (stored.tables["gcn"], stored.user, stored.nobody):
        assert table is not None and 0.5 < table.std() / embeddings.std().item() < 2
    # A zero row, of an item that nobody liked, is no zero vector: behind a norm its gradient would be a thousand times larger.
    assert float(projectors["gcn"](torch.zeros(1, 8)).detach().std()) > 0.5 * embeddings.std().item()


def test_a_texts_vectors_do_not_depend_on_what_it_is_padded_with() -> None:
    torch.manual_seed(0)
    pooled, texts = OfText(3, 16, 1.0), torch.randn(2, 5, 16)
    present = torch.tensor([[True] * 3 + [False] * 2, [False] * 5])
    both = pooled(texts, present)
    torch.testing.assert_close(both[:1], pooled(texts[:1, :3], present[:1, :3]))
    assert both.isfinite().all() and both.shape == (2, 3, 16)
    torch.testing.assert_close(both[1], pooled.outer(pooled.nothing).expand(3, -1))  # an empty text


def checked(catalog: Catalog, saved: Path) -> tuple[MultiExitModel, Sources]:
    loaded = load_checkpoint(saved)
    return MultiExitModel(loaded.decoder, loaded.heads, loaded.exits, loaded.projectors).eval(), Sources(catalog, training=True)


def test_a_batch_has_the_vectors_that_the_tables_have(learned: tuple[Catalog, Path]) -> None:
    """Prompts retrieve with the catalog's own graph; the tables are rounded to float16."""
    (catalog, _), (model, sources) = learned, checked(*learned)
    assert model.projectors is not None
    embed = model.model.get_input_embeddings()
    tables, ids = sources.vectors(model.projectors, embed), sources.ids
    builder = PromptBuilder(catalog)
    prompts = [builder.prompt(s.user, s.items, s.as_of) for s in cut(catalog, "validation")] + [builder.prompt(None, [1003])]
    tokens, *_ = batch([pack(p.prefix, p.candidates) for p in prompts])
    passed, pass_vectors = sources.batch(model.projectors, embed, tokens, prompts)
    assert pass_vectors.vocabulary == ids.vocabulary and len(pass_vectors.vectors) == passed.max() - ids.vocabulary + 1
    for prompt, before, after in zip(prompts, tokens, passed, strict=True):
        is_vector = (before >= ids.vocabulary).numpy()
        assert is_vector.sum() > 3 and (before[~is_vector] == after[~is_vector]).all()
        expected = tables.of(before.numpy()[is_vector], prompt.liked)
        actual = pass_vectors.vectors[after[is_vector] - ids.vocabulary].detach().numpy()
        np.testing.assert_allclose(actual, expected, rtol=2e-3, atol=1e-4)
    assert len(pass_vectors.vectors) < int((tokens >= ids.vocabulary).sum()), "what several read is made once"


def test_training_vectors_are_those_of_the_moment(catalog: Catalog, saved: Path) -> None:
    """Nothing else changes when the catalog's own embeddings do; in part 0 all items are alike."""
    model, sources = checked(catalog, saved)
    assert model.projectors is not None
    slates = cut(catalog, "train", 1)
    builder, embed = PromptBuilder(catalog, training=True), model.model.get_input_embeddings()
    prompts = [builder.prompt(s.user, s.items, s.as_of) for s in slates if s.user == slates[0].user]
    tokens, *_ = batch([pack(p.prefix, p.candidates) for p in prompts])
    _, pass_vectors = sources.batch(model.projectors, embed, tokens, prompts)
    own = sources._gcn[None]
    sources._gcn[None] = (own[0] * torch.nan, own[1] * torch.nan)
    passed, again = sources.batch(model.projectors, embed, tokens, prompts)
    torch.testing.assert_close(pass_vectors.vectors, again.vectors, rtol=0, atol=0)
    gcn = sources.ids.begins()["gcn"]
    for part in range(5):
        rows = [n for n, prompt in enumerate(prompts) if prompt.part == part]
        of_items = (tokens[rows] >= gcn) & (tokens[rows] < gcn + sources.ids.items)
        vectors = pass_vectors.vectors[passed[rows][of_items] - sources.ids.vocabulary]
        assert len(rows) > 1 and (len(vectors.unique(dim=0)) == 1) == (part == 0)


def test_gradients_reach_the_projectors_and_the_embeddings(learned: tuple[Catalog, Path]) -> None:
    (catalog, _), (model, sources) = learned, checked(*learned)
    assert model.projectors is not None
    builder, embed = PromptBuilder(catalog, training=True), model.model.get_input_embeddings()
    prompts = [builder.prompt(s.user, s.items, s.as_of) for s in cut(catalog, "train", 4)[:12]]
    tokens, *rest = batch([pack(p.prefix, p.candidates) for p in prompts])
    tokens, pass_vectors = sources.batch(model.projectors, embed, tokens, prompts)
    model(tokens, *rest, pass_vectors).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.projectors.parameters())
    title = catalog.piece_table["tokens"][0]
    assert embed.weight.grad[int(title)].abs().max() > 0


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3_text", "granite", "gpt2", "opt"])
def test_a_vector_that_is_a_tokens_embedding_counts_as_the_token(family: str) -> None:
    """Whatever the family does between its embeddings and its first layer."""
    torch.manual_seed(0)
    decoder = Decoder.of(tiny_model(family))
    from builders.models.checkpoints import VOCAB, tiny_heads

    model = MultiExitModel(decoder, tiny_heads(decoder, 2), (2, 4)).eval()
    prefix, candidates = np.array([3, 7, 11, 7]), [np.array([5, 9]), np.array([13])]
    embed = decoder.model.get_input_embeddings()
    pass_vectors = PassVectors(VOCAB, embed(torch.tensor([7, 13])).detach())

    def replaced(tokens: NDArray[Any]) -> NDArray[Any]:
        return np.where(tokens == 7, VOCAB, np.where(tokens == 13, VOCAB + 1, tokens))

    expected = model.reference(prefix, candidates)
    actual = model.reference(replaced(prefix), [replaced(c) for c in candidates], pass_vectors)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_a_catalog_of_texts_has_no_sources(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="its prompts have no vectors"):
        Sources(Catalog.open(write_indexed_catalog(tmp_path)))
