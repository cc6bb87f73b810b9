"""`rexit calibrate` without the command line: a bundle's variant and labelled slates in, a policy and its report out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rexit import interrupts, ranking, roles
from rexit.audit import REPORT_FILE
from rexit.audit.betting import Tail
from rexit.baselines import ZERO, baselines, doubt_without_labels
from rexit.bundle import Bundle, Catalog, Id, Policy, check_writable, sole_writer, write_file, write_json
from rexit.bundle.policy import FILE as POLICY_FILE
from rexit.bundle.writer import bundle_copy, link_or_copy
from rexit.calibration import decide, metrics
from rexit.calibration.candidates import MIN_SAVING
from rexit.calibration.comparison import baseline_rows
from rexit.calibration.goal import Goal
from rexit.calibration.options import METRICS, CalibrationOptions
from rexit.calibration.probabilities import prior
from rexit.calibration.record import recording
from rexit.calibration.record.recording import Recording
from rexit.calibration.record.traces import collect, join
from rexit.calibration.reporting import page
from rexit.calibration.reporting.content import Findings, Timings, build
from rexit.calibration.reporting.verdict import Verdict
from rexit.errors import BackendError, BundleError, InputError
from rexit.measure import Conditions, CostProfile, latencies, mean_tokens, measure_costs
from rexit.progress import Progress, silent
from rexit.prompts.slates_file import RequestLog, SlatesFile
from rexit.ranking import bootstrap
from rexit.slates import SIZE, AnySlate, cut, spread, without_labels

if TYPE_CHECKING:
    from rexit.runtime import Session


@dataclass(frozen=True)
class Calibration:
    """The policy as written, and `report.json`'s content (plain JSON values)."""

    policy: Policy
    report: dict[str, Any]

    @property
    def verdict(self) -> Verdict:
        """What to do, and why."""
        return Verdict(**self.report["verdict"])


def calibrate(
    bundle: Bundle,
    source: Catalog | SlatesFile | RequestLog,
    options: CalibrationOptions | None = None,
    *,
    progress: Progress = silent,
    open_session: Callable[[Path], Any] | None = None,
) -> Calibration:
    """Calibrates a variant and writes policy.json, report.json, report.html and traces.safetensors into its folder.

    1. Traces of the validation and test slates, by the variant itself; what its segments cost, from the file `options.profile`
       or measured here, again if the cost model fits badly. Both are written; with `options.from_traces` they are read instead.
    2. The decision (see `decide`): a policy with its certificate, from validation; quality on test. If the cost model still fits
       badly (`MAX_FIT_ERROR`), full depth.
    3. The policy is timed as deployed, in a copy of the bundle that no other process has open, against full depth and each fixed
       depth, alternating on the same test slates. A policy whose candidates do not stop where their traces say is refused: it is
       not what was chosen. A policy that is not faster is replaced by full depth. Not with `options.from_traces`.
    4. The policy goes into place with its report and page: only now can a service meet it. If writing fails or is interrupted,
       the former ones are restored.

    Args:
        bundle: its selected variant is calibrated.
        source: a catalog with the held-out splits, or a log of requests; for a bundle without a catalog a file of slates.
        options: None: the defaults.
        progress: called as the work goes on.
        open_session: opens a session of the variant in a bundle's folder; None: `rexit.runtime.open`.

    Raises:
        BundleError: if the source is not of the bundle's kind, or not its catalog, or the profile was measured under other
            conditions.
        BackendError: if the policy decides otherwise than the traces say.
        InputError: for options or labels that cannot work, a folder that cannot be written, or while another process is writing
            to the bundle.
    """
    with sole_writer(bundle.path):
        opened = Bundle.open(bundle.path, bundle.variant.name)  # as it is now that nobody else changes it
        options = options or CalibrationOptions()
        if options.slate is None:
            options = replace(options, slate=SIZE if isinstance(source, Catalog) else source.largest)
        if not isinstance(source, Catalog) and not source.labelled:
            options = replace(options, labels=False)
        if not options.labels and tuple(options.metrics) == METRICS:
            options = replace(options, metrics=("expected-ndcg@10",))
        return _Work(opened, source, options, progress, open_session).calibrate()


