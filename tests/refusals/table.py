"""Requests that are refused, and the line that says why. One door is tested with all of them, the others with three.

Rows are changes to `GOOD`. The bundle of `write_bundle_with_inputs` places a device (tv, phone or 7), an hour (from 0 to below
24), a query (at most 6 tokens), a price of 3 digits and, optionally, a note (at most 4). Its tokenizer has 64 tokens, its model
128.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builders.bundles.bundle import BundleOptions, write_bundle
from builders.bundles.bundle_files import add_tokenizer, pad_vocabulary
from builders.bundles.catalog import make_catalog, with_inputs
from builders.bundles.reranker import words_tokenizer

INPUTS: dict[str, Any] = {"device": "tv", "hour": 21, "query": [4], "price": 1.99}
GOOD: dict[str, Any] = {"user": 100, "items": [3, 8], "inputs": INPUTS}

INVALID, UNKNOWN_ITEM = "REXIT_INVALID_ARGUMENT", "REXIT_UNKNOWN_ITEM"


def write_bundle_with_inputs(folder: Path) -> Path:
    catalog = with_inputs(make_catalog())
    prompt = catalog.info["prompt"]
    for part in (*prompt["inputs"], *prompt["prefix"], *prompt["candidate"]):  # required, so that what is no number is refused
        if part.get("name") == "hour":
            part.pop("optional", None)
            part.pop("missing", None)
    prompt["inputs"].append({"name": "price", "digits": 3})
    prompt["candidate"].append({"op": "input", "name": "price", "pieces": list(range(11))})
    bundle = write_bundle(folder, BundleOptions(catalog))
    add_tokenizer(bundle, words_tokenizer().to_str())
    pad_vocabulary(bundle)
    return bundle


@dataclass(frozen=True)
class Refusal:
    """A bad request.

    Attributes:
        name: For pytest.
        message: The whole line, or its beginning if it ends with `…`.
        body: The request.
        status: The library's.
        values: Its inputs, if the reader of inputs that trains and checks models refuses them, too.
        in_python: That reader's message; "": the same.
    """

    name: str
    message: str
    body: bytes
    status: str = INVALID
    values: dict[str, Any] | None = None
    in_python: str = ""


def explains(message: str, line: str) -> bool:
    """Whether a line is the message of a row."""
    return line.startswith(message[:-1]) if message.endswith("…") else line == message


def fields(name: str, changes: dict[str, Any], message: str, status: str = INVALID) -> Refusal:
    """GOOD with changes. A change of None leaves the field out."""
    request = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
    return Refusal(name, message, json.dumps(request).encode(), status)


def inputs(name: str, changes: dict[str, Any], message: str, in_python: str = "") -> Refusal:
    """GOOD with changes of its inputs."""
    values = {key: value for key, value in {**INPUTS, **changes}.items() if value is not None}
    return Refusal(name, message, json.dumps({**GOOD, "inputs": values}).encode(), INVALID, values, in_python)


def in_json(name: str, body: str | bytes, message: str, status: str = INVALID) -> Refusal:
    """A request as it is written. `BASE` in it: the fields of GOOD without their braces."""
    raw = body.encode() if isinstance(body, str) else body
    return Refusal(name, message, raw.replace(b"BASE", json.dumps(GOOD)[1:-1].encode()), status)


PROMPT: dict[str, Any] = {"prefix": [3], "candidates": [[6], [7, 8]], "scores": {"bm25": [1.5, -2]}}
"""A good request of a reranker whose exit zero reads the first stage's scores."""
SCORES: list[tuple[Any, str]] = [
    (None, "scores is missing, expected a number for each candidate: exit zero reads bm25"),
    ({}, "scores is empty, expected a number for each candidate: exit zero reads bm25"),
    ({"bm25": None}, "scores is empty, expected a number for each candidate: exit zero reads bm25"),
    ({"bm25": []}, "scores.bm25 has 0 numbers, expected one for each of candidates, 2"),
    ({"bm25": [1.5]}, "scores.bm25 has 1 numbers, expected one for each of candidates, 2"),
    ({"bm25": [1, 2, 3]}, "scores.bm25 has 3 numbers, expected one for each of candidates, 2"),
    ({"bm25": [1, 1e39]}, "scores.bm25[1] is inf, expected a finite number or null"),
    ({"bm25": [1, -1e39]}, "scores.bm25[1] is -inf, expected a finite number or null"),
    ({"bm25": [1, "2"]}, "scores.bm25[1] is '2', expected a number or null"),
    ({"bm25": [True, 2]}, "scores.bm25[0] is true, expected a number or null"),
    ({"bm25": 7}, "scores.bm25 is 7, expected an array of numbers"),
    ({"vector": [1, 2]}, "scores.vector: exit zero reads no such score, it reads bm25"),
    ([1, 2], "scores is an array, expected an object of arrays of numbers by name"),
    (7, "scores is 7, expected an object of arrays of numbers by name"),
]
"""What is refused in the place of its scores."""

