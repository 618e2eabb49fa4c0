"""What can be read from model output: verdicts and scores of a trace, principles of a
decomposition, gold verdicts.

None of these functions raises on any text, and none makes anything up: what is not there is a named
`Failure`. They take an answer as a `Choice`, which says whether it was cut off or refused, or as a
text alone.
"""

from rrm.parsing.principles import principle_faults, question_faults, read_principles
from rrm.parsing.said import Answer, sound, written
from rrm.parsing.traces import (
    canonical,
    judgement_of,
    read_answer,
    read_gold,
    read_holistic,
    read_score,
    read_trace,
    thought_of,
)

__all__ = [
    "Answer",
    "canonical",
    "judgement_of",
    "principle_faults",
    "question_faults",
    "read_answer",
    "read_gold",
    "read_holistic",
    "read_principles",
    "read_score",
    "read_trace",
    "sound",
    "thought_of",
    "written",
]
