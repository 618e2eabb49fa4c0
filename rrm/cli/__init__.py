"""The `rrm` command: a stage of the job, or what the verifier is used for. `rrm --help` loads
neither torch nor a stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import typer

from rrm.cli import measuring, sandbox, score, serving, stages
from rrm.runtime import commands

app = typer.Typer(
    name="rrm",
    help="Reasoning reward models for image editing: make one, measure it, and train editors with it.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

STAGES, USE, SUPPORT = (
    "The job, stage by stage",
    "The verifier at work",
    "Measuring, and what stands in on a laptop",
)
PANELS: dict[str, dict[str, Callable[..., None]]] = {
    STAGES: {
        "world": stages.world, "data": stages.data, "plan": stages.plan, "sft": stages.sft, "gcpo": stages.gcpo,
        "eval": measuring.evaluate, "edit": stages.edit, "edit-eval": stages.edit_eval, "report": measuring.report,
        "demo": measuring.demo,
    },
    USE: {"score": score.score, "serve": serving.serve, "doctor": serving.doctor, "export": stages.export},
    SUPPORT: {
        "ablation": measuring.ablation, "anchors": measuring.anchors, "config-reference": measuring.config_reference, "teacher": sandbox.teacher,
        "fault-server": sandbox.fault_server, "base": sandbox.base,
    },
}  # fmt: skip
for panel, functions in PANELS.items():
    for name, function in functions.items():
        app.command(name, rich_help_panel=panel)(function)
app.add_typer(measuring.perf, name="perf", rich_help_panel=SUPPORT)


def invoke(arguments: Sequence[object]) -> None:
    """Runs `rrm` with these arguments (see `rrm.runtime.commands.invoke`)."""
    commands.invoke(app, "rrm", arguments)


def main(arguments: Sequence[object] | None = None) -> None:
    """The process's command."""
    commands.run_process(app, "rrm", arguments)
