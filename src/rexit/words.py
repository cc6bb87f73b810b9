"""What people read of a bundle without a catalog: its slates are of queries, and its labels are relevance."""

from __future__ import annotations

import re
from typing import Final

WORDS: Final = {
    "what users like": "what is relevant",
    "likes and dislikes": "relevant and other candidates",
    "observed likes": "observed relevance",
    "not liked": "irrelevant",
    "liked": "relevant",
    "users": "queries",
    "user": "query",
}
_WORD: Final = re.compile(rf"(?<![\w/.-])({'|'.join(WORDS)})(?![\w/.-]*\w| AUC)", re.IGNORECASE)
"""Neither a part of a name, as `user-auc`, nor of a metric's title."""
_MARKUP: Final = re.compile(r"(<style>.*?</style>|<code>.*?</code>|<bdi>.*?</bdi>|<[^>]*>)", re.DOTALL)
"""What of a page is not prose."""


def in_words(text: str, has_catalog: bool) -> str:
    """Returns a text about users and likes in the words of a bundle: as it is with a catalog, else of queries and relevance."""
    return text if has_catalog else _WORD.sub(_of_queries, text)


def page_in_words(html: str, has_catalog: bool) -> str:
    """Returns a page likewise; its data and its commands stay."""
    return "".join(part if n % 2 else in_words(part, has_catalog) for n, part in enumerate(_MARKUP.split(html)))


def _of_queries(match: re.Match[str]) -> str:
    word = WORDS[match[1].lower()]
    return word.capitalize() if match[1][0].isupper() else word
