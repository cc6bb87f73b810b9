"""The whole of calibration on files, with a stand-in for the session: what is written, when, and what stays when it fails."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from builders.bundle_files import refresh
from builders.held_out import write_two_tastes
from builders.traces import even_costs
from doubles.session import FakeSession
from rexit.bundle import Bundle, Catalog, ExitPolicy, Policy, sole_writer
from rexit.calibration import CalibrationOptions, calibrate
from rexit.calibration.run import _decided_as_traced
from rexit.errors import BackendError, BundleError, InputError
from rexit.measure.costs import Costs
from rexit.slates import Slate

OPTIONS = CalibrationOptions(max_auc_drop=0.02, slate=5, timed_slates=4, repeats=1)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_two_tastes(tmp_path)
    return tmp_path


def truth(user: int, item: int) -> float:
    return 2.0 if (user + item) % 2 else -2.0


def sessions(bundle: Bundle, noise=(0.5, 0.2, 0.1), costs: Costs | None = None, made: list[FakeSession] | None = None):
    """Opens stand-ins that follow the policy that lies in the bundle, as the runtime does."""

    def open_session() -> FakeSession:
        session = FakeSession(3, costs or even_costs(3, 100, 10), truth, noise, bundle.policy())
        if made is not None:
            made.append(session)
        return session

    return open_session


def run(place: Path, **keywords):
    bundle = Bundle.open(place / "bundle")
    open_session = keywords.pop("open_session", None) or sessions(bundle, **keywords)
    return bundle, calibrate(bundle, Catalog.open(place / "catalog"), OPTIONS, open_session=open_session)


def test_writes_policy_report_and_plot_of_one_run(place: Path) -> None:
    made: list[FakeSession] = []
    bundle, done = run(place, made=made)
    assert bundle.policy() == Policy.read(bundle.folder / "policy.json", 3, bundle.variant_sha256)
    assert bundle.policy() == done.policy
    report = json.loads((bundle.folder / "report.json").read_text())
    assert report == json.loads(json.dumps(done.report))
    assert (bundle.folder / "report.png").read_bytes().startswith(b"\x89PNG")
    assert [s.closed for s in made] == [True, True]
    assert report["variant_sha256"] == bundle.variant_sha256 and report["catalog_sha256"] == bundle.variant.catalog_sha256
    assert report["data"]["test"] == {"pairs": 300, "slates": 60, "users": 30}
    assert report["decisions"]["as_traced"] == report["decisions"]["candidates"] > 0
    names = [row["policy"] for row in report["table"]]
    assert names == ["full depth", "1 layer", "2 layers", "calibrated"]


def test_conclusion_is_the_measurement(place: Path) -> None:
    _, done = run(place)
    full, chosen = done.report["table"][0], done.report["table"][-1]
    assert done.report["pays"]
    assert chosen["speed_up"] == pytest.approx(full["ms_per_slate"] / chosen["ms_per_slate"]) and chosen["speed_up"] > 1.5
    assert done.conclusion.startswith("Early exit pays: ")
    assert f"{chosen['speed_up']:.2f}x as fast" in done.conclusion
    assert "interval" in done.conclusion and "allowed: -0.02" in done.conclusion


def test_no_exit_pays_says_so_and_keeps_the_maps(place: Path) -> None:
    bundle, done = run(place, noise=(1e9, 1e9, 0.1))
    assert done.conclusion.startswith("No exit pays: within an AUC drop of 0.02")
    policy = bundle.policy()
    assert policy is not None and (policy.stops(np.full((1, 3), 50, np.float32), np.array([0, 1])) == 2).all()
    assert policy.exits[2].a != 1.0
    assert done.report["table"][-1]["speed_up"] == 1.0


def test_policy_that_is_a_fixed_depth_is_called_so(place: Path) -> None:
    _, done = run(place, noise=(0.0, 0.0, 0.0))
    assert done.conclusion.endswith("Every candidate stops after layer 1: deeper layers add nothing here.")
    _, done = run(place, noise=(2.0, 0.5, 0.1))
    assert done.report["pays"]
    assert "Every candidate" not in done.conclusion


def test_model_that_ranks_nothing_is_called_so(place: Path) -> None:
    bundle = Bundle.open(place / "bundle")
    backwards = lambda user, item: -truth(user, item)  # noqa: E731
    _, done = run(place, open_session=lambda: FakeSession(3, even_costs(3), backwards, (0.5, 0.2, 0.1), bundle.policy()))
    assert "not even the deepest head ranks (AUC 0.166 on validation)" in done.conclusion


def test_promise_that_the_clock_does_not_keep_is_taken_back(place: Path) -> None:
    bundle = Bundle.open(place / "bundle")
    opened = 0

    def open_session() -> FakeSession:
        nonlocal opened
        opened += 1
        costs = even_costs(3, 100, 10) if opened == 1 else Costs(500.0, np.zeros(3), np.zeros(3), np.zeros(3), 1)
        return FakeSession(3, costs, truth, (0.5, 0.2, 0.1), bundle.policy())

    _, done = run(place, open_session=open_session)
    assert "is not faster when measured" in done.conclusion and not done.report["pays"]
    assert (done.policy.stops(np.full((1, 3), 50, np.float32), np.array([0, 1])) == 2).all()
    assert bundle.policy() == done.policy


def test_runs_again_from_its_own_result(place: Path) -> None:
    _, first = run(place)
    _, second = run(place)
    assert first.policy == second.policy


class StopsElsewhere(FakeSession):
    """Lets one candidate of each slate run to the end, whatever the policy says."""

    def score(self, *words, force_exit=None, **keywords):
        scores = super().score(*words, force_exit=force_exit, **keywords)
        if force_exit is None:
            scores.exit[-1] = 2
        return scores


@pytest.mark.parametrize("before", [True, False], ids=["recalibration", "first"])
def test_policy_that_decides_otherwise_than_traced_is_refused(place: Path, before: bool) -> None:
    bundle = Bundle.open(place / "bundle")
    if before:
        Policy.full_depth(3, bundle.variant_sha256).write(bundle.folder / "policy.json")
    files = {p.name: p.read_bytes() for p in bundle.folder.iterdir()}
    with pytest.raises(
        BackendError, match=r"user 100, item -?\d+: stopped at exit 2, the trace says [01]: .*no policy was written"
    ):
        run(place, open_session=lambda: StopsElsewhere(3, even_costs(3, 100, 10), truth, (0.5, 0.2, 0.1), bundle.policy()))
    assert {p.name: p.read_bytes() for p in bundle.folder.iterdir()} == files


@pytest.mark.parametrize(("distance", "refused"), [(0.5, False), (2.0, True)])
def test_within_rounding_of_a_threshold_there_are_two_right_exits(distance: float, refused: bool) -> None:
    """The trace's log-odds lie this many roundings above the threshold; the session has not stopped there."""
    session = FakeSession(2, even_costs(2), lambda user, item: 1.0 + distance * 0.01 if item == 7 else 9.0, (0.0, 0.0))
    policy = Policy((ExitPolicy(1.0, 0.0, 1.0, 1.0), ExitPolicy()), 1, "")
    slate = Slate(1, (5, 7), None, np.array([True, False]))
    if refused:
        with pytest.raises(BackendError, match="user 1, item 7: stopped at exit 1, the trace says 0"):
            _decided_as_traced(session, policy, [slate], [np.array([0, 1])], 0.01 / 9)
    else:
        assert _decided_as_traced(session, policy, [slate], [np.array([0, 1])], 0.01 / 9) == 1
    assert _decided_as_traced(session, policy, [slate], [np.array([0, 0])], 0.01 / 9) == 2


