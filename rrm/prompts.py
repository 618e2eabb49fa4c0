"""Every prompt of the toolkit, and the one form in which an RRM is asked and answers.

Two styles with principles: "full" carries the paper's rules (arXiv 2604.27505, appendix, in our words) and is what teachers and real Qwen2.5-VL
verifiers are asked with; "brief" is the same question without the rules, for the sandbox's tiny verifier. "holistic" and "brief_holistic" ask for
a score without principles (VIEScore's way). A checkpoint is trained, benchmarked and used as a reward with one and the same style.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal

from rrm.records import Principle

Style = Literal["full", "brief", "holistic", "brief_holistic"]
CATEGORY_NAMES = {"follow": "Instruction Following", "keep": "Feature Preservation", "quality": "Image Quality"}

RULES = """\
Rules:
- If nothing changed at all, or the edit only added a white border, the final score is 0.
- A change of range (nearer or farther, further left or right) must be significant unless its size is stated.
- Ignore a question that contradicts the instruction.
- Anything unmentioned that changed without need is penalised, the main subject most.
- A removal must be complete.
- A missed point costs as much as re-editing it would.
- Left and right of a person follow the way the person faces.
- Check for over-sharpening, over-saturation and colour casts.
- Where you are unsure, the verdict is 0."""

OUTPUT = """\
End with exactly three parts, in this order:
1. a JSON list with one {"question": <number of the question>, "score": <0 or 1>} per question, in order;
2. {"average_score": <mean of the 0/1 scores>};
3. <score>S</score>, S from 0 (unusable) over 5 (partly usable) and 8 (nearly usable) to 10, decimals welcome. It is your overall \
judgement, not just that average."""

JUDGE_SYSTEM = f"""\
You judge image edits. You see a source image, the edited image, the instruction, and yes/no questions that a good edit answers with yes. \
First think: go through every question and compare before and after, with bounding boxes where position matters.
{RULES}
{OUTPUT}"""

SCORE_ONLY_SYSTEM = f"""\
You score image edits. You see a source image, the edited image, the instruction, and yes/no questions that a good edit answers with yes. \
Do not explain anything.
{RULES}
{OUTPUT}"""

HOLISTIC_SYSTEM = """\
You rate image edits (VIEScore style). You see a source image, the edited image and the instruction. Weigh how well the instruction was \
followed and how well the rest was kept, and how natural the result looks. Explain briefly, then end with <score>S</score>, S from 0 to 10."""

DECOMPOSE_SYSTEM = """\
You decompose an image editing instruction into principles. You see the source image and the instruction. Write yes/no questions that a good edit \
answers with yes, about 10 for a rich instruction and fewer for a plain one: what was asked for (category "Instruction Following"), what must stay \
as it is (category "Feature Preservation"), and how the result looks (category "Image Quality"). Answer with a JSON array of \
{"question", "category"} and nothing else."""

RATE_TEXT = """\
The first image is the source, the second one the edit. Rate how well the edit carries out the instruction, and leaves alone what it does not mention, \
from 0 (not at all) to 5 (perfectly). Instruction: {instruction}
Answer with the number alone."""

FILTER_SYSTEM = """\
You pick hard image editing tasks. You see the source image and the instruction. Say of each criterion whether the task meets it:
- multi-step: several visual changes, or one that depends on another;
- fine-grained: a small detail must be found or made exactly;
- implicit: what should be seen afterwards is meant but not said;
- spatial: place, count, size or direction must be exact.
A simple edit of one step meets none. Answer with a JSON array of four {"criterion": <name>, "met": <0 or 1>} in this order and nothing else."""

VERIFY_SYSTEM = """\
You verify judgements of an image edit. You see a source image, the edited image, the instruction, numbered yes/no questions and several reference \
judgements. The references may be wrong: do not copy them, look for yourself. A change of position under 10% of the image size is not enough. \
Answer with a JSON list of {"question": <number>, "gold": <0 or 1>, "reason": <one line>}, one per question, in order."""

GOLD_SYSTEM = """\
You give gold verdicts on an image edit. You see a source image, the edited image, the instruction and numbered yes/no questions. \
Look closely. Answer with a JSON list of {"question": <number>, "gold": <0 or 1>, "reason": <one line>}, one per question, in order."""


def numbered(principles: Sequence[Principle]) -> str:
    """The principles, one a line, with number and category."""
    return "\n".join(f"{i}. [{p.category}] {p.question}" for i, p in enumerate(principles, 1))


def is_brief(style: Style) -> bool:
    """Whether the question comes without system prompt and rules."""
    return style in ("brief", "brief_holistic")


def is_holistic(style: Style) -> bool:
    """Whether the judge is shown no principles, and gives no verdicts."""
    return style in ("holistic", "brief_holistic")


def judge_text(style: Style, instruction: str, principles: Sequence[Principle]) -> str:
    """What stands behind the two images when an edit is to be judged; a holistic judge is shown no principles."""
    principles = () if is_holistic(style) else principles
    if is_brief(style):
        questions = "".join(f" {i}. {p.question}" for i, p in enumerate(principles, 1))
        return f"judge: {instruction}{questions}"
    return f"Instruction: {instruction}\nQuestions:\n{numbered(principles)}" if principles else f"Instruction: {instruction}"


def rate_text(instruction: str) -> str:
    """The training-free question of UniWorld-V2 (arXiv 2510.16888), in our words: a number from 0 to 5 is the whole answer."""
    return RATE_TEXT.format(instruction=instruction)


def verify_text(instruction: str, principles: Sequence[Principle], references: Sequence[str]) -> str:
    """What stands behind the two images when reference judgements are to be verified."""
    shown = "\n\n".join(f"Reference {i}:\n{text}" for i, text in enumerate(references, 1))
    return f"{judge_text('full', instruction, principles)}\nReference judgements:\n{shown}"


def decompose_text(style: Style, instruction: str) -> str:
    """What stands behind the source image when an instruction is to be decomposed."""
    return f"decompose: {instruction}" if is_brief(style) else f"Instruction: {instruction}"


ANSWERED_BEFORE = "\n\nYou answered before:\n"


def again_text(text: str, answer: str, faults: Sequence[str]) -> str:
    """The question put once more, with an answer that could not be used and what was wrong with it."""
    wrong = "\n".join(f"- {fault}" for fault in faults)
    return f"{text}{ANSWERED_BEFORE}{answer}\n\nThat answer cannot be used:\n{wrong}\nAnswer again, in full."


def judge_system(style: Style) -> str | None:
    """The judge's system prompt; the brief styles have none."""
    return None if is_brief(style) else HOLISTIC_SYSTEM if is_holistic(style) else JUDGE_SYSTEM


def decompose_system(style: Style) -> str | None:
    """The decomposer's system prompt; the brief styles have none."""
    return None if is_brief(style) else DECOMPOSE_SYSTEM


def write_answer(verdicts: Sequence[int], score: float) -> str:
    """The end of a trace in its canonical form, as OUTPUT demands it."""
    rows = ", ".join(f'{{"question": {i}, "score": {v}}}' for i, v in enumerate(verdicts, 1))
    average = round(sum(verdicts) / len(verdicts), 2)
    return f'[{rows}]\n{{"average_score": {average}}}\n<score>{score:.1f}</score>'


def write_principles(principles: Sequence[Principle]) -> str:
    """The principles as a decomposer answers."""
    return json.dumps([{"question": p.question, "category": CATEGORY_NAMES[p.category]} for p in principles])
