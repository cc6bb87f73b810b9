"""`slate.py --question FOLDER`: one question, in words and in vectors.

    FOLDER/text/bundle     a fine-tuned model whose prompts spell titles out, calibrated in cpu-int8, cpu-bf16 or both, with
                           cpu-fp32 to compare with; beside it its weights for the peers, `weights.py … --tuned CHECKPOINT`
    FOLDER/text/catalog    whose test split has the slates
    FOLDER/vectors/bundle  the same base model, fine-tuned as long on prompts that place vectors instead, calibrated

One of the two is enough; with vectors alone (and FOLDER/vectors/catalog) no peer is asked. docs/notes/speed/peers.md has the
commands that make them. Whole slates of the test split, for real users, as large as those that the policies were made for: a
certified policy on a hundred candidates for ten places is asked about a hundred. Peers have no vectors to read and are given the
words: the same users, candidates and moment, another prompt. Ratios across prompts are therefore not ratios of one computation,
and the times come with the quality of both models and with what calibration guarantees.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import rexit
from rexit.data.slates import SIZE, cut
from rexit.format.bundle import Bundle, Catalog

PRECISIONS = ("int8", "bf16")
PROMPTS = ("text", "vectors")
COLD = "the question, cold"
MOMENTS = (COLD, "second slate", "one interaction later")
CHECKED = 5
"""Slates whose tokens are compared before anything is timed."""


def calibrated(bundle: Path) -> tuple[str, ...]:
    """Returns the PRECISIONS in which the bundle has a policy."""
    precisions = tuple(name for name in PRECISIONS if (bundle / "variants" / f"cpu-{name}" / "policy.json").exists())
    if not precisions:
        sys.exit(f"slate.py: {bundle} has no policy, expected one in {' or '.join(f'cpu-{name}' for name in PRECISIONS)}")
    return precisions


def slate_size(bundles: Mapping[str, Path], precisions: Mapping[str, Sequence[str]]) -> int:
    """Returns the number of candidates that the bundles' policies were made for; SIZE if none says."""
    policies = {
        f"{prompt} {name}": Bundle.open(bundles[prompt], f"cpu-{name}").policy()
        for prompt in bundles
        for name in precisions[prompt]
    }
    sizes = {name: policy.made_on["slate"] for name, policy in policies.items() if policy and policy.made_on}
    if len(set(sizes.values())) > 1:
        sys.exit(f"slate.py: the policies were made for slates of {sizes}, expected one size")
    return next(iter(sizes.values()), SIZE)


class Questions:
    """Random slates, the same in every run. A request holds the tokens of one prompt; rexit reads the user, items and moment."""

    def __init__(self, folder: Path) -> None:
        self.bundles = {prompt: path for prompt in PROMPTS if (path := folder / prompt / "bundle").exists()}
        if not self.bundles:
            sys.exit(f"slate.py: {folder} has neither text/bundle nor vectors/bundle, expected one of them")
        self.precisions = {prompt: calibrated(path) for prompt, path in self.bundles.items()}
        self.size = slate_size(self.bundles, self.precisions)
        self.asked = next(iter(self.bundles))
        catalog = Catalog.open(folder / self.asked / "catalog")
        self.slates = [slate for slate in cut(catalog, "test", self.size) if len(slate.items) == self.size]
        self.labels, self.prompt = catalog.labels, catalog.info["prompt"]
        self.sessions = {prompt: rexit.open(path, f"cpu-{self.precisions[prompt][0]}") for prompt, path in self.bundles.items()}
        self.has_zero = self.sessions[self.asked].exits[0].layers == 0
        self.random = np.random.default_rng(1)

    def draw(self, moment: str, prompt: str = "") -> dict[str, Any]:
        """Returns a request for a random slate, in the tokens of `prompt`; empty: in the peers' tokens.

        `entering` holds those of the candidates that the policy's exit zero lets in.

        Unless it is cold, `before` is the same user's request just before. One interaction later: the user has just met the first
        candidate of the slate, and the others are scored.
        """
        slate = self.slates[self.random.integers(len(self.slates))]
        request: dict[str, Any] = {"user": slate.user, "as_of": slate.as_of, "no": self.labels["no"], "yes": self.labels["yes"]}
        prompt = prompt or self.asked
        items, half = list(slate.items), self.size // 2
        before: dict[str, Any]
        now: dict[str, Any]
        if moment == COLD:
            return self._asked(prompt, request | {"items": items})
        if moment == "second slate":
            before, now = {"items": items[half:]}, {"items": items[:half]}
        else:
            first, *left = items
            before, now = {"items": left, "recent": []}, {"items": left, "recent": [(first, bool(slate.liked[0]))]}
        return request | self._asked(prompt, request | now) | {"before": self._asked(prompt, request | before)}

    def _asked(self, prompt: str, request: Mapping[str, Any]) -> dict[str, Any]:
        when = {"as_of": request["as_of"], "recent": request.get("recent")}
        session, user, items = self.sessions[prompt], request["user"], request["items"]
        prefix, candidates = session.prompt(user, items, **when)
        answer = dict(request) | {"prefix": prefix.tolist(), "candidates": [candidate.tolist() for candidate in candidates]}
        if self.has_zero:
            stops = session.score(user, items, **when).exit
            answer["entering"] = [tokens for tokens, k in zip(answer["candidates"], stops, strict=True) if k > 0]
        return answer

    def checks(self, prompt: str) -> list[dict[str, Any]]:
        return [self.draw(COLD, prompt) for _ in range(CHECKED)]

    def max_tokens(self) -> int:
        """The most tokens that a slate may have."""
        return int(self.prompt["max_prefix_tokens"] + self.size * self.prompt["max_candidate_tokens"])

    def about(self) -> dict[str, Any]:
        """Returns for each prompt the median tokens of a slate, and for each precision what its gate and `rexit calibrate` say:
        full depth and the policy on the test split, what the policy loses, with intervals, and the guarantee (None: not
        certified)."""
        prompts: dict[str, Any] = {}
        for prompt, path in self.bundles.items():
            requests = [self.draw(COLD, prompt) for _ in range(20)]
            prompts[prompt] = {
                "tokens": float(np.median([len(entry["prefix"]) + sum(map(len, entry["candidates"])) for entry in requests])),
                "slate": self.size,
            }
            for name in self.precisions[prompt]:
                prompts[prompt][name] = self._quality(path / "variants" / f"cpu-{name}")
        return prompts

    def _quality(self, variant: Path) -> dict[str, Any]:
        about, report = (json.loads((variant / f"{name}.json").read_text()) for name in ("variant", "report"))
        rows = {row["policy"]: {"layers": row["mean_layers"], **row["values"]} for row in report["table"]}
        return {
            "gate": about["quality"],
            "test": {name: rows[name] for name in ("full depth", "policy") if name in rows},
            "drops": next((row["drops"] for row in report["table"] if row["policy"] == "policy"), None),
            "guarantee": report["verdict"]["guarantee"],
        }
