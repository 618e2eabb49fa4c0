"""`python -m rrm.cli` is `rrm`."""

from rrm.cli import main

main()
