"""Whether a bundle is whole, and computes on this machine what it computed where it was exported.

files.py    digests, tables, calibration's traces, the policy, engines
golden.py   the runtime against golden samples: prompts, log-odds, exit decisions
run.py      all checks of a bundle
"""

from rexit.checks.check import Check
from rexit.checks.run import check_bundle

__all__ = ["Check", "check_bundle"]
