"""Downloads from the Hugging Face Hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from rexit.errors import RexitError


def hub_folder(name: str, patterns: Sequence[str], error: type[RexitError], subject: str, kind: str) -> Path:
    """Downloads a repository's files into the Hub's local cache, or finds them there.

    Args:
        name: OWNER/NAME.
        patterns: the files, as globs.
        error: the class to raise.
        subject, kind: begin a message: "SUBJECT: no such KIND, and …".

    Returns:
        The folder in the cache.

    Raises:
        error: `name` is no id, or the Hub does not provide it. Fails at once without a network.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise error(f"{subject}: no such {kind}, and not the id of a model on the Hub, OWNER/NAME")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    from rexit.exporter.libraries.silence import first_line, quiet

    try:
        with quiet():
            return Path(snapshot_download(name, allow_patterns=list(patterns)))
    except GatedRepoError as exc:
        reason = (
            ", and the model of this id on the Hub asks you to accept its conditions there, then to log in with `hf auth login`"
        )
        raise error(f"{subject}: no such {kind}{reason}") from exc
    except RepositoryNotFoundError as exc:
        reason = ", and no model of this id on the Hub, or a private one: log in with `hf auth login`"
        raise error(f"{subject}: no such {kind}{reason}") from exc
    except LocalEntryNotFoundError as exc:
        reason = "the Hub cannot be reached, and no earlier download of the model is in the local cache"
        raise error(f"{subject}: no such {kind}; {reason}") from exc
    except Exception as exc:
        raise error(f"{subject}: no such {kind}, and the Hub did not provide it: {first_line(exc)}") from exc
