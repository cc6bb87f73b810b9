"""`rexit inspect`."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from rexit.cli.common.as_of import AsOfOption, parse_as_of
from rexit.cli.common.named import ContextOption, RequestOption, parse_context, parse_request
from rexit.cli.common.options import JsonOption
from rexit.cli.common.output import print_json, stdout
from rexit.cli.common.tables import print_table
from rexit.errors import InputError
from rexit.ids import first_few, parse_id, parse_ids

_PROMPT = "The prompt of a slate"


def inspect(
    path: Annotated[Path, typer.Argument(help="A bundle or a tar archive of one, a catalog, or a policy.json.")],
    user: Annotated[str | None, typer.Option(help="User id.", rich_help_panel=_PROMPT)] = None,
    items: Annotated[
        str | None, typer.Option("--items", "--item", help="Item ids, separated by commas.", rich_help_panel=_PROMPT)
    ] = None,
    as_of: AsOfOption = None,
    context: ContextOption = None,
    request: RequestOption = None,
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
    rexit inspect bundle.tar
    rexit inspect bundle --user 196 --items 242,302 --tokenizer SmolLM2-135M
    ```
    """
    from rexit.bundle.archive import unpacked

    if user is not None or items is not None:
        if user is None or items is None:
            raise InputError("a prompt needs both --user and --items")
        with unpacked(path) as folder:
            prompt = _prompt(folder, user, items, as_of, context, request, tokenizer)
        if json:
            print_json(prompt)
        else:
            _print_prompt(prompt)
        return
    for_prompts = {
        "--as-of": as_of,
        "--context": context or None,
        "--request": request or None,
        "--tokenizer": tokenizer,
    }
    if ignored := [option for option, value in for_prompts.items() if value is not None]:
        raise InputError(f"{' and '.join(ignored)}: only for a prompt, which needs --user and --items")
    from rexit.bundle.describe import describe

    with unpacked(path) as folder:
        description = {**describe(folder), "path": str(path)}
    if json:
        print_json(description)
        return
    stdout.print(f"{description['kind']} {description['path']}", soft_wrap=True)
    if "model" in description:
        _print_model(description["model"])
    for section in description.get("variants", []):
        _print_variant(section)
    if "policy" in description:
        _print_policy(description["policy"])
    if "tokens" in description:
        _print_tokens(description["tokens"], description.get("reranker"))
    if "catalog" in description:
        _print_catalog(description["catalog"])


def _print_model(model: dict[str, Any]) -> None:
    rows = {**model, "checkpoint_sha256": f"{model['checkpoint_sha256'][:12]}…", "exits": ", ".join(map(str, model["exits"]))}
    print_table("Model", ["", "value"], rows.items())


def _print_variant(variant: dict[str, Any]) -> None:
    what = f"{variant['target']} {variant['precision']}, {variant['backend']}, opset {variant['opset']}"
    if "objectives" in variant:
        what += f", objectives {', '.join(variant['objectives'])}"
    rows = [[segment["graph"], segment["depth"], _size(segment["bytes"])] for segment in variant["segments"]]
    print_table(f"Variant {variant['name']}: {what}, {_size(variant['bytes'])}", ["segment", "layers", "size"], rows)
    if engines := variant["engines"]:
        rows = [[engine["key"], engine["gpu"] or "-", _size(engine["bytes"]), engine["state"]] for engine in engines]
        print_table("Engines", ["engine", "built on", "size", "state"], rows)
        for engine in engines:
            if engine["reason"]:
                stdout.print(engine["reason"], soft_wrap=True)
    if variant["policy"] is None:
        stdout.print("Not calibrated: every candidate runs to full depth.\n")
    else:
        _print_policy(variant["policy"])


def _print_policy(policy: dict[str, Any]) -> None:
    rows = []
    for rule in policy["exits"]:
        last = rule["exit"] == len(policy["exits"]) - 1
        thresholds = ["always" if last else "never" if rule[side] is None else f"{rule[side]:.3f}" for side in ("upper", "lower")]
        depth = "-" if rule["layers"] is None else rule["layers"]
        rows.append([rule["exit"], depth, f"{rule['a']:.3g}", f"{rule['b']:.3f}", *thresholds])
    columns = ["exit", "layers", "a", "b", "upper", "lower"]
    formula = "c = a z + b"
    if any(rule["earlier"] for rule in policy["exits"]):
        formula += " + earlier heads' log-odds, weighted"
        columns.append("earlier")
        for row, rule in zip(rows, policy["exits"], strict=True):
            row.append(", ".join(f"{weight:.3g}" for weight in rule["earlier"]) or "-")
    if (top_k := policy["top_k"]) is not None:
        columns += ["rise", "fall"]
        moves = [*zip(top_k["rise"], top_k["fall"], strict=True)]
        rows = [[*row, *([f"{move:.3f}" for move in moves[k]] if k < len(moves) else ["-", "-"])] for k, row in enumerate(rows)]
    print_table(f"Policy, patience {policy['patience']}: {formula}; stops at c >= upper or c <= -lower", columns, rows)
    if top_k is not None:
        rank = ", in it once their rank is known" if top_k["ordered"] else ""
        stdout.print(f"Candidates stop once they are known to be in or out of their slate's top {top_k['k']}{rank}.")
    if utility := policy.get("utility"):
        weights = ", ".join(f"{name} {weight:g}" for name, weight in utility.items())
        stdout.print(f"z is the log-odds of the utility, by the objectives' weights: {weights}.")
    if policy["prior_shift"]:
        stdout.print(f"Probabilities are of the world: sigmoid(c {policy['prior_shift']:+.3f}), since negatives were sampled.")
    if policy["quorum"]:
        stdout.print(f"The last {policy['quorum']:.3g} of a slate stop together.")
    if (made_on := policy["made_on"]) is not None:
        slates = f", on slates of up to {made_on['slate']} candidates" if "slate" in made_on else ""
        stdout.print(f"Calibrated on {made_on['device']} with {made_on['threads']} threads{slates}.\n")


