"""The `rrm` command: a stage of the job, or what the verifier is used for. `rrm --help` loads neither torch nor a stage."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer
from typer._click.exceptions import Abort, ClickException, Exit

from rrm.cli import measuring, sandbox, score, serving, stages
from rrm.runtime.stage import command

app = typer.Typer(
    name="rrm",
    help="Reasoning reward models for image editing: make one, measure it, and train editors with it.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

STAGES, USE, SUPPORT = "The job, stage by stage", "The verifier at work", "Measuring, and what stands in on a laptop"
for function in (stages.world, stages.data, stages.plan, stages.sft, stages.gcpo):
    app.command(rich_help_panel=STAGES)(function)
app.command("eval", rich_help_panel=STAGES)(measuring.evaluate)
for function in (stages.edit, stages.edit_eval, measuring.report, measuring.demo):
    app.command(rich_help_panel=STAGES)(function)
for function in (score.score, serving.serve, serving.doctor, stages.export):
    app.command(rich_help_panel=USE)(function)
for function in (measuring.ablation, measuring.anchors, sandbox.teacher, sandbox.fault_server, sandbox.base):
    app.command(rich_help_panel=SUPPORT)(function)
app.add_typer(measuring.perf, name="perf", rich_help_panel=SUPPORT)


def invoke(arguments: Sequence[str]) -> None:
    """Runs the command with these arguments. A wrong command line is one sentence and SystemExit(2); InputError is the caller's."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        code = app([str(argument) for argument in arguments], prog_name="rrm", standalone_mode=False)
    except ClickException as error:
        named = f"error: {error.format_message().rstrip('.')}; rrm {' '.join(arguments[:1])} --help lists what there is."
        print(named, file=sys.stderr)
        raise SystemExit(2) from None
    except Exit as end:
        raise SystemExit(end.exit_code) from None
    except Abort:
        raise KeyboardInterrupt from None
    if isinstance(code, int) and code:
        raise SystemExit(code)


def main(arguments: Sequence[str] | None = None) -> None:
    """The process's command: `arguments` (or sys.argv's), ended with one of the exit codes of `rrm.runtime.stage.command`."""
    given = sys.argv[1:] if arguments is None else arguments
    command(lambda: invoke(given))
