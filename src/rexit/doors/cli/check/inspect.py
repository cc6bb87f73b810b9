"""`rexit inspect`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rexit.doors.cli.common.arguments import ITEMS, AsOfOption, InputOption, JsonOption, parse_request
from rexit.doors.cli.common.output import print_json, print_table, print_values, stdout
from rexit.errors import InputError

if TYPE_CHECKING:
    from rexit.format.bundle import Bundle
    from rexit.format.request import Request

_PROMPT = "The prompt of a slate"


def inspect(
    path: Annotated[Path, typer.Argument(help="A bundle, a catalog, or a policy.json.")],
    user: Annotated[str | None, typer.Option(help="User id.", rich_help_panel=_PROMPT)] = None,
    items: Annotated[str | None, typer.Option("--items", "--item", help=ITEMS, rich_help_panel=_PROMPT)] = None,
    as_of: AsOfOption = None,
    inputs: InputOption = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="The model's folder with tokenizer.json: show prompts as text, too.", rich_help_panel=_PROMPT),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show what a bundle, a catalog or a policy holds. Runs no model.

    ```
    rexit inspect bundle
    rexit inspect catalog --json
    rexit inspect bundle --user 196 --items 242,302 --tokenizer SmolLM2-135M
    ```
    """
    from rexit.doors.cli.check.describe import describe

    if user is not None or items is not None:
        if user is None or items is None:
            raise InputError("a prompt needs both --user and --items")
        bundle = _open(path)
        prompt = _prompt(bundle, parse_request(bundle.catalog, user, items, as_of=as_of, inputs=inputs), tokenizer)
        if json:
            print_json(prompt)
        else:
            _print_prompt(prompt)
        return
    for_prompts = {"--as-of": as_of, "--input": inputs or None, "--tokenizer": tokenizer}
    if ignored := [option for option, value in for_prompts.items() if value is not None]:
        raise InputError(f"{' and '.join(ignored)}: only for a prompt, which needs --user and --items")
    description = describe(path)
    if json:
        print_json(description)
    else:
        _print_description(description)


def _open(path: Path) -> Bundle:
    from rexit.format.bundle import Bundle

    if not (path / "manifest.json").is_file():
        raise InputError(f"{path}: is not a bundle; prompts are assembled by the runtime, from a bundle")
    return Bundle.open(path)


def _prompt(bundle: Bundle, request: Request, tokenizer: Path | None) -> dict[str, Any]:
    """Returns the prompt as the runtime assembles it, with the code that scores."""
    from msgspec import structs

    from rexit import runtime

    if names := bundle.catalog.score_names:  # prompts do not read them
        request = structs.replace(request, scores={name: [0.0] * len(request.items or ()) for name in names})
    decode = None if tokenizer is None else _decoder(tokenizer)
    with contextlib.closing(runtime.open(bundle.path, bundle.variant.name, device="cpu")) as session:
        prefix, candidates = session.prompt(request)

    def part(tokens: Any) -> dict[str, Any]:
        ids = [int(token) for token in tokens]
        return {"tokens": ids, **({"text": decode(ids)} if decode else {})}

    entries = [{"item": item, **part(tokens)} for item, tokens in zip(request.items or (), candidates, strict=True)]
    return {"kind": "prompt", "user": request.user, "prefix": part(prefix), "candidates": entries}


def _decoder(folder: Path) -> Callable[[Sequence[int]], str]:
    """Returns a function from token ids to text. Special tokens are spelled out."""
    from rexit.data.texts import read_tokenizer

    tokenizer = read_tokenizer(folder / "tokenizer.json" if folder.is_dir() else folder)

    return lambda tokens: str(tokenizer.decode(tokens, skip_special_tokens=False))


def _print_prompt(prompt: dict[str, Any]) -> None:
    """Prints the tokens of the prefix and of each candidate, and their text if there is some."""
    parts = [("prefix", prompt["prefix"]), *((f"item {entry['item']}", entry) for entry in prompt["candidates"])]
    for name, part in parts:
        stdout.print(f"{name}: {len(part['tokens'])} tokens")
        stdout.print(" ".join(str(token) for token in part["tokens"]), style="dim")
        if "text" in part:
            stdout.print(part["text"])


def _print_description(description: dict[str, Any]) -> None:
    """Prints what `describe` returns."""
    stdout.print(f"{description['kind']} {description['path']}")
    if (model := description.get("model")) is not None:
        short = {"checkpoint_sha256": f"{model['checkpoint_sha256'][:12]}…", "exits": ", ".join(map(str, model["exits"]))}
        print_values("Model", {**model, **short})
    if "max_candidates" in description:
        stdout.print(f"A request has at most {description['max_candidates']:,} candidates.\n")
    for section in description.get("variants", []):
        _print_variant(section)
    if "policy" in description:
        _print_policy(description["policy"])
    if "tokens" in description:
        _print_tokens(description["tokens"], description.get("reranker"))
    if "catalog" in description:
        _print_catalog(description["catalog"])