def _print_tokens(tokens: dict[str, Any], reranker: dict[str, Any] | None) -> None:
    stdout.print("No catalog: requests are token ids.")
    rows = [[f"label {name}", token] for name, token in tokens["labels"].items()]
    rows += [[f"longest {name}, tokens", tokens[f"max_{name}_tokens"]] for name in ("prefix", "candidate")]
    rows.append(["tokenizer.json", "yes" if tokens["tokenizer"] else "no"])
    rows += [[f"reranker: {name}", repr(part)] for name, part in (reranker or {}).items()]
    print_table("Requests", ["", "value"], rows)


def _print_catalog(catalog: dict[str, Any]) -> None:
    from rexit.bundle.describe import ORIGIN

    rows = [[name, count] for name, count in catalog["counts"].items()]
    rows += [[f"{name} split", count] for name, count in catalog["splits"].items()]
    rows += [[name, _size(count)] for name, count in catalog["files"].items()]
    for name in ORIGIN:
        rows += [[f"{name}: {key}", value] for key, value in (catalog[name] or {}).items() if key != "objectives"]
    for name, rule in (catalog["label"] or {}).get("objectives", {}).items():
        rows.append([f"objective: {name}", rule["column"] + (f" >= {rule['at_least']:g}" if "at_least" in rule else "")])
    prompt = catalog["prompt"]
    for context in prompt.get("context", []):
        values = context.get("values") or context["bins"]
        rows.append([f"context: {context['name']}", f"{first_few(values, str, 10)} (other: {context['unknown']})"])
    for op in (op for part in ("prefix", "candidate") for op in prompt.get(part, []) if op.get("op") == "request"):
        rows.append([f"request text: {op['name']}", f"at most {op['limit']} tokens{'' if 'missing' in op else ', required'}"])
    print_table("Catalog", ["", "value"], rows)
    stdout.print("Prompt template:")
    stdout.print(str(prompt.get("template", "")), soft_wrap=True, style="dim")
    for part in ("prefix", "candidate"):
        steps = " ".join(_step(op) for op in prompt.get(part, []))
        stdout.print(f"{part} (at most {prompt.get(f'max_{part}_tokens')} tokens): {steps}", soft_wrap=True)


def _step(op: dict[str, Any]) -> str:
    arguments = [str(value) for key, value in op.items() if key in ("field", "name", "table", "order", "limit", "piece")]
    return f"{op.get('op', '?')}({', '.join(arguments)})"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def _prompt(
    path: Path,
    user: str,
    items: str,
    as_of: str | None,
    context: Sequence[str] | None,
    request: Sequence[str] | None,
    tokenizer: Path | None,
) -> dict[str, Any]:
    """The prompt as the runtime assembles it, with the code that scores."""
    from rexit import runtime
    from rexit.bundle import Bundle
    from rexit.bundle.prompt_text import decoder

    if not (path / "manifest.json").is_file():
        raise InputError(f"{path}: is not a bundle; prompts are assembled by the runtime, from a bundle")
    bundle = Bundle.open(path)
    kinds = bundle.catalog.info["ids"]
    user_id, item_ids = parse_id(user, kinds["user"], "user"), parse_ids(items, kinds["item"], "item")
    bundle.catalog.items.rows(item_ids)
    time = parse_as_of(as_of, bundle.catalog, warn=True)
    values = parse_context(context, bundle.catalog.contexts)
    texts = parse_request(request, bundle.catalog.request_texts)
    decode = decoder(tokenizer, bundle.catalog.vector_ids) if tokenizer is not None else None
    with contextlib.closing(runtime.open(bundle.path, bundle.variant.name, device="cpu")) as session:
        prefix, candidates = session.prompt(user_id, item_ids, as_of=time, context=values, request=texts)

    def part(tokens: Any) -> dict[str, Any]:
        ids = [int(token) for token in tokens]
        return {"tokens": ids, **({"text": decode(ids)} if decode else {})}

    entries = [{"item": item, **part(tokens)} for item, tokens in zip(item_ids, candidates, strict=True)]
    return {"kind": "prompt", "user": user_id, "prefix": part(prefix), "candidates": entries}


def _print_prompt(prompt: dict[str, Any]) -> None:
    parts = [("prefix", prompt["prefix"]), *((f"item {entry['item']}", entry) for entry in prompt["candidates"])]
    for name, part in parts:
        stdout.print(f"{name}: {len(part['tokens'])} tokens")
        stdout.print(" ".join(str(token) for token in part["tokens"]), soft_wrap=True, style="dim")
        if "text" in part:
            stdout.print(part["text"], soft_wrap=True)
