"""What each part of the method is worth, over seeds: `python -m eval.ablation --config configs/sandbox/ablation.yaml`.

Runs every world, data set, training and evaluation of the study as a stage of its own, several at once, and writes
verifier.json, verifier.md with its plots, and every judgement into the folder `evidence` as it goes on.
It can be stopped, and carries on; with --known it also does where only the evidence is left of an earlier run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from eval.ablation.archive import Archive, left_to_run, read_archive, write_archive
from eval.ablation.evidence import collect, judged_models
from eval.ablation.jobs import run_jobs
from eval.ablation.page import write_page
from eval.ablation.study import AblationConfig, plan
from rrm.errors import InputError
from rrm.runtime.lock import locked
from rrm.runtime.stage import command, write_json


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--list", action="store_true", help="print the stages in the order in which they would be started")
    parser.add_argument("--collect", action="store_true", help="write the evidence of what is done, and run nothing")
    parser.add_argument(
        "--known",
        type=Path,
        metavar="FOLDER",
        help="the evidence folder of an earlier run: what was judged there is not run again",
    )
    options = parser.parse_args()
    config = AblationConfig.read(options.config)
    study = plan(config)
    known = read_archive(options.known) if options.known else Archive()
    jobs = left_to_run(study, known)
    if options.list:
        print("\n".join(job.name for job in sorted(jobs.values(), key=lambda job: job.rank)))
        return

    def write() -> None:
        by_model = judged_models(study, known)
        evidence = collect(study, f"python -m eval.ablation --config {options.config}", by_model, known)
        if evidence["models"]:
            config.evidence.mkdir(parents=True, exist_ok=True)
            write_archive(study, by_model, config.evidence)
            write_json(config.evidence / "verifier.json", evidence)
            write_page(evidence, config.evidence)

    failed = []
    if not options.collect:
        with locked(config.out):
            failed = run_jobs(jobs, config.out, config.jobs, write)
    write()
    if failed:
        lines = "; ".join(f"{f.job}: {f.reason}" for f in failed[:5])
        raise InputError(
            f"{len(failed)} of {len(jobs)} stages have no result ({lines}); see {config.out}/logs and run it again."
        )
    print(config.evidence / "verifier.md")


if __name__ == "__main__":
    command(main)
