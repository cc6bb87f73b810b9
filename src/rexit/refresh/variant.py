"""A variant is tried with the new catalog, on this machine.

1. Some of its golden samples must still come out as recorded. Then what it computes here can be relied on.
2. The runtime must assemble the new catalog's prompts as the exporter does.
3. New golden samples are what the variant answers to them.
4. The latest validation slates of some users who did not choose its policy, cut to the size that it was calibrated with, are
   traced, as a service's audits are. If the mean loss cannot be within the limit that audits watch, the refresh ends, unless
   policies are to be kept all the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rexit import roles
from rexit.audit import Audit, Watch
from rexit.bundle import Bundle, Catalog, Golden, GoldenSlate
from rexit.bundle.golden import FILE as GOLDEN_FILE
from rexit.errors import BundleError, InputError, PolicyError
from rexit.progress import Progress
from rexit.slates import SIZE, Slate, cut, draw

if TYPE_CHECKING:
    from rexit.exporter.prompt.builder import PromptBuilder
    from rexit.runtime import Session

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
        for g in range(min(len(bundle.golden().slates), _REPEATED_SLATES)):
            if line := session.check_golden(g).log_odds:
                raise BundleError(f"{bundle.folder}: {line}, before the refresh: run `rexit verify`; nothing was swapped")

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
