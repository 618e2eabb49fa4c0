"""The `rrm` command: a stage of the job, or what the verifier is used for. `rrm --help` loads neither torch nor a stage."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

import typer
from typer.exceptions import Abort, Exit, TyperException

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
PANELS: dict[str, dict[str, Callable[..., None]]] = {
    STAGES: {
        "world": stages.world, "data": stages.data, "plan": stages.plan, "sft": stages.sft, "gcpo": stages.gcpo,
        "eval": measuring.evaluate, "edit": stages.edit, "edit-eval": stages.edit_eval, "report": measuring.report,
        "demo": measuring.demo,
    },
    USE: {"score": score.score, "serve": serving.serve, "doctor": serving.doctor, "export": stages.export},
    SUPPORT: {
        "ablation": measuring.ablation, "anchors": measuring.anchors, "teacher": sandbox.teacher,
        "fault-server": sandbox.fault_server, "base": sandbox.base,
    },
}  # fmt: skip
for panel, commands in PANELS.items():
    for name, function in commands.items():
        app.command(name, rich_help_panel=panel)(function)
app.add_typer(measuring.perf, name="perf", rich_help_panel=SUPPORT)


def invoke(arguments: Sequence[str]) -> None:
    """Runs the command with these arguments. A wrong command line is one sentence and SystemExit(2); InputError is the caller's."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        code = app([str(argument) for argument in arguments], prog_name="rrm", standalone_mode=False)
    except TyperException as error:
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
