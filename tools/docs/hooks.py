"""mkdocs' hook: the pages that are made from the sources, so that nothing is said twice."""

from __future__ import annotations

from pathlib import Path

from c_reference import c_reference
from cli_reference import cli_reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
INCLUDE = ROOT / "runtime" / "include" / "rexit"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    pages = {
        "cli.md": cli_reference(),
        "c.md": c_reference((INCLUDE / "rexit.h").read_text(), (INCLUDE / "rexit.hpp").read_text()),
        # Written for a reader of the repository: links are relative to its root.
        "contributing.md": (ROOT / "CONTRIBUTING.md").read_text().replace("](docs/", "]("),
        "security.md": (ROOT / "SECURITY.md").read_text().replace("](docs/", "]("),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text().replace("](docs/", "]("),
    }
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files
