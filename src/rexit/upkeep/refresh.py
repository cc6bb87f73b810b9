"""A newer catalog for a bundle, without another export. There is always the old or the new one, never half of either.

1. The catalog has to fit (`check_fit`). Where prompts have vectors, the bundle's own checkpoint makes those of all items.
2. The new catalog, its vectors and golden samples, and a manifest that names them are written to `.refresh.tmp` in the bundle,
   beside hard links to the variants: a bundle that can be opened and tried (`Swap`).
3. Each variant is tried with the new catalog, on this machine (`Trial`):
   some of its golden samples must still come out as recorded, so that what it computes here can be relied on;
   the runtime must assemble the new catalog's prompts as the exporter does;
   new golden samples are what the variant answers to them;
   the latest validation slates of some users who did not choose its policy, cut to the size that it was calibrated with, are
   traced, as a service's audits are. If the mean loss cannot be within the limit that audits watch, the refresh ends, unless
   policies are to be kept all the same.
4. Its catalog folder, `catalog-DIGEST`, moves into the bundle, where nothing names it yet.
5. Its manifest replaces the bundle's, by one rename. That is the moment of the swap.
6. The replaced catalog stays until the next swap, since a process that is opening the bundle may have read the old manifest.
   Older catalogs are removed.

Graphs, engines, variants and policies are not touched. If anything fails, nothing has changed. A process killed at any point
leaves one of the two bundles, and perhaps a folder that no manifest names, which the next swap removes. Files are flushed to the
disk before 5, so the same is true of a power cut.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from rexit import interrupts
from rexit.data.slates import SIZE, Slate, cut, draw
from rexit.errors import BundleError, InputError, PolicyError
from rexit.format import roles
from rexit.format.bundle import (
    Bundle,
    Catalog,
    Engine,
    Golden,
    GoldenSlate,
    Ids,
    Manifest,
    Variant,
    Vectors,
    engine_folders,
    sole_writer,
)
from rexit.format.bundle.bundle import check_is_bundle
from rexit.format.bundle.catalog import ZERO, first_difference
from rexit.format.bundle.files import FileEntry, flush
from rexit.format.bundle.golden import FILE as GOLDEN_FILE
from rexit.format.bundle.manifest import TOKENIZER, RefreshedCatalog
from rexit.format.bundle.vectors import FILE as VECTORS_FILE
from rexit.format.bundle.vectors import GCN
from rexit.format.bundle.writer import link_or_copy
from rexit.progress import Progress, silent
from rexit.upkeep.audit import Audit, Watch

if TYPE_CHECKING:
    from rexit.exporter.prompt.builder import PromptBuilder
    from rexit.runtime import Session


def check_fit(bundle: Path, manifest: Manifest, variants: Sequence[Variant], catalog: Catalog) -> None:
    """Raises InputError for the first thing that does not fit:

    1. Kinds of ids, the unit of times, the tokenizer, the labels, and the prompt program, by the tokens of its pieces.
    2. Where prompts have vectors: their tables, the widths of embeddings and of columns of vectors, and the embeddings' space,
       which is the only one that the projectors know.
    3. Limits: the longest prompts must fit the model, each variant's passes, and the engines compiled so far.
    """
    active = Catalog.open(bundle / manifest.catalog_folder)
    new, expected = catalog.info, active.info

    def same(what: str, a: Any, b: Any) -> None:
        if a != b:
            raise InputError(f"{catalog.path}: {what} {a}, that of {bundle} is {b}: nothing was swapped")

    for what in ("user", "item"):
        same(f"kind of {what} ids is", new["ids"][what], expected["ids"][what])
    same(
        "tokenizer is",
        *(f"{info['tokenizer']['sha256'][:12]}… ({info['tokenizer']['vocab_size']} tokens)" for info in (new, expected)),
    )
    catalog.roles.check(catalog.path, manifest.roles, bundle)
    same("labels are", new["labels"], expected["labels"])
    same("has exit zero:", bool(catalog.numbers), bool(active.numbers))
    same("scores for exit zero are", catalog.score_names, active.score_names)
    same("times are", catalog.timeline.kind, active.timeline.kind)
    if difference := first_difference(new["prompt"], catalog.piece_table, expected["prompt"], active.piece_table):
        raise InputError(f"{catalog.path}: another prompt program than that of {bundle}: {difference}: nothing was swapped")
    if (ids := active.vector_ids) is not None:
        same("vectors of prompts are", new["prompt"].get("vectors", []), expected["prompt"].get("vectors", []))
        same("embeddings' width is", new["embedding"]["dim"], expected["embedding"]["dim"])
        if (ids.user or GCN in ids.tables) and catalog.space != active.space:
            raise InputError(
                f"{catalog.path}: its embeddings are of another training than those that the projectors "
                "learned: make it by `rexit index --from`; nothing was swapped"
            )
    _check_limits(bundle, manifest, variants, catalog)


def _check_limits(bundle: Path, manifest: Manifest, variants: Sequence[Variant], catalog: Catalog) -> None:
    prefix, candidate = (int(catalog.info["prompt"][f"max_{part}_tokens"]) for part in ("prefix", "candidate"))

    def at_most(what: str, tokens: int, limit: int, whose: str) -> None:
        if tokens > limit:
            raise InputError(f"{catalog.path}: {what} of up to {tokens} tokens, {whose} takes {limit}: nothing was swapped")

    at_most("prompts", prefix + candidate, manifest.model.max_positions, "the model")
    for variant in variants:
        at_most("candidates", candidate, variant.max_tokens, f"a pass of {variant.name}")
        for folder in engine_folders(bundle / "variants" / variant.name):
            for segment in Engine.read(folder).segments:
                # A pass without a prefix has one row of padding, so the first profile that takes one row computes the prefix.
                computed = next((profile.tokens[2] for profile in segment.profiles if profile.prefix[0] == 1), 0)
                longest = min(computed, max((profile.prefix[2] for profile in segment.profiles), default=0))
                at_most("prefixes", prefix, longest, f"engine {variant.name}/{folder.name}")


_STAGE = ".refresh.tmp"  # a name that `sole_writer` cleans up after a killed process
_NAMED = 16  # digits of the digest in the folder's name


class Swap:
    """A staged bundle at `folder`: the bundle with the new catalog. It still needs golden samples."""

    def __init__(self, bundle: Path, manifest: Manifest, catalog: Catalog, vectors: Vectors | None) -> None:
        self._bundle = bundle
        self.folder = bundle / _STAGE
        self._name = f"catalog-{catalog.sha256[:_NAMED]}"
        self._new = self.folder / self._name
        self._new.mkdir(parents=True)
        for name in ("catalog.json", *catalog.files):
            shutil.copyfile(catalog.path / name, self._new / name)
        if vectors is not None:
            vectors.write(self._new / VECTORS_FILE)
        if TOKENIZER in manifest.files:
            link_or_copy(os.fspath(bundle / TOKENIZER), os.fspath(self.folder / TOKENIZER))
        shutil.copytree(bundle / "variants", self.folder / "variants", copy_function=link_or_copy, symlinks=True)
        assert manifest.exported_sha256 is not None  # there is a catalog
        self._active = RefreshedCatalog(self._name, manifest.exported_sha256)
        self.manifest = self._write(manifest)

    def add_golden(self, variant: str, golden: Golden) -> None:
        """Adds a variant's golden samples with the new catalog."""
        path = self.folder / self.manifest.golden_file(variant)
        path.parent.mkdir(exist_ok=True)
        golden.write(path)

    def commit(self) -> None:
        """Swaps. Raises OSError."""
        self._write(self.manifest)
        for path in [*self._new.rglob("*"), self._new, self.folder / "manifest.json"]:
            flush(path)
        place = self._bundle / self._name
        shutil.rmtree(place, ignore_errors=True)  # from a killed swap, or from an older catalog
        interrupts.check()
        before = Manifest.read(self._bundle)
        with interrupts.deferred():
            try:
                os.rename(self._new, place)
                flush(self._bundle)
                os.replace(self.folder / "manifest.json", self._bundle / "manifest.json")
            except OSError:
                shutil.rmtree(place, ignore_errors=True)
                raise
            flush(self._bundle)
            for other in (self._bundle / "catalog", *self._bundle.glob("catalog-*")):
                if other.name not in (self._name, before.catalog_folder):
                    shutil.rmtree(other, ignore_errors=True)
            if before.catalog is not None:
                (self._bundle / VECTORS_FILE).unlink(missing_ok=True)  # of the exported catalog

    def _write(self, before: Manifest) -> Manifest:
        """Writes and returns the manifest with all files that the new catalog's folder holds now."""
        others = {n: entry for n, entry in before.files.items() if n.startswith("variants/") or n == TOKENIZER}
        files = [path for path in self._new.rglob("*") if path.is_file()]
        new = {str(path.relative_to(self.folder)): FileEntry.of(path) for path in files}
        manifest = msgspec.structs.replace(before, files={**others, **new}, catalog=self._active)
        manifest.write(self.folder)
        return manifest


