"""benchmarks/ranking/catalogs.py: the test split's slates do not depend on a catalog's contexts."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from builders.data.indexed_catalog import USERS, WITH_CONTEXT, byte_tokenizer, write_indexed_catalog
from rexit.bundle import Catalog
from rexit.errors import InputError
from rexit.slates import cut
from running.scripts import scripts_of

scripts = scripts_of("benchmarks/ranking", "examples/movielens")


def test_a_slate_goes_on_where_the_context_changes(tmp_path: Path) -> None:
    import catalogs

    template = WITH_CONTEXT.replace("@{context.device}", "").replace("12, 18]", "12, 19]")
    catalog = Catalog.open(write_indexed_catalog(tmp_path, template=template))
    rows = catalogs.test_rows(catalog).rows
    assert len(rows) == USERS < len(cut(catalog, "test")), "hours differ: as requests they are slates of one"
    decode = byte_tokenizer().decode
    for row in rows:
        first, second = (decode(tokens.tolist()) for tokens in row.prompt.candidates)
        assert "~c " in first and "~! " in second, "18 is in the last bin, 19 in none"


def test_a_context_in_the_prefix_is_refused() -> None:
    import catalogs

    info = {"prompt": {"prefix": [{"op": "context", "name": "device"}], "candidate": []}}
    with pytest.raises(InputError, match="folder: context `device` is in the prefix"):
        catalogs.test_rows(cast(Any, SimpleNamespace(info=info, path=Path("folder"))))
