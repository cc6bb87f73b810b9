"""`rexit inspect`."""

from __future__ import annotations

import contextlib
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rexit.bundle.prompt_text import decoder
from rexit.cli.common.as_of import AsOfOption, parse_as_of
from rexit.cli.common.options import JsonOption, VariantOption
from rexit.cli.common.output import print_json, stdout
from rexit.cli.common.tables import print_table
from rexit.errors import BundleError, InputError
from rexit.ids import parse_id, parse_ids

if TYPE_CHECKING:
    from rexit.bundle import Bundle, Catalog, Policy, Variant


def inspect(
    path: Annotated[Path, typer.Argument(help="A bundle, a catalog, or a policy.json.")],
    user: Annotated[str | None, typer.Option(help="With --items: show the prompt of this user's slate.")] = None,
    items: Annotated[str | None, typer.Option("--items", "--item", help="Item ids, separated by commas.")] = None,
    as_of: AsOfOption = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="The model's folder with tokenizer.json: prompts are shown as text, too.")
    ] = None,
    variant: VariantOption = None,
    json: JsonOption = False,
) -> None:
    """Show what a bundle, a catalog or a policy holds. Runs no model.

    ```
    rexit inspect bundle
    rexit inspect catalog --json
    rexit inspect bundle --user 196 --items 242,302 --tokenizer SmolLM2-135M
    ```
    """
    if user is not None or items is not None:
        if user is None or items is None:
            raise InputError("a prompt needs both --user and --items")
        _show(_prompt(path, variant, user, items, as_of, tokenizer), json)
        return
    if ignored := [option for option, value in (("--as-of", as_of), ("--tokenizer", tokenizer)) if value is not None]:
        raise InputError(f"{' and '.join(ignored)}: only for a prompt, which needs --user and --items")
    if (path / "manifest.json").is_file():
        _show(_bundle(path, variant), json)
    elif (path / "catalog.json").is_file():
        from rexit.bundle import Catalog

        _show({"kind": "catalog", "path": str(path), "catalog": _catalog(Catalog.open(path))}, json)
    elif path.is_file():
        _show(_policy_file(path), json)
    else:
        raise BundleError(f"{path}: not a bundle (manifest.json), a catalog (catalog.json) or a policy file")


def _show(value: dict[str, Any], json: bool) -> None:
    if json:
        print_json(value)
        return
    kind = value["kind"]
    if kind == "prompt":
        _print_prompt(value)
        return
    stdout.print(f"{kind} {value['path']}", markup=False, soft_wrap=True)
    if kind == "bundle":
        model = value["model"]
        short = {**model, "checkpoint_sha256": f"{model['checkpoint_sha256'][:12]}…"}
        print_table("Model", ["", "value"], short.items())
        for v in value["variants"]:
            title = (
                f"Variant {v['name']}: {v['target']} {v['precision']}, {v['backend']}, opset {v['opset']}, {_size(v['bytes'])}"
            )
            print_table(
                title, ["segment", "layers", "size"], [[s["graph"], s["depth"], _size(s["bytes"])] for s in v["segments"]]
            )
            if v["engines"]:
                rows = [[e["key"], e["gpu"] or "-", _size(e["bytes"]), e["state"]] for e in v["engines"]]
                print_table("Engines", ["", "built on", "size", "state"], rows)
                for e in v["engines"]:
                    if e["reason"]:
                        stdout.print(e["reason"], markup=False, soft_wrap=True)
            if v["policy"] is None:
                stdout.print("Not calibrated: every candidate runs to full depth.")
            else:
                _print_policy(v["policy"])
    if kind == "policy":
        _print_policy(value["policy"])
    if "catalog" in value:
        _print_catalog(value["catalog"])


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def _bundle(path: Path, variant: str | None) -> dict[str, Any]:
    from rexit.bundle import Bundle

    first = Bundle.open(path, variant)
    names = [variant] if variant is not None else first.manifest.variants
    model = {**asdict(first.manifest.model), "exits": list(first.manifest.exits)}
    variants = [_variant(Bundle.open(path, name)) for name in names]
    return {"kind": "bundle", "path": str(path), "model": model, "variants": variants, "catalog": _catalog(first.catalog)}


