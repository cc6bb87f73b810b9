"""mkdocs' hooks: the pages that are generated from the sources, and a site that loads nothing from another host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from c_reference import c_reference
from cli_reference import cli_reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

ROOT = Path(__file__).parents[2]
INCLUDE = ROOT / "runtime" / "include" / "rexit"
# The offline plugin's search needs it where a page is opened from a folder, and would load it from there.
SHIM_URL = "https://unpkg.com/iframe-worker/shim"
SHIM = "assets/iframe-worker.js"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    pages = {
        "cli.md": cli_reference(),
        "c.md": c_reference((INCLUDE / "rexit.h").read_text(), (INCLUDE / "rexit.hpp").read_text()),
        # Written for a reader of the repository: links are relative to its root.
        "contributing.md": (ROOT / "CONTRIBUTING.md").read_text().replace("](docs/", "]("),
        "security.md": (ROOT / "SECURITY.md").read_text().replace("](docs/", "]("),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text().replace("](docs/", "]("),
        SHIM: Path(__file__).with_name("iframe-worker.js").read_text(),
    }
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_post_page(output: str, page: Page, **_: Any) -> str:
    return output.replace(SHIM_URL, get_relative_url(SHIM, page.url))


def on_post_template(output_content: str, **_: Any) -> str:
    return output_content.replace(SHIM_URL, f"/{SHIM}")
