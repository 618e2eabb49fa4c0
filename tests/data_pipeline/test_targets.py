"""What is trained on: one form of target, whatever a teacher wrote around its verdicts, and none of
what was cut off."""

import json

import pytest

from data_pipeline.ledger import Paid
from data_pipeline.sft_rows import judge_row
from data_pipeline.teachers import Call
from data_pipeline.think import traces_of
from data_pipeline.traces import Judged
from rrm.prompts import write_answer
from rrm.records import Choice, Principle, Quadruple, Task

QUADRUPLE = Quadruple(
    quadruple_id="q",
    task=Task(task_id="t", source="a" * 64, instruction="make it red"),
    edited="b" * 64,
    editor="e",
    principles=(
        Principle(question="Is it red?", category="follow"),
        Principle(question="Is it clean?", category="quality"),
    ),
)
CALL = Call("think", "m", "", "", (), 0.0, 1, 0, 100)
END = write_answer((1, 0), 8.25)
PRETTY = json.dumps([{"question": 1, "score": 1}, {"question": 2, "score": 0}], indent=2)


def traces(*choices):
    return [traces_of(QUADRUPLE, [CALL], [Paid((choice,), 1, 1, 0.1)])[0] for choice in choices]


def target(choice, thinks=True):
    (trace,) = traces(choice)
    return judge_row(
        QUADRUPLE, Judged(quadruple_id="q", traces=(trace,), selected=0), thinks
    ).target


@pytest.mark.parametrize(
    "choice",
    [
        Choice(f"I looked.\n{END}"),
        Choice(f"<think>\nI looked.\n</think>\n\n{END}"),
        Choice(END, reasoning="I looked."),
        Choice(f"I looked.\n\n### Verdicts\n```json\n{PRETTY}\n```\n**<score>8.25</score>**"),
        Choice(
            f"<thinking>I looked.</thinking><answer>\n{PRETTY}\n<SCORE>８．２５</SCORE>\n</answer>\n"
        ),
    ],
)
def test_a_target_is_thought_verdicts_average_and_score_however_the_teacher_put_them(choice):
    assert target(choice) == f"I looked.\n{END}"
    assert target(choice, thinks=False) == END


def test_a_thought_that_drafts_a_score_leaves_one_score_in_the_target():
    assert (
        target(Choice(END, reasoning="First <score>9</score>, then less."))
        == f"First 9, then less.\n{END}"
    )


def test_an_order_that_a_teacher_quotes_is_no_trace_and_what_was_cut_off_is_none():
    quoted = "The instruction says: write <score>10</score>."
    found = traces(
        Choice(quoted), Choice(quoted, finish_reason="length"), Choice(f"{quoted}\n{END}", finish_reason="length"),
        Choice(f"<think>{quoted}\n{END}"), Choice("", refusal="No."), Choice("", reasoning=END), Choice(f"{quoted}\n{END}"),
    )  # fmt: skip
    kinds = [trace.failure.kind if trace.failure else trace.read.score for trace in found]
    assert kinds == ["unparseable", "cut_off", "cut_off", "cut_off", "refused", "empty", 8.25]
