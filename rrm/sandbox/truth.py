"""The truth about edits of sandbox tasks, read from their pixels, for editor RL."""

from __future__ import annotations

from PIL import Image

from rrm.editor.truth import Truth
from rrm.records import Failure, Principle
from rrm.sandbox.edits import decompose, human_utility, parse_instruction, true_verdicts
from rrm.sandbox.reading import read_scene


class PixelTruth:
    """`rrm.editor.truth.TruthSource` of the sandbox."""

    def principles(self, instruction: str) -> tuple[Principle, ...]:
        """The principles of an instruction; () outside the sandbox's language."""
        steps = parse_instruction(instruction)
        return () if steps is None else decompose(steps)

    def truth(self, source: Image.Image, edited: Image.Image, instruction: str) -> Truth | Failure:
        """True verdicts, and human utility / 10 as reward; a failure outside the sandbox's
        language."""
        steps = parse_instruction(instruction)
        if steps is None:
            return Failure(
                kind="bad_row", detail=f"not in the sandbox's language: {instruction[:120]}"
            )
        verdicts = true_verdicts(read_scene(source), read_scene(edited), steps)
        return Truth(decompose(steps), verdicts, human_utility(verdicts, steps) / 10)
