"""`rexit calibrate` without the command line: a bundle's variant and a catalog's splits in, a policy and its report out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rexit import interrupts, ranking
from rexit.bundle import Bundle, Catalog, Policy, check_writable, sole_writer, write_file, write_json
from rexit.bundle.policy import FILE as POLICY_FILE
from rexit.bundle.writer import bundle_copy, link_or_copy
from rexit.calibration import decide, metrics, page, recording
from rexit.calibration.drift import REPORT_FILE
from rexit.calibration.examples import Example, pick
from rexit.calibration.recording import Recording
from rexit.calibration.report import CalibrationOptions, Findings, Measured, build
from rexit.calibration.traces import Traces, collect, join
from rexit.errors import BackendError, BundleError, InputError
from rexit.measure.costs import latencies
from rexit.measure.machine import Conditions
from rexit.measure.profile import CostProfile, mean_tokens, measure_costs
from rexit.measure.scorer import Scorer
from rexit.progress import Progress, silent
from rexit.slates import Slate, cut, spread


@dataclass(frozen=True)
class Calibration:
    """The policy as written, and `report.json`'s content (plain JSON values)."""

    policy: Policy
    report: dict[str, Any]

    @property
    def conclusion(self) -> str:
        """One paragraph: whether early exit pays here, and by how much."""
        return str(self.report["conclusion"])


def calibrate(
    bundle: Bundle,
    catalog: Catalog,
    options: CalibrationOptions | None = None,
    *,
    progress: Progress = silent,
    open_session: Callable[[Path], Any] | None = None,
    decode: Callable[[Sequence[int]], str] | None = None,
) -> Calibration:
    """Calibrates a variant and writes policy.json, report.json, report.html and traces.safetensors into its folder.

    1. Traces of the validation and test slates, by the variant itself; what its segments cost, from the file `options.profile`
       or measured here. Both are kept; with `options.from_traces` they are those that the last calibration kept.
    2. The decision (see `decide`): a policy with its certificate, from validation; quality on test.
    3. The policy is timed as deployed, in a copy of the bundle that nobody else has open, against full depth and each fixed
       depth, alternating on the same test slates. A policy whose candidates do not stop where their traces say is refused: what
       was chosen is not what runs. One that turns out not to be faster is replaced by full depth. Not with `options.from_traces`.
    4. The policy goes into place with its report and the page made of that: only now can a service meet it. If writing fails or
       is interrupted, the former ones come back.

    `open_session` opens a session of the variant in a bundle's folder; by default `rexit.runtime.open` does. `decode` makes text
    of token ids, for the prompts of examples; without it they are left out. Raises BundleError if the catalog is not the one the
    variant was made for or the profile was measured under other conditions, BackendError if the policy decides otherwise than the
    traces say, InputError for options or labels that cannot work, a folder that cannot be written, or while another process is
    writing to the bundle.
    """
    with sole_writer(bundle.path):
        opened = Bundle.open(bundle.path, bundle.variant.name)  # as it is now that nobody else changes it
        return _Work(opened, options or CalibrationOptions(), progress, open_session, decode).calibrate(catalog)


