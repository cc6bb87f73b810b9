"""Values of contexts: which number each has, which are refused, and catalogs that describe none."""

from __future__ import annotations

from typing import Any

import pytest

from rexit.bundle.context import MISSING, Context, Contexts
from rexit.errors import BundleError, InputError

DEVICE = Context(name="device", values=("tv", "phone", "7"), unknown="refuse")
HOUR = Context(name="hour", edges=(0, 6, 18.5, 24), unknown="missing")
BOTH = Contexts((DEVICE, HOUR))


@pytest.mark.parametrize(
    ("context", "value", "number"),
    [
        (DEVICE, "tv", 0),
        (DEVICE, 7, 2),
        (DEVICE, 7.0, 2),
        (DEVICE, 7.5, None),
        (DEVICE, "TV", None),
        (DEVICE, "07", None),
        (HOUR, 0, 0),
        (HOUR, 5.99, 0),
        (HOUR, 6, 1),
        (HOUR, "18.5", 2),
        (HOUR, 24, None),
        (HOUR, -1, None),
        (HOUR, float("nan"), None),
        (HOUR, "noon", None),
        (HOUR, 10**400, None),
    ],
)
def test_numbers_of_values(context: Context, value: Any, number: int | None) -> None:
    assert context.find(value) == number


def test_a_request_by_name() -> None:
    assert BOTH.numbers({"hour": 20, "device": "phone"}).tolist() == [1, 2]
    assert BOTH.numbers({"device": "tv"}).tolist() == BOTH.numbers({"device": "tv", "hour": 99}).tolist() == [0, MISSING]
    assert BOTH.values([1, 2]) == {"device": "phone", "hour": 18.5} and BOTH.values([0, MISSING]) == {"device": "tv"}
    assert BOTH.example() == {"device": "tv", "hour": 0}
    assert Contexts().numbers(None).tolist() == [] and Contexts().example() == {}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "context 'device' is missing, expected one of tv, phone, 7"),
        ({"device": "radio"}, "context 'device' is 'radio', expected one of tv, phone, 7"),
        ({"device": "tv", "page": 1}, "context 'page': the prompt places no such context, it has: device, hour"),
    ],
)
def test_a_request_that_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as raised:
        BOTH.numbers(given)
    assert str(raised.value) == message


def test_numbers_that_stand_for_nothing() -> None:
    for numbers in ([3, 0], [MISSING, 0], [0, 3], [-2, 0]):
        with pytest.raises(BundleError, match="there is no value number"):
            BOTH.values(numbers)
    with pytest.raises(BundleError, match="1 contexts, the prompt places 2"):
        BOTH.values([0])


def info(contexts: Any, requires: tuple[str, ...] = ("context",)) -> dict[str, Any]:
    prefix = [{"op": "context", "name": "device", "values": [0, 1, 2]}, {"op": "context", "name": "hour", "values": [3, 4, 5]}]
    return {"requires": list(requires), "prompt": {"prefix": prefix, "candidate": [], "context": contexts}}


def test_what_is_written_is_read() -> None:
    assert Contexts.of(info([DEVICE.to_json(), HOUR.to_json()]), "c") == BOTH


@pytest.mark.parametrize(
    ("contexts", "message"),
    [
        ([DEVICE.to_json()], r"contexts of the prompt are \['device'\], its ops place \['device', 'hour'\]"),
        (["device", HOUR.to_json()], r"prompt context\[0\]: is 'device', expected an object"),
        ([{**DEVICE.to_json(), "values": [7]}, HOUR.to_json()], r"values\[0\]: is 7, expected a string"),
        ([DEVICE.to_json(), {**HOUR.to_json(), "bins": [0, True]}], r"bins\[1\]: is True, expected a number"),
        ({"device": 1}, r"prompt context: is \{'device': 1\}, expected an array"),
    ],
)
def test_a_catalog_that_is_refused(contexts: Any, message: str) -> None:
    """More in tests/damage/catalogs.py."""
    with pytest.raises(BundleError, match=f"c: .*{message}"):
        Contexts.of(info(contexts), "c")


def test_requires_says_whether_there_are_any() -> None:
    with pytest.raises(BundleError, match="c: requires: lacks `context`, which the catalog uses"):
        Contexts.of(info([DEVICE.to_json(), HOUR.to_json()], requires=()), "c")
    with pytest.raises(BundleError, match="c: requires: holds `context`, which the catalog does not use"):
        Contexts.of(info([]), "c")