@contextlib.contextmanager
def staged(bundle: Path, manifest: Manifest, catalog: Catalog, vectors: Vectors | None) -> Iterator[Swap]:
    """Yields a swap. Unless it is committed, it vanishes when the block ends. Only for the bundle's `sole_writer`. Raises
    InputError if the bundle cannot be written."""
    try:
        yield Swap(bundle, manifest, catalog, vectors)
    except OSError as exc:
        raise InputError(f"{bundle}: cannot be written: {exc.strerror or exc}") from exc
    finally:
        with interrupts.deferred():
            shutil.rmtree(bundle / _STAGE, ignore_errors=True)


_REPEATED_SLATES = 4
"""Golden slates of the old catalog that are run again."""
POLICY_USERS = 400
"""Most users, the latest of the validation split who did not choose the policy, that it is tried on, by a slate of each."""


@dataclass(frozen=True)
class RefreshOptions:
    """What can be chosen of a refresh; `rexit refresh --help` has most of it.

    Attributes:
        checkpoint: The checkpoint that the bundle was exported from. Needed where prompts have vectors.
        keep_policy: Keep policies without trying them.
        golden_slates: Golden slates to make for each variant.
        device: Where variants run meanwhile. The CPU runs every variant's graphs.
    """

    checkpoint: str | None = None
    keep_policy: bool = False
    golden_slates: int = 16
    device: str = "cpu"


