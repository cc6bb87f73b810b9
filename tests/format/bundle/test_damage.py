"""The readers in Python refuse damaged bundles, in one line, or leave it to the runtime, which checks more."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from builders.bundles.bundle import write_bundle
from damage.bundles import KINDS
from damage.table import POLICY, Row
from rexit.errors import BundleError
from rexit.format.bundle import Bundle

LEFT_TO_THE_RUNTIME = 61
"""Number of cases that Python accepts: graphs, ops of prompts, tables' contents."""
IN_OTHER_WORDS = ["op_of_an_unknown_input", "input_that_no_op_places", "inputs_in_another_order_than_their_places"]
IN_OTHER_WORDS += ["two_inputs_of_one_name", "op_without_pieces", "optional_input_without_its_word", "text_with_pieces"]
IN_OTHER_WORDS += ["input_inside_an_entry"]
FOUND = [(kind, name) for kind, (cases, _) in KINDS.items() for name, case in cases.items() if case.found == "opening"]


def refusal(folder: Path) -> str | None:
    """What Python's readers say of a bundle; None if they accept it."""
    try:
        bundle = Bundle.open(folder)
        bundle.policy()
        if bundle.has_catalog:
            assert bundle.catalog.user_embeddings.size and bundle.catalog.item_table and bundle.catalog.piece_table
            bundle.vectors()
    except BundleError as error:
        return str(error).replace(str(folder), "")
    return None


@pytest.mark.medium
def test_damage(tmp_path: Path) -> None:
    accepted, sound = [], {kind: write_bundle(tmp_path / kind, options) for kind, (_, options) in KINDS.items()}
    for kind, name in FOUND:
        case, folder = KINDS[kind][0][name], tmp_path / "damaged" / name
        shutil.copytree(sound[kind], folder)
        case.damage(folder)
        message = refusal(folder)
        shutil.rmtree(folder)
        if message is None:
            accepted.append(name)
            continue
        assert "\n" not in message, (name, message)
        if isinstance(case, Row) and (case.file == POLICY or "/prompt/inputs" in case.at) and name not in IN_OTHER_WORDS:
            assert case.names in message, (name, message)
    assert not [name for name in accepted if name.startswith("policy_")]
    assert len(accepted) == LEFT_TO_THE_RUNTIME, accepted


@pytest.mark.parametrize("kind", KINDS)
def test_no_damage(kind: str, tmp_path: Path) -> None:
    assert refusal(write_bundle(tmp_path / "bundle", KINDS[kind][1])) is None
