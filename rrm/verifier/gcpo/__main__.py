"""`python -m rrm.verifier.gcpo` is `rrm gcpo`: a module for launchers."""

import sys

from rrm.cli import main

if __name__ == "__main__":
    main(["gcpo", *sys.argv[1:]])
