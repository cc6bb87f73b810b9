"""examples/book_crossing/fetch.py on files that are not the data set, and on a table like its own."""

import io
import subprocess
import sys
import zipfile
from pathlib import Path

from running.scripts import scripts_of

scripts = scripts_of("examples/book_crossing")
FETCH = Path(__file__).parents[2] / "examples" / "book_crossing" / "fetch.py"


def test_another_file_is_refused_in_one_line(tmp_path):
    source = tmp_path / "book_crossing.zip"
    source.write_bytes(b"not it")
    command = [sys.executable, FETCH, tmp_path / "out", "--from", source]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"fetch: {source}") and done.stderr.count("\n") == 1
    assert "has SHA-256 06121725c433…" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_field_that_is_split_by_a_tab_spoils_no_earlier_one():
    import fetch

    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as files:
        files.writestr("book_crossing/items.dat", "Book_ID\tTitle \tPublisher\n1\tA \tSimon &amp\tSchuster\n2\tB\tKnopf\n")
    with zipfile.ZipFile(held) as files:
        assert fetch.table(files, "items.dat", 2).to_dicts() == [{"Book_ID": "1", "Title": "A"}, {"Book_ID": "2", "Title": "B"}]
