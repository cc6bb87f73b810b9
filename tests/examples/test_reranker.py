"""examples/reranker: files of slates from collections of three documents, NDCG computed by hand."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from running.scripts import scripts_of

scripts = scripts_of("examples/reranker")
FOLDER = Path(__file__).parents[2] / "examples" / "reranker"
FILES = {
    "cran.all.1400": ".I 1\n.T\na wing .\n.A\nx\n.B\ny\n.W\na wing .\n  lift of\nit .\n.I 2\n.T\nb\n.A\n.B\n.W\n"
    ".I 3\n.T\nc\n.A\n.B\n.W\nheat in plates\n",
    "cran.qry": ".I 001\n.W\nwhat lifts\na wing .\n.I 004\n.W\nwhich heat .\n",
    "cranqrel": "1 3 4 \n1 1 1 \n2 3 2 \n2 1 -1\n2 2 3\n",
}
RANKED = [[(1, 4.0), (0, 1.0)], [(0, 8.0), (1, 0.25)]]
"""Places of the documents with a text, and their scores."""


def test_rows_of_a_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    import bm25
    import cranfield

    monkeypatch.setattr(bm25, "best", lambda documents, queries, count: RANKED)
    first, second = cranfield.slates(FILES, 2, 3)
    assert first["query"] == "what lifts a wing ." and first["candidates"] == ["heat in plates", "a wing ."]
    assert first["label"] == [0, 3], "a complete answer is 3, minimum interest 0"
    assert first["grades"] == [3, 0]
    assert second["group"] == 2, "judgements number queries by their place, not by .I"
    assert second["label"] == [0, 2] and second["grades"] == [2, 1, 0], "a document without text is judged all the same"


def test_a_score_is_a_share_of_the_best_in_two_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    import bm25
    import cranfield

    monkeypatch.setattr(bm25, "best", lambda documents, queries, count: RANKED)
    first, second = cranfield.slates(FILES, 2, 3, scores=True)
    assert first["candidates"] == ["heat in plates\nMatch: 99", "a wing .\nMatch: 25"]
    assert second["candidates"][1].endswith("Match: 03")
    assert first["score.bm25"] == [RANKED[0][0][1], RANKED[0][1][1]], "what exit zero reads"


def test_training_queries_alone_keep_fewer_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    import bm25
    import cranfield

    monkeypatch.setattr(bm25, "best", lambda documents, queries, count: RANKED)
    monkeypatch.setattr(cranfield, "split_of", lambda query, count: "train" if query == 1 else "test")
    first, second = cranfield.slates(FILES, 2, 3, train_candidates=1)
    assert (len(first["candidates"]), first["label"]) == (1, [0]) and len(second["candidates"]) == 2


def test_all_splits_have_queries_and_each_query_one() -> None:
    import cranfield

    splits = [cranfield.split_of(n, 225) for n in range(1, 226)]
    assert {name: splits.count(name) for name in cranfield.SPLITS} == {"train": 90, "validation": 68, "test": 67}


def test_the_prompt_is_a_rerankers(tmp_path: Path) -> None:
    import cranfield

    from rexit.exporter.checkpoints.rerankers import named_prompt

    (tmp_path / "prompt.json").write_text(json.dumps(cranfield.PROMPT))
    assert named_prompt(str(tmp_path / "prompt.json")).answers == {"no": " no", "yes": " yes"}


@pytest.mark.parametrize("name", ["cranfield", "scifact"])
def test_another_file_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    source = tmp_path / "collection.zip"
    with zipfile.ZipFile(source, "w") as files:
        files.writestr("other", "")
    words = [sys.executable, FOLDER / f"{name}.py", tmp_path / "out", "--from", source]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 1 and str(source) in done.stderr
    assert done.stderr.startswith(f"{name}: ") and done.stderr.count("\n") == 1 and not (tmp_path / "out").exists()


SCIFACT = {
    "corpus_train.csv": [
        {"doc_id": "7", "title": "Wings.", "abstract": """['Lift is "large" (p <' "0.1) at the wing's tip."\n 'Drag is not.']"""},
        {"doc_id": "9", "title": "Heat", "abstract": "['Plates are warm.']"},
    ],
    "claims_train.csv": [
        {"id": "1", "claim": "Wings lift.", "cited_doc_ids": "[7]"},
        {"id": "1", "claim": "Wings lift.", "cited_doc_ids": "[7]"},
        {"id": "2", "claim": "Wings do not lift.", "cited_doc_ids": "[7]"},
    ],
    "claims_validation.csv": [{"id": "3", "claim": "Plates are cold.", "cited_doc_ids": "[ 9 11]"}],
}
"""Rows as in the files; a claim has one for each sentence of evidence."""


def test_rows_of_scifact(monkeypatch: pytest.MonkeyPatch) -> None:
    import bm25
    import scifact

    monkeypatch.setattr(bm25, "best", lambda documents, queries, count: [[(0, 2.5), (1, 0.0)]] * len(queries))
    rows = list(scifact.slates(SCIFACT, 2, 9))
    assert [row["group"] for row in rows] == [1, 2, 3], "a claim is one row, whatever its evidence"
    assert rows[0]["candidates"] == ['Wings. Lift is "large" (p < 0.1) at the', "Heat Plates are warm."]
    assert rows[0]["score.bm25"] == [2.5, 0.0] and rows[0]["label"] == [1, 0] and rows[0]["grades"] == [1]
    assert rows[2]["label"] == [0, 1] and rows[2]["grades"] == [1, 1], "a cited abstract that is no candidate counts in the ideal"
    assert rows[0]["split"] == rows[1]["split"] and rows[2]["split"] == "test", "claims about one abstract are in one split"
    assert {scifact.split_of("train", [n]) for n in range(20)} == {"train", "validation"}


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