class _Work:
    """One calibration in progress: the steps of `calibrate`, and what they share."""

    def __init__(
        self,
        bundle: Bundle,
        source: Catalog | SlatesFile | RequestLog,
        options: CalibrationOptions,
        progress: Progress,
        open_session: Callable[[Path], Any] | None,
    ) -> None:
        self._bundle, self._source, self._options, self._progress = bundle, source, options, progress
        self._depths = bundle.manifest.exits
        self._open_session = open_session or self._runtime_session

    def calibrate(self) -> Calibration:
        bundle, source, options = self._bundle, self._source, self._options
        goal = self._check()
        slates = {name: spread(cut(source, name, options.slate), options.max_slates) for name in ("validation", "test")}
        if not options.labels:
            slates = {name: [without_labels(slate) for slate in part] for name, part in slates.items()}
        users = list({slate.user: None for slate in slates["validation"]})
        certifying = len(users) - len(roles.choosing(users))
        for part in slates.values():  # before minutes of scoring
            goal.check_sizes(max(len(slate.items) for slate in part))
        if not options.labels:
            goal.check_users(certifying)
        check_writable(bundle.folder)
        _drop_foreign_policy(bundle)
        recorded = self._read_recording(slates) if options.from_traces else self._record(slates)
        profile = recorded.profile
        traces = {name: join(part, recorded.log_odds[name], name) for name, part in slates.items()}
        tokens = recorded.prefix_tokens, recorded.candidate_tokens
        costs = profile.costs(*tokens, bundle.variant.max_tokens)
        self._progress("search", 0, 1)
        decision = decide.decide(
            validation=traces["validation"],
            test=traces["test"],
            costs=costs,
            depths=self._depths,
            variant_sha256=bundle.variant_sha256,
            goal=goal,
        )
        rate = options.negative_rate
        if rate is None:  # without labels there are no negatives
            rate = prior.negative_rate(source) if options.labels else 1.0
        decision = _with_conditions(decision, profile.conditions, options.slate)
        decision = replace(decision, policy=replace(decision.policy, prior_shift=prior.shift(rate)))
        self._progress("search", 1, 1)
        if profile.is_unreliable:
            decision = decide.back_to_full_depth(decision)
        timings, slower = None, False
        if not options.from_traces:
            timings = self._time(decision.policy, spread(slates["test"], options.timed_slates))
            slower = _is_slower(decision, timings)
        if slower:
            decision = decide.back_to_full_depth(decision)
        labelled = traces["test"].labelled
        zero = [traces["test"].log_odds[:, 0]] if bundle.manifest.has_zero else []
        others = baselines(source, slates["test"], zero=zero)
        last = np.ascontiguousarray(traces["test"].log_odds[:, -1])
        full = np.ascontiguousarray(decision.policy.calibrated(traces["test"].log_odds)[:, -1])
        findings = Findings(
            traces=traces,
            profile=profile,
            costs=costs,
            decision=decision,
            timings=timings,
            slower=slower,
            doubt=ranking.doubt(last, others, traces["test"].users, traces["test"].liked)
            if labelled
            else doubt_without_labels(last, others, traces["test"].users),
            baselines=baseline_rows(
                {name: scores for name, scores in others.items() if labelled and name != ZERO},  # it is an exit
                traces["test"],
                full,
                [metrics.parse(name) for name in decision.rows[0].values],
            ),
            negative_rate=rate,
            fitting=_fitting(source),
        )
        report = build(bundle, options, findings)
        html = page.page(report)
        with _restored_on_failure([bundle.folder / name for name in (POLICY_FILE, REPORT_FILE, page.FILE)]):
            decision.policy.write(bundle.folder / POLICY_FILE)
            report["policy_sha256"] = bundle.policy_sha256
            write_json(bundle.folder / REPORT_FILE, report, flushed=True)
            write_file(bundle.folder / page.FILE, html, flushed=True)
        return Calibration(decision.policy, report)

    def _check(self) -> Goal:
        bundle, source, options = self._bundle, self._source, self._options
        tail = None if options.tail is None else Tail.parse(options.tail)
        goal = Goal(tuple(map(metrics.parse, options.metrics)), options.max_drop, options.confidence, options.top_k, tail)
        goal.check()
        prior.check(options.negative_rate)
        if isinstance(source, SlatesFile):
            if bundle.has_catalog:
                raise BundleError(f"{bundle.path}: has a catalog, which calibrates it, or a log of requests, not {source.path}")
            source.check_fits(bundle.manifest.model.vocab_size, bundle.variant.max_positions)
            if source.has_scores != bundle.manifest.has_zero:
                column, zero = ("a", "no exit zero to read it") if source.has_scores else ("no", "an exit zero that reads it")
                raise BundleError(f"{source.path}: has {column} column `score`, but {bundle.path} has {zero}")
        elif (expected := bundle.manifest.catalog_sha256) is None:
            raise BundleError(f"{bundle.path}: has no catalog, so a file of slates calibrates it, not {source.path}")
        elif isinstance(source, Catalog) and source.sha256 != expected:
            raise BundleError(
                f"{source.path}: is not the catalog that {bundle.path} holds (it has {_size(source)}, the bundle's "
                f"{_size(bundle.catalog)}): give that one, or put this one in place by `rexit refresh {bundle.path} --catalog "
                f"{source.path}`"
            )
        source.roles.check(source.path, bundle.manifest.roles, bundle.path)
        if len(self._depths) < 2:
            raise InputError(f"{bundle.path}: has one exit, nothing to calibrate; expected at least two")
        return goal

    def _runtime_session(self, folder: Path) -> Any:
        from rexit import runtime

        options = self._options
        return runtime.open(folder, self._bundle.variant.name, device=options.device, threads=options.threads)

    def _made_of(self) -> dict[str, Any]:
        options, bundle = self._options, self._bundle
        return {
            "variant_sha256": bundle.variant_sha256,
            "catalog_sha256": bundle.manifest.catalog_sha256,
            **({"slates_sha256": self._source.sha256} if not isinstance(self._source, Catalog) else {}),
            "slate": options.slate,
            "max_slates": options.max_slates,
        }

    def _read_recording(self, slates: Mapping[str, Sequence[AnySlate]]) -> Recording:
        pairs = {name: sum(len(s.items) for s in part) for name, part in slates.items()}
        return Recording.read(self._bundle.folder / recording.FILE, len(self._depths), self._made_of(), pairs)

    def _record(self, slates: Mapping[str, Sequence[AnySlate]]) -> Recording:
        """Traces and costs from a session, written for later calibrations."""
        options = self._options
        here = Conditions.here(self._bundle, options.device, options.threads)
        with contextlib.closing(self._open_session(self._bundle.path)) as session:
            log_odds = {name: collect(session, part, name, self._progress) for name, part in slates.items()}
            timed = spread([slate for slate in slates["validation"] if roles.chooses(slate.user)], options.timed_slates)
            profile = options.profile or self._measure(session, timed, here)
            recorded = Recording(log_odds, profile, *mean_tokens(session, timed, self._depths), self._made_of())
        recorded.write(self._bundle.folder / recording.FILE)
        return recorded

    def _measure(self, session: Session, timed: Sequence[AnySlate], here: Conditions) -> CostProfile:
        """What segments cost; measured a second time if something disturbed the first."""
        limit, repeats = self._bundle.variant.max_tokens, self._options.repeats

        def measure() -> CostProfile:
            return measure_costs(session, timed, self._depths, limit, here, repeats=repeats, progress=self._progress)

        profile = measure()
        return min(profile, measure(), key=lambda one: one.fit_error) if profile.is_unreliable else profile

    def _time(self, policy: Policy, timed: Sequence[AnySlate]) -> Timings:
        """The policy and each forced exit, as deployed."""
        modes, variant = (None, *range(len(self._depths))), self._bundle.variant
        with bundle_copy(self._bundle.path, variant.name) as folder:
            policy.write(folder / "variants" / variant.name / POLICY_FILE)
            with contextlib.closing(self._open_session(folder)) as session:
                times, exits = latencies(session, timed, modes, self._options.repeats, self._progress)
                as_traced = _count_as_traced(session, policy, timed, exits, variant.rounding)
        numbers: dict[Id, int] = {}
        users = [numbers.setdefault(slate.user, len(numbers)) for slate in timed]
        sums = np.stack([np.bincount(users, column).astype(np.float64) for column in times.T], 1)
        full = np.broadcast_to(sums[:, -1:], sums.shape)
        ends = np.percentile(bootstrap(full, sums), [2.5, 97.5], axis=0)
        speeds = np.stack([full.sum(0) / sums.sum(0), *ends], 1)
        return Timings(
            tuple(times.mean(0).tolist()), tuple(map(tuple, speeds.tolist())), sum(len(slate.items) for slate in timed), as_traced
        )