@dataclass(frozen=True)
class RefreshedVariant:
    """What became of one variant.

    Attributes:
        variant: Its name.
        slates: Golden slates made.
        new_candidates: How many of their candidates the old catalog does not have.
        policy: What its policy loses with the new catalog: the `audit` of the trial, and its `conclusion`. None without a policy
            that stops early, or if policies were kept without trying them.
    """

    variant: str
    slates: int
    new_candidates: int
    policy: dict[str, Any] | None


class Trial:
    """The slates that every variant is tried with."""

    def __init__(self, old: Catalog, new: Catalog, options: RefreshOptions, progress: Progress) -> None:
        from rexit.exporter.prompt.builder import PromptBuilder

        self._old, self._new, self._options, self._progress = old, new, options, progress
        self._builder: PromptBuilder = PromptBuilder(new)
        self._golden = _golden_slates(cut(new, "validation"), old, options.golden_slates)

    def run(self, bundle: Bundle, staged: Path) -> tuple[Golden, RefreshedVariant]:
        """Tries one variant.

        Args:
            bundle: The variant with the old catalog.
            staged: The bundle's folder with the new catalog.

        Returns:
            Its new golden samples, and a report.
        """
        from rexit import runtime

        name = bundle.variant.name
        open_ = partial(runtime.open, variant=name, device=self._options.device)
        if GOLDEN_FILE in bundle.variant.files:
            with contextlib.closing(open_(bundle.path)) as session:
                self._repeat_golden(bundle, session)
        with contextlib.closing(open_(staged)) as session:
            golden = self._record_golden(name, session)
            policy = self._try_policy(bundle, session)
        new_candidates = sum(int((self._old.items.find(slate.items) < 0).sum()) for slate in self._golden)
        return golden, RefreshedVariant(name, len(golden.slates), new_candidates, policy)

    def _repeat_golden(self, bundle: Bundle, session: Session) -> None:
        for g in range(_REPEATED_SLATES):
            check = session.check_golden(g)
            if line := check.log_odds:
                raise BundleError(f"{bundle.folder}: {line}, before the refresh: run `rexit verify`; nothing was swapped")
            if g + 1 == check.slates:
                break

    def _record_golden(self, name: str, session: Session) -> Golden:
        slates = []
        for done, slate in enumerate(self._golden):
            self._progress(f"{name}: golden", done, len(self._golden))
            assert slate.as_of is not None
            prompt = self._builder.prompt(slate.user, slate.items, slate.as_of, inputs=slate.inputs)
            prefix, candidates = session.prompt(slate.request)
            if not (np.array_equal(prefix, prompt.prefix) and all(map(np.array_equal, candidates, prompt.candidates))):
                raise BundleError(
                    f"{self._new.path}: a defect of rexit: user {slate.user!r} has another prompt than the exporter's"
                )
            session.clear_cache()  # with keys copied from another prefix, log-odds may differ in their last bits
            log_odds = session.trace(slate.request)
            if not np.isfinite(log_odds).all():
                raise BundleError(f"{self._new.path}: {name} gives log-odds that are not finite for user {slate.user!r}")
            user, items = self._new.users.rows([slate.user], "user")[0], self._new.items.rows(slate.items)
            rows, inputs = items.astype(np.int32), self._new.inputs.encode(slate.inputs)
            tokens = prompt.prefix, prompt.candidates
            slates.append(GoldenSlate(int(user), rows, slate.as_of, *tokens, log_odds, inputs, scores=slate.scores))
        self._progress(f"{name}: golden", len(self._golden), len(self._golden))
        return Golden(slates)

    def _try_policy(self, bundle: Bundle, session: Session) -> dict[str, Any] | None:
        """What the policy loses on the latest users who did not choose it; None if it stops nothing early or needs no trial."""
        policy = bundle.policy()
        if policy is None or not policy.stops_early or self._options.keep_policy:
            return None
        name = bundle.variant.name
        try:
            watch = Watch.of(bundle)
        except (BundleError, InputError) as exc:
            raise PolicyError(
                f"{exc}; so it is unknown what {name}'s policy may lose: nothing was swapped, --keep-policy swaps"
            ) from exc
        slates = cut(self._new, "validation", (policy.made_on or {}).get("slate", SIZE))
        others = [slate for slate in slates if not roles.chooses(slate.user)]  # on those who chose it, it loses too little
        by_user = {slate.user: slate for slate in sorted(others, key=lambda slate: slate.as_of or 0)}  # each user's latest
        latest = sorted(by_user.values(), key=lambda slate: slate.as_of or 0)[-POLICY_USERS:]
        for done, slate in enumerate(latest):
            self._progress(f"{name}: policy", done, len(latest))
            watch.add(Audit(0.0, {"user": slate.user}, session.trace(slate.request), watch.sha256))
        self._progress(f"{name}: policy", len(latest), len(latest))
        if watch.alarm:
            raise PolicyError(
                f"{bundle.path}: the policy of {name} on the new catalog's validation slates: {watch.conclusion}: nothing was "
                "swapped; --keep-policy swaps all the same, then run `rexit calibrate`"
            )
        return {"audit": watch.to_json(), "conclusion": watch.conclusion}