def _variant(bundle: Bundle) -> dict[str, Any]:
    from rexit.bundle import engine_folders

    variant = bundle.variant
    policy = bundle.policy()
    segments = [
        {
            "graph": s.graph,
            "depth": f"{s.layers[0]}-{s.layers[1]}",
            "bytes": sum(variant.files[name].bytes for name in {s.graph, s.weights} if name in variant.files),
        }
        for s in variant.segments
    ]
    return {
        **{
            key: getattr(variant, key)
            for key in ("name", "target", "precision", "backend", "opset", "max_tokens", "max_positions")
        },
        "sha256": bundle.variant_sha256,
        "bytes": sum(entry.bytes for entry in variant.files.values()),
        "segments": segments,
        "parity": dict(variant.parity),
        "quality": None if variant.quality is None else dict(variant.quality),
        "policy": None if policy is None else _policy(policy, bundle.manifest.exits),
        "engines": [_engine(folder, variant) for folder in engine_folders(bundle.folder)],
    }


def _engine(folder: Path, variant: Variant) -> dict[str, Any]:
    """An engine's description; `state` is current, stale or unreadable, with the reason."""
    from rexit.bundle import Engine

    try:
        engine = Engine.read(folder)
    except BundleError as exc:
        return {"key": folder.name, "builder": None, "gpu": None, "bytes": 0, "state": "unreadable", "reason": str(exc)}
    shown = {"key": engine.key, "builder": engine.builder, "gpu": engine.gpu, "bytes": engine.bytes}
    try:
        engine.check(folder, variant)
    except BundleError as exc:
        return {**shown, "state": "stale", "reason": str(exc)}
    return {**shown, "state": "current", "reason": None}


def _policy(policy: Policy, layers: tuple[int, ...] | None = None) -> dict[str, Any]:
    exits: list[dict[str, Any]] = []
    for k, e in enumerate(policy.exits):
        limits = {side: None if math.isinf(limit) else limit for side, limit in (("upper", e.upper), ("lower", e.lower))}
        exits.append({"exit": k, "layers": None if layers is None else layers[k], "a": e.a, "b": e.b, **limits})
    return {
        "patience": policy.patience,
        "quorum": policy.quorum,
        "top_k": None if policy.top_k is None else asdict(policy.top_k),
        "made_on": policy.made_on,
        "variant_sha256": policy.variant_sha256,
        "exits": exits,
    }


def _policy_file(path: Path) -> dict[str, Any]:
    from rexit.bundle.files import read_json
    from rexit.bundle.policy import SLATE_RULES, Policy

    value = read_json(path, {SLATE_RULES})
    exits, digest = value.get("exits"), value.get("variant_sha256")
    if not isinstance(exits, list) or not isinstance(digest, str):
        raise BundleError(f"{path}: not a policy: expected `exits` and `variant_sha256`")
    return {"kind": "policy", "path": str(path), "policy": _policy(Policy.read(path, len(exits), digest))}


def _print_policy(policy: dict[str, Any]) -> None:
    rows = []
    for e in policy["exits"]:
        last = e["exit"] == len(policy["exits"]) - 1
        limits = ["always" if last else "never" if e[side] is None else f"{e[side]:.3f}" for side in ("upper", "lower")]
        rows.append([e["exit"], "-" if e["layers"] is None else e["layers"], f"{e['a']:.3g}", f"{e['b']:.3f}", *limits])
    title = f"Policy, patience {policy['patience']}: c = a z + b; stops at c >= upper or c <= -lower"
    columns = ["exit", "layers", "a", "b", "upper", "lower"]
    if (rule := policy["top_k"]) is not None:
        columns += ["rise", "fall"]
        moves = [*zip(rule["rise"], rule["fall"], strict=True)]
        rows = [[*row, *([f"{x:.3f}" for x in moves[k]] if k < len(moves) else ["-", "-"])] for k, row in enumerate(rows)]
    print_table(title, columns, rows)
    if rule is not None:
        rank = ", in it once their rank is known" if rule["ordered"] else ""
        stdout.print(f"Candidates stop once they are known to be in or out of their slate's top {rule['k']}{rank}.")
    if policy["quorum"]:
        stdout.print(f"The last {policy['quorum']:.3g} of a slate stop together.")
    if (made_on := policy["made_on"]) is not None:
        slates = f", on slates of up to {made_on['slate']} candidates" if "slate" in made_on else ""
        stdout.print(f"Calibrated on {made_on['device']} with {made_on['threads']} threads{slates}.", markup=False)


