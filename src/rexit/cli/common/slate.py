"""One slate, as `rexit score` and `rexit inspect` take it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rexit.cli.common.as_of import parse_as_of
from rexit.cli.common.named import parse_inputs
from rexit.ids import parse_id, parse_ids, parse_recent

if TYPE_CHECKING:
    from rexit.bundle import Catalog
    from rexit.request import Request


def parse_request(
    catalog: Catalog,
    user: str,
    items: str,
    recent: str = "",
    as_of: str | None = None,
    inputs: Sequence[str] | None = None,
) -> Request:
    """Returns the request of --user, --items, --recent, --as-of and --input. Says on stderr if no interaction, or every one, is
    before --as-of. Raises InputError, also for an item that the catalog does not have."""
    from rexit.request import Request

    kinds = catalog.info["ids"]
    user_id, item_ids = parse_id(user, kinds["user"], "user"), parse_ids(items, kinds["item"], "item")
    interactions = parse_recent(recent, kinds["item"])
    catalog.items.rows([*item_ids, *(item for item, _ in interactions)])
    values = parse_inputs(inputs, catalog.inputs)
    return Request(user_id, item_ids, interactions or None, parse_as_of(as_of, catalog, warn=True), values)