def test_foreign_catalog(place: Path) -> None:
    other = write_two_tastes(place / "other", seed=1).catalog
    bundle = Bundle.open(place / "bundle")
    with pytest.raises(BundleError, match=r"other/catalog: is catalog .*, variant cpu-fp32 was made for"):
        calibrate(bundle, Catalog.open(other), OPTIONS, open_session=sessions(bundle))
    assert not (bundle.folder / "policy.json").exists()


def test_policy_of_another_variant_is_replaced(place: Path) -> None:
    bundle = Bundle.open(place / "bundle")
    Policy.full_depth(3, "another").write(bundle.folder / "policy.json")
    with pytest.raises(BundleError, match="made for variant another"):
        bundle.policy()
    _, done = run(place)
    assert bundle.policy() == done.policy


class Interrupted(FakeSession):
    def warm_up(self) -> None:
        raise KeyboardInterrupt


@pytest.mark.parametrize("before", [True, False], ids=["recalibration", "first"])
def test_ctrl_c_while_timing_the_policy_brings_the_former_one_back(place: Path, before: bool) -> None:
    bundle = Bundle.open(place / "bundle")
    if before:
        Policy.full_depth(3, bundle.variant_sha256).write(bundle.folder / "policy.json")
    files = {p.name: p.read_bytes() for p in bundle.folder.iterdir()}
    opened = 0

    def open_session() -> FakeSession:
        nonlocal opened
        opened += 1
        kind = FakeSession if opened == 1 else Interrupted
        return kind(3, even_costs(3, 100, 10), truth, (0.5, 0.2, 0.1), bundle.policy())

    with pytest.raises(KeyboardInterrupt):
        calibrate(bundle, Catalog.open(place / "catalog"), OPTIONS, open_session=open_session)
    assert opened == 2
    assert {p.name: p.read_bytes() for p in bundle.folder.iterdir()} == files


