"""`python -m rexit`."""

from rexit.doors.cli import main

main()