def _print_variant(variant: dict[str, Any]) -> None:
    what = f"{variant['target']} {variant['precision']}, {variant['backend']}, opset {variant['opset']}"
    rows = [{"segment": s["graph"], "layers": s["depth"], "size": _size(s["bytes"])} for s in variant["segments"]]
    largest = _size(max(segment["bytes"] for segment in variant["segments"]))
    title = f"Variant {variant['name']}: {what}, {_size(variant['bytes'])}, largest segment {largest}"
    print_table(title, rows)
    if engines := variant["engines"]:
        rows = [
            {"engine": e["key"], "built on": e["gpu"] or "-", "size": _size(e["bytes"]), "state": e["state"]} for e in engines
        ]
        print_table("Engines", rows)
        for engine in engines:
            if engine["reason"]:
                stdout.print(engine["reason"])
    if variant["policy"] is None:
        stdout.print("Not calibrated: every candidate runs to full depth.\n")
    else:
        _print_policy(variant["policy"])


def _print_policy(policy: dict[str, Any]) -> None:
    top_k, last, formula = policy["top_k"], len(policy["exits"]) - 1, "c = a z + b"
    reads_earlier = any(rule["earlier"] for rule in policy["exits"])
    if reads_earlier:
        formula += " + earlier heads' log-odds, weighted"
    rows = []
    for k, rule in enumerate(policy["exits"]):
        row = {"exit": k, "layers": "-" if rule["layers"] is None else rule["layers"], "a": f"{rule['a']:.3g}"}
        row["b"] = f"{rule['b']:.3f}"
        for side in ("upper", "lower"):
            row[side] = "always" if k == last else "never" if rule[side] is None else f"{rule[side]:.3f}"
        if reads_earlier:
            row["earlier"] = ", ".join(f"{weight:.3g}" for weight in rule["earlier"]) or "-"
        if any(other["keep"] for other in policy["exits"]):
            row["keep"] = "-" if rule["keep"] is None else rule["keep"]
        if top_k is not None:
            row |= {move: "-" if k == last else f"{top_k[move][k]:.3f}" for move in ("rise", "fall")}
        rows.append(row)
    print_table(f"Policy, patience {policy['patience']}: {formula}; stops at c >= upper or c <= -lower", rows)
    if top_k is not None:
        rank = ", in it once their rank is known" if top_k["ordered"] else ""
        stdout.print(f"Candidates stop once they are known to be in or out of their slate's top {top_k['k']}{rank}.")
    if policy["prior_shift"]:
        stdout.print(
            f"Probabilities are those in the population: sigmoid(c {policy['prior_shift']:+.3f}), since negatives were sampled."
        )
    if policy["quorum"]:
        stdout.print(f"Where at most {policy['quorum']} of a slate are left after an exit, they stop too.")
    if (made_on := policy["made_on"]) is not None:
        slates = f", on slates of up to {made_on['slate']} candidates" if "slate" in made_on else ""
        stdout.print(f"Calibrated on {made_on['device']} with {made_on['threads']} threads{slates}.\n")
    if certificate := policy["certificate"]:
        stdout.print(f"Certified: {', '.join(f'{name} {value}' for name, value in certificate.items())}.\n")


def _print_tokens(tokens: dict[str, Any], reranker: dict[str, Any] | None) -> None:
    scores = f" and first stages' scores: {', '.join(names)}" if (names := tokens.get("scores")) else ""
    takes = "token ids" if reranker is None else "a query and documents, or token ids"
    stdout.print(f"No catalog: requests are {takes}{scores}.")
    values = {f"label {name}": token for name, token in tokens["labels"].items()}
    values |= {f"longest {name}, tokens": tokens[f"max_{name}_tokens"] for name in ("prefix", "candidate")}
    values["tokenizer.json"] = "yes" if tokens["tokenizer"] else "no"
    values |= {f"reranker: {name}": repr(part) for name, part in (reranker or {}).items()}
    print_values("Requests", values)


def _print_catalog(catalog: dict[str, Any]) -> None:
    from rexit.doors.cli.check.describe import ORIGIN
    from rexit.format.bundle.inputs import Inputs

    values = dict(catalog["counts"])
    values |= {f"{name} split": count for name, count in catalog["splits"].items()}
    values |= {name: _size(count) for name, count in catalog["files"].items()}
    for name in ORIGIN:
        values |= {f"{name}: {key}": value for key, value in (catalog[name] or {}).items()}
    for entry in Inputs.of(catalog, "catalog.json").entries:
        values[f"input: {entry.name}"] = f"{entry.encoder.expected}{', or missing' if entry.optional else ''}"
    print_values("Catalog", values)
    prompt = catalog["prompt"]
    stdout.print("Prompt template:")
    stdout.print(str(prompt.get("template", "")), style="dim")
    for part in ("prefix", "candidate"):
        steps = " ".join(_step(op) for op in prompt.get(part, []))
        stdout.print(f"{part} (at most {prompt.get(f'max_{part}_tokens')} tokens): {steps}")


def _step(op: dict[str, Any]) -> str:
    arguments = [str(value) for key, value in op.items() if key in ("field", "name", "table", "order", "limit", "piece")]
    return f"{op.get('op', '?')}({', '.join(arguments)})"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