def test_nothing_is_calibrated_in_a_bundle_that_is_being_written(place: Path) -> None:
    bundle = Bundle.open(place / "bundle")
    with sole_writer(place / "bundle"), pytest.raises(InputError, match="bundle: another process is writing to it"):
        calibrate(bundle, Catalog.open(place / "catalog"), OPTIONS, open_session=lambda: pytest.fail("work began"))
    assert bundle.policy() is None


def test_unwritable_folder_is_found_before_any_work(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **keywords: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("rexit.bundle.files.tempfile.TemporaryFile", refuse)
    bundle = Bundle.open(place / "bundle")

    def never() -> FakeSession:
        raise AssertionError("work began")

    with pytest.raises(InputError, match="cpu-fp32: cannot be written: Read-only file system"):
        calibrate(bundle, Catalog.open(place / "catalog"), OPTIONS, open_session=never)


def test_disk_full_at_the_report_leaves_no_policy(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, value: object) -> None:
        raise InputError(f"{path}: cannot be written: No space left on device")

    monkeypatch.setattr("rexit.calibration.run.write_json", refuse)
    bundle = Bundle.open(place / "bundle")
    with pytest.raises(InputError, match="No space left"):
        run(place)
    assert not (bundle.folder / "policy.json").exists()


def test_one_exit_has_nothing_to_calibrate(tmp_path: Path) -> None:
    made = write_two_tastes(tmp_path, exits=(4,))
    bundle = Bundle.open(made.bundle)
    with pytest.raises(InputError, match="one exit, nothing to calibrate"):
        calibrate(bundle, Catalog.open(made.catalog), OPTIONS, open_session=sessions(bundle))


def test_log_odds_that_are_not_finite_are_refused(place: Path) -> None:
    with pytest.raises(InputError, match="log-odds are not finite"):
        run(place, noise=(float("nan"), 0.2, 0.1))


def test_labels_all_alike_are_refused(place: Path) -> None:
    import polars as pl

    path = place / "catalog" / "splits" / "validation.parquet"
    info = json.loads((place / "catalog" / "catalog.json").read_text())
    pl.read_parquet(path).with_columns(liked=pl.lit(True)).write_parquet(path)
    from rexit.bundle import FileEntry

    info["splits"]["validation"].update(FileEntry.of(path).to_json())
    (place / "catalog" / "catalog.json").write_text(json.dumps(info))
    shutil.copy(place / "catalog" / "catalog.json", place / "bundle" / "catalog")
    refresh(place / "bundle")
    shutil.copy(place / "bundle" / "catalog" / "catalog.json", place / "catalog")
    opened = Bundle.open(place / "bundle")
    with pytest.raises(InputError, match="validation: all 300 interactions are liked, expected both kinds"):
        calibrate(opened, Catalog.open(place / "catalog"), OPTIONS, open_session=sessions(opened))


def test_progress_reaches_its_end(place: Path) -> None:
    bundle, told = Bundle.open(place / "bundle"), {}
    calibrate(
        bundle,
        Catalog.open(place / "catalog"),
        OPTIONS,
        open_session=sessions(bundle),
        progress=lambda what, done, total: told.__setitem__(what, (done, total)),
    )
    assert list(told) == ["validation", "test", "costs", "search", "latency"]
    assert all(done == total for done, total in told.values())
