"""`python -m data_pipeline --config FILE` is `rrm data`, `rrm plan --config
FILE` is `rrm plan`."""

import sys

from rrm.cli import main

if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(arguments if arguments[:1] == ["plan"] else ["data", *arguments])