_TOLD = ("ids", "label", "order", "split", "labels", "embedding", "lightgcn", "retrieval")
"""What `rexit index` wrote about how a catalog came about."""


def _catalog(catalog: Catalog) -> dict[str, Any]:
    info = catalog.info
    return {
        "sha256": catalog.sha256,
        **{key: info.get(key) for key in ("counts", *_TOLD, "tokenizer")},
        "splits": {name: split.get("rows") for name, split in info["splits"].items()},
        "files": {name: entry.bytes for name, entry in catalog.files.items()},
        "prompt": info["prompt"],
    }


def _print_catalog(catalog: dict[str, Any]) -> None:
    rows = [[name, count] for name, count in catalog["counts"].items()]
    rows += [[f"{name} split", count] for name, count in catalog["splits"].items()]
    rows += [[name, _size(count)] for name, count in catalog["files"].items()]
    for name in _TOLD:
        rows += [[f"{name}: {key}", value] for key, value in (catalog[name] or {}).items()]
    print_table("Catalog", ["", "value"], rows)
    prompt = catalog["prompt"]
    stdout.print("Prompt template:")
    stdout.print(str(prompt.get("template", "")), markup=False, soft_wrap=True, style="dim")
    for part in ("prefix", "candidate"):
        steps = " ".join(_step(op) for op in prompt.get(part, []))
        limit = prompt.get(f"max_{part}_tokens")
        stdout.print(f"{part} (at most {limit} tokens): {steps}", markup=False, soft_wrap=True)


def _step(op: dict[str, Any]) -> str:
    shown = {k: v for k, v in op.items() if k in ("field", "table", "order", "limit", "piece")}
    return f"{op.get('op', '?')}({', '.join(str(v) for v in shown.values())})"


def _prompt(path: Path, variant: str | None, user: str, items: str, as_of: str | None, tokenizer: Path | None) -> dict[str, Any]:
    """The prompt as assembled by the runtime, with the code that scores."""
    from rexit import runtime
    from rexit.bundle import Bundle

    if not (path / "manifest.json").is_file():
        raise InputError(f"{path}: is not a bundle; prompts are assembled by the runtime, from a bundle")
    bundle = Bundle.open(path, variant)
    kinds = bundle.catalog.info["ids"]
    user_id, item_ids = parse_id(user, kinds["user"], "user"), parse_ids(items, kinds["item"], "item")
    bundle.catalog.items.rows(item_ids)
    moment = parse_as_of(as_of, bundle.catalog, warn=True)
    decode = decoder(tokenizer, bundle.catalog.vector_ids) if tokenizer is not None else None
    with contextlib.closing(runtime.open(bundle.path, bundle.variant.name, device="cpu")) as session:
        prefix, candidates = session.prompt(user_id, item_ids, as_of=moment)

    def part(tokens: Any) -> dict[str, Any]:
        ids = [int(t) for t in tokens]
        return {"tokens": ids, **({"text": decode(ids)} if decode else {})}

    shown = [{"item": item, **part(tokens)} for item, tokens in zip(item_ids, candidates, strict=True)]
    return {"kind": "prompt", "user": user_id, "prefix": part(prefix), "candidates": shown}


def _print_prompt(value: dict[str, Any]) -> None:
    parts = [("prefix", value["prefix"]), *((f"item {c['item']}", c) for c in value["candidates"])]
    for name, part in parts:
        stdout.print(f"{name}: {len(part['tokens'])} tokens", markup=False)
        stdout.print(" ".join(str(t) for t in part["tokens"]), markup=False, soft_wrap=True, style="dim")
        if "text" in part:
            stdout.print(part["text"], markup=False, soft_wrap=True)