def _size(catalog: Catalog) -> str:
    return f"{len(catalog.users):,} users, {len(catalog.items):,} items and times up to {catalog.timeline.last}"


def _with_conditions(decision: decide.Decision, conditions: Conditions, slate: int | None) -> decide.Decision:
    """The decision with a policy that says where its costs were measured, and how many candidates a slate had."""
    made_on = {name: value for name, value in vars(conditions).items() if name != "variant_sha256"} | {"slate": slate}
    return replace(decision, policy=replace(decision.policy, made_on=made_on, certificate=decision.certificate()))


def _fitting(source: Catalog | SlatesFile | RequestLog) -> int:
    """How many users fit: those of the training split."""
    if isinstance(source, Catalog):
        return len(np.unique(source.split("train").users))
    return len({slate.user for slate in source.slates["train"]})


def _is_slower(decision: decide.Decision, timings: Timings) -> bool:
    """Whether the policy, timed, does not save what makes a policy worth having."""
    return decision.chosen is not None and timings.milliseconds[0] > (1 - MIN_SAVING) * timings.milliseconds[-1]


def _count_as_traced(
    session: Session, policy: Policy, slates: Sequence[AnySlate], stops: Sequence[NDArray[np.int64]], rounding: float
) -> int:
    """How many candidates stopped exactly where their traces say. stops: of each slate, the exits. Raises BackendError for an
    exit that not even rounding explains."""
    count = 0
    for slate, exits in zip(slates, stops, strict=True):
        session.clear_cache()  # as it was scored: with keys copied from another prefix int8 may round differently
        trace = session.trace(slate.request)
        margin = rounding * max(1.0, float(np.abs(trace).max()))
        whole = np.array([0, len(trace)])
        expected, (earliest, latest) = policy.stops(trace, whole), policy.exit_range(trace, margin, whole)
        wrong = np.flatnonzero((exits < earliest) | (exits > latest))
        if len(wrong):
            i = int(wrong[0])
            raise BackendError(
                f"user {slate.user!r}, item {slate.items[i]!r}: stopped at exit {exits[i]}, the trace says {expected[i]}: what "
                "would be deployed is not what was calibrated, no policy was written; run `rexit verify`"
            )
        count += int(np.count_nonzero(exits == expected))
    return count


