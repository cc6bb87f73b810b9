"""What a bundle, a catalog or a policy holds."""

from __future__ import annotations

from typing import Any

from rexit.cli.common.output import stdout
from rexit.cli.common.tables import print_table


def print_description(description: dict[str, Any]) -> None:
    """Prints what `rexit.bundle.describe` returns."""
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
    largest = _size(max(segment["bytes"] for segment in variant["segments"]))
    title = f"Variant {variant['name']}: {what}, {_size(variant['bytes'])}, largest segment {largest}"
    print_table(title, ["segment", "layers", "size"], rows)
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
        stdout.print(
            f"Probabilities are those in the population: sigmoid(c {policy['prior_shift']:+.3f}), since negatives were sampled."
        )
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
    from rexit.bundle.inputs import Inputs

    rows = [[name, count] for name, count in catalog["counts"].items()]
    rows += [[f"{name} split", count] for name, count in catalog["splits"].items()]
    rows += [[name, _size(count)] for name, count in catalog["files"].items()]
    for name in ORIGIN:
        rows += [[f"{name}: {key}", value] for key, value in (catalog[name] or {}).items() if key != "objectives"]
    for name, rule in (catalog["label"] or {}).get("objectives", {}).items():
        rows.append([f"objective: {name}", rule["column"] + (f" >= {rule['at_least']:g}" if "at_least" in rule else "")])
    prompt = catalog["prompt"]
    for entry in Inputs.of(catalog, "catalog.json").entries:
        rows.append([f"input: {entry.name}", f"{entry.expected}{', or missing' if entry.optional else ''}"])
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
