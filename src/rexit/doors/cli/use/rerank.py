"""`rexit rerank`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from rexit.doors.cli.common.arguments import JsonOption, ThreadsOption, VariantOption, open_bundle
from rexit.doors.cli.common.output import print_json, print_table, stdout
from rexit.errors import InputError

_SHOWN = 80
"""Characters of a document in the table."""


class _Document(msgspec.Struct):
    text: str
    scores: dict[str, float | None] = {}


def rerank(
    bundle: Annotated[Path, typer.Argument(help="The bundle of a reranker.")],
    query: Annotated[str, typer.Option(help="What the documents are ranked for.")],
    documents: Annotated[
        Path,
        typer.Option(
            help="A text file with a document on each line, be it empty; or .jsonl: on each line a string, or an object with "
            "`text` and, if the bundle reads them, `scores`, first stages' numbers by name."
        ),
    ],
    top_n: Annotated[int | None, typer.Option(min=1, help="Only the n best. Default: all, best first.")] = None,
    floor: Annotated[bool, typer.Option("--floor", help="Leave out what is below the policy's floor.")] = False,
    instruction: Annotated[str | None, typer.Option(help="In the place of the reranker's own, if it reads one.")] = None,
    variant: VariantOption = None,
    threads: ThreadsOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Rank documents for a query. Each document stops at its first confident exit.

    ```
    rexit rerank reranker --query "drag of a slender wing" \\
      --documents abstracts.txt --top-n 10
    ```

    The bundle is exported from a reranker with `rexit export --slates --with-tokenizer`. The query's part of the prompt is run
    once for all documents. A document that does not fit the model is cut at its end.
    """
    from rexit.doors.rankers import Reranker

    contents = _read(documents)
    texts = [document.text for document in contents]
    names = sorted({name for document in contents for name in document.scores})
    scores = {name: [document.scores.get(name) for document in contents] for name in names} or None
    name = open_bundle(bundle, variant).variant.name
    with Reranker(bundle, name, threads=threads) as reranker:
        max_positions = reranker.info.max_positions
        if not texts:
            if as_json:
                print_json({"query": query, "variant": name, "results": []})
            return
        ranking = reranker.ranking(query, texts, top_n, scores=scores, floor=floor, instruction=instruction)
    answers, truncated = ranking.scores, ranking.truncated
    rows = [
        {
            "index": index,
            "relevance_score": score.probability,
            "log_odds": score.log_odds,
            "exit": score.exit,
            "truncated": truncated[index],
            "text": texts[index],
        }
        for score, index in zip(answers, answers.index.tolist(), strict=True)
    ]
    stats, count = answers.stats, len(texts)
    if as_json:
        print_json({"query": query, "variant": name, "results": rows, "stats": answers.to_dict()["stats"]})
        return
    print_table(
        f"{query}: {name}",
        [
            {
                "document": row["index"],
                "relevance": f"{row['relevance_score']:.4f}",
                "exit": row["exit"],
                "text": _first_words(row["text"]),
            }
            for row in rows
        ],
    )
    stdout.print(
        f"{stats.total_us / 1000:.1f} ms: query {stats.prefix_us / 1000:.1f} ({stats.prefix_tokens} tokens), "
        f"documents {stats.slate_us / 1000:.1f} ({stats.candidate_tokens} tokens, {stats.candidate_layers / count:.1f} layers on "
        "average)"
    )
    if any(truncated):
        stdout.print(f"{sum(truncated)} documents cut, or the query with them: the model takes {max_positions} tokens")


def _read(path: Path) -> list[_Document]:
    """The documents. Raises InputError."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # its newlines are \n, whatever the file's are
    except UnicodeDecodeError as exc:
        raise InputError(f"{path}: not UTF-8 text at byte {exc.start}, expected documents as text") from exc
    except OSError as exc:
        raise InputError(f"{path}: cannot be read: {exc.strerror}") from exc
    lines = text.split("\n")  # other breaks, such as U+2028 and form feeds, are a document's own
    if path.suffix == ".jsonl":
        return [_document(line, f"{path}: line {n}") for n, line in enumerate(lines, 1) if line.strip()]
    return [_Document(line) for line in lines[: None if lines[-1] else -1]]


def _document(line: str, where: str) -> _Document:
    from rexit.format.bundle.files import typed

    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise InputError(f"{where}: not JSON: {exc}") from exc
    kind: Any = str | _Document
    document = typed(value, kind, where, error=InputError)
    return document if isinstance(document, _Document) else _Document(str(document))


def _first_words(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…"