class _Work:
    """One calibration in progress: the steps of `calibrate`, and what they share."""

    def __init__(
        self,
        bundle: Bundle,
        options: CalibrationOptions,
        progress: Progress,
        open_session: Callable[[Path], Any] | None,
        decode: Callable[[Sequence[int]], str] | None,
    ) -> None:
        self._bundle, self._options, self._progress, self._decode = bundle, options, progress, decode
        self._depths = bundle.manifest.exits
        self._open_session = open_session or self._runtime_session

    def calibrate(self, catalog: Catalog) -> Calibration:
        bundle, options = self._bundle, self._options
        goal = self._check(catalog)
        slates = {name: spread(cut(catalog, name, options.slate), options.max_slates) for name in ("validation", "test")}
        check_writable(bundle.folder)
        _drop_foreign_policy(bundle)
        seen = self._kept(slates) if options.from_traces else self._observe(slates)
        traces = {name: join(part, seen.log_odds[name], name) for name, part in slates.items()}
        tokens = seen.prefix_tokens, seen.candidate_tokens
        costs = seen.profile.costs(*tokens, bundle.variant.max_tokens, options.cached_share)
        self._progress("search", 0, 1)
        more: Any = {"suggest_heads": options.suggest_exits, "progress": self._progress}
        decision = decide.decide(traces["validation"], traces["test"], costs, self._depths, bundle.variant_sha256, goal, **more)
        decision = _made_on(decision, seen.profile.conditions, options.slate)
        self._progress("search", 1, 1)
        measured, slower = None, False
        if not options.from_traces:
            measured = self._time(decision.policy, spread(slates["test"], options.timed_slates))
            slower = _slower(decision, measured)
        if slower:
            decision = decide.back_to_full_depth(decision)
        shown = self._examples(decision.policy, slates["test"], traces["test"])
        doubt = _doubt(catalog, slates["test"], traces["test"])
        report = build(bundle, options, Findings(traces, seen.profile, costs, decision, measured, slower, *shown, doubt))
        written = page.page(report)
        with _as_before_on_failure([bundle.folder / name for name in (POLICY_FILE, REPORT_FILE, page.FILE)]):
            decision.policy.write(bundle.folder / POLICY_FILE)
            write_json(bundle.folder / REPORT_FILE, report, flushed=True)
            write_file(bundle.folder / page.FILE, written, flushed=True)
        return Calibration(decision.policy, report)

    def _check(self, catalog: Catalog) -> decide.Goal:
        bundle, options = self._bundle, self._options
        goal = decide.Goal(tuple(map(metrics.parse, options.metrics)), options.max_drop, options.confidence, options.top_k)
        goal.check()
        if not 0 <= options.cached_share <= 1:
            raise InputError(f"cached share {options.cached_share}, expected 0 to 1")
        if catalog.sha256 != (expected := bundle.manifest.catalog_sha256):
            raise BundleError(f"{catalog.path}: is catalog {catalog.sha256[:12]}…, {bundle.path} holds {expected[:12]}…")
        if len(self._depths) < 2:
            raise InputError(f"{bundle.path}: has one exit, nothing to calibrate; expected at least two")
        return goal

    def _runtime_session(self, folder: Path) -> Any:
        from rexit import runtime

        options = self._options
        return runtime.open(folder, self._bundle.variant.name, device=options.device, threads=options.threads)

    def _made_of(self) -> dict[str, Any]:
        options, bundle = self._options, self._bundle
        of = {"variant_sha256": bundle.variant_sha256, "catalog_sha256": bundle.manifest.catalog_sha256}
        return {**of, "slate": options.slate, "max_slates": options.max_slates}

    def _kept(self, slates: Mapping[str, Sequence[Slate]]) -> Recording:
        pairs = {name: sum(len(s.items) for s in part) for name, part in slates.items()}
        return Recording.read(self._bundle.folder / recording.FILE, len(self._depths), self._made_of(), pairs)

    def _observe(self, slates: Mapping[str, Sequence[Slate]]) -> Recording:
        """Traces by split and what segments cost, from a session; written for later calibrations."""
        options, exits = self._options, len(self._depths)
        here = Conditions.here(self._bundle, options.device, options.threads)
        given = None if options.profile is None else CostProfile.read(options.profile, exits, here)
        with contextlib.closing(self._open_session(self._bundle.path)) as session:
            log_odds = {name: collect(session, part, name, self._progress) for name, part in slates.items()}
            timed = spread(slates["validation"], options.timed_slates)
            limit, repeats = self._bundle.variant.max_tokens, options.repeats
            profile = given or measure_costs(session, timed, exits, limit, here, repeats=repeats, progress=self._progress)
            seen = Recording(log_odds, profile, *mean_tokens(session, timed), self._made_of())
        seen.write(self._bundle.folder / recording.FILE)
        return seen

    def _time(self, policy: Policy, timed: Sequence[Slate]) -> Measured:
        """The policy and each forced exit, as deployed."""
        modes, cached = (None, *range(len(self._depths))), self._options.cached_share > 0.5
        variant = self._bundle.variant
        with bundle_copy(self._bundle.path, variant.name) as folder:
            policy.write(folder / "variants" / variant.name / POLICY_FILE)
            with contextlib.closing(self._open_session(folder)) as session:
                times, stopped = latencies(session, timed, modes, self._options.repeats, self._progress, cached=cached)
                same = _decided_as_traced(session, policy, timed, stopped, variant.rounding)
        return Measured(tuple(float(t) for t in times.mean(0)), sum(len(s.items) for s in timed), same)

    def _examples(self, policy: Policy, slates: Sequence[Slate], traces: Traces) -> tuple[list[Example], list[Example]]:
        decode = self._decode
        if decode is None or self._options.from_traces:
            return pick(policy, slates, traces, self._depths)
        with contextlib.closing(self._open_session(self._bundle.path)) as session:

            def prompt(slate: Slate) -> str:
                prefix, candidates = session.prompt(slate.user, slate.items[:1], as_of=slate.as_of)
                return decode([*prefix.tolist(), *candidates[0].tolist()])

            return pick(policy, slates, traces, self._depths, prompt)


