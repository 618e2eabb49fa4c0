"""Every key of every config is described, and the page of them is up to date; `key=value` and `--print-config`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import yaml

from data_pipeline.settings import DataConfig
from rrm.cli import invoke
from rrm.cli.reference import reference, stage_configs
from rrm.config import Config, parse_overrides
from rrm.errors import InputError
from tests.support import ROOT


def subclasses(kind: type[Config]) -> Iterator[type[Config]]:
    for each in kind.__subclasses__():
        yield each
        yield from subclasses(each)


def test_every_key_has_a_description_of_one_line():
    stage_configs()  # imports them all
    kinds = {kind for kind in subclasses(Config) if not kind.__module__.startswith("tests")}
    assert len(kinds) >= len(stage_configs())
    bare = [
        f"{kind.__name__}.{key}"
        for kind in kinds
        for key, text in kind.descriptions().items()
        if not text.strip()
    ]
    assert bare == []


def test_the_page_of_keys_is_what_the_command_prints(capsys):
    invoke(["config-reference"])
    assert (ROOT / "docs/configuration.md").read_text() == capsys.readouterr().out == reference()


def test_overrides_are_yaml_and_may_be_nested():
    assert parse_overrides(["a=1", "b.c=[x, 2]", "b.d=null", "e=1.0e-5", "f="]) == {
        "a": 1,
        "b": {"c": ["x", 2], "d": None},
        "e": 1e-5,
        "f": None,
    }
    for wrong in ("a", "=1", "a..b=1", "a=[", ["x=1", "x.y=2"]):
        with pytest.raises(InputError):
            parse_overrides([wrong] if isinstance(wrong, str) else wrong)


def test_the_effective_config_is_printed_and_nothing_is_run(capsys, tmp_path):
    invoke(
        [
            "sft",
            "--config",
            ROOT / "configs/sandbox/sft.yaml",
            "steps=7",
            "learning_rate=1e-5",
            f"out={tmp_path / 'x'}",
            "--print-config",
        ]
    )
    text = capsys.readouterr().out
    assert "# Optimiser updates." in text
    values = yaml.safe_load(text)
    assert (values["steps"], values["batch"], values["out"]) == (7, 32, str(tmp_path / "x"))
    assert values["learning_rate"] == 1e-5
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("command", "config", "pair", "new"),
    [
        ("gcpo", "gcpo", "beta=0.1", "kl_weight"),
        ("edit", "edit_nft", "lr=1", "learning_rate"),
        ("edit-eval", "edit_eval", "seeds=1", "seed_count"),
        ("world", "world", "pairs=1", "pair_count"),
        ("data", "data", "editors=[]", "generators"),
    ],
)
def test_a_former_name_of_a_key_names_the_one_of_today(command, config, pair, new):
    with pytest.raises(InputError, match=f"is now called '{new}'"):
        invoke([command, "--config", ROOT / f"configs/sandbox/{config}.yaml", pair])


@pytest.mark.parametrize(
    "arguments", [["nothing"], ["sft"], ["sft", "--confg", "x"], ["serve", "--port", "x"]]
)
def test_a_wrong_command_line_is_one_sentence_and_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        invoke(arguments)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_a_key_that_is_given_by_both_of_its_names_is_refused_and_either_alone_is_read(tmp_path):
    values = yaml.safe_load((ROOT / "configs/sandbox/data.yaml").read_text())
    teacher = values.pop("gold_teacher")
    for name in ("gold_teacher", "verifier"):
        (tmp_path / "data.yaml").write_text(yaml.safe_dump({**values, name: teacher}))
        assert DataConfig.read(tmp_path / "data.yaml").gold_teacher.model == "sandbox-careful"
    with pytest.raises(InputError, match="'verifier' and 'gold_teacher' are one key"):
        DataConfig.read(ROOT / "configs/sandbox/data.yaml", ["verifier.model=x"])
