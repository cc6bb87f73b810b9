"""`rexit refresh`: a newer catalog for a bundle, without another export.

1. The catalog has to fit (`rexit.bundle.fit`). Where prompts have vectors, the bundle's own checkpoint makes those of all items.
2. The bundle as it will be is staged (`rexit.bundle.swap`). For each variant, on this machine:
   a. some of its golden samples still come out as they were recorded: what it computes here can be relied on;
   b. the runtime assembles the new catalog's prompts as the exporter does;
   c. new golden samples are what the variant answers to them;
   d. its policy, if it has one, is held against the latest validation slates, cut to the size that it was calibrated with. One
      that sees other candidates than calibration did ends the refresh, unless it is to be kept all the same.
3. The catalogs are swapped. Graphs, engines, variants and policies are not touched.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rexit.bundle import Bundle, Catalog, Golden, GoldenSlate, Ids, Manifest, Vectors
from rexit.bundle.fit import check_fit
from rexit.bundle.golden import FILE as GOLDEN_FILE
from rexit.bundle.manifest import check_is_bundle
from rexit.bundle.swap import staged
from rexit.bundle.writer import sole_writer
from rexit.errors import BundleError, DriftError, InputError
from rexit.progress import Progress, silent
from rexit.slates import Slate, cut, draw

if TYPE_CHECKING:
    from rexit.calibration.drift import Drift
    from rexit.exporter.prompt.builder import PromptBuilder
    from rexit.runtime import Session

_RELIED_ON = 4
"""Golden slates of the old catalog that are run again."""


@dataclass(frozen=True)
class RefreshOptions:
    """What can be chosen of a refresh; `rexit refresh --help` says the same.

    checkpoint: what the bundle was exported from; needed where prompts have vectors. keep_policy: whatever a policy meets.
    golden_slates: to make for each variant. drift_slates: the latest of the validation split that a policy is tried on, at most.
    device, threads: of the sessions that do so; the CPU runs every variant's graphs.
    """

    checkpoint: str | None = None
    keep_policy: bool = False
    golden_slates: int = 16
    drift_slates: int = 400
    device: str = "cpu"
    threads: int = 0

    def check(self) -> None:
        """Raises InputError for the first option that is out of range."""
        for name in ("golden_slates", "drift_slates"):
            if getattr(self, name) < 1:
                raise InputError(f"{name.replace('_', ' ')} is {getattr(self, name)}, expected at least 1")


@dataclass(frozen=True)
class Refreshed:
    """One variant: golden slates made, how many of their candidates the old catalog did not have, and what its policy met:
    `Drift` as JSON; None without a policy, or where it was kept without a look."""

    variant: str
    slates: int
    new_candidates: int
    drift: dict[str, Any] | None


@dataclass(frozen=True)
class RefreshReport:
    """catalog_sha256: of the catalog in force. swapped: False if it was in force already. users, items: in it, and how many of
    them the former one did not have."""

    bundle: str
    catalog_sha256: str
    swapped: bool
    users: tuple[int, int]
    items: tuple[int, int]
    variants: tuple[Refreshed, ...]

    def to_json(self) -> dict[str, Any]:
        """What `rexit refresh --json` prints: plain JSON values, NaN where a drift has no figure."""
        return asdict(self)


def refresh(bundle: Path, catalog: Path, options: RefreshOptions | None = None, *, progress: Progress = silent) -> RefreshReport:
    """Swaps the catalog of a bundle. catalog: a folder of `rexit index`, with its splits. If anything fails nothing has changed.

    Raises InputError: it does not fit, or another process is writing to the bundle; DriftError: a policy was made for other
    candidates; BundleError; BackendError.
    """
    options = options or RefreshOptions()
    options.check()
    new = Catalog.open(Path(catalog))
    if edited := new.edited():
        raise BundleError(edited[0])
    check_is_bundle(bundle)
    with sole_writer(bundle):
        manifest = Manifest.read(bundle)
        opened = [Bundle.open(bundle, name) for name in manifest.variants]
        if not opened:
            raise BundleError(f"{bundle}/manifest.json: lists no variants")
        old = opened[0].catalog
        counts = [_counts(a, b) for a, b in ((old.users, new.users), (old.items, new.items))]
        if new.sha256 == manifest.catalog_sha256:
            return RefreshReport(str(bundle), new.sha256, False, counts[0], counts[1], ())
        check_fit(bundle, manifest, [one.variant for one in opened], new)
        vectors = _vectors(bundle, manifest, new, options)
        with staged(bundle, manifest, new, vectors) as swap:
            work = _Work(old, new, options, progress)
            done = []
            for before in opened:
                golden, found = work.variant(before, swap.folder)
                swap.add_golden(before.variant.name, golden)
                done.append(found)
            swap.commit()
    return RefreshReport(str(bundle), new.sha256, True, counts[0], counts[1], tuple(done))


def _counts(old: Ids, new: Ids) -> tuple[int, int]:
    """How many ids there are in the new catalog, and how many of them were not in the old one."""
    return len(new), int((old.find(new.take(np.arange(len(new)))) < 0).sum())


def _vectors(bundle: Path, manifest: Manifest, catalog: Catalog, options: RefreshOptions) -> Vectors | None:
    if catalog.vector_ids is None:
        return None
    if options.checkpoint is None:
        raise InputError(
            f"{bundle}: its prompts have vectors, which only the projectors of its checkpoint can make for new items: give "
            "--checkpoint; nothing was swapped"
        )
    from rexit.exporter.refresh import refreshed_vectors

    return refreshed_vectors(options.checkpoint, bundle, manifest, catalog)


class _Work:
    """What is done for each variant, and the slates it is done with."""

    def __init__(self, old: Catalog, new: Catalog, options: RefreshOptions, progress: Progress) -> None:
        from rexit.exporter.prompt.builder import PromptBuilder

        self._old, self._new, self._options, self._progress = old, new, options, progress
        self._builder: PromptBuilder = PromptBuilder(new)
        self._golden = _golden_slates(cut(new, "validation"), old, options.golden_slates)

    def variant(self, before: Bundle, folder: Path) -> tuple[Golden, Refreshed]:
        """Its new golden samples, and what was found. folder: the bundle as it will be."""
        from rexit import runtime

        name, open_ = before.variant.name, partial(runtime.open, device=self._options.device, threads=self._options.threads)
        if GOLDEN_FILE in before.variant.files:
            with contextlib.closing(open_(before.path, name)) as session:
                self._rely_on(before, session)
        with contextlib.closing(open_(folder, name)) as session:
            golden = self._made(name, session)
            drift = self._drift(before, session)
        unknown = sum((self._old.items.find(slate.items) < 0).sum() for slate in self._golden)
        return golden, Refreshed(name, len(golden.slates), int(unknown), None if drift is None else drift.to_json())

    def _rely_on(self, before: Bundle, session: Session) -> None:
        allowed = float(before.variant.parity["tolerance"])
        for slate in before.golden().slates[:_RELIED_ON]:
            user, items = self._old.users.id(slate.user), self._old.items.take(slate.items.astype(np.int64))
            session.clear_cache()
            difference = np.abs(session.trace(user, items, as_of=slate.as_of) - slate.log_odds)
            if not difference.max() <= allowed:
                raise BundleError(
                    f"{before.folder}: log-odds are {difference.max():.2g} from its golden samples before the refresh, expected "
                    f"at most {allowed:g}: run `rexit verify`; nothing was swapped"
                )

    def _made(self, name: str, session: Session) -> Golden:
        made = []
        for done, slate in enumerate(self._golden):
            self._progress(f"{name}: golden", done, len(self._golden))
            assert slate.as_of is not None
            prompt = self._builder.prompt(slate.user, slate.items, slate.as_of)
            prefix, candidates = session.prompt(slate.user, slate.items, as_of=slate.as_of)
            mine, theirs = [prompt.prefix, *prompt.candidates], [prefix, *candidates]
            if not all(np.array_equal(a, b) for a, b in zip(mine, theirs, strict=True)):
                raise BundleError(
                    f"{self._new.path}: the runtime's prompts of user {slate.user!r} are not the exporter's: a defect"
                )
            session.clear_cache()
            log_odds = session.trace(slate.user, slate.items, as_of=slate.as_of)
            if not np.isfinite(log_odds).all():
                raise BundleError(f"{self._new.path}: {name} gives log-odds that are not finite for user {slate.user!r}")
            user, rows = int(self._new.users.rows([slate.user], "user")[0]), self._new.items.rows(slate.items).astype(np.int32)
            made.append(GoldenSlate(user, rows, slate.as_of, prompt.prefix, prompt.candidates, log_odds))
        self._progress(f"{name}: golden", len(self._golden), len(self._golden))
        return Golden(made)

    def _drift(self, before: Bundle, session: Session) -> Drift | None:
        """What the policy meets in the latest validation slates; None if nobody asks."""
        if before.policy() is None or self._options.keep_policy:
            return None
        from rexit.calibration.drift import compare, read_reference

        name = before.variant.name
        try:
            expected = read_reference(before)
        except BundleError as exc:
            raise DriftError(
                f"{exc}; so nobody can tell whether {name}'s policy fits the new catalog: nothing was swapped, "
                "--keep-policy swaps"
            ) from exc
        slates = cut(self._new, "validation", expected.slate)
        latest = sorted(slates, key=lambda slate: slate.as_of or 0)[-self._options.drift_slates :]
        session.reset_counters()
        for done, slate in enumerate(latest):
            self._progress(f"{name}: policy", done, len(latest))
            session.score(slate.user, slate.items, as_of=slate.as_of)
        self._progress(f"{name}: policy", len(latest), len(latest))
        found = compare(session.counters(), expected.counters)
        if found.verdict == "drifted":
            raise DriftError(
                f"{before.path}: the policy of {name} on the new catalog's {len(latest)} latest validation slates: "
                f"{found.conclusion} Nothing was swapped; --keep-policy swaps all the same, then run `rexit calibrate`"
            )
        return found


def _golden_slates(slates: Sequence[Slate], old: Catalog, count: int) -> list[Slate]:
    """At most `count`: half of them of slates with an item that the old catalog does not have, as far as there are any."""
    new = [slate for slate in slates if (old.items.find(slate.items) < 0).any()]
    first = draw(new, count // 2) if new else []
    taken = {id(slate) for slate in first}
    rest = [slate for slate in slates if id(slate) not in taken]
    return [*first, *(draw(rest, count - len(first)) if rest else [])]