def _golden_slates(slates: Sequence[Slate], old: Catalog, count: int) -> list[Slate]:
    """Draws at most `count` slates: half of them with an item that the old catalog does not have, if there are so many."""
    with_new = [slate for slate in slates if (old.items.find(slate.items) < 0).any()]
    first = draw(with_new, count // 2) if with_new else []
    taken = {id(slate) for slate in first}
    rest = [slate for slate in slates if id(slate) not in taken]
    return [*first, *(draw(rest, count - len(first)) if rest else [])]


@dataclass(frozen=True)
class RefreshReport:
    """What a refresh did.

    Attributes:
        bundle: The bundle's folder.
        catalog_sha256: Digest of the active catalog.
        swapped: False if that catalog was active already.
        users: Users in the active catalog, and how many of them the former catalog did not have.
        items: The same for items.
        variants: One entry per variant; none if nothing was swapped.
    """

    bundle: str
    catalog_sha256: str
    swapped: bool
    users: tuple[int, int]
    items: tuple[int, int]
    variants: tuple[RefreshedVariant, ...]


def refresh(bundle: Path, catalog: Path, options: RefreshOptions | None = None, *, progress: Progress = silent) -> RefreshReport:
    """Swaps the catalog of a bundle.

    Args:
        bundle: The bundle's folder. It may be in use.
        catalog: A folder of `rexit index`, with its splits.
        options: What to do beside the swap.
        progress: Reports golden slates, and slates that a policy is tried on.

    Raises:
        InputError: The catalog does not fit, or another process is writing to the bundle.
        PolicyError: A policy loses more with the new catalog than it may, or was fitted to another exit zero.
        BundleError: The bundle or the catalog is damaged, or a variant does not compute here what it computed at export.
        BackendError: A variant cannot run on this machine.
    """
    options = options or RefreshOptions()
    new = Catalog.open(Path(catalog))
    if edited := new.edited():
        raise BundleError(edited[0])
    check_is_bundle(bundle)
    with sole_writer(bundle):
        manifest = Manifest.read(bundle)
        if manifest.tokens is not None:
            raise InputError(f"{bundle}: has no catalog to refresh: its requests are token ids")
        variants = [Bundle.open(bundle, name) for name in manifest.variants]
        if not variants:
            raise BundleError(f"{bundle}/manifest.json: lists no variants")
        old = variants[0].catalog
        users, items = _counts(old.users, new.users), _counts(old.items, new.items)
        if new.sha256 == manifest.catalog_sha256:
            return RefreshReport(str(bundle), new.sha256, False, users, items, ())
        check_fit(bundle, manifest, [opened.variant for opened in variants], new)
        if new.files.get(ZERO) != old.files.get(ZERO) and not options.keep_policy:
            for opened in variants:
                if opened.policy_sha256 is not None:
                    raise PolicyError(
                        f"{new.path}: {ZERO} is another than that of {bundle}, which {opened.variant.name}'s policy was fitted "
                        "to: make the catalog by `rexit index --from`; nothing was swapped, --keep-policy swaps, then run "
                        "`rexit calibrate`"
                    )
        vectors = _vectors(bundle, manifest, new, options.checkpoint)
        refreshed = []
        with staged(bundle, manifest, new, vectors) as swap:
            trial = Trial(old, new, options, progress)
            for opened in variants:
                golden, report = trial.run(opened, swap.folder)
                swap.add_golden(opened.variant.name, golden)
                refreshed.append(report)
            swap.commit()
    return RefreshReport(str(bundle), new.sha256, True, users, items, tuple(refreshed))


def _counts(old: Ids, new: Ids) -> tuple[int, int]:
    """How many ids the new catalog has, and how many of them the old one does not have."""
    return len(new), int((old.find(new.take(np.arange(len(new)))) < 0).sum())


def _vectors(bundle: Path, manifest: Manifest, catalog: Catalog, checkpoint: str | None) -> Vectors | None:
    """Makes the vectors of all items of a catalog, for the model in the bundle. Raises CheckpointError or InputError."""
    if catalog.vector_ids is None:
        return None
    if checkpoint is None:
        raise InputError(
            f"{bundle}: its prompts have vectors, which only the projectors of its checkpoint can make for new items: give "
            "--checkpoint; nothing was swapped"
        )
    from rexit.exporter import preflight
    from rexit.exporter.checkpoints.checkpoint import load_checkpoint
    from rexit.exporter.model import rotation
    from rexit.exporter.model.prompt_vectors import Sources

    model = manifest.model
    loaded = load_checkpoint(checkpoint, manifest.depths, model.head, catalog.labels)
    if loaded.sha256() != model.checkpoint_sha256:
        raise InputError(
            f"{checkpoint}: is not the checkpoint that {bundle} was exported from: "
            "its projectors would make other vectors; nothing was swapped"
        )
    preflight.check_vectors(loaded, catalog)
    assert loaded.projectors is not None
    rotation_matrix = None if rotation.obstacle(loaded.decoder) else rotation.orthogonal(loaded.decoder.hidden_size)
    return Sources(catalog).vectors(loaded.projectors, loaded.model.get_input_embeddings(), rotation_matrix)