def _made_on(decision: decide.Decision, conditions: Conditions, slate: int) -> decide.Decision:
    """The decision with a policy that says where its costs were measured, and on slates of how many candidates."""
    made_on = {name: value for name, value in conditions.to_json().items() if name != "variant_sha256"} | {"slate": slate}
    return replace(decision, policy=replace(decision.policy, made_on=made_on))


def _doubt(catalog: Catalog, slates: Sequence[Slate], traces: Traces) -> str | None:
    items = np.concatenate([catalog.items.rows(slate.items) for slate in slates]).astype(np.int64)
    train = catalog.split("train")
    biases = ranking.item_biases(items, train.items, train.liked)
    return ranking.doubt(np.ascontiguousarray(traces.log_odds[:, -1]), biases, traces.users, traces.liked)


def _slower(decision: decide.Decision, measured: Measured) -> bool:
    """Whether the policy, timed, does not save what makes a policy worth having."""
    return decision.chosen is not None and measured.milliseconds[0] > (1 - decide.MIN_SAVING) * measured.milliseconds[-1]


def _decided_as_traced(session: Scorer, policy: Policy, timed: Sequence[Slate], stopped: Sequence[Any], rounding: float) -> int:
    """How many candidates stopped exactly where their traces say. Raises BackendError for the first one whose exit not even
    rounding explains."""
    same = 0
    for slate, exits in zip(timed, stopped, strict=True):
        session.clear_cache()  # as it was scored: with keys copied from another prefix int8 may round differently
        trace = session.trace(slate.user, slate.items, as_of=slate.as_of)
        margin = rounding * max(1.0, float(np.abs(trace).max()))
        whole = np.array([0, len(trace)])
        expected, (earliest, latest) = policy.stops(trace, whole), policy.exit_range(trace, margin, whole)
        for item, exit, right, first, last in zip(
            slate.items, *(x.tolist() for x in (exits, expected, earliest, latest)), strict=True
        ):
            if not first <= exit <= last:
                raise BackendError(
                    f"user {slate.user!r}, item {item!r}: stopped at exit {exit}, the trace says {right}: what would be deployed "
                    "is not what was calibrated, no policy was written; run `rexit verify`"
                )
            same += exit == right
    return same


def _drop_foreign_policy(bundle: Bundle) -> None:
    """Another variant's policy makes the runtime refuse the bundle; calibration is about to replace it."""
    try:
        bundle.policy()
    except BundleError:
        (bundle.folder / POLICY_FILE).unlink()


@contextlib.contextmanager
def _as_before_on_failure(paths: Sequence[Path]) -> Iterator[None]:
    """If the block fails, these files are what they were before it. They are kept under another name, since a full disk has no
    room to write them again."""
    kept = {path: path.with_name(f".{path.name}.tmp-{os.getpid()}-before") for path in paths}
    try:
        try:
            for path, before in kept.items():
                if path.exists():
                    link_or_copy(os.fspath(path), os.fspath(before))
        except OSError as exc:
            raise InputError(f"{paths[0].parent}: cannot be written: {exc.strerror or exc}") from exc
        try:
            yield
        except BaseException:  # Ctrl-C too: a policy without its report would be half a calibration
            with interrupts.deferred():
                for path, before in kept.items():
                    try:
                        if before.exists():
                            os.replace(before, path)
                        else:
                            path.unlink(missing_ok=True)
                    except OSError as exc:
                        raise InputError(f"{path}: cannot be made again what it was: {exc.strerror or exc}") from exc
            raise
    finally:
        with interrupts.deferred(), contextlib.suppress(OSError):  # the next writer removes them
            for before in kept.values():
                before.unlink(missing_ok=True)
