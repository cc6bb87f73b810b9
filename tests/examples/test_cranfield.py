"""examples/cranfield on a collection of three documents, and its NDCG on numbers computed by hand."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from running.scripts import scripts_of

scripts = scripts_of("examples/cranfield")
SCRIPT = Path(__file__).parents[2] / "examples" / "cranfield" / "slates.py"
FILES = {
    "cran.all.1400": ".I 1\n.T\na wing .\n.A\nx\n.B\ny\n.W\na wing .\n  lift of\nit .\n.I 2\n.T\nb\n.A\n.B\n.W\n"
    ".I 3\n.T\nc\n.A\n.B\n.W\nheat in plates\n",
    "cran.qry": ".I 001\n.W\nwhat lifts\na wing .\n.I 004\n.W\nwhich heat .\n",
    "cranqrel": "1 3 4 \n1 1 1 \n2 3 2 \n2 1 -1\n2 2 3\n",
}
RANKED = [[(1, 4.0), (0, 1.0)], [(0, 8.0), (1, 0.25)]]
"""Places of the documents with a text, and their scores."""


def test_rows_of_a_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    import slates

    monkeypatch.setattr(slates, "best", lambda documents, queries, count: RANKED)
    first, second = slates.slates(FILES, 2, 3)
    assert first["query"] == "what lifts a wing ." and first["candidates"] == ["heat in plates", "a wing ."]
    assert first["label"] == [0, 3], "a complete answer is 3, minimum interest 0"
    assert first["grades"] == [3, 0]
    assert second["group"] == 2, "judgements number queries by their place, not by .I"
    assert second["label"] == [0, 2] and second["grades"] == [2, 1, 0], "a document without text is judged all the same"


def test_a_score_is_a_share_of_the_best_in_two_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    import slates

    monkeypatch.setattr(slates, "best", lambda documents, queries, count: RANKED)
    first, second = slates.slates(FILES, 2, 3, scores=True)
    assert first["candidates"] == ["heat in plates\nMatch: 99", "a wing .\nMatch: 25"]
    assert second["candidates"][1].endswith("Match: 03")


def test_training_queries_alone_keep_fewer_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    import slates

    monkeypatch.setattr(slates, "best", lambda documents, queries, count: RANKED)
    monkeypatch.setattr(slates, "split_of", lambda query, count: "train" if query == 1 else "test")
    first, second = slates.slates(FILES, 2, 3, train_candidates=1)
    assert (len(first["candidates"]), first["label"]) == (1, [0]) and len(second["candidates"]) == 2


def test_all_splits_have_queries_and_each_query_one() -> None:
    import slates

    splits = [slates.split_of(n, 225) for n in range(1, 226)]
    assert {name: splits.count(name) for name in slates.SPLITS} == {"train": 90, "validation": 68, "test": 67}


def test_the_prompt_is_a_rerankers(tmp_path: Path) -> None:
    import slates

    from rexit.exporter.checkpoints.known_prompts import named_prompt

    (tmp_path / "prompt.json").write_text(json.dumps(slates.PROMPT))
    assert named_prompt(str(tmp_path / "prompt.json")).answers == {"no": " no", "yes": " yes"}


@pytest.mark.parametrize("content", [None, "no zip", {}])
def test_another_file_is_refused_in_one_line(tmp_path: Path, content: str | dict[str, str] | None) -> None:
    source = tmp_path / "cranfield.zip"
    if isinstance(content, str):
        source.write_text(content)
    elif content is not None:
        with zipfile.ZipFile(source, "w") as files:
            files.writestr("other", "")
    done = subprocess.run([sys.executable, SCRIPT, tmp_path / "out", "--from", source], capture_output=True, text=True)
    assert done.returncode == 1 and str(source) in done.stderr
    assert done.stderr.startswith("slates: ") and done.stderr.count("\n") == 1 and not (tmp_path / "out").exists()


def test_ndcg_by_hand() -> None:
    import ndcg

    found = ndcg.ndcg(np.array([0.1, 0.9, 0.5]), [3, 0, 1], [3, 2, 1])
    discounts = 1 / np.log2([2, 3, 4])
    assert found == pytest.approx((0 * discounts[0] + 1 * discounts[1] + 7 * discounts[2]) / ([7, 3, 1] @ discounts))
    assert ndcg.ndcg(np.array([3.0, 2.0, 1.0]), [3, 2, 1], [1, 2, 3]) == pytest.approx(1)


def test_slates_without_grades_are_refused(tmp_path: Path) -> None:
    import ndcg

    from rexit.errors import InputError

    path = tmp_path / "slates.jsonl"
    path.write_text(json.dumps({"group": 1, "label": [1]}) + "\n")
    with pytest.raises(InputError, match="has no column `grades`"):
        ndcg.judged(path)
