"""The float32 reference: where it comes from, what it is bound to, and that losses are of the whole."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rexit.calibration.evaluation import Evaluation
from rexit.calibration.metrics import parse
from rexit.calibration.reference import FILE, VARIANT, reference
from rexit.calibration.traces import Traces
from rexit.errors import BackendError, BundleError
from rexit.format.bundle import Bundle
from rexit.progress import silent

MADE_OF = {"variant_sha256": "int8", "catalog_sha256": None, "slates_sha256": "a", "slate": 3}
OWN = {"test": np.array([[0.5, 1.0], [0.2, 0.1]], np.float32)}
SLATES: Any = {"test": [SimpleNamespace(user=1, request=None)]}


class Session:
    """float32: twice the variant's log-odds."""

    def trace(self, request: None) -> Any:
        return 2 * OWN["test"]

    def close(self) -> None:
        pass


def _unable() -> Any:
    raise BackendError("no kernel")


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(Bundle, "open", lambda path, name: SimpleNamespace(folder=tmp_path, variant_sha256="fp32", exits=(1, 2)))
    return SimpleNamespace(
        path=tmp_path,
        exits=(1, 2),
        manifest=SimpleNamespace(variants=(VARIANT, "cpu-int8")),
        variant=SimpleNamespace(name="cpu-int8"),
    )


def test_float32_runs_once_and_other_variants_and_devices_read_it(bundle: Any, tmp_path: Path) -> None:
    first = reference(bundle, MADE_OF, SLATES, OWN, Session, silent)
    assert first is not None and np.array_equal(first["test"], 2 * OWN["test"])
    for open_session in (None, _unable):
        again = reference(bundle, {**MADE_OF, "variant_sha256": "another"}, SLATES, OWN, open_session, silent)
        assert again is not None and np.array_equal(again["test"], first["test"])
    bundle.variant.name = VARIANT
    assert reference(bundle, MADE_OF, SLATES, OWN, _unable, silent) is OWN and (tmp_path / FILE).is_file()


def test_a_variant_without_an_exit_reads_those_that_it_has(bundle: Any) -> None:
    bundle.exits, own = (2,), {"test": OWN["test"][:, 1:]}
    for open_session in (Session, None):
        exact = reference(bundle, MADE_OF, SLATES, own, open_session, silent)
        assert exact is not None and np.array_equal(exact["test"], 2 * own["test"])


@pytest.mark.parametrize("open_session", [None, _unable])
def test_without_float32_there_is_none(bundle: Any, open_session: Any) -> None:
    assert reference(bundle, MADE_OF, SLATES, OWN, open_session, silent) is None
    bundle.manifest.variants = ("cpu-int8",)
    assert reference(bundle, MADE_OF, SLATES, OWN, Session, silent) is None


@pytest.mark.parametrize("open_session", [None, _unable])
@pytest.mark.parametrize(
    ("other", "message"), [({"slates_sha256": "b"}, "another file of slates"), ({"slate": 4}, "slate 3, expected 4")]
)
def test_one_of_other_slates_is_refused_where_float32_cannot_run(
    bundle: Any, open_session: Any, other: dict[str, Any], message: str
) -> None:
    reference(bundle, MADE_OF, SLATES, OWN, Session, silent)
    with pytest.raises(BundleError, match=message):
        reference(bundle, {**MADE_OF, **other}, SLATES, OWN, open_session, silent)
    assert reference(bundle, {**MADE_OF, **other}, SLATES, OWN, Session, silent) is not None


def test_one_of_other_graphs_or_damaged_is_refused(bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference(bundle, MADE_OF, SLATES, OWN, Session, silent)
    monkeypatch.setattr(
        Bundle, "open", lambda path, name: SimpleNamespace(folder=tmp_path, variant_sha256="exported again", exits=(1, 2))
    )
    with pytest.raises(BundleError, match="recorded with another variant"):
        reference(bundle, MADE_OF, SLATES, OWN, None, silent)
    data = bytearray((tmp_path / FILE).read_bytes())
    data[-1] ^= 1
    (tmp_path / FILE).write_bytes(data)
    with pytest.raises(BundleError, match="SHA-256"):
        reference(bundle, MADE_OF, SLATES, OWN, None, silent)


def test_a_variant_that_ranks_worse_than_float32_loses_at_its_own_full_depth() -> None:
    own = np.array([[0.0, 2.0], [0.0, 1.0]], np.float32)  # the disliked item first; float32 has it last
    liked, offsets = np.array([False, True]), np.array([0, 2])
    exact = np.ascontiguousarray(own[::-1])
    traces = Traces(own, liked, np.zeros(2, np.int64), offsets, (1,), exact=exact)
    metric: Any = parse("ndcg@1")
    stops = np.full(2, 1)
    losses = {}
    for name, against in (("own", None), ("float32", np.ascontiguousarray(exact[:, -1]))):
        evaluation = Evaluation(traces, own, (1, 2), None, [metric], against)  # type: ignore[arg-type]
        losses[name] = evaluation.judge.drop(metric, evaluation.score(stops))
    assert losses == {"own": 0.0, "float32": 1.0}