def _drop_foreign_policy(bundle: Bundle) -> None:
    """Another variant's policy makes the runtime refuse the bundle; calibration is about to replace it."""
    try:
        bundle.policy()
    except BundleError:
        (bundle.folder / POLICY_FILE).unlink()


@contextlib.contextmanager
def _restored_on_failure(paths: Sequence[Path]) -> Iterator[None]:
    """If the block fails, these files are restored. They are kept under another name, since a full disk has no room to write them
    again."""
    backups = {path: path.with_name(f".{path.name}.tmp-{os.getpid()}-before") for path in paths}
    try:
        try:
            for path, before in backups.items():
                if path.exists():
                    link_or_copy(os.fspath(path), os.fspath(before))
        except OSError as exc:
            raise InputError(f"{paths[0].parent}: cannot be written: {exc.strerror or exc}") from exc
        try:
            yield
        except BaseException:  # Ctrl-C too: a policy without its report would be half a calibration
            with interrupts.deferred():
                for path, before in backups.items():
                    try:
                        if before.exists():
                            os.replace(before, path)
                        else:
                            path.unlink(missing_ok=True)
                    except OSError as exc:
                        raise InputError(f"{path}: cannot be restored: {exc.strerror or exc}") from exc
            raise
    finally:
        with interrupts.deferred(), contextlib.suppress(OSError):  # the next writer removes them
            for before in backups.values():
                before.unlink(missing_ok=True)
