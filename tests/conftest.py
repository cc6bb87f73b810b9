"""One thread in each test process: pytest-xdist starts a process a core, and pools that share cores wait for each other."""

from __future__ import annotations

import os

for pool in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[pool] = "1"
