"""`python -m rrm.verifier.gcpo` is `rrm gcpo`: a module for launchers."""

from rrm.stage_options import run_as_module
from rrm.verifier.gcpo.train import GCPOStage, run

if __name__ == "__main__":
    run_as_module("rrm gcpo", GCPOStage, run)
