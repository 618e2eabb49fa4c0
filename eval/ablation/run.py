"""What each part of the method is worth, over seeds: `rrm ablation --config
configs/sandbox/ablation.yaml`.

Runs every world, data set, training and evaluation of the study as a stage of its own, several at
once, and writes verifier.json, verifier.md with its plots, and every judgement into the folder
`evidence` as it goes on. It can be stopped, and carries on; with --known it also does where only
the evidence is left of an earlier run.
"""

from __future__ import annotations

from pathlib import Path

from eval.ablation.archive import Archive, left_to_run, read_archive, write_archive
from eval.ablation.evidence import collect, judged_models
from eval.ablation.jobs import run_jobs
from eval.ablation.page import write_page
from eval.ablation.study import AblationConfig, plan
from rrm.errors import InputError
from rrm.runtime.lock import locked
from rrm.runtime.stage import write_json


def run(
    config: AblationConfig,
    command: str,
    show_jobs: bool = False,
    collect_only: bool = False,
    archive: Path | None = None,
) -> None:
    """Runs what is left of the study and writes its evidence, or lists the stages, or collects what
    is done.

    `command` is what the evidence names as its origin; what `archive` (an earlier evidence folder)
    holds judgements of is not run again. Raises InputError where stages have no result.
    """
    study = plan(config)
    known = read_archive(archive) if archive else Archive()
    jobs = left_to_run(study, known)
    if show_jobs:
        print("\n".join(job.name for job in sorted(jobs.values(), key=lambda job: job.rank)))
        return

    def write() -> None:
        by_model = judged_models(study, known)
        evidence = collect(study, command, by_model, known)
        if evidence["models"]:
            config.evidence.mkdir(parents=True, exist_ok=True)
            write_archive(study, by_model, config.evidence)
            write_json(config.evidence / "verifier.json", evidence)
            write_page(evidence, config.evidence)

    failed = []
    if not collect_only:
        with locked(config.out):
            failed = run_jobs(jobs, config.out, config.jobs, write)
    write()
    if failed:
        lines = "; ".join(f"{f.job}: {f.reason}" for f in failed[:5])
        raise InputError(
            f"{len(failed)} of {len(jobs)} stages have no result ({lines}); see {config.out}/logs and run it again."
        )
    print(config.evidence / "verifier.md")