DEVICE = "expected one of tv, phone, 7"
HOUR, PRICE = (f"expected a number from 0 to below {limit}" for limit in (24, 1000))
TOKEN = "expected a token id from 0 to 63"
FROM_ONE = "expected an integer from 1 to 10000"
DEADLINE = "expected a number above 0 and at most 1e12"
REFUSALS = [
    fields("an unknown item", {"items": [3, 4]}, "items[1]: item 4 is not in the catalog…", status=UNKNOWN_ITEM),
    fields("an unknown recent item", {"recent": [4]}, "recent[0]: item 4 is not in the catalog…", status=UNKNOWN_ITEM),
    fields("no items", {"items": []}, "items is empty, expected at least one id, or retrieve"),
    fields("nothing to retrieve", {"items": None, "retrieve": 0}, f"retrieve is 0, {FROM_ONE}"),
    fields("fewer than nothing", {"items": None, "retrieve": -1}, f"retrieve is -1, {FROM_ONE}"),
    fields("half an item", {"items": None, "retrieve": 1.5}, f"retrieve is 1.5, {FROM_ONE}"),
    fields("a list of numbers to retrieve", {"items": None, "retrieve": [3]}, f"retrieve is an array, {FROM_ONE}"),
    fields("more than there is", {"items": None, "retrieve": 21}, "retrieve is 21, the catalog has 20 items"),
    fields("items to retrieve and to score", {"retrieve": 3}, "retrieve is set, and so is items: expected one of them"),
    fields("no items, and some to retrieve", {"items": [], "retrieve": 3}, "retrieve is set, and so is items: …"),
    fields(
        "scores of what is retrieved", {"items": None, "retrieve": 1, "scores": {}}, "scores is set, but nothing reads it for…"
    ),
    fields(
        "an unknown user to retrieve for",
        {"user": 5, "items": None, "retrieve": 3, "recent": [[3, False]]},
        "retrieve is 3, but user 5 likes no item that has an embedding, expected one in the catalog or in recent",
    ),
    fields(
        "a known user before their first like",
        {"items": None, "retrieve": 3, "as_of": 0},
        "retrieve is 3, but user 100 likes no item that has an embedding, expected one in the catalog or in recent",
    ),
    fields(
        "a user who has met everything",
        {"items": None, "retrieve": 3, "recent": [-7 + 5 * n for n in range(20)]},
        "retrieve is 3, but user 100 has met every item that has an embedding",
    ),
    fields("an item of a wrong type", {"items": [3, "8"]}, "items[1] is '8', the catalog's ids are integers"),
    fields("an item that is a fraction", {"items": [3, 1.5]}, "items[1] is 1.5, expected a 64-bit integer or a string"),
    fields("items that are no list", {"items": 3}, "items is 3, expected an array of ids"),
    fields("items that are a text", {"items": "38"}, "items is '38', expected an array of ids"),
    fields("a user of a wrong type", {"user": "x"}, "user is 'x', the catalog's ids are integers"),
    fields("a user that is a truth", {"user": True}, "user is true, expected a 64-bit integer or a string"),
    fields("a user out of range", {"user": 1 << 63}, "user is 9223372036854775808, expected a 64-bit integer or a string"),
    fields("scores that nothing reads", {"scores": {}}, "scores is set, but nothing reads it for such a request"),
    fields("a name of scores", {"scores": {"a": [1.5, 2]}}, "scores.a: exit zero reads no such score, it reads none"),
    fields("scores that are a text", {"scores": "12"}, "scores is '12', expected an object of arrays of numbers by name"),
    fields("a top_k below 0", {"top_k": -1}, "top_k is -1, expected an integer from 0 to 2147483647"),
    fields("a time that is a text", {"as_of": "soon"}, "as_of is 'soon', expected a 64-bit integer"),
    fields("a deadline below 0", {"deadline_ms": -1}, f"deadline_ms is -1, {DEADLINE}"),
    fields("a deadline of 0", {"deadline_ms": 0}, f"deadline_ms is 0, {DEADLINE}"),
    fields("a deadline out of range", {"deadline_ms": 1e306}, f"deadline_ms is 1e+306, {DEADLINE}"),
    fields("an exit that is not there", {"force_exit": 9}, "force_exit is 9, the bundle has exits 0 to 2"),
    inputs(
        "an unknown input", {"page": "1"}, "inputs.page: the prompt has no such input, it has: device, query, note, hour, price"
    ),
    inputs("an input left out", {"device": None}, f"inputs.device is missing, {DEVICE}"),
    inputs("a value outside the list", {"device": "radio"}, f"inputs.device is 'radio', {DEVICE}"),
    inputs("a number outside the list", {"device": 7.5}, f"inputs.device is 7.5, {DEVICE}"),
    inputs("another spelling of a number", {"device": "7.0"}, f"inputs.device is '7.0', {DEVICE}"),
    inputs(
        "a value that is a truth",
        {"device": True},
        "inputs.device is true, expected a string, a number or an array of token ids",
        f"inputs.device is true, {DEVICE}",
    ),
    inputs(
        "a value that is token ids", {"device": [7]}, f"inputs.device is token ids, {DEVICE}", f"inputs.device is [7], {DEVICE}"
    ),
    *(
        inputs(f"{text!r} as a number", {"hour": text}, f"inputs.hour is {text!r}, {HOUR}")
        for text in ("1_0", "٣", " 5", "5 ", "inf", "nan", "0x10", "1e400", "+-5", "", ".", "24")
    ),
    inputs("a number outside the bins", {"hour": 24}, f"inputs.hour is 24, {HOUR}"),
    inputs("a number left out", {"price": None}, f"inputs.price is missing, {PRICE}"),
    inputs("a number with too many digits", {"price": 1000}, f"inputs.price is 1000, {PRICE}"),
    inputs("a number below 0", {"price": -0.5}, f"inputs.price is -0.5, {PRICE}"),
    inputs("digits as token ids", {"price": [1]}, f"inputs.price is token ids, {PRICE}", f"inputs.price is [1], {PRICE}"),
    *(
        inputs(f"{text!r} as digits", {"price": text}, f"inputs.price is {text!r}, {PRICE}")
        for text in ("1_0", "٣", " 5", "inf", "nan", "0x10", "1e400", "", "1,99")
    ),
    inputs("a text left out", {"query": None}, "inputs.query is missing, expected at most 6 tokens"),
    inputs("an empty text", {"query": ""}, "inputs.query is missing, expected at most 6 tokens"),
    inputs("a text too long", {"query": "wing " * 7}, "inputs.query has 7 tokens, expected at most 6"),
    inputs("token ids too many", {"query": [3] * 7}, "inputs.query has 7 tokens, expected at most 6"),
    inputs("an optional text too long", {"note": [3] * 5}, "inputs.note has 5 tokens, expected at most 4"),
    inputs("a token id outside the vocabulary", {"query": [4, 64]}, f"inputs.query[1] is 64, {TOKEN}"),
    inputs("a token id below 0", {"query": [4, -1]}, f"inputs.query[1] is -1, {TOKEN}", "inputs.query[1] is -1, …"),
    inputs("a token id that is a fraction", {"query": [4, 0.5]}, "inputs.query[1] is 0.5, expected a token id…"),
    inputs("a text that is a number", {"query": 4}, "inputs.query is 4, expected a text or token ids"),
    fields("inputs that are no object", {"inputs": ["device"]}, "inputs is an array, expected an object of values by name"),
    fields("a NUL in the user", {"user": "a\0b"}, "user is 'a b', the catalog's ids are integers"),
    fields("a NUL in an item", {"items": [3, "a\0b"]}, "items[1] is 'a b', the catalog's ids are integers"),
    fields("a NUL in a value", {"inputs": {**INPUTS, "device": "tv\0"}}, f"inputs.device is 'tv ', {DEVICE}"),
    fields("a lone surrogate as a user", {"user": "\ud800"}, "not valid JSON: …"),
    fields("a lone surrogate", {"inputs": {**INPUTS, "device": "\ud800"}}, "not valid JSON: …"),
    inputs("a text of 500 kB", {"query": "wing " * 100_000}, "inputs.query has 100000 tokens, expected at most 6"),
    in_json("no JSON", "{", "not valid JSON: …"),
    in_json("nothing", " ", "not valid JSON: …"),
    in_json("an array", "[1]", "the request is an array, expected an object"),
    in_json("a number", "1", "the request is 1, expected an object"),
    in_json("no user", '{"items": [3]}', "user is missing, expected an integer"),
    in_json("no items at all", '{"user": 100}', "items is empty, expected at least one id, or retrieve"),
    in_json("tokens to retrieve", '{"prefix": [3], "retrieve": 3}', "retrieve is set, but the request is token ids: …"),
    in_json("both kinds of requests", '{BASE, "candidates": [[2]]}', "user is set, but the request is token ids: …"),
    in_json("an unknown field", '{BASE, "topk": 1}', "topk: a request has no such field, it has: user, items, …"),
    in_json("a verdict that is a number", '{BASE, "recent": [3, [3, 1]]}', "recent[1][1] is 1, expected true or false"),
    in_json("an array behind a pair", '{BASE, "recent": [3, [8, true, [1]]]}', "recent[1] has more than 2 values, …"),
    in_json(
        "a whole number of more than 2^53",
        '{"user": 100, "items": [3], "inputs": {"device": 9007199254740993}}',
        f"inputs.device is 9.0072e+15, {DEVICE}",
    ),
    in_json("half a pair", '{BASE, "recent": [[3]]}', "recent[0] has fewer than 2 values, …"),
    in_json("a key twice", '{BASE, "user": 100}', "user appears twice in the request"),
    in_json("an input twice", '{"inputs": {"device": "tv", "device": "tv"}}', "inputs.device appears twice in the request"),
    in_json("a number beyond float64", '{BASE, "deadline_ms": 1e400}', "not valid JSON: …"),
    in_json("an input beyond float64", '{"inputs": {"hour": 1e400}}', "not valid JSON: …"),
    in_json("NaN", '{BASE, "deadline_ms": NaN}', "not valid JSON: …"),
    in_json("Infinity", '{BASE, "deadline_ms": Infinity}', "not valid JSON: …"),
    in_json("bytes that are not UTF-8", b'{"user": "\xff", "items": [3]}', "not valid JSON: …"),
    in_json("a value that is not UTF-8", b'{"inputs": {"device": "\xff"}}', "not valid JSON: …"),
    in_json("a text that is not UTF-8", b'{"inputs": {"query":"\xff"}}', "not valid JSON: …"),
    in_json("a byte order mark", b"\xef\xbb\xbf{BASE}", "not valid JSON: it begins with a byte order mark"),
    in_json("a NUL behind the request", b"{BASE}\0{", "not valid JSON: byte …"),
    in_json("a NUL before the request", b"\0{BASE}", "not valid JSON: byte 1 is a NUL"),
    in_json("deep nesting", "[" * 100_000, "the request is an array, expected an object"),
    in_json("deep nesting in a field", '{BASE, "recent": ' + "[" * 900 + "]" * 900 + "}", "recent[0][0] is an array, …"),
    in_json(
        "deep nesting in an unknown field", '{BASE, "x": ' + "[" * 100_000 + "]" * 100_000 + "}", "x: a request has no such…"
    ),
    in_json("an id that is an array", '{BASE, "id": [1]}', "id is an array, expected a string or a number"),
    in_json("a candidate without tokens", '{"candidates": [[2], []]}', "candidates[1]…"),
    in_json(
        "a candidate's token outside",
        '{"candidates": [[2], [3, 128]]}',
        "candidates[1][1] is 128, expected a token id from 0 to 127",
    ),
]
