"""`rexit calibrate` without the command line: a bundle's variant and labelled slates in, a policy and its report out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rexit import interrupts
from rexit.calibration import metrics, probabilities, reference
from rexit.calibration.decision import Decision, back_to_full_depth, baseline_rows, decide
from rexit.calibration.evaluation import at_exit
from rexit.calibration.floor import promised
from rexit.calibration.goal import METRICS, CalibrationOptions, Goal
from rexit.calibration.reporting import page
from rexit.calibration.reporting.content import Findings, Timings, build
from rexit.calibration.reporting.verdict import Verdict
from rexit.calibration.traces import TRACES_FILE, Recording, Traces, collect, join, recorded_test_slates, request_quantiles
from rexit.data import ranking
from rexit.data.baselines import ZERO, baselines, doubt_without_labels
from rexit.data.ranking import bootstrap
from rexit.data.slates import AnySlate, cut, drawn, slate_size, spread, spread_users, without_labels
from rexit.data.slates_file import RequestLog, SlatesFile
from rexit.errors import BackendError, BundleError, InputError
from rexit.format import roles
from rexit.format.bundle import Bundle, Catalog, Id, Policy, check_writable, sole_writer, write_file, write_json
from rexit.format.bundle.policy import FILE as POLICY_FILE
from rexit.format.bundle.writer import bundle_copy, link_or_copy
from rexit.format.candidates import Candidates
from rexit.format.request import Request
from rexit.progress import Progress, silent
from rexit.upkeep.audit import REPORT_FILE
from rexit.upkeep.audit.betting import Tail
from rexit.upkeep.measure import Conditions, CostProfile, Costs, latencies, mean_tokens, measure_costs

if TYPE_CHECKING:
    from rexit.runtime import Session

Source = Catalog | SlatesFile | RequestLog
OpenSession = Callable[[Path], Any]
SlatesBySplit = Mapping[str, Sequence[AnySlate]]


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
    source: Source,
    options: CalibrationOptions | None = None,
    *,
    progress: Progress = silent,
    open_session: OpenSession | None = None,
    open_reference: Callable[[], Any] | None = None,
) -> Calibration:
    """Calibrates a variant and writes policy.json, report.json, report.html and traces.safetensors into its folder.

    1. Traces of the validation and test slates, by the variant itself and by the float32 model (see `reference`); what the
       variant's segments cost, measured again if the cost
       model fits badly. Both are written; with `options.from_traces` they are read instead, and with `options.measure_costs` too
       the costs are measured again. Before them, other candidates (`options.also`) are drawn and traced.
    2. The decision (see `decide`): a policy and a floor (`options.recall`) with their certificates, from validation; quality on
       test and, for information, on other candidates. If the cost model still fits
       badly (`MAX_FIT_ERROR`), costs are counted in layers and tokens: what is certified does not depend on them.
    3. The policy is timed as deployed, in a copy of the bundle that no other process has open, against full depth and each fixed
       depth, alternating on the same test slates. A policy whose candidates do not stop where their traces say is refused: it is
       not what was chosen. A policy that is not faster is replaced by full depth. Not where no model runs.
    4. The policy goes into place with its report and page: only now can a service meet it. If writing fails or is interrupted,
       the former ones are restored.

    Args:
        bundle: its selected variant is calibrated.
        source: a catalog with the held-out splits, or a log of requests; for a bundle without a catalog a file of slates.
        options: None: the defaults.
        progress: called as the work goes on.
        open_session: opens a session of the variant in a bundle's folder; None: `rexit.runtime.open`.
        open_reference: opens a session of the float32 variant, likewise.

    Raises:
        BundleError: if the source is not of the bundle's kind, or not its catalog; if the float32 reference is of other slates or
            graphs, and float32 cannot run here.
        BackendError: if the policy decides otherwise than the traces say.
        InputError: for options or labels that cannot work, a folder that cannot be written, or while another process is writing
            to the bundle.
    """
    with sole_writer(bundle.path):
        bundle = Bundle.open(bundle.path, bundle.variant.name)  # as it is now that nobody else changes it
        options = _resolved(options or CalibrationOptions(), source, bundle.folder / TRACES_FILE)
        open_session = open_session or partial(_runtime_session, bundle, options)
        goal = _checked_goal(bundle, source, options)
        slates = _slates(bundle, source, options, goal)
        check_writable(bundle.folder)
        _drop_foreign_policy(bundle)
        other = None
        if options.also is not None:
            with contextlib.closing(open_session(bundle.path)) as session:
                other = _other_traces(session, source, options.also, progress)  # first, as it may be refused
        recording = _recording(bundle, source, options, slates, open_session, progress)
        profile = recording.profile
        if options.from_traces:
            open_reference = None
        elif open_reference is None:
            open_reference = partial(_reference_session, bundle, options)
        exact = reference.reference(bundle, recording.made_of, slates, recording.log_odds, open_reference, progress)
        traces = {
            name: join(part, recording.log_odds[name], name, None if exact is None else exact[name])
            for name, part in slates.items()
        }
        costs = profile.costs(recording.prefix_tokens, recording.candidate_tokens, bundle.variant.max_tokens)
        if profile.is_unreliable:
            costs = counted_costs(costs, bundle.exits, recording, traces["validation"].offsets)
        progress("search", 0, 1)
        decision = decide(
            validation=traces["validation"],
            test=traces["test"],
            costs=costs,
            depths=bundle.exits,
            variant_sha256=bundle.variant_sha256,
            goal=goal,
        )
        rate = probabilities.negative_rate(source) if options.negative_rate is None else options.negative_rate
        decision = _described(decision, recording, options.slate, rate)
        progress("search", 1, 1)
        timings, slower = None, False
        if not options.from_traces or options.measure_costs:
            timed = spread(slates["test"], options.timed_slates)
            timings = _timings(bundle, decision.policy, timed, open_session, options.repeats, progress)
            slower = decision.chosen is not None and timings.is_slower(profile.is_unreliable)
        if slower:
            decision = back_to_full_depth(decision)
        labelled, noun = traces["test"].labelled, ranking.noun_of(bundle.has_catalog)
        zero = [traces["test"].log_odds[:, 0]] if bundle.manifest.has_zero else []
        others = baselines(source, slates["test"], zero=zero)
        last = np.ascontiguousarray(traces["test"].log_odds[:, -1])
        full = np.ascontiguousarray(decision.policy.calibrated(traces["test"].log_odds)[:, -1])
        also = None if other is None else {"candidates": str(options.also), **judged(other, decision.policy, goal)}
        findings = Findings(
            traces=traces,
            profile=profile,
            costs=costs,
            decision=decision,
            timings=timings,
            slower=slower,
            doubt=_doubt(last, full, others, traces["test"], noun),
            baselines=baseline_rows(
                {name: scores for name, scores in others.items() if labelled and name != ZERO},  # it is an exit
                traces["test"],
                full,
                [metrics.parse(name) for name in decision.rows[0].values],
            ),
            negative_rate=rate,
            fitting=_fitting(source),
            also=also,
        )
        report = build(bundle, options, findings)
        html = page.page(report)
        with _restored_on_failure([bundle.folder / name for name in (POLICY_FILE, REPORT_FILE, page.FILE)]):
            (bundle.folder / REPORT_FILE).unlink(missing_ok=True)  # it has the digest of the policy before
            decision.policy.write(bundle.folder / POLICY_FILE)
            report["policy_sha256"] = bundle.policy_sha256
            write_json(bundle.folder / REPORT_FILE, report, flushed=True)
            write_file(bundle.folder / page.FILE, html, flushed=True)
        return Calibration(decision.policy, report)


def _resolved(options: CalibrationOptions, source: Source, traces: Path) -> CalibrationOptions:
    """The options with the defaults that follow from the source, or from the recording that is read."""
    slate = (slate_size(source) if isinstance(source, Catalog) else source.largest) if options.slate is None else options.slate
    labels = options.labels and (isinstance(source, Catalog) or source.labelled)
    default = METRICS if labels else ("expected-ndcg@10",)
    test = options.test_slates or (recorded_test_slates(traces) if options.from_traces else 0)
    options = replace(options, slate=slate, labels=labels, test_slates=test)
    return replace(options, metrics=default if options.metrics is None else tuple(options.metrics))


def _doubt(
    last: NDArray[np.float32], full: NDArray[np.float32], others: Mapping[str, NDArray[np.float64]], test: Traces, noun: str
) -> str | None:
    """Why the model's ranking may be worth nothing: its last head ranks by chance, or its answers at full depth, which read all
    heads and exit zero, below a baseline."""
    if not test.labelled:
        return doubt_without_labels(last, others, test.users, noun)
    return ranking.doubt(last, {}, test.users, test.liked, noun) or ranking.doubt(full, others, test.users, test.liked, noun)


def _checked_goal(bundle: Bundle, source: Source, options: CalibrationOptions) -> Goal:
    """The goal of the options. Raises InputError or BundleError for options, or a source, that cannot work."""
    tail = None if options.tail is None else Tail.parse(options.tail)
    names = METRICS if options.metrics is None else options.metrics
    goal = Goal(tuple(map(metrics.parse, names)), options.max_drop, options.confidence, options.top_k, tail, options.recall)
    goal.check()
    if goal.recall is not None and not options.labels:
        raise InputError(f"recall {goal.recall:g}: a floor needs labels, which say what is relevant, and there are none")
    probabilities.check(options.negative_rate)
    if options.also is not None and not (isinstance(source, Catalog) and options.labels and options.also.count):
        raise InputError(f"also {options.also}: expected uniform[:N], popularity[:N] or retrieved[:N], and a catalog with labels")
    if options.also is not None and isinstance(source, Catalog):
        if options.also.count > len(source.items):
            raise InputError(f"also {options.also}: expected at most the {len(source.items)} items of {source.path}")
        if source.score_names:
            raise InputError(f"also {options.also}: has no scores of first stages, but exit zero of {source.path} reads some")
    if options.measure_costs and not options.from_traces:
        raise InputError("measure costs: is for `--from-traces`; without it they are measured anyway")
    if isinstance(source, SlatesFile):
        if bundle.has_catalog:
            raise BundleError(f"{bundle.path}: has a catalog, which calibrates it, or a log of requests, not {source.path}")
        source.check_fits(bundle.manifest.model.vocab_size, bundle.variant.max_positions)
        names = bundle.manifest.tokens.scores if bundle.manifest.tokens else ()
        if source.score_names != list(names):
            columns, read = (", ".join(f"score.{name}" for name in stages) or "none" for stages in (source.score_names, names))
            raise BundleError(f"{source.path}: its columns of scores are {columns}, but exit zero of {bundle.path} reads {read}")
    elif (expected := bundle.manifest.catalog_sha256) is None:
        raise BundleError(f"{bundle.path}: has no catalog, so a file of slates calibrates it, not {source.path}")
    elif isinstance(source, Catalog) and source.sha256 != expected:
        raise BundleError(
            f"{source.path}: is not the catalog that {bundle.path} holds (it has {_size(source)}, the bundle's "
            f"{_size(bundle.catalog)}): give that one, or put this one in place by `rexit refresh {bundle.path} --catalog "
            f"{source.path}`"
        )
    if isinstance(source, Catalog) and source.candidates.retrieved and (options.slate or 0) < source.candidates.count:
        raise InputError(
            f"slate {options.slate}: {source.path} has candidates {source.candidates}, which are ranked together: leave it out"
        )
    source.roles.check(source.path, bundle.manifest.roles, bundle.path)
    if len(bundle.exits) < 2:
        raise InputError(f"{bundle.path}: has one exit, nothing to calibrate; expected at least two")
    return goal


def _slates(bundle: Bundle, source: Source, options: CalibrationOptions, goal: Goal) -> SlatesBySplit:
    """The slates of validation and test. Raises InputError for a goal that they cannot serve, before minutes of scoring."""
    limits = {"validation": options.max_slates, "test": options.test_slates or options.max_slates}
    slates = {name: spread_users(cut(source, name, options.slate), limit) for name, limit in limits.items()}
    if not options.labels:
        slates = {name: [without_labels(slate) for slate in part] for name, part in slates.items()}
    users = list({slate.user: None for slate in slates["validation"]})
    certifying = len(users) - len(roles.choosing(users))
    for part in slates.values():
        goal.check_sizes(max(len(slate.items) for slate in part))
    if not options.labels:
        goal.check_users(certifying, ranking.noun_of(bundle.has_catalog))
    return slates


def _runtime_session(bundle: Bundle, options: CalibrationOptions, folder: Path) -> Any:
    from rexit import runtime

    return runtime.open(folder, bundle.variant.name, device=options.device, threads=options.threads)


def _reference_session(bundle: Bundle, options: CalibrationOptions) -> Any:
    from rexit import runtime

    return runtime.open(bundle.path, reference.VARIANT, threads=options.threads)


def _recording(
    bundle: Bundle,
    source: Source,
    options: CalibrationOptions,
    slates: SlatesBySplit,
    open_session: OpenSession,
    progress: Progress,
) -> Recording:
    """Traces and costs: from a session, and written for later calibrations; or as the last one wrote them."""
    path = bundle.folder / TRACES_FILE
    made_of = {
        "variant_sha256": bundle.variant_sha256,
        "catalog_sha256": bundle.manifest.catalog_sha256,
        "slates_sha256": None if isinstance(source, Catalog) else source.sha256,
        "slate": options.slate,
        "max_slates": options.max_slates,
        "test_slates": options.test_slates,
    }
    former = None
    if options.from_traces:
        pairs = {name: sum(len(slate.items) for slate in part) for name, part in slates.items()}
        former = Recording.read(path, len(bundle.exits), made_of, pairs)
        _check_machine(path, former.profile.conditions, options)
        if not options.measure_costs:
            return former
    timed = spread([slate for slate in slates["validation"] if roles.chooses(slate.user)], options.timed_slates)
    with contextlib.closing(open_session(bundle.path)) as session:
        log_odds = former.log_odds if former else {name: collect(session, s, name, progress) for name, s in slates.items()}
        recording = Recording(
            log_odds,
            _profile(session, bundle, timed, options, progress),
            *mean_tokens(session, timed, bundle.exits),
            made_of,
            request_quantiles(session, slates["validation"]),
        )
    recording.write(path)
    return recording


ALSO_USERS = 400
"""Most users that other candidates are drawn for."""


def _other_traces(session: Session, source: Source, candidates: Candidates, progress: Progress) -> Traces:
    """The traces of other candidates of the test split. Raises InputError: too few items are unmet, or none of its likes is a
    candidate."""
    assert isinstance(source, Catalog)

    def retrieve(request: Request) -> list[Id]:
        try:
            items: list[Id] = session.score(request, force_exit=0).items.tolist()
        except InputError:  # the user likes nothing that has an embedding
            return []
        return items

    slates = drawn(source, "test", candidates, ALSO_USERS, retrieve=retrieve)
    if not any(slate.liked.any() for slate in slates):
        raise InputError(f"also {candidates}: no like of the test split is among them, expected at least one")
    return join(slates, collect(session, slates, f"{candidates} candidates", progress), "test")


def judged(traces: Traces, policy: Policy, goal: Goal) -> dict[str, Any]:
    """Returns how a policy ranks traces that did not choose it: `users`, and for each metric with a value per user its `policy`,
    `full` and `lost`, what the policy loses against full depth, with its 95 % interval."""
    c = policy.calibrated(traces.log_odds)
    stops = policy.stops(traces.log_odds, traces.offsets)
    score = at_exit(c, stops)
    judge = metrics.Judge(traces.users, traces.liked, traces.offsets, np.ascontiguousarray(c[:, -1]))
    named = [metric for metric in goal.metrics if metric.bounds is not None]
    intervals = judge.intervals(named, score)
    return {
        "users": traces.user_count,
        "metrics": {
            metric.name: {
                "policy": judge.value(metric, score),
                "full": judge.full(metric),
                "lost": (judge.drop(metric, score), *intervals[metric]),
            }
            for metric in named
        },
    }


def _check_machine(path: Path, recorded: Conditions, options: CalibrationOptions) -> None:
    """Raises InputError for a device or threads that the traces were not recorded with: they would change nothing."""
    if options.device is not None and str(options.device) != recorded.device:
        raise InputError(f"{path}: was recorded on {recorded.device}, not on {options.device}: calibrate without --from-traces")
    if options.threads not in (0, recorded.threads) and not options.measure_costs:
        raise InputError(
            f"{path}: costs were measured with {recorded.threads} threads, not {options.threads}: measure them again by "
            "--measure-costs"
        )


def _profile(
    session: Session, bundle: Bundle, timed: Sequence[AnySlate], options: CalibrationOptions, progress: Progress
) -> CostProfile:
    """What segments cost; measured a second time if something disturbed the first."""
    here = Conditions.here(bundle, options.device, options.threads)

    def measure() -> CostProfile:
        limit, depths = bundle.variant.max_tokens, bundle.exits
        return measure_costs(session, timed, depths, limit, here, repeats=options.repeats, progress=progress)

    profile = measure()
    return min(profile, measure(), key=attrgetter("fit_error")) if profile.is_unreliable else profile


def counted_costs(measured: Costs, depths: Sequence[int], recording: Recording, offsets: NDArray[np.int64]) -> Costs:
    """Returns costs in proportion to layers and tokens, of times that fit no cost model.

    Args:
        measured: what was measured: its base stays, and the mean slate takes as long at full depth.
        depths: layers of each exit.
        recording: says how many tokens a prefix and a candidate have.
        offsets: where each slate begins, and the number of pairs: int64 [S + 1].
    """
    layers = np.diff(depths, prepend=0).astype(np.float64)
    counted = replace(
        measured,
        base_us=0.0,
        prefix_us=layers * recording.prefix_tokens,
        pass_us=np.zeros_like(layers),
        candidate_us=layers * recording.candidate_tokens,
    )
    last = np.full(int(offsets[-1]), len(depths) - 1)
    scale = max(measured.mean(last, offsets) - measured.base_us, 1.0) / counted.mean(last, offsets)
    return replace(
        counted,
        base_us=max(measured.base_us, 1.0),
        prefix_us=scale * counted.prefix_us,
        candidate_us=scale * counted.candidate_us,
    )


def _timings(
    bundle: Bundle,
    policy: Policy,
    timed: Sequence[AnySlate],
    open_session: OpenSession,
    repeats: int,
    progress: Progress,
) -> Timings:
    """The policy and each forced exit, as deployed."""
    modes, variant = (None, *range(len(bundle.exits))), bundle.variant
    with bundle_copy(bundle.path, variant.name) as folder:
        policy.write(folder / "variants" / variant.name / POLICY_FILE)
        with contextlib.closing(open_session(folder)) as session:
            times, exits = latencies(session, timed, modes, repeats, progress)
            as_traced = _count_as_traced(session, policy, timed, exits, session.info.rounding)
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


def _described(decision: Decision, recording: Recording, slate: int | None, rate: float) -> Decision:
    """The decision with a policy that says where its costs were measured, on which requests, what is certified, and how far
    probabilities are shifted. rate: the share of the population's negatives in the labels."""
    conditions = {name: value for name, value in vars(recording.profile.conditions).items() if name != "variant_sha256"}
    made_on = conditions | {"slate": slate, "requests": dict(recording.requests)}
    shift = probabilities.shift(rate)
    policy = replace(decision.policy, made_on=made_on, certificate=decision.certificate(), prior_shift=shift)
    return replace(decision, policy=replace(policy, floor=promised(decision.floor)))


def _fitting(source: Source) -> int:
    """How many users fit: those of the training split."""
    if isinstance(source, Catalog):
        return len(np.unique(source.split("train").users))
    return len({slate.user for slate in source.slates["train"]})


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
