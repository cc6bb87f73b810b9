"""A bundle without a catalog is told of queries and relevance."""

import pytest

from rexit.words import in_words, page_in_words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("18 users are too few; Users with a value, a user's id", "18 queries are too few; Queries with a value, a query's id"),
        ("users like these lose at most 0.01 of user AUC", "queries like these lose at most 0.01 of user AUC"),
        ("not even its last exit ranks what users like.", "not even its last exit ranks what is relevant."),
        ("Predicted over observed likes; as many are liked", "Predicted over observed relevance; as many are relevant"),
        ("4 users have likes and dislikes", "4 queries have relevant and other candidates"),
        ("all 5 pairs are not liked", "all 5 pairs are irrelevant"),
        ("--metric user-auc, /home/user/users.csv, user.age", "--metric user-auc, /home/user/users.csv, user.age"),
    ],
)
def test_users_are_queries(text: str, expected: str) -> None:
    assert (in_words(text, False), in_words(text, True)) == (expected, text)


def test_a_page_keeps_its_data_and_its_commands() -> None:
    html = '<style>.user {}</style><p class="user">users <code>rexit audit user</code> <bdi>liked</bdi> liked</p>'
    expected = html.replace(">users ", ">queries ").replace(" liked</p>", " relevant</p>")
    assert (page_in_words(html, False), page_in_words(html, True)) == (expected, html)
