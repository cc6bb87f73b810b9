"""`python -m rexit`."""

from rexit.cli import main

main()
