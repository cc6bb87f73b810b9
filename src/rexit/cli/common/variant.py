"""The variant that a command works on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rexit.cli.common.output import stderr

if TYPE_CHECKING:
    from rexit.bundle import Bundle


def open_bundle(path: Path, variant: str | None) -> Bundle:
    """Opens a variant, as `Bundle.open` does. Says on stderr which one it is if there was a choice."""
    from rexit.bundle import Bundle

    bundle = Bundle.open(path, variant)
    name, names = bundle.variant.name, bundle.manifest.variants
    if variant is None and len(names) > 1:
        reason = "the first, none has a policy" if bundle.policy_sha256 is None else "the first with a policy"
        stderr.print(f"rexit: variant {name}, {reason}; there are: {', '.join(names)} (--variant)", soft_wrap=True)
    return bundle
