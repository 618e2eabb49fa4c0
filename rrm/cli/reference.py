"""The reference of every key of every config, as Markdown: `rrm config-reference`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pydantic.fields import FieldInfo

from rrm.config import Config


def stage_configs() -> dict[str, type[Config]]:
    """The config of every command that takes one, in the order of the job."""
    from data_pipeline.generators import Generator
    from data_pipeline.settings import DataConfig, Teacher
    from eval.ablation.study import AblationConfig
    from eval.editrewardbench.run import BenchConfig
    from eval.editrewardbench.suite import SuiteConfig
    from eval.report import ReportConfig
    from rrm.editor.evaluate import EvaluateConfig
    from rrm.editor.settings import EditorConfig
    from rrm.reward.spec import SpecOptions
    from rrm.sandbox.build import WorldConfig
    from rrm.sandbox.fault_server import FaultConfig
    from rrm.verifier.config import SFTStage
    from rrm.verifier.gcpo.config import GCPOStage

    return {
        "`rrm world`": WorldConfig,
        "`rrm data`, `rrm plan`": DataConfig,
        "`rrm data`: a teacher": Teacher,
        "`rrm data`: a generator": Generator,
        "`rrm sft`": SFTStage,
        "`rrm gcpo`": GCPOStage,
        "`rrm eval`, `editrewardbench run` with several judges": SuiteConfig,
        "`editrewardbench run` with one judge": BenchConfig,
        "A reward: what may stand behind the question mark": SpecOptions,
        "`rrm edit`": EditorConfig,
        "`rrm edit-eval`": EvaluateConfig,
        "`rrm report`": ReportConfig,
        "`rrm ablation`": AblationConfig,
        "`rrm fault-server`": FaultConfig,
    }


def default_of(field: FieldInfo) -> str:
    """The default as YAML would have it."""
    if field.is_required():
        return "**required**"
    value: Any = field.get_default(call_default_factory=True)
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    shown = value.model_dump() if isinstance(value, Config) else value
    text = shown if isinstance(shown, str) else json.dumps(shown, default=str, ensure_ascii=False)
    return f"`{text}`".replace("|", "\\|")


def rows(kind: type[Config]) -> Iterator[str]:
    """A line of a Markdown table per key."""
    texts = kind.descriptions()
    for key, field in kind.model_fields.items():
        text = texts[key].replace("|", "\\|")
        yield f"| `{key}` | {default_of(field)} | {text} |"


def reference() -> str:
    """The whole page."""
    parts = [
        "# Every key of every config",
        "Made by `rrm config-reference`. A config is YAML; `key=value` on the command line sets a key, `a.b=value` "
        "the key b within a. Where a meaning says None, write `null`. `--print-config` shows what is in effect.",
    ]
    for title, kind in stage_configs().items():
        parts += [
            f"## {title}",
            "\n".join(["| key | default | meaning |", "| --- | --- | --- |", *rows(kind)]),
        ]
    return "\n\n".join(parts) + "\n"
