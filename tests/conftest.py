"""What all test processes have alike."""

from __future__ import annotations

import os

# One thread: pytest-xdist starts a process a core, and pools of threads that share cores wait for each other.
for pool in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[pool] = "1"
# Long paths of a test's folder would break lines elsewhere in each process.
os.environ["COLUMNS"] = "200"
